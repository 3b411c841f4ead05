"""Contacts in SQLite: connections, tables, every SQL statement, and the rules of one transaction.

Times are stored as microseconds since the epoch, tags and metadata as compact JSON text.
"""

import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

METADATA_LIMIT = 64 * 1024
BUSY_SECONDS = 5.0
DEFAULT_WORKSPACE = "default"

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
]


class ContactNotFound(LookupError):
    """No contact of this workspace has that id or phone, or not both of them."""


class MetadataTooLarge(ValueError):
    """Merged, the contact's metadata would be larger than METADATA_LIMIT bytes."""


class NameTaken(ValueError):
    """A token of that name exists."""


class StoreUnavailable(Exception):
    """The database is busy or the disk is full. Nothing was written; a later try may succeed."""


class UnusableDatabase(Exception):
    """The file can't be served. The text says which file and why, in one line."""


class Token(NamedTuple):
    """Who calls, and the one workspace that the call may touch."""

    id: int
    name: str
    workspace_id: int


class FairLock:
    """A lock that goes to whoever has waited longest, which threading.Lock does not promise."""

    def __init__(self):
        self._guard = threading.Lock()
        self._waiting = deque()
        self._held = False

    def acquire(self, timeout: float) -> bool:
        """Wait for at most `timeout` seconds; false when it was not to be had."""
        with self._guard:
            if not self._held:
                self._held = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
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
    UnusableDatabase.
    """

    def __init__(
        self, path: str | Path, *, synchronous: str = "FULL", application_id: int = DEPLOYMENT_FILE
    ):
        self.path = Path(path)
        self._synchronous = synchronous
        self._application_id = application_id
        self._writing = FairLock()
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []

    # Workspaces and tokens

    def open_workspace(self, name: str, contacts: list[dict[str, Any]] = ()) -> int:
        """The workspace of that name, made and filled with `contacts` when there is none yet."""
        with self._transaction() as db:
            row = db.execute("SELECT id FROM workspace WHERE name = ?", (name,)).fetchone()
            if row:
                return row["id"]
            workspace_id = db.execute(
                "INSERT INTO workspace (uuid, name) VALUES (?, ?) RETURNING id",
                (str(uuid.uuid4()), name),
            ).fetchone()["id"]
            for contact in contacts:
                _insert(db, workspace_id, contact)
            return workspace_id

    def create_token(self, name: str, workspace: str = DEFAULT_WORKSPACE) -> str:
        """A new bearer token with 256 random bits. It can't be read back: only its SHA-256 is kept.

        Raises NameTaken.
        """
        workspace_id = self.open_workspace(workspace)
        secret = secrets.token_urlsafe(32)
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM token WHERE name = ?", (name,)).fetchone():
                raise NameTaken(name)
            db.execute(
                "INSERT INTO token (workspace_id, name, sha256, created_at) VALUES (?, ?, ?, ?)",
                (workspace_id, name, _sha256(secret), _now()),
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

    # Contacts

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
            row = _find(db, workspace_id, contact_id, phone)
            return _contact(_change(db, row, changes))

    # Connections

    def open(self):
        """Make or migrate the file, and see that it can be written, before the first call does."""
        with self._transaction():
            pass

    def close(self):
        """Close every connection. The next call opens new ones."""
        for db in [self._writer, *self._readers]:
            if db:
                db.close()
        self._writer, self._readers = None, []

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._readers.pop()
        except IndexError:
            db = self._connect()
        try:
            with _said_plainly():
                yield db
        finally:
            self._readers.append(db)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Read, merge and write as one. Threads queue here, other processes at BEGIN IMMEDIATE."""
        if not self._writing.acquire(BUSY_SECONDS):
            raise StoreUnavailable("The database is busy. Nothing was written; try again.")
        try:
            if self._writer is None:
                self._writer = self._connect()
            with _said_plainly(), _committed(self._writer):
                yield self._writer
        finally:
            self._writing.release()

    def _connect(self) -> sqlite3.Connection:
        try:
            _make_private(self.path)
            db = sqlite3.connect(
                f"file:{quote(str(self.path))}?mode=rw",
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
            with _said_plainly():
                self._migrate(db)
                db.execute(f"PRAGMA synchronous = {self._synchronous}")
                db.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error as error:
            db.close()
            raise UnusableDatabase(f"{self.path}: {error}.") from error
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection):
        """Bring the file up to date, or refuse it. Does nothing to a file that is."""
        with _committed(db, "BEGIN"):  # one snapshot, though another process may be migrating it
            version = self._version(db)
        if version == len(MIGRATIONS):
            return
        _turn_on_wal(db)
        with _committed(db):
            version = self._version(db)  # another process may have migrated it by now
            for step in MIGRATIONS[version:]:
                for statement in step:
                    db.execute(statement)
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


