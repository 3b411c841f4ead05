"""Contacts in SQLite: connections, tables, every SQL statement, and the rules of one transaction.

Times are stored as microseconds since the epoch, tags and metadata as compact JSON text.
"""

import hashlib
import itertools
import json
import os
import re
import secrets
import sqlite3
import threading
import time
import unicodedata
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

METADATA_LIMIT = 64 * 1024
SEARCH_LIMIT = 50
BUSY_SECONDS = 5.0
DEFAULT_WORKSPACE = "default"
# The phones of an import are spread over all pages of their index: with room for these, a page is
# read once and brought into the database once for many rows. A longer log would be faster, but keep
# the clients of a running server waiting: their commits take part in emptying it.
_IMPORT_PRAGMAS = ["cache_size = -32768", "wal_autocheckpoint = 4000"]  # KiB and pages
_WRITABLE = {"name", "email", "tags", "metadata"}

# Of the connections that many slow searches at once have opened. Each may hold 2 MB of cache.
_READERS_KEPT = 8

# In the header of a database in WAL mode: the versions of its format for writing and reading.
WAL_VERSIONS = b"\2\2"

# Says whose file it is: neither mode of the service ever serves the other's, or a stranger's.
DEPLOYMENT_FILE = 0x51796470
SANDBOX_FILE = 0x51797362

# A step for each version of the tables: the statements that lead there from the version before.
MIGRATIONS = [
    [
        """
        CREATE TABLE workspace (
            id INTEGER PRIMARY KEY,
            uuid TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE
        ) STRICT
        """,
        """
        CREATE TABLE token (
            id INTEGER PRIMARY KEY,
            workspace_id INTEGER NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
            name TEXT NOT NULL UNIQUE,
            sha256 BLOB NOT NULL UNIQUE,
            created_at INTEGER NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE contact (
            number INTEGER PRIMARY KEY,
            workspace_id INTEGER NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
            id TEXT NOT NULL,
            phone TEXT NOT NULL,
            name TEXT,
            email TEXT,
            tags TEXT NOT NULL CHECK (json_valid(tags) AND json_type(tags) = 'array'),
            metadata TEXT NOT NULL CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            UNIQUE (workspace_id, phone),
            UNIQUE (workspace_id, id)
        ) STRICT
        """,
    ],
    [
        # AUTOINCREMENT: the id of a workspace that was dropped is never given to another.
        """
        CREATE TABLE new_workspace (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            uuid TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE
        ) STRICT
        """,
        "INSERT INTO new_workspace SELECT id, uuid, name FROM workspace",
        "DROP TABLE workspace",
        "ALTER TABLE new_workspace RENAME TO workspace",
        # metadata stands behind what a search reads, so that a large one is not in the way.
        # `folded` is name and email as a search compares them.
        """
        CREATE TABLE new_contact (
            number INTEGER PRIMARY KEY,
            workspace_id INTEGER NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
            id TEXT NOT NULL,
            phone TEXT NOT NULL,
            name TEXT,
            email TEXT,
            folded TEXT NOT NULL,
            source TEXT NOT NULL CHECK (source IN ('api', 'csv_import', 'manual')),
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            tags TEXT NOT NULL CHECK (json_valid(tags) AND json_type(tags) = 'array'),
            metadata TEXT NOT NULL CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
            UNIQUE (workspace_id, phone),
            UNIQUE (workspace_id, id)
        ) STRICT
        """,
        """
        INSERT INTO new_contact
            SELECT number + (workspace_id << 40), workspace_id, id, phone, name, email,
                folded(name, email), 'api', created_at, updated_at, tags, metadata
            FROM contact
        """,
        "DROP TABLE contact",
        "ALTER TABLE new_contact RENAME TO contact",
        # Holds all that a search compares, so that walking it reads no row that does not match.
        """
        CREATE INDEX contact_by_recency
            ON contact (workspace_id, updated_at, number, folded, phone, tags)
        """,
        """
        CREATE VIRTUAL TABLE contact_trigram
            USING fts5 (folded, phone, tags, content = '', tokenize = 'trigram')
        """,
        # Contacts that the search indices have as they were, with the text of then, if any was.
        """
        CREATE TABLE unindexed (
            number INTEGER PRIMARY KEY,
            folded TEXT,
            phone TEXT,
            tags TEXT
        ) STRICT
        """,
        "INSERT INTO unindexed (number) SELECT number FROM contact",
        """
        CREATE TRIGGER contact_inserted AFTER INSERT ON contact BEGIN
            INSERT OR IGNORE INTO unindexed (number) VALUES (new.number);
        END
        """,
        """
        CREATE TRIGGER contact_changed AFTER UPDATE OF folded, tags ON contact
        WHEN old.folded != new.folded OR old.tags != new.tags BEGIN
            INSERT OR IGNORE INTO unindexed VALUES (old.number, old.folded, old.phone, old.tags);
        END
        """,
        """
        CREATE TRIGGER contact_deleted AFTER DELETE ON contact BEGIN
            INSERT OR IGNORE INTO unindexed VALUES (old.number, old.folded, old.phone, old.tags);
        END
        """,
    ],
    [
        # `recency` is updated_at as it was when the contact was indexed: an update writes to no
        # index then, and one page instead of three.
        "ALTER TABLE contact ADD COLUMN recency INTEGER NOT NULL DEFAULT 0",
        "UPDATE contact SET recency = updated_at",
        "DROP INDEX contact_by_recency",
        """
        CREATE INDEX contact_by_recency
            ON contact (workspace_id, recency, number, folded, phone, tags)
        """,
        "DROP TRIGGER contact_changed",
        """
        CREATE TRIGGER contact_changed AFTER UPDATE OF updated_at ON contact BEGIN
            INSERT OR IGNORE INTO unindexed VALUES (old.number, old.folded, old.phone, old.tags);
        END
        """,
    ],
]


