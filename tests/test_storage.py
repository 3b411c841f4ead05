"""The database file: what it promises by itself, and what it keeps under many hands."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import (
    PHONE,
    ROMAIN,
    ROOT,
    SECONDS,
    caller,
    contacts_in,
    environment,
    execute,
    flask,
    post,
)

from store import DEFAULT_WORKSPACE, Store


@pytest.fixture
def path(app):
    """The file of a running application."""
    return app.extensions["store"].path


@contextmanager
def opened(path, **options):
    store = Store(path, **options)
    try:
        yield store
    finally:
        store.close()


# The file


def test_the_database_is_in_wal_mode(path):
    assert execute(path, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.skipif(not Path("/proc").exists(), reason="counts open files as Linux shows them")
def test_as_many_connections_are_opened_as_are_used_at_once(app, path):
    def open_files():
        links = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.exists()]
        return links.count(f"{path}-wal")  # of the database itself SQLite keeps them, to use again

    def read():
        assert app.extensions["store"].get_contact(1, phone=PHONE)["phone"] == PHONE

    for _ in range(20):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert open_files() == 1
    together = [app.extensions["store"].export_contacts(1) for _ in range(5)]
    for export in together:
        assert next(export)["phone"] == PHONE
    assert open_files() == 5
    for export in together:
        export.close()
    read()
    assert open_files() == 5


def test_every_table_is_strict(path):
    tables = execute(path, "SELECT name, strict FROM pragma_table_list WHERE schema = 'main'")
    others = ("sqlite_", "contact_trigram")  # SQLite's own, and those that FTS5 makes
    ours = {name: strict for name, strict in tables if not name.startswith(others)}
    assert {"workspace", "token", "contact"} <= ours.keys()
    assert set(ours.values()) == {1}


@pytest.mark.parametrize("column", ["tags", "metadata"])
@pytest.mark.parametrize("value", ["", "not json", "{", "null", "1", '"text"', None, b"{}", 7])
def test_the_database_itself_checks_the_json_columns(path, column, value):
    with pytest.raises(sqlite3.IntegrityError):
        execute(path, f"UPDATE contact SET {column} = ?", value)


def test_tags_are_an_array_and_metadata_is_an_object(path):
    execute(path, "UPDATE contact SET tags = '[]', metadata = '{}'")
    for column, wrong in {"tags": "{}", "metadata": "[]"}.items():
        with pytest.raises(sqlite3.IntegrityError):
            execute(path, f"UPDATE contact SET {column} = ?", wrong)


def test_phone_is_unique_within_its_workspace_and_indexed(path):
    columns = (
        "id, phone, folded, source, tags, metadata, created_at, updated_at",
        "'{}', phone, folded, source, tags, metadata, created_at, updated_at",
    )
    insert = f"INSERT INTO contact (workspace_id, {columns[0]}) SELECT ?, {columns[1]} FROM contact"
    with pytest.raises(sqlite3.IntegrityError, match=r"contact\.phone"):
        execute(path, insert.format("another id"), 1)
    execute(path, "INSERT INTO workspace (uuid, name) VALUES ('u', 'other')")
    execute(path, insert.format("another id"), 2)
    for column in ("phone", "id"):
        query = f"EXPLAIN QUERY PLAN SELECT * FROM contact WHERE workspace_id = 1 AND {column} = ''"
        assert "SEARCH contact USING INDEX sqlite_autoindex_contact_" in str(execute(path, query))


def test_the_files_are_for_their_owner_alone(path, call):
    call({"phone": PHONE, "name": "Written"})
    files = list(path.parent.glob(path.name + "*"))
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_new_file_carries_the_version_of_its_tables(path):
    [(version,)] = execute(path, "PRAGMA user_version")
    assert version >= 1


def test_what_was_written_is_there_after_a_restart(make_app):
    first = caller(make_app().test_client())({"phone": PHONE, "name": "Kept", "tags": "kept"}).json
    assert caller(make_app().test_client())({"phone": PHONE}).json == first


# Files that are refused


def newer(path):
    with opened(path) as store:
        store.check_writable()
    execute(path, "PRAGMA user_version = 1000")


def foreign(path):
    execute(path, "CREATE TABLE songs (title TEXT)")


def versioned(path):
    execute(path, "PRAGMA user_version = 1")


def sandboxs(path):
    with opened(path, application_id=0x51797362) as store:
        store.check_writable()


def deployments(path):
    with opened(path) as store:
        store.check_writable()


def text(path):
    path.write_text("name,phone\n" * 1000)


REFUSED = [
    (newer, [], "was written by a newer version"),
    (foreign, [], "is not a database of this service"),
    (foreign, ["--sandbox"], "is not a database of this service"),
    (versioned, [], "is not a database of this service"),
    (text, [], "file is not a database"),
    (os.mkdir, [], "it is not a file"),
    (os.mkfifo, [], "it is not a file"),
    (sandboxs, [], "belongs to a sandbox"),
    (deployments, ["--sandbox"], "belongs to a deployment, not to the sandbox"),
]


@pytest.mark.parametrize(("make", "options", "said"), REFUSED)
def test_a_file_that_is_not_ours_is_refused_in_one_line_and_left_untouched(
    tmp_path, make, options, said
):
    path = tmp_path / "given.db"
    make(path)
    before = path.is_file() and path.read_bytes()
    result = flask("serve", "--port", "0", *options, env=environment(path))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {path}: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert (path.is_file() and path.read_bytes()) == before
    assert [file.name for file in tmp_path.iterdir()] == ["given.db"]


def test_the_token_commands_refuse_such_a_file_too(tmp_path):
    foreign(tmp_path / "given.db")
    for command in (["create", "ci"], ["list"], ["revoke", "ci"]):
        result = flask("token", *command, env=environment(tmp_path / "given.db"))
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)


def test_a_folder_that_is_missing_is_said_in_one_line(tmp_path):
    result = flask("serve", "--port", "0", env=environment(tmp_path / "none" / "file.db"))
    assert result.returncode == 1
    assert not (tmp_path / "none").exists()
    assert result.stderr.startswith(f"Error: {tmp_path}")
    assert result.stderr.count("\n") == 1


def test_an_empty_file_becomes_a_database(tmp_path):
    (tmp_path / "empty.db").touch()
    with opened(tmp_path / "empty.db") as store:
        store.get_or_create_workspace(DEFAULT_WORKSPACE, [ROMAIN])
    assert contacts_in(tmp_path / "empty.db")[0]["phone"] == PHONE


@pytest.mark.parametrize(
    "name", ["a b.db", "50%.db", "what?.db", "#1.db", "été.db", "a&mode=memory"]
)
def test_a_path_may_hold_any_character(tmp_path, name):
    with opened(tmp_path / name) as store:
        store.get_or_create_workspace(DEFAULT_WORKSPACE, [ROMAIN])
    assert contacts_in(tmp_path / name)[0]["phone"] == PHONE


def test_a_database_that_is_called_memory_is_a_file_like_any_other(make_app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = caller(make_app(CONTACTS_DATABASE=":memory:").test_client())
    assert call({"phone": PHONE, "name": "Kept"}).status_code == 200
    assert call({"phone": PHONE}).json["name"] == "Kept"
    assert contacts_in(tmp_path / ":memory:")[0]["name"] == "Kept"


# Many hands

WRITER = f"""
import sys
from store import Store
store = Store(sys.argv[1])
workspace = store.get_or_create_workspace("{DEFAULT_WORKSPACE}")
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    store.update_contact(workspace, phone="{PHONE}", metadata={{f"{{sys.argv[2]}}-{{n}}": n}})
store.close()
"""

OPENER = """
import sys
from store import Store
for line in sys.stdin:
    store = Store(line.strip())
    try:
        store.check_writable()
        print(store.get_or_create_workspace("default", [{"phone": "+14155550123"}]), flush=True)
    except Exception as error:
        print(repr(error), flush=True)
    store.close()
