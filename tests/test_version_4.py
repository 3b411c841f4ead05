"""A database of version 4, from before contacts had a consent, a locale and messages."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing

from conftest import PHONE, ROOT, TOKEN, environment, flask, post, serving
from developer import GET, SEARCH

SQL = (ROOT / "tests/data/version-4.sql").read_text("utf-8")
MANY = 20_000


def version_4(path, contacts=0):
    """Make such a file, with so many further contacts."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SQL)
        db.executemany(
            "INSERT INTO contact (workspace_id, id, phone, folded, source, created_at, updated_at,"
            " tags, metadata) VALUES (1, ?, ?, '', 'api', 0, 0, '[]', '{}')",
            ((f"id-{n}", f"+1415{n:07d}") for n in range(contacts)),
        )
        db.commit()
    return path


def values(path, columns="*"):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT {columns} FROM contact ORDER BY number").fetchall()


def test_its_contacts_are_served_as_they_were_with_nothing_in_the_further_fields(tmp_path):
    path = version_4(tmp_path / "served.db")
    columns = "number, workspace_id, id, phone, name, email, folded, source, created_at,"
    columns += " updated_at, tags, metadata"
    before = values(path, columns)
    with serving(tmp_path, QYVO_TOKEN=TOKEN) as server:
        contact = post(server.url, {"phone": PHONE}, path=GET).json
        assert contact["name"] == "Romain"
        assert contact["source"] == "csv_import"
        assert contact["tags"] == ["vip", "café"]
        assert contact["metadata"] == {"lifetime_value": 8900.5}
        times = ("opted_in_at", "opted_out_at", "last_message_at")
        assert [contact[name] for name in ("locale", *times)] == [None] * 4
        assert contact["total_messages"] == 0
        found = post(server.url, {"query": "élodie"}, path=SEARCH).json
        assert [each["phone"] for each in found] == ["+33639980101"]
    assert values(path, columns) == before


def test_a_start_that_is_killed_on_the_way_is_repeated_safely(tmp_path):
    path = version_4(tmp_path / "contacts.db", MANY)
    before = values(path, "number, id, phone, source")
    for pause in (0.02, 0.05, 0.1):
        script = f"from store import Store; Store({str(path)!r}).check_writable()"
        with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as process:
            deadline = time.monotonic() + 20
            while process.poll() is None and not path.with_name("contacts.db-wal").exists():
                assert time.monotonic() < deadline
            time.sleep(pause)  # somewhere within it
            process.kill()
    assert flask("token", "list", env=environment(path)).returncode == 0
    assert values(path, "number, id, phone, source") == before
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("SELECT name FROM sqlite_schema WHERE name LIKE '%_5'").fetchall() == []


def test_several_processes_that_start_at_once_bring_it_up_to_date_once(tmp_path):
    path = version_4(tmp_path / "contacts.db", MANY)
    command = [sys.executable, "-m", "flask", "token", "list"]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment(path), stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
    assert len(values(path, "id")) == MANY + 3