class ContactNotFound(LookupError):
    """No contact of this workspace has that id or phone, or not both of them."""


class MetadataTooLarge(ValueError):
    """Merged, the contact's metadata would be larger than METADATA_LIMIT bytes.

    Of several contacts, `position` says which.
    """

    position: int | None = None

    field = "metadata"

    def __str__(self):
        return f"Merged with what is stored, it exceeds {METADATA_LIMIT} bytes (64 KiB)."


class TooManyTags(ValueError):
    """With one more tag the contact would have more than the caller allows."""


class IdTaken(ValueError):
    """Another contact of the workspace has that id."""

    field = "id"

    def __str__(self):
        return "Another contact of the workspace has it."


class NameTaken(ValueError):
    """A token of that name exists."""


class StoreUnavailable(Exception):
    """The database is busy or the disk is full. Nothing was written; a later try may succeed."""


class NotOnDisk(Exception):
    """What was written can be read, but the disk has failed to keep it."""


class UnusableDatabase(Exception):
    """The file can't be served. The text says which file and why, in one line."""


class Token(NamedTuple):
    """Who calls, and the one workspace that the call may touch."""

    id: int
    name: str
    workspace_id: int


WhileWaiting = Callable[[], AbstractContextManager[None]]


class FairLock:
    """A lock that goes to whoever has waited longest, which threading.Lock does not promise."""

    def __init__(self):
        self._guard = threading.Lock()
        self._waiting = deque()
        self._held = False

    def acquire(self, timeout: float, while_waiting: WhileWaiting) -> bool:
        """Wait, inside of `while_waiting()`, for at most `timeout` seconds; false after that."""
        with self._guard:
            if not self._held:
                self._held = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        with while_waiting():
            if turn.acquire(timeout=timeout):
                return True
        with self._guard:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return False
        return True  # it was handed over in the moment the wait ended

    def release(self):
        """Hand the lock to the next in the queue."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False


class Store:
    """The contacts of one SQLite file, safe to share between threads and between processes.

    Nothing is opened before the first call. Every method may raise StoreUnavailable and
    UnusableDatabase, and those that write NotOnDisk.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: str = "FULL",
        application_id: int = DEPLOYMENT_FILE,
    ):
        self.path = Path(path)
        self._file = str(self.path.absolute())
        self._synchronous = synchronous
        self._application_id = application_id
        self._writing = FairLock()
        self._syncing = threading.Lock()
        self._commits = self._synced = 0
        self._committing = False
        self._wal: int | None = None
        self._disk_failed = False
        # Whether the caller will call sync() itself, once for several commits.
        self.syncs_later = False
        # Entered by a thread while it waits for others to write: a server can use another instead.
        self.while_waiting: WhileWaiting = nullcontext
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._opened: tuple[int, ...] | None = None

    # Workspaces and tokens

    def open_workspace(self, name: str, contacts: Iterable[dict[str, Any]] = ()) -> int:
        """The workspace of that name, made and filled with `contacts` when there is none yet."""
        with self._reading() as db:  # which waits for no lock
            workspace_id = _workspace_id(db, name)
        if workspace_id:
            return workspace_id
        with self._transaction() as db:
            return _open_workspace(db, name, contacts)

    def list_workspaces(self) -> dict[str, int]:
        """The id of every workspace by its name, oldest first."""
        with self._reading() as db:
            rows = db.execute("SELECT name, id FROM workspace ORDER BY id").fetchall()
        return {row["name"]: row["id"] for row in rows}

    def delete_workspace(self, workspace_id: int):
        """Forget the workspace with its contacts and tokens."""
        with self._transaction() as db:
            _delete_contacts(db, workspace_id)
            db.execute("DELETE FROM workspace WHERE id = ?", (workspace_id,))

    def create_token(self, name: str, workspace: str = DEFAULT_WORKSPACE) -> str:
        """A new bearer token with 256 random bits. It can't be read back: only its SHA-256 is kept.

        Raises NameTaken.
        """
        secret = secrets.token_urlsafe(32)
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM token WHERE name = ?", (name,)).fetchone():
                raise NameTaken(name)
            db.execute(
                "INSERT INTO token (workspace_id, name, sha256, created_at) VALUES (?, ?, ?, ?)",
                (_open_workspace(db, workspace), name, _sha256(secret), _now()),
            )
        return secret

    def find_token(self, secret: str) -> Token | None:
        """Whose bearer token that is. Asked for each request, so that revoking works at once."""
        with self._reading() as db:
            row = db.execute(
                "SELECT id, name, workspace_id FROM token WHERE sha256 = ?", (_sha256(secret),)
            ).fetchone()
        return Token(**row) if row else None

    def list_tokens(self) -> list[dict[str, Any]]:
        """Name, workspace and time of creation of every token, oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT token.name, workspace.name AS workspace, created_at FROM token"
                " JOIN workspace ON workspace.id = workspace_id ORDER BY token.id"
            ).fetchall()
        return [{**row, "created_at": _time(row["created_at"])} for row in rows]

    def revoke_token(self, name: str) -> bool:
        """Forget the token; false when there is none of that name."""
        with self._transaction() as db:
            return db.execute("DELETE FROM token WHERE name = ?", (name,)).rowcount == 1

    def workspace(self, workspace_id: int) -> dict[str, str]:
        """The workspace's `id`, a UUID, and its `name`."""
        with self._reading() as db:
            return db.execute(
                "SELECT uuid AS id, name FROM workspace WHERE id = ?", (workspace_id,)
            ).fetchone()

    # Contacts

    def replace_contacts(self, workspace_id: int, contacts: list[dict[str, Any]]):
        """Delete the workspace's contacts and create these, all or nothing.

        Raises MetadataTooLarge.
        """
        with self._transaction() as db:
            _delete_contacts(db, workspace_id)
            for position, contact in enumerate(contacts):
                try:
                    _create(db, workspace_id, contact)
                except MetadataTooLarge as error:
                    error.position = position
                    raise

    def create_contact(self, workspace_id: int, *, phone: str, **fields: Any) -> dict[str, Any]:
        """Upsert by phone: a new contact, or update_contact's rules for the one that has it.

        Raises MetadataTooLarge.
        """
        with self._transaction() as db:
            return _summary(_create(db, workspace_id, {"phone": phone, **fields}))

    def update_contact(
        self,
        workspace_id: int,
        *,
        contact_id: str | None = None,
        phone: str | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Write the fields that are given, and return the contact as it now is.

        `changes` are `name` and `email` (None clears), `tags` (the new list) and `metadata`
        (merged one level deep). A call that changes nothing writes nothing.
        Raises ContactNotFound and MetadataTooLarge.
        """
        with self._transaction() as db:
            row = _required(_find(db, workspace_id, contact_id, phone))
            return _summary(_change(db, row, changes))

    def add_tag(
        self,
        workspace_id: int,
        *,
        tag: str,
        most_tags: int,
        contact_id: str | None = None,
        phone: str | None = None,
    ) -> dict[str, Any]:
        """The contact, with the tag last unless it was there.

        Raises ContactNotFound, and TooManyTags rather than give it more than `most_tags`.
        """
        with self._transaction() as db:
            row = _required(_find(db, workspace_id, contact_id, phone))
            tags = list(dict.fromkeys([*json.loads(row["tags"]), tag]))
            if len(tags) > most_tags:
                raise TooManyTags
            return _summary(_change(db, row, {"tags": tags}))

    def remove_tag(
        self,
        workspace_id: int,
        *,
        tag: str,
        contact_id: str | None = None,
        phone: str | None = None,
    ) -> dict[str, Any]:
        """The contact without the tag. Raises ContactNotFound."""
        with self._transaction() as db:
            row = _required(_find(db, workspace_id, contact_id, phone))
            tags = [kept for kept in json.loads(row["tags"]) if kept != tag]
            return _summary(_change(db, row, {"tags": tags}))

    def get_contact(
        self,
        workspace_id: int,
        *,
        contact_id: str | None = None,
        phone: str | None = None,
        email: str | None = None,
    ) -> dict[str, Any]:
        """The contact with that id, phone or email; of several with one email the most recently
        updated. Raises ContactNotFound.
        """
        if email:
            with self.while_waiting(), self._reading() as db:
                found = _search(db, workspace_id, email=email, exact_order=True)
                return _contact(_required(next(iter(found), None)))
        with self._reading() as db:
            return _contact(_required(_find(db, workspace_id, contact_id, phone)))

    def search_contacts(
        self, workspace_id: int, *, query: str = "", tag: str = "", email: str = ""
    ) -> list[dict[str, Any]]:
        """At most SEARCH_LIMIT contacts that meet every filter, most recently updated first.

        `query` is a part of the name, the email or the phone, in any case and spelling; `tag` and
        `email` are compared whole, `email` in any case. An empty string is no filter.
        """
        with self.while_waiting(), self._reading() as db:
            return [_summary(row) for row in _search(db, workspace_id, query, tag, email)]

    # In bulk, for the operator

    def import_contacts(
        self, workspace_id: int, contacts: list[dict[str, Any]]
    ) -> dict[int, IdTaken | MetadataTooLarge]:
        """Upsert each as create_contact does, in one transaction; returns the refused by position.

        A contact that is new keeps `id`, `source`, `created_at` and `updated_at` when they are
        given; of one that exists they are left alone.
        """
        refused = {}
        with self._transaction() as db:
            for pragma in _IMPORT_PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
            stored = {row["phone"]: row for row in _named(db, workspace_id, contacts)}
            rows = dict(stored)
            phone_of = {row["id"]: phone for phone, row in rows.items()}
            numbers = itertools.count(_next_number(db, workspace_id))
            ids = _new_ids(len(contacts))
            for position, contact in enumerate(contacts):
                phone = contact["phone"]
                try:
                    if phone_of.get(contact.get("id"), phone) != phone:
                        raise IdTaken
                    if phone in rows:
                        changes = {k: v for k, v in contact.items() if k in _WRITABLE}
                        rows[phone] = _changed(rows[phone], changes)
                    else:
                        fields = {"id": ids[position], "source": "csv_import", **contact}
                        rows[phone] = _new(workspace_id, next(numbers), fields)
                        phone_of[rows[phone]["id"]] = phone
                except (IdTaken, MetadataTooLarge) as error:
                    refused[position] = error
            _write_new(db, [row for phone, row in rows.items() if phone not in stored])
            for phone, row in stored.items():
                _write_changes(db, row, rows[phone])
        return refused

    def export_contacts(self, workspace_id: int) -> Iterator[dict[str, Any]]:
        """Every contact as import_contacts takes it, in the order they came, all of one moment."""
        with self._reading() as db:
            for row in db.execute(
                "SELECT id, phone, name, email, tags, metadata, source, created_at, updated_at"
                " FROM contact WHERE number BETWEEN ? AND ? ORDER BY number",
                _numbers(workspace_id),
            ):
                yield {
                    **_contact(row),
                    "created_at": _moment(row["created_at"]),
                    "updated_at": _moment(row["updated_at"]),
                }

    def delete_contact(self, workspace_id: int, contact_id: str):
        """Delete the contact; erase_deleted() removes its traces. Raises ContactNotFound."""
        with self._transaction() as db:
            row = _required(_find(db, workspace_id, contact_id))
            db.execute("DELETE FROM contact WHERE number = ?", (row["number"],))
            _index(db)

    def erase_deleted(self) -> bool:
        """Remove every trace of what was deleted from the files, bit by bit: others can write.

        False when another process, by reading, kept the write-ahead log from being emptied.
        """
        pages = -_MERGE_PAGES  # below zero: begin with all trigrams that there are
        done = False
        while not done:
            with self._transaction() as db:
                before = db.total_changes
                db.execute(
                    "INSERT INTO contact_trigram (contact_trigram, rank) VALUES ('merge', ?)",
                    (pages,),
                )
                done = db.total_changes - before < 2
            pages = _MERGE_PAGES
            time.sleep(_PAUSE_SECONDS)
        with self._reading() as db:
            return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()["busy"]

    def back_up(self, target: Path):
        """Copy the database as it is at this moment into `target`, a new file, and verify it."""
        with self._reading() as db, closing(sqlite3.connect(target)) as copy:
            db.backup(copy)
            [result] = copy.execute("PRAGMA integrity_check(1)").fetchone()
            copy.execute("PRAGMA journal_mode = DELETE")  # which tells it from a database in use
        if result != "ok":
            raise UnusableDatabase(f"{self.path}: damaged: {' '.join(result.split())}")

    def is_copy(self, path: Path) -> bool:
        """Whether that file is what back_up() makes, rather than a database that was served."""
        with path.open("rb") as file:
            header = file.read(100)
        is_ours = header[68:72] == self._application_id.to_bytes(4)
        return header.startswith(b"SQLite format 3\0") and is_ours and header[18:20] != WAL_VERSIONS

    # Connections

    def open(self):
        """Make or migrate the file, and see that it can be written, before the first call does."""
        with self._transaction():
            pass

    def ping(self):
        """Raise what keeps the database from answering."""
        with self._reading() as db:
            db.execute("SELECT 1 FROM contact LIMIT 1").fetchone()

    def close(self):
        """Close every connection. The next call opens new ones."""
        for db in [self._writer, *self._readers]:
            if db:
                db.close()
        if self._wal is not None:
            os.close(self._wal)
        self._writer, self._readers, self._opened, self._wal = None, [], None, None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._require_the_opened_file()
        try:
            db = self._readers.pop()
        except IndexError:
            db = self._connect()
        try:
            yield db
        except sqlite3.Error as error:
            if plain := _said_plainly(error, self.path):
                raise plain from error
            raise
        finally:
            if len(self._readers) < _READERS_KEPT:
                self._readers.append(db)
            else:
                db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Read, merge and write as one. Threads queue here, other processes at BEGIN IMMEDIATE.

        Both waits together last no longer than BUSY_SECONDS, once the file is open.
        """
        give_up = time.monotonic() + BUSY_SECONDS
        if not self._writing.acquire(BUSY_SECONDS, self.while_waiting):
            raise StoreUnavailable(BUSY)
        try:
            self._require_the_opened_file()
            if self._writer is None:
                self._writer = self._connect_to_write()
            _execute_in_turn(self._writer, "BEGIN IMMEDIATE", give_up, self.while_waiting)
            before = self._writer.total_changes
            with self._writer:  # commits, or rolls back
                yield self._writer
                if self._writer.total_changes - before > 1:  # perhaps of one more in `unindexed`
                    self._index_when_due()
                self._committing = True  # from now on others may read it, before it is counted
            self._commits += self._writer.total_changes != before
        except sqlite3.Error as error:
            if plain := _said_plainly(error, self.path):
                raise plain from error
            raise
        finally:
            self._committing = False
            self._writing.release()
        if not self.syncs_later:
            self.sync()

    def _index_when_due(self):
        count = "SELECT count(*) AS count FROM unindexed"
        if self._writer.execute(count).fetchone()["count"] >= _INDEX_AT:
            with self.while_waiting():
                _index(self._writer)

    def sync(self):
        """Return once all that was committed is on the disk; raises NotOnDisk.

        With synchronous=FULL SQLite would do this within each commit, and the next would wait for
        it. This lets many commits share it.
        """
        committing = self._committing  # asked first, since it ends with being counted
        commits = self._commits
        if self._synchronous != "FULL" or (self._synced >= commits and not committing):
            return
        with self._syncing:
            if self._disk_failed:  # which the system reports once
                raise NotOnDisk(f"{self.path}: the disk has failed.")
            if self._synced < commits or committing:
                commits = self._commits
                try:
                    _fdatasync(self._wal)
                except OSError as error:
                    self._disk_failed = True
                    raise NotOnDisk(f"{self.path}: {error.strerror}.") from error
                self._synced = commits

    def _connect_to_write(self) -> sqlite3.Connection:
        db = self._connect()
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()  # makes the log of a restored backup
        db.execute("PRAGMA busy_timeout = 0")
        wal = Path(f"{os.path.realpath(self.path)}-wal")
        try:
            self._wal = os.open(wal, os.O_RDWR)  # now, since it may be moved later
        except OSError as error:
            db.close()
            raise UnusableDatabase(f"{wal}: {error.strerror}.") from error
        with suppress(OSError):  # a directory that can't be read, which SQLite passes over too
            _sync_directory(wal.parent)
        return db

    def _require_the_opened_file(self):
        """What is written to a file that was deleted or replaced is lost at the next start."""
        if self._disk_failed:  # the next attempt may succeed, and yet not keep what was lost
            raise UnusableDatabase(f"{self.path}: the disk has failed. Mend it, then restart.")
        if self._opened not in (None, _identity(self._file)):
            raise UnusableDatabase(
                f"{self.path}: the file was moved or replaced while it was served."
                " Put it back, or restart."
            )

    def _connect(self) -> sqlite3.Connection:
        try:
            _make_private(self.path)
            db = sqlite3.connect(
                f"file:{quote(self._file)}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        except OSError as error:
            raise UnusableDatabase(f"{self.path}: {error.strerror}.") from error
        except sqlite3.Error as error:
            raise UnusableDatabase(f"{self.path}: {error}.") from error
        try:
            db.row_factory = _row
            if not os.access(self.path, os.W_OK):  # SQLite would notice at the first write only
                raise UnusableDatabase(f"{self.path}: the file is read-only.")
            db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
            self._migrate(db)
            db.execute("PRAGMA synchronous = NORMAL")  # sync() does what FULL does
            db.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error as error:
            db.close()
            plain = _said_plainly(error, self.path) or UnusableDatabase(f"{self.path}: {error}.")
            raise plain from error
        except BaseException:
            db.close()
            raise
        self._opened = _identity(self._file)
        return db

    def _migrate(self, db: sqlite3.Connection):
        """Bring the file up to date, or refuse it. Does nothing to a file that is."""
        db.execute("BEGIN")
        with db:  # one snapshot, though another process may be migrating it
            version = self._version(db)
        _execute_in_turn(db, "PRAGMA journal_mode = WAL", time.monotonic() + BUSY_SECONDS)
        if version == len(MIGRATIONS):
            return
        db.create_function("folded", 2, _folded, deterministic=True)
        db.execute("BEGIN IMMEDIATE")
        with db:
            version = self._version(db)  # another process may have migrated it by now
            if version == 0:
                self.path.chmod(0o600)  # an empty file may have been there
            for step in MIGRATIONS[version:]:
                for statement in step:
                    db.execute(statement)
            _index(db)
            db.execute(f"PRAGMA application_id = {self._application_id}")
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self, db: sqlite3.Connection) -> int:
        [application_id] = db.execute("PRAGMA application_id").fetchone().values()
        [version] = db.execute("PRAGMA user_version").fetchone().values()
        if application_id != self._application_id:
            empty = not db.execute("SELECT 1 FROM sqlite_schema").fetchone()
            if application_id or version or not empty:
                whose = {
                    SANDBOX_FILE: "belongs to a sandbox",
                    DEPLOYMENT_FILE: "belongs to a deployment, not to the sandbox",
                }.get(application_id, "is not a database of this service")
                raise UnusableDatabase(f"{self.path}: the file {whose}.")
        if version > len(MIGRATIONS):
            raise UnusableDatabase(f"{self.path}: the file was written by a newer version.")
        return version


def _workspace_id(db: sqlite3.Connection, name: str) -> int | None:
    row = db.execute("SELECT id FROM workspace WHERE name = ?", (name,)).fetchone()
    return row["id"] if row else None


def _open_workspace(
    db: sqlite3.Connection, name: str, contacts: Iterable[dict[str, Any]] = ()
) -> int:
    workspace_id = _workspace_id(db, name)
    if workspace_id is None:
        row = (str(uuid.uuid4()), name)
        workspace_id = db.execute("INSERT INTO workspace (uuid, name) VALUES (?, ?)", row).lastrowid
        for contact in contacts:
            _insert(db, workspace_id, contact)
    return workspace_id


def _find(
    db: sqlite3.Connection,
    workspace_id: int,
    contact_id: str | None = None,
    phone: str | None = None,
) -> dict[str, Any] | None:
    """The row that the id, the phone or both of them name."""
    if contact_id:
        query, value = "SELECT * FROM contact WHERE workspace_id = ? AND id = ?", contact_id
    else:
        query, value = "SELECT * FROM contact WHERE workspace_id = ? AND phone = ?", phone
    row = db.execute(query, (workspace_id, value)).fetchone()
    return row if row and phone in (None, row["phone"]) else None


def _required(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        raise ContactNotFound
    return row


def _create(db: sqlite3.Connection, workspace_id: int, fields: dict[str, Any]) -> dict[str, Any]:
    row = _find(db, workspace_id, phone=fields["phone"])
    if row:
        return _change(db, row, fields)
    return _insert(db, workspace_id, fields)


def _delete_contacts(db: sqlite3.Connection, workspace_id: int):
    db.execute("DELETE FROM contact WHERE workspace_id = ?", (workspace_id,))


def _named(
    db: sqlite3.Connection, workspace_id: int, contacts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows that have the phone or the id of one of these contacts."""
    return db.execute(
        "SELECT contact.* FROM json_each(:phones) CROSS JOIN contact"
        " ON workspace_id = :workspace_id AND phone = value"
        " UNION SELECT contact.* FROM json_each(:ids) CROSS JOIN contact"
        " ON workspace_id = :workspace_id AND contact.id = value",
        {
            "workspace_id": workspace_id,
            "phones": _json([contact["phone"] for contact in contacts]),
            "ids": _json([contact["id"] for contact in contacts if "id" in contact]),
        },
    ).fetchall()


def _new(workspace_id: int, number: int, fields: dict[str, Any]) -> dict[str, Any]:
    """The row of a new contact with these fields, among them its id."""
    now = _now()
    row = {
        "number": number,
        "workspace_id": workspace_id,
        "name": None,
        "email": None,
        "source": "api",
        **fields,
        "created_at": _microseconds(fields["created_at"]) if "created_at" in fields else now,
        "updated_at": _microseconds(fields["updated_at"]) if "updated_at" in fields else now,
        "tags": _json(fields.get("tags", [])),
        "metadata": _merged("{}", fields["metadata"]) if "metadata" in fields else "{}",
    }
    row["folded"] = _folded(row["name"], row["email"])
    row["recency"] = row["updated_at"]
    return row


def _new_ids(how_many: int) -> list[str]:
    """UUIDs of version 7: they begin with the time, so that new ids stand together in the index."""
    now, digits = f"{time.time_ns() // 1_000_000:012x}", secrets.token_hex(9 * how_many)
    chances = [digits[i : i + 18] for i in range(0, len(digits), 18)]
    return [f"{now[:8]}-{now[8:]}-7{c[:3]}-a{c[3:6]}-{c[6:]}" for c in chances]


def _write_new(db: sqlite3.Connection, rows: list[dict[str, Any]]):
    db.executemany(
        "INSERT INTO contact (number, workspace_id, id, phone, name, email, folded, tags, metadata,"
        " source, created_at, updated_at, recency) VALUES (:number, :workspace_id, :id, :phone,"
        " :name, :email, :folded, :tags, :metadata, :source, :created_at, :updated_at, :recency)",
        rows,
    )


def _insert(db: sqlite3.Connection, workspace_id: int, fields: dict[str, Any]) -> dict[str, Any]:
    [new_id] = _new_ids(1)
    row = _new(workspace_id, _next_number(db, workspace_id), {"id": new_id, **fields})
    _write_new(db, [row])
    return row


def _next_number(db: sqlite3.Connection, workspace_id: int) -> int:
    """The numbers of a workspace's contacts lie together, which binds a trigram search to it."""
    first, last = _numbers(workspace_id)
    row = db.execute(
        "SELECT number FROM contact WHERE number BETWEEN ? AND ? ORDER BY number DESC LIMIT 1",
        (first, last),
    ).fetchone()
    return (row["number"] if row else first) + 1


def _numbers(workspace_id: int) -> tuple[int, int]:
    return workspace_id << 40, (workspace_id + 1 << 40) - 1


def _change(db: sqlite3.Connection, row: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The row with the changes, written if that makes a difference."""
    changed = _changed(row, changes)
    _write_changes(db, row, changed)
    return changed


def _changed(row: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = {**row, **changes}
    if "tags" in changes:
        changed["tags"] = _json(changes["tags"])
    if "metadata" in changes:
        changed["metadata"] = _merged(row["metadata"], changes["metadata"])
    if changed == row:
        return row
    changed["folded"] = _folded(changed["name"], changed["email"])
    now = _now()
    changed["updated_at"] = now + (now == row["updated_at"])  # which tells the indices of a change
    return changed


def _write_changes(db: sqlite3.Connection, row: dict[str, Any], changed: dict[str, Any]):
    # Writing a column that stays the same would run its checks and triggers again.
    different = [f"{column} = :{column}" for column in row if changed[column] != row[column]]
    if different:
        assignments = ", ".join(different)
        db.execute(f"UPDATE contact SET {assignments} WHERE number = :number", changed)  # noqa: S608


def _merged(stored: str, given: dict[str, Any]) -> str:
    """Shallow merge: a key that is given replaces the stored value whole, null included."""
    text = _json({**json.loads(stored), **given})
    if len(text.encode()) > METADATA_LIMIT:
        raise MetadataTooLarge
    return text


# Search

# A separator that _folded() keeps out of names, so that an address can be compared whole.
_BETWEEN_FIELDS = "\x1f"
_PHONE_QUERY = re.compile(r"(?:tel:)?([\d\s().+\u2010-\u2015\u2212-]+)", re.IGNORECASE)

# The indices for searching are written in bulk: FTS5 needs about as long for the trigrams of one
# contact as for those of fifty, and most contacts that are updated once are soon updated again. A
# search looks at those that wait one by one.
_INDEX_AT = 2000

# After a deletion all trigrams are written anew, in steps that keep nobody waiting.
_MERGE_PAGES = 500
_PAUSE_SECONDS = 0.05

# What bounds the time of a search by trigrams. The candidates are the contacts that match and were
# created last and, when there are more than _CANDIDATES, also those that match among the _WINDOW
# most recently updated. Only a search that both bounds cut short may miss an older contact that
# was updated more recently than one it returns.
_CANDIDATES = 3000
_WINDOW = 50_000

_MEETS_FILTERS = """
    (instr(folded, :text) OR (:digits != '' AND instr(phone, :digits)))
    AND (:email = '' OR substr(folded, -length(:email)) = :email)
    AND (:tag = '' OR instr(tags, :tag_text)
        AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
"""
# The others come by themselves, and their recency may be later than their update: it was in an
# import, or the clock was set back.
_IS_INDEXED = "number NOT IN (SELECT number FROM unindexed)"
_MATCHES = """
    SELECT rowid FROM contact_trigram
    WHERE contact_trigram MATCH :trigrams AND rowid BETWEEN :first AND :last
"""
_COUNT = f"SELECT count(*) AS count FROM ({_MATCHES} LIMIT :candidates + 1)"  # noqa: S608
_SORT = f"""
    SELECT number FROM contact NOT INDEXED
    WHERE number IN (
        SELECT rowid FROM ({_MATCHES} ORDER BY rowid DESC LIMIT :candidates)
        UNION SELECT number FROM unindexed WHERE number BETWEEN :first AND :last
        UNION SELECT number FROM (
            SELECT number FROM (
                SELECT number, folded, phone, tags
                FROM contact INDEXED BY contact_by_recency WHERE workspace_id = :workspace_id
                ORDER BY recency DESC, number DESC LIMIT :window
            ) WHERE {_MEETS_FILTERS} AND {_IS_INDEXED} LIMIT :limit
        )
    ) AND {_MEETS_FILTERS}
    ORDER BY updated_at DESC, number DESC LIMIT :limit
"""  # noqa: S608, the parts are constants
_WALK = f"""
    SELECT number FROM contact NOT INDEXED
    WHERE number IN (
        SELECT number FROM unindexed WHERE number BETWEEN :first AND :last
        UNION SELECT number FROM (
            SELECT number FROM contact INDEXED BY contact_by_recency
            WHERE workspace_id = :workspace_id AND {_MEETS_FILTERS} AND {_IS_INDEXED}
            ORDER BY recency DESC, number DESC LIMIT :limit
        )
    ) AND {_MEETS_FILTERS}
    ORDER BY updated_at DESC, number DESC LIMIT :limit
"""  # noqa: S608, the parts are constants
_FETCH = """
    SELECT * FROM contact NOT INDEXED WHERE number IN ({})
    ORDER BY updated_at DESC, number DESC
"""


def _search(
    db: sqlite3.Connection,
    workspace_id: int,
    query: str = "",
    tag: str = "",
    email: str = "",
    exact_order: bool = False,
) -> list[dict[str, Any]]:
    """The rows that meet the filters, most recently updated first, by trigrams or by a walk.

    `exact_order` is worth the time of a long walk to the caller.
    """
    first, last = _numbers(workspace_id)
    filters = {
        "text": _fold(query),
        "digits": _phone_part(query),
        "email": email and f"{_BETWEEN_FIELDS}{_fold(email)}{_BETWEEN_FIELDS}",
        "tag": tag,
        "tag_text": _json(tag),
        "workspace_id": workspace_id,
        "first": first,
        "last": last,
        "candidates": _CANDIDATES,
        "limit": SEARCH_LIMIT,
    }
    filters["trigrams"] = _trigrams(filters)
    trigrams = filters["trigrams"]
    many = trigrams and db.execute(_COUNT, filters).fetchone()["count"] > _CANDIDATES
    if not trigrams or (many and exact_order):
        return db.execute(_FETCH.format(_WALK), filters).fetchall()
    return db.execute(
        _FETCH.format(_SORT), {**filters, "window": _WINDOW if many else 0}
    ).fetchall()


def _phone_part(query: str) -> str:
    """What to look for in E.164 when the query is the digits and punctuation of a phone number."""
    match = _PHONE_QUERY.fullmatch(query)
    if not match:
        return ""
    plus = "+" if match[1].lstrip(" (").startswith("+") else ""
    return plus + "".join(str(int(c)) for c in match[1] if c.isdecimal())


def _trigrams(filters: dict[str, Any]) -> str:
    """The filters that trigrams can tell, as an FTS5 expression; empty when there are none."""
    text, digits = filters["text"], filters["digits"]
    terms = []
    if len(text) >= 3 and (not digits or len(digits) >= 3):
        in_phone = f" OR phone : {_phrase(digits)}" if digits else ""
        terms.append(f"(folded : {_phrase(text)}{in_phone})")
    for column, needle in [
        ("folded", filters["email"]),
        ("tags", filters["tag"] and filters["tag_text"]),
    ]:
        if needle:
            terms.append(f"{column} : {_phrase(needle)}")
    return " AND ".join(terms)


def _phrase(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _index(db: sqlite3.Connection):
    """Bring the indices for searching up to date."""
    db.execute(
        "INSERT INTO contact_trigram (contact_trigram, rowid, folded, phone, tags)"
        " SELECT 'delete', old.number, old.folded, old.phone, old.tags"
        " FROM unindexed AS old LEFT JOIN contact AS new ON new.number = old.number"
        " WHERE old.folded IS NOT NULL"
        " AND (old.folded, old.phone, old.tags) IS NOT (new.folded, new.phone, new.tags)"
    )
    db.execute(
        "INSERT INTO contact_trigram (rowid, folded, phone, tags)"
        " SELECT new.number, new.folded, new.phone, new.tags"
        " FROM unindexed AS old CROSS JOIN contact AS new ON new.number = old.number"
        " WHERE (old.folded, old.phone, old.tags) IS NOT (new.folded, new.phone, new.tags)"
    )
    db.execute(
        "UPDATE contact SET recency = updated_at"
        " WHERE number IN (SELECT number FROM unindexed) AND recency != updated_at"
    )
    db.execute("DELETE FROM unindexed")


def _folded(name: str | None, email: str | None) -> str:
    """Name and email as a search compares them: `separator name separator email separator`."""
    return _BETWEEN_FIELDS.join(["", _fold(name or ""), _fold(email or ""), ""])


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return folded.replace(_BETWEEN_FIELDS, " ")


# Rows and values


def _contact(row: dict[str, Any]) -> dict[str, Any]:
    """The row as callers see it, with values instead of JSON text and microseconds."""
    return {**_summary(row), "metadata": json.loads(row["metadata"])}


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    """The same without the metadata, which may be large."""
    return {
        "id": row["id"],
        "phone": row["phone"],
        "name": row["name"],
        "email": row["email"],
        "source": row["source"],
        "tags": json.loads(row["tags"]),
        "created_at": _time(row["created_at"]),
        "updated_at": _time(row["updated_at"]),
    }


def _row(cursor: sqlite3.Cursor, values: tuple) -> dict[str, Any]:
    return dict(zip((column[0] for column in cursor.description), values, strict=True))


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _now() -> int:
    return time.time_ns() // 1000


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC)


def _make_private(path: Path):
    """Make the file, readable by its owner alone, unless there is one."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))


# macOS has no fdatasync().
_fdatasync = getattr(os, "fdatasync", os.fsync)


def _sync_directory(path: Path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino


def _execute_in_turn(
    db: sqlite3.Connection,
    statement: str,
    give_up: float,
    while_waiting: WhileWaiting = nullcontext,
):
    """Waits here for other processes: SQLite does so not at all for journal_mode, and elsewhere
    looks every 100 ms, which misses the pauses that an import makes.
    """
    if _executed(db, statement, give_up):
        return
    with while_waiting():
        while not _executed(db, statement, give_up):
            time.sleep(0.002)


def _executed(db: sqlite3.Connection, statement: str, give_up: float) -> bool:
    try:
        db.execute(statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
            raise
        return False
    return True


BUSY = "The database is busy. Nothing was written; try again."
_NO_ROOM = "The disk is full or failing. Nothing was written; try again when there is room."


def _said_plainly(error: sqlite3.Error, path: Path) -> Exception | None:
    """What an operator can mend, as StoreUnavailable or UnusableDatabase."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(BUSY)
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return StoreUnavailable(_NO_ROOM)
        case (
            sqlite3.SQLITE_READONLY
            | sqlite3.SQLITE_CANTOPEN
            | sqlite3.SQLITE_CORRUPT
            | sqlite3.SQLITE_NOTADB
        ):
            return UnusableDatabase(f"{path}: {error}.")
    return None
