"""Contacts in SQLite: tables, connections, every SQL statement, and the rules of one transaction.

Times are stored as microseconds since the epoch, tags and metadata as compact JSON text.
"""

import hashlib
import json
import os
import re
import secrets
import sqlite3
import threading
import time
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

Values = dict[str, Any]  # of a contact's fields, or of a row's columns, by their names

METADATA_LIMIT = 64 * 1024
MAX_TAGS = 100
SEARCH_LIMIT = 50
BUSY_SECONDS = 5.0
DEFAULT_WORKSPACE = "default"
SANDBOX_WORKSPACE = "sandbox"  # and the token that opens it

# Says whose file it is: neither mode of the service ever serves the other's, or a stranger's.
DEPLOYMENT_FILE = 0x51796470
SANDBOX_FILE = 0x51797362

# Each step makes the next version of the tables, kept as the file's user_version.
FIRST_VERSION = 4
MIGRATIONS = [
    [
        # AUTOINCREMENT: the id of a deleted workspace is never used again.
        """CREATE TABLE workspace (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            uuid TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE
        ) STRICT
        """,
        """CREATE TABLE token (
            id INTEGER PRIMARY KEY,
            workspace_id INTEGER NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
            name TEXT NOT NULL UNIQUE,
            sha256 BLOB NOT NULL UNIQUE,
            created_at INTEGER NOT NULL
        ) STRICT
        """,
        """CREATE TABLE contact (
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
    ],
    [
        # SQLite can't change a CHECK: the rows go into a new table, in one transaction.
        # `folded` is name and email as a search compares them. metadata is last, since a row is
        # read only as far as the last column that is asked for.
        """CREATE TABLE contact_5 (
            number INTEGER PRIMARY KEY,
            workspace_id INTEGER NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
            id TEXT NOT NULL,
            phone TEXT NOT NULL,
            name TEXT,
            email TEXT,
            folded TEXT NOT NULL,
            source TEXT NOT NULL CHECK (source IN ('manual', 'csv_import', 'shopify',
                'woocommerce', 'widget', 'zapier', 'api')),
            locale TEXT,
            opted_in_at INTEGER,
            opted_out_at INTEGER,
            last_message_at INTEGER,
            total_messages INTEGER NOT NULL DEFAULT 0,
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            tags TEXT NOT NULL CHECK (json_valid(tags) AND json_type(tags) = 'array'),
            metadata TEXT NOT NULL CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
            UNIQUE (workspace_id, phone),
            UNIQUE (workspace_id, id)
        ) STRICT
        """,
        """INSERT INTO contact_5 (number, workspace_id, id, phone, name, email, folded, source,
                created_at, updated_at, tags, metadata)
            SELECT number, workspace_id, id, phone, name, email, folded, source,
                created_at, updated_at, tags, metadata FROM contact ORDER BY number
        """,
        "DROP TABLE contact",
        "ALTER TABLE contact_5 RENAME TO contact",
        # Holds all that a search compares, so that it reads only the rows that it returns.
        """CREATE INDEX contact_by_recency ON contact
            (workspace_id, last_message_at, updated_at, number, folded, phone, tags)
        """,
        # Few contacts share an address, so those are sorted, and an update leaves the index alone.
        """CREATE INDEX contact_by_email ON contact (workspace_id, email COLLATE NOCASE)
            WHERE email IS NOT NULL
        """,
    ],
]
LATEST_VERSION = FIRST_VERSION + len(MIGRATIONS) - 1

TAKEN = "Another contact of the workspace has it."
TAKEN_ID = f"{TAKEN} Leave the id out to find the contact by its phone, or to make a new one."
TOO_MANY_TAGS = f"The contact has {MAX_TAGS} tags already: remove one first."
TOO_LARGE = f"Merged with what is stored, it exceeds {METADATA_LIMIT} bytes (64 KiB)."
BUSY = "The database is busy. Nothing was written; try again."
DISK_FULL = "The disk is full or failing. Nothing was written; try again when there is room."
DISK_FAILED = (
    "The disk has failed. Whether this was written is not known: look before you try again."
)

# The errors of SQLite that say that the file can't be used.
_UNUSABLE_CODES = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
}


class ContactNotFound(LookupError):
    """No contact of this workspace has that id or phone, or not both of them."""


class WorkspaceNotFound(LookupError):
    """The workspace of a write or a look-up was deleted during the call.

    A contact that is looked for in it is just not found.
    """


class Refused(ValueError):
    """What is stored does not allow that value of `field`. The text says why."""

    def __init__(self, field: str, text: str):
        super().__init__(text)
        self.field = field


class StoreUnavailable(Exception):
    """The database is busy, or the disk is full or failing.

    The text says whether anything was written.
    """


class UnusableDatabase(Exception):
    """The file can't be served. The text says which file and why, in one line."""


class Token(NamedTuple):
    """A bearer token's name, and the one workspace that its requests see and change."""

    id: int
    name: str
    workspace_id: int


class Store:
    """The contacts of one SQLite file, safe to share between threads and between processes.

    Nothing is opened before the first call. Every method may wait for BUSY_SECONDS, and may raise
    StoreUnavailable and UnusableDatabase.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        make_folder: bool = False,
        synchronous: str = "FULL",
        application_id: int = DEPLOYMENT_FILE,
    ):
        self.path = Path(path).absolute()
        self._make_folder = make_folder
        self._synchronous = synchronous
        self._application_id = application_id
        self._free: list[sqlite3.Connection] = []
        self._writing = threading.Lock()
        self._opened: tuple[int, ...] | None = None  # the file, by its _identity()

    # Workspaces and tokens

    def get_or_create_workspace(self, name: str, contacts: Iterable[Values] = ()) -> int:
        """Return the id of the workspace of that name, made with `contacts` if there was none."""
        if workspace_id := self.find_workspace(name):  # which waits for no lock
            return workspace_id
        rows = [_new_row(contact) for contact in contacts]
        with self._transaction() as db:
            made = db.execute(_MAKE_WORKSPACE, (str(uuid.uuid4()), name)).rowcount
            [workspace_id] = db.execute(_FIND_WORKSPACE, (name,)).fetchone()
            if made:
                _insert(db, workspace_id, rows)
            return workspace_id

    def find_workspace(self, name: str) -> int | None:
        """Return the id of the workspace of that name, if there is one."""
        rows = self._read(_FIND_WORKSPACE, name)
        return rows[0]["id"] if rows else None

    def list_workspaces(self) -> dict[str, int]:
        """Return the id of every workspace by its name, oldest first."""
        return dict(self._read("SELECT name, id FROM workspace ORDER BY id"))

    def summarize_workspaces(self) -> list[Values]:
        """Return name, contacts, tokens and last change of every workspace, oldest first."""
        rows = self._read(
            "SELECT name, (SELECT count(*) FROM contact WHERE workspace_id = workspace.id)"
            " AS contacts, (SELECT count(*) FROM token WHERE workspace_id = workspace.id)"
            " AS tokens, (SELECT max(updated_at) FROM contact WHERE workspace_id ="
            " workspace.id) AS updated_at FROM workspace ORDER BY id"
        )
        return [{**row, "updated_at": _time(row["updated_at"])} for row in rows]

    def workspace(self, workspace_id: int) -> dict[str, str]:
        """Return the workspace's `id`, a UUID, and its `name`. Raises WorkspaceNotFound."""
        for row in self._read("SELECT uuid AS id, name FROM workspace WHERE id = ?", workspace_id):
            return dict(row)
        raise WorkspaceNotFound

    def delete_workspace(self, workspace_id: int):
        """Delete the workspace with its contacts and tokens."""
        with self._transaction() as db:
            db.execute("DELETE FROM workspace WHERE id = ?", (workspace_id,))

    def create_token(self, name: str, workspace: str = DEFAULT_WORKSPACE) -> str:
        """Return a new bearer token of 256 random bits, kept as SHA-256 alone. Raises Refused."""
        secret = secrets.token_urlsafe(32)
        with self._transaction() as db:
            db.execute(_MAKE_WORKSPACE, (str(uuid.uuid4()), workspace))
            db.execute(
                "INSERT INTO token (workspace_id, name, sha256, created_at)"
                " SELECT id, ?, ?, ? FROM workspace WHERE name = ?",
                (name, hashlib.sha256(secret.encode()).digest(), _now(), workspace),
            )
        return secret

    def find_token(self, sha256: bytes) -> Token | None:
        """Look a bearer token up. Called for each request, so that revoking works at once."""
        query = "SELECT id, name, workspace_id FROM token WHERE sha256 = ?"
        return next((Token(*row) for row in self._read(query, sha256)), None)

    def list_tokens(self) -> list[Values]:
        """Return name, workspace and time of creation of every token, oldest first."""
        rows = self._read(
            "SELECT token.name, workspace.name AS workspace, created_at FROM token"
            " JOIN workspace ON workspace.id = workspace_id ORDER BY token.id"
        )
        return [{**row, "created_at": _time(row["created_at"])} for row in rows]

    def revoke_token(self, name: str) -> bool:
        """Delete the token; return whether there was one of that name."""
        with self._transaction() as db:
            return db.execute("DELETE FROM token WHERE name = ?", (name,)).rowcount == 1

    # Contacts: a `reference` is a contact_id, a phone or both, an empty string being none

    def create_contact(self, workspace_id: int, *, phone: str, **fields: Any) -> Values:
        """Insert a contact, or update the one that has the phone. Raises Refused."""
        with self._transaction() as db:
            return _summary(_save(db, workspace_id, {"phone": phone, **fields}, {}, phone=phone))

    def update_contact(
        self, workspace_id: int, *, contact_id: str = "", phone: str = "", **changes: Any
    ) -> Values:
        """Write the given fields, and return the contact as it is then.

        `changes` are `name` and `email` (None clears), `tags` (the new list) and `metadata`
        (merged one level deep). A call that changes nothing writes nothing.
        Raises ContactNotFound and Refused.
        """
        with self._transaction() as db:
            row = _find(db, workspace_id, contact_id=contact_id, phone=phone)
            return _summary(_update(db, row, changes))

    def put_contact(self, workspace_id: int, contact_id: str, **fields: Any) -> Values:
        """Write any of the fields that get_contact returns, but for the times of the row itself.

        Creates a contact if none has that id. Raises ContactNotFound where one can't be created
        without a phone, and Refused.
        """
        new = {"id": contact_id, "source": "manual"}
        with self._transaction() as db:
            return _contact(_save(db, workspace_id, fields, new, contact_id=contact_id))

    def add_tag(self, workspace_id: int, tag: str, **reference: str) -> Values:
        """Return the contact with that tag last, unless it had it.

        Raises ContactNotFound and Refused.
        """
        with self._transaction() as db:
            row = _find(db, workspace_id, **reference)
            tags = json.loads(row["tags"])
            if tag not in tags:
                if len(tags) >= MAX_TAGS:
                    raise Refused("tag", TOO_MANY_TAGS)
                tags.append(tag)
            return _summary(_update(db, row, {"tags": tags}))

    def remove_tag(self, workspace_id: int, tag: str, **reference: str) -> Values:
        """Return the contact without that tag. Raises ContactNotFound."""
        with self._transaction() as db:
            row = _find(db, workspace_id, **reference)
            tags = [each for each in json.loads(row["tags"]) if each != tag]
            return _summary(_update(db, row, {"tags": tags}))

    def get_contact(self, workspace_id: int, **reference: str) -> Values:
        """Return the contact, metadata included. The reference may be an `email` as well.

        Of several with one email, the most recently updated. Raises ContactNotFound.
        """
        with self._connection() as db:
            self._refuse_another_file()
            return _contact(_find(db, workspace_id, **reference))

    def delete_contact(self, workspace_id: int, contact_id: str):
        """Delete the contact; empty_log() removes what is left of it. Raises ContactNotFound."""
        with self._transaction() as db:
            row = _find(db, workspace_id, contact_id=contact_id)
            db.execute("DELETE FROM contact WHERE number = ?", (row["number"],))

    def search_contacts(
        self,
        workspace_id: int,
        *,
        query: str = "",
        phone: str = "",
        tag: str = "",
        email: str = "",
    ) -> list[Values]:
        """Return at most SEARCH_LIMIT contacts that meet every filter.

        They are ordered by last message, then by last update, both newest first.

        `query` is a part of the name, the email or the phone, in any case and spelling, and
        `phone` the whole one that it reads as; `tag` and `email` are compared whole, `email` in
        any case. An empty string is no filter.
        """
        filters = {
            "workspace_id": workspace_id,
            "text": _fold(query),
            "digits": _phone_part(query),
            "phone": phone,
            "email": email and f"{_BETWEEN_FIELDS}{_fold(email)}{_BETWEEN_FIELDS}",
            "tag": tag,
            "tag_text": _as_json(tag),
            "limit": SEARCH_LIMIT,
        }
        with self._connection() as db:
            self._refuse_another_file()
            return [_summary(row) for row in db.execute(_SEARCH, filters)]

    # In bulk

    def replace_contacts(self, workspace_id: int, contacts: Iterable[Values]):
        """Delete the workspace's contacts and insert these, all or nothing.

        A contact is what put_contact accepts and may have an `id`; phones and ids are distinct.
        Raises Refused.
        """
        rows = [_new_row(contact) for contact in contacts]  # so that others wait less
        with self._transaction() as db:
            db.execute("DELETE FROM contact WHERE workspace_id = ?", (workspace_id,))
            _insert(db, workspace_id, rows)

    def import_contacts(self, workspace_id: int, contacts: list[Values]) -> list[str | Refused]:
        """Upsert each by its phone, in one transaction.

        Return what became of each: "created", "updated", "unchanged" or why it was refused. A
        contact that is new keeps `id`, `source`, `created_at` and `updated_at` when they are given;
        of one that exists they are left alone.
        """
        with self._transaction() as db:
            return [_import(db, workspace_id, contact) for contact in contacts]

    def export_contacts(self, workspace_id: int) -> Iterator[Values]:
        """Yield every contact as import_contacts takes it, oldest first, all of one moment."""
        query = "SELECT * FROM contact WHERE workspace_id = ? ORDER BY number"
        with self._connection() as db:
            for row in db.execute(query, (workspace_id,)):
                times = {c: _EPOCH + timedelta(microseconds=row[c]) for c in _TIMES if row[c]}
                yield _contact(row) | times

    # The file

    def check_writable(self):
        """Make the file or bring it up to date, and see that it can be written."""
        with self._transaction():
            pass

    def ping(self):
        """Raise what keeps the database from responding."""
        self._refuse_another_file()
        self._read("SELECT 1 FROM contact LIMIT 1")

    def close(self):
        """Close the connections that nobody uses. The next call opens another."""
        while self._free:
            self._free.pop().close()
        self._opened = None

    def lock(self) -> sqlite3.Connection:
        """Keep other processes from locking this file until the lock that is returned is closed.

        A file beside it is locked: to close the database's own would drop SQLite's locks on it.
        Raises UnusableDatabase.
        """
        path = self.path.resolve()
        beside = path.with_name(f".{path.name}-lock")
        try:
            lock = sqlite3.connect(beside, 0, isolation_level=None, check_same_thread=False)
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise UnusableDatabase(f"{beside}: {error}.") from error
            raise self._unusable(
                "another sandbox is serving it. Stop that one, or use another file:"
                " set CONTACTS_DATABASE or add --temporary."
            ) from error
        return lock

    def empty_log(self) -> bool:
        """Move the write-ahead log into the database, so that neither holds what was deleted.

        Return False when another process, by reading, kept the log from being emptied.
        """
        deadline = time.monotonic() + BUSY_SECONDS
        with self._connection() as db:
            db.execute("PRAGMA busy_timeout = 50")  # it waits for readers with writers kept out
            while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()["busy"]:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
        return True

    def back_up(self, target: Path):
        """Copy the database as it is at this moment into `target`, a new file, and verify it."""
        with self._connection() as db, closing(sqlite3.connect(target)) as copy:
            db.backup(copy)
            [result] = copy.execute("PRAGMA integrity_check(1)").fetchone()
            copy.execute("PRAGMA journal_mode = DELETE")  # which tells it from a database in use
        if result != "ok":
            raise self._unusable(f"damaged: {' '.join(result.split())}")

    def is_copy(self, path: Path) -> bool:
        """Return whether back_up() made that file, rather than a service that used it."""
        with path.open("rb") as file:
            header = file.read(72)
        magic, format_versions, application_id = header[:16], header[18:20], header[68:]
        return (
            magic == b"SQLite format 3\0"
            and format_versions == b"\1\1"  # 2 with a write-ahead log
            and application_id == self._application_id.to_bytes(4)
        )

    # Connections: those that nobody uses are kept for the next call, the last used first

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Read, merge and write as one. Threads queue at a lock, processes at BEGIN IMMEDIATE.

        Both waits together end after BUSY_SECONDS.
        """
        began = time.monotonic()
        if not self._writing.acquire(timeout=BUSY_SECONDS):
            raise StoreUnavailable(BUSY)
        try:
            with self._connection() as db:
                left = max(0, began + BUSY_SECONDS - time.monotonic())
                db.execute(f"PRAGMA busy_timeout = {left * 1000:.0f}")
                db.execute("BEGIN IMMEDIATE")
                with db:  # commits, or rolls back
                    try:
                        yield db
                    finally:  # what was not found may be in the file that was moved
                        self._refuse_another_file()
        finally:
            self._writing.release()

    def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._connection() as db:
            return db.execute(query, values).fetchall()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection, and translate errors."""
        try:
            db = self._free_connection() or self._connect()
            try:
                yield db
            finally:
                self._free.append(db)
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except OSError as error:
            raise self._unusable(f"{error.strerror}.") from error

    def _free_connection(self) -> sqlite3.Connection | None:
        with suppress(IndexError):  # another thread may take the last one
            return self._free.pop()

    def _refuse_another_file(self):
        """What is written to a file that was deleted or replaced is lost at the next start."""
        if self._opened not in (None, _identity(self.path)):
            raise self._unusable(
                "the file was moved or replaced while it was served. Put it back, or restart."
            )

    def _connect(self) -> sqlite3.Connection:
        self._refuse_another_file()  # or an empty one would be made, and the moved one lose its log
        if self._synchronous == "OFF" and self._application_id != SANDBOX_FILE:
            raise self._unusable(
                "CONTACTS_SYNCHRONOUS: OFF is for a sandbox, since a power cut would lose contacts."
            )
        if self._make_folder:
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                reason = f"the folder can't be made: {error.strerror}."
                raise UnusableDatabase(f"{error.filename}: {reason}") from error
        with suppress(FileExistsError):
            self.path.touch(0o600, exist_ok=False)
        if not self.path.is_file():
            raise self._unusable("it is not a file.")
        # SQLite would notice at the first write only.
        if not os.access(self.path, os.R_OK | os.W_OK):
            raise self._unusable("the file is read-only, or belongs to another user.")
        if not os.access(self.path.parent, os.W_OK):
            raise self._unusable("its folder, where SQLite keeps the log, can't be written to.")
        identity = _identity(self.path)  # before it can be replaced
        db = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._migrate(db)
            db.execute("PRAGMA foreign_keys = ON")
            self._opened = self._opened or identity
            self._refuse_another_file()
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection):
        """Bring the file up to date, or refuse it before anything is written to it."""
        version = self._version(db)
        _use_write_ahead_log(db)
        if version == LATEST_VERSION:
            return
        db.execute("BEGIN IMMEDIATE")
        with db:
            version = self._version(db)  # another process may have brought it up to date by now
            if version == 0:
                self.path.chmod(0o600)  # an empty file may have been there
            for step in MIGRATIONS[max(0, version - FIRST_VERSION + 1) :]:
                for statement in step:
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {self._application_id}")
            db.execute(f"PRAGMA user_version = {LATEST_VERSION}")

    def _version(self, db: sqlite3.Connection) -> int:
        """Return the version of the tables, 0 for an empty file. Raises UnusableDatabase."""
        application_id, version, tables = db.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if (application_id, version, tables) == (0, 0, 0):
            return 0
        if application_id != self._application_id:
            whose = {
                SANDBOX_FILE: "belongs to a sandbox",
                DEPLOYMENT_FILE: "belongs to a deployment, not to the sandbox",
            }.get(application_id, "is not a database of this service")
            raise self._unusable(f"the file {whose}.")
        if version > LATEST_VERSION:
            raise self._unusable("the file was written by a newer version.")
        if version < FIRST_VERSION:
            raise self._unusable(
                "the file was written by a version before the first release: export its contacts"
                " with that version, and import them."
            )
        return version

    def _unusable(self, reason: str) -> UnusableDatabase:
        return UnusableDatabase(f"{self.path}: {reason}")

    def _translated(self, error: sqlite3.Error) -> Exception:
        """Return what the error means to callers, or the error itself where it is our fault."""
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
            return WorkspaceNotFound()
        if code == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
            return Refused(str(error).rpartition(".")[2], TAKEN)  # its text ends with table.column
        if code == sqlite3.SQLITE_IOERR_FSYNC:
            return StoreUnavailable(DISK_FAILED)
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_BUSY:
            return StoreUnavailable(BUSY)
        if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return StoreUnavailable(DISK_FULL)
        return self._unusable(f"{error}.") if primary in _UNUSABLE_CODES else error


def _use_write_ahead_log(db: sqlite3.Connection):
    """Change the journal mode, with retries: SQLite does not wait for a lock to do that."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.002)


def _identity(path: Path) -> tuple[int, ...]:
    """Return what tells the file from one that takes its place."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino


# Within a transaction


_FIND_WORKSPACE = "SELECT id FROM workspace WHERE name = ?"
_MAKE_WORKSPACE = "INSERT INTO workspace (uuid, name) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"
_REFERENCE = {
    "contact_id": "id = :contact_id",
    "phone": "phone = :phone",
    "email": "email = :email COLLATE NOCASE",
}
_NEWEST_FIRST = "ORDER BY updated_at DESC, number DESC"


def _find(db: sqlite3.Connection, workspace_id: int, **reference: str) -> Values:
    """Return the row that the whole reference is true of, of several the last updated."""
    given = [_REFERENCE[name] for name, value in reference.items() if value]
    conditions = ["workspace_id = :workspace_id", *(given or ["FALSE"])]  # no reference: no row
    where = " AND ".join(conditions)
    query = f"SELECT * FROM contact WHERE {where} {_NEWEST_FIRST} LIMIT 1"  # noqa: S608
    row = db.execute(query, {**reference, "workspace_id": workspace_id}).fetchone()
    if row is None:
        raise ContactNotFound
    return dict(row)


def _save(
    db: sqlite3.Connection, workspace_id: int, fields: Values, new: Values, **reference: str
) -> Values:
    """Update the contact with that reference or, if there is none and a phone, insert it.

    `new` are fields that count for a contact that is inserted.
    """
    try:
        row = _find(db, workspace_id, **reference)
    except ContactNotFound:
        if "phone" not in fields:
            raise
        row = _new_row({**new, **fields})
        _insert(db, workspace_id, [row])
        return row
    return _update(db, row, fields)


def _import(db: sqlite3.Connection, workspace_id: int, contact: Values) -> str | Refused:
    try:
        if "id" in contact:
            _refuse_taken_id(db, workspace_id, contact)
        try:
            row = _find(db, workspace_id, phone=contact["phone"])
        except ContactNotFound:
            _insert(db, workspace_id, [_new_row({"source": "csv_import", **contact})])
            return "created"
        fields = {name: contact[name] for name in contact if name not in _KEPT_BY_IMPORT}
        return "unchanged" if _update(db, row, fields) is row else "updated"
    except Refused as error:
        return error


def _refuse_taken_id(db: sqlite3.Connection, workspace_id: int, contact: Values):
    query = "SELECT 1 FROM contact WHERE workspace_id = ? AND id = ? AND phone != ?"
    if db.execute(query, (workspace_id, contact.get("id"), contact["phone"])).fetchone():
        raise Refused("id", TAKEN_ID)


def _insert(db: sqlite3.Connection, workspace_id: int, rows: Iterable[Values]):
    db.executemany(_INSERT, ({**row, "workspace_id": workspace_id} for row in rows))


def _update(db: sqlite3.Connection, row: Values, fields: Values) -> Values:
    """Return the row with the fields, which are written if they make a difference."""
    changed = _changed(row, fields)
    columns = [column for column in row if changed[column] != row[column]]
    if not columns:
        return row
    changed["updated_at"] = _now()
    assignments = ", ".join(f"{column} = :{column}" for column in (*columns, "updated_at"))
    db.execute(f"UPDATE contact SET {assignments} WHERE number = :number", changed)  # noqa: S608
    return changed


# Rows


# Within a row's `folded`, so that an address can be compared whole. No name holds it.
_BETWEEN_FIELDS = "\x1f"
_BLANK_ROW = {
    "id": "",
    "phone": "",
    "name": None,
    "email": None,
    "folded": _BETWEEN_FIELDS * 3,
    "source": "api",
    "locale": None,
    "opted_in_at": None,
    "opted_out_at": None,
    "last_message_at": None,
    "total_messages": 0,
    "created_at": 0,
    "updated_at": 0,
    "tags": "[]",
    "metadata": "{}",
}
_INSERT = "INSERT INTO contact (workspace_id, {}) VALUES (:workspace_id, {})".format(  # noqa: S608
    ", ".join(_BLANK_ROW), ", ".join(f":{column}" for column in _BLANK_ROW)
)
_TIMES = ("opted_in_at", "opted_out_at", "last_message_at", "created_at", "updated_at")
_KEPT_BY_IMPORT = ("id", "source", "created_at", "updated_at")  # which no import changes


def _new_row(fields: Values) -> Values:
    """Return the row of a new contact with these fields, complete but for its workspace."""
    now = _now()
    row = _changed({**_BLANK_ROW, "created_at": now, "updated_at": now}, fields)
    return {**row, "id": fields.get("id") or _new_id()}


def _new_id() -> str:
    """Return a UUID of version 7. It begins with the time, so new ids stand side by side."""
    time_ms, chance = f"{time.time_ns() // 1_000_000:012x}", secrets.token_hex(9)
    return f"{time_ms[:8]}-{time_ms[8:]}-7{chance[:3]}-a{chance[3:6]}-{chance[6:]}"


def _changed(row: Values, fields: Values) -> Values:
    """Return the row with the fields. Raises Refused."""
    changed = {**row, **fields}
    for column in _TIMES:
        if fields.get(column):
            changed[column] = (fields[column] - _EPOCH) // timedelta(microseconds=1)
    if "tags" in fields:
        changed["tags"] = _as_json(fields["tags"])
    if "metadata" in fields:  # shallow: a key that is given replaces the stored value whole
        changed["metadata"] = _as_json({**json.loads(row["metadata"]), **fields["metadata"]})
        if len(changed["metadata"].encode()) > METADATA_LIMIT:
            raise Refused("metadata", TOO_LARGE)
    if changed["name"] != row["name"] or changed["email"] != row["email"]:
        changed["folded"] = _folded(changed)
    return changed


def _summary(row: Values | sqlite3.Row) -> Values:
    """Return the contact without its metadata, which may be large."""
    return {
        "id": row["id"],
        "phone": row["phone"],
        "name": row["name"],
        "email": row["email"],
        "source": row["source"],
        "locale": row["locale"],
        "tags": json.loads(row["tags"]),
        "opted_in_at": _time(row["opted_in_at"]),
        "opted_out_at": _time(row["opted_out_at"]),
        "last_message_at": _time(row["last_message_at"]),
        "total_messages": row["total_messages"],
        "created_at": _time(row["created_at"]),
        "updated_at": _time(row["updated_at"]),
    }


def _contact(row: Values | sqlite3.Row) -> Values:
    return {**_summary(row), "metadata": json.loads(row["metadata"])}


_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _now() -> int:
    return time.time_ns() // 1000


def _time(microseconds: int | None) -> datetime | None:
    """Return the time in whole seconds, as responses show it."""
    if microseconds is None:
        return None
    return _EPOCH + timedelta(seconds=microseconds // 1_000_000)


# Search

_PHONE_QUERY = re.compile(
    r"'?(?:tel:)?([\d\s()./+\u2010-\u2015\u2212\uff08-\uff0f-]+)", re.IGNORECASE
)

# A walk of the index from the newest entry, which ends at the limit. The rows that it has found
# are read afterwards, without their metadata.
_SEARCH = f"""
    SELECT {", ".join(column for column in _BLANK_ROW if column != "metadata")}
    FROM contact NOT INDEXED
    WHERE number IN (
        SELECT number FROM contact INDEXED BY contact_by_recency
        WHERE workspace_id = :workspace_id
            AND (
                instr(folded, :text) OR phone = :phone OR :digits != '' AND instr(phone, :digits)
            )
            AND (:email = '' OR substr(folded, -length(:email)) = :email)
            AND (:tag = '' OR instr(tags, :tag_text)
                AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
        ORDER BY last_message_at DESC, updated_at DESC, number DESC LIMIT :limit
    )
    ORDER BY last_message_at DESC, updated_at DESC, number DESC
"""  # noqa: S608


def _phone_part(query: str) -> str:
    """Return what to look for in E.164 when the query is a part of a phone number, else ""."""
    # Invisible direction marks come along when a number is copied.
    match = _PHONE_QUERY.fullmatch("".join(c for c in query if unicodedata.category(c) != "Cf"))
    if not match:
        return ""
    plus = "+" if match[1].lstrip(" (").startswith(("+", "\uff0b")) else ""
    return plus + "".join(str(int(c)) for c in match[1] if c.isdecimal())


def _folded(row: Values) -> str:
    """Return name and email as a search compares them: separator name separator email separator."""
    name, email = _fold(row["name"] or ""), _fold(row["email"] or "")
    return f"{_BETWEEN_FIELDS}{name}{_BETWEEN_FIELDS}{email}{_BETWEEN_FIELDS}"


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return folded.replace(_BETWEEN_FIELDS, " ")