"""


@contextmanager
def python(script, *args):
    """A process of its own that runs the script; `say` writes it a line."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def say(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()


def keys(*writers, calls):
    return {f"{writer}-{n}": n for writer in writers for n in range(calls)}


def test_several_threads_hammering_one_contact_lose_no_key(tmp_path):
    with opened(tmp_path / "contacts.db", synchronous="NORMAL") as store:
        workspace = store.get_or_create_workspace(DEFAULT_WORKSPACE, [{"phone": PHONE}])

        def write(writer):
            for n in range(50):
                store.update_contact(workspace, phone=PHONE, metadata={f"{writer}-{n}": n})

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(write, range(8)))
    assert contacts_in(tmp_path / "contacts.db")[0]["metadata"] == keys(*range(8), calls=50)


def test_several_processes_hammering_one_contact_lose_no_key(tmp_path):
    path = tmp_path / "contacts.db"
    with opened(path) as store:
        store.get_or_create_workspace(DEFAULT_WORKSPACE, [{"phone": PHONE}])
    with (
        python(WRITER, path, "a", 100) as a,
        python(WRITER, path, "b", 100) as b,
        python(WRITER, path, "c", 100) as c,
    ):
        for process in (a, b, c):
            assert process.stdout.readline() == "ready\n"
        for process in (a, b, c):
            say(process, "go")
        assert [process.wait(SECONDS) for process in (a, b, c)] == [0, 0, 0]
    assert contacts_in(path)[0]["metadata"] == keys("a", "b", "c", calls=100)


def test_a_server_and_another_process_hammering_one_contact_lose_no_key(server):
    def write(writer):
        for n in range(30):
            response = post(server.url, {"phone": PHONE, "metadata": {f"{writer}-{n}": n}})
            assert response.status_code == 200

    with python(WRITER, server.database, "process", 100) as process:
        assert process.stdout.readline() == "ready\n"
        say(process, "go")
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(write, range(4)))
        assert process.wait(SECONDS) == 0
    expected = keys(*range(4), calls=30) | keys("process", calls=100) | ROMAIN["metadata"]
    assert contacts_in(server.database)[0]["metadata"] == expected


def test_several_processes_may_open_a_fresh_database_at_the_same_moment(tmp_path):
    with python(OPENER) as a, python(OPENER) as b, python(OPENER) as c:
        for n in range(40):
            for process in (a, b, c):
                say(process, str(tmp_path / f"{n}.db"))
            assert [process.stdout.readline() for process in (a, b, c)] == ["1\n"] * 3
            assert len(contacts_in(tmp_path / f"{n}.db")) == 1