def _find(
    db: sqlite3.Connection, workspace_id: int, contact_id: str | None, phone: str | None
) -> dict[str, Any]:
    """The row that the id, the phone or both of them name; raises ContactNotFound."""
    if contact_id:
        query, value = "SELECT * FROM contact WHERE workspace_id = ? AND id = ?", contact_id
    else:
        query, value = "SELECT * FROM contact WHERE workspace_id = ? AND phone = ?", phone
    row = db.execute(query, (workspace_id, value)).fetchone()
    if row is None or (phone and row["phone"] != phone):
        raise ContactNotFound
    return row


def _insert(db: sqlite3.Connection, workspace_id: int, fields: dict[str, Any]) -> dict[str, Any]:
    now = _now()
    row = {
        "workspace_id": workspace_id,
        "id": str(uuid.uuid4()),
        "name": None,
        "email": None,
        **fields,
        "tags": _json(fields.get("tags", [])),
        "metadata": _merged("{}", fields.get("metadata", {})),
        "created_at": now,
        "updated_at": now,
    }
    db.execute(
        "INSERT INTO contact (workspace_id, id, phone, name, email, tags, metadata, created_at,"
        " updated_at) VALUES (:workspace_id, :id, :phone, :name, :email, :tags, :metadata,"
        " :created_at, :updated_at)",
        row,
    )
    return row


def _change(db: sqlite3.Connection, row: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The row with the changes, written if that makes a difference."""
    changed = {**row, **changes}
    if "tags" in changes:
        changed["tags"] = _json(changes["tags"])
    if "metadata" in changes:
        changed["metadata"] = _merged(row["metadata"], changes["metadata"])
    if changed == row:
        return row
    changed["updated_at"] = _now()
    db.execute(
        "UPDATE contact SET name = :name, email = :email, tags = :tags, metadata = :metadata,"
        " updated_at = :updated_at WHERE number = :number",
        changed,
    )
    return changed


def _merged(stored: str, given: dict[str, Any]) -> str:
    """Shallow merge: a key that is given replaces the stored value whole, null included."""
    text = _json({**json.loads(stored), **given})
    if len(text.encode()) > METADATA_LIMIT:
        raise MetadataTooLarge
    return text


def _contact(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "tags": json.loads(row["tags"]),
        "metadata": json.loads(row["metadata"]),
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


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC)


def _make_private(path: Path):
    """Make the file, readable by its owner alone, unless there is one."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))


def _turn_on_wal(db: sqlite3.Connection):
    """Waits for other processes here, since SQLite's busy handler does not for this pragma."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


@contextmanager
def _committed(db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back by itself after some errors
            db.execute("ROLLBACK")
        raise


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Turns what an operator can mend into StoreUnavailable."""
    try:
        yield
    except sqlite3.OperationalError as error:
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                text = "The database is busy. Nothing was written; try again."
            case sqlite3.SQLITE_FULL:
                text = "The disk is full. Nothing was written; try again when there is room."
            case _:
                raise
        raise StoreUnavailable(text) from error
