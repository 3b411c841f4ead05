"""Erasing a contact, so that no byte of it stays."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from conftest import (
    PHONE,
    ROMAIN,
    contacts_in,
    environment,
    execute,
    flask,
    post,
    write_lock,
)

from store import DEFAULT_WORKSPACE, Store

HIDDEN = {
    "phone": "+14155550177",
    "name": "Zebulon Quixotry",
    "email": "jqz.quixotry@example.org",
    "tags": ["xylophonist"],
    "metadata": {"note": "jabberwocky" * 1000},
}
TRACES = [b"zebulon", b"quixot", b"xylophon", b"jabberwocky", b"14155550177"]


def bytes_of(database):
    files = list(database.parent.glob(f"{database.name}*"))
    assert files
    return b"".join(path.read_bytes() for path in files).lower()


def as_written(database):
    """Bytes and time of the database and its log; the log's index changes with each reader."""
    files = [database, database.with_name(f"{database.name}-wal")]
    return [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]


@pytest.mark.parametrize("spelling", [PHONE, "+1 (415) 555-0123", "tel:+1-415-555-0123"])
def test_a_contact_is_deleted_by_its_phone(runner, stored, spelling):
    result = runner.invoke(args=["delete", spelling, "--yes"])
    assert result.exit_code == 0, result.output
    assert stored() == []


def test_a_contact_is_deleted_by_its_id(runner, contact, stored):
    result = runner.invoke(args=["delete", contact["id"].upper(), "--yes"])
    assert result.stdout == f"Deleted {contact['id']}.\n"
    assert stored() == []


def test_delete_shows_whom_and_asks(runner, stored):
    result = runner.invoke(args=["delete", PHONE], input="n\n")
    assert "Romain, +14155550123, romain@example.com" in result.output
    assert result.exit_code == 1
    assert len(stored()) == 1
    assert runner.invoke(args=["delete", PHONE], input="y\n").exit_code == 0
    assert stored() == []


def test_without_a_terminal_and_without_yes_nothing_is_deleted(runner, stored):
    assert runner.invoke(args=["delete", PHONE], input="").exit_code == 1
    assert len(stored()) == 1


@pytest.mark.parametrize("whom", ["+14155550132", "0197c1de-52ab-7cc3-9f3e-4a8d1f0c2b6e"])
@pytest.mark.parametrize("yes", [["--yes"], []])
def test_a_mistyped_phone_or_id_is_an_error_that_changes_nothing(app, runner, whom, yes):
    before = as_written(app.extensions["store"].path)
    result = runner.invoke(args=["delete", whom, *yes])
    assert result.exit_code == 1
    assert result.stdout == ""
    error = result.stderr.splitlines(keepends=True)[-1]
    assert error == f"Error: No contact of the workspace default is {whom}.\n"
    assert as_written(app.extensions["store"].path) == before


def test_only_the_workspace_s_own_contact_is_deleted(app, runner, stored):
    app.extensions["store"].get_or_create_workspace("shop", [ROMAIN])
    assert runner.invoke(args=["delete", PHONE, "--workspace", "shop", "--yes"]).exit_code == 0
    assert len(stored()) == 1
    result = runner.invoke(args=["delete", PHONE, "--workspace", "nosuch", "--yes"])
    assert "no workspace named nosuch" in result.stderr


def test_what_is_no_phone_and_no_id_is_a_usage_error(runner):
    assert runner.invoke(args=["delete", "Romain", "--yes"]).exit_code == 2


def test_a_running_server_knows_the_deleted_no_more(server):
    assert post(server.url, {"phone": PHONE}).status_code == 200
    done = flask("delete", PHONE, "--yes", env=environment(server.database))
    assert done.returncode == 0, done.stderr
    assert post(server.url, {"phone": PHONE}).status_code == 404


@pytest.mark.parametrize("others", [3, 1200])
def test_no_trace_of_the_deleted_is_left_in_the_files(forgetful_sqlite, make_app, others):
    crowd = [{"phone": f"+1415556{i:04}", "name": f"Person {i}"} for i in range(others)]
    app = make_app([*crowd, HIDDEN])
    store = app.extensions["store"]
    workspace_id = store.get_or_create_workspace(DEFAULT_WORKSPACE)
    store.update_contact(workspace_id, phone=HIDDEN["phone"], name="Zebulon Quixote")
    store.import_contacts(
        workspace_id, [{"phone": f"+1415557{i:04}", "name": f"More {i}"} for i in range(others)]
    )
    before = bytes_of(store.path)
    assert all(trace in before for trace in TRACES)
    result = app.test_cli_runner().invoke(args=["delete", HIDDEN["phone"], "--yes"])
    assert result.exit_code == 0, result.output
    after = bytes_of(store.path)
    assert not [trace for trace in TRACES if trace in after]
    assert len(contacts_in(store.path)) == 2 * others
    assert store.search_contacts(workspace_id, query="more 2")[-1]["name"].startswith("More 2")


def test_no_trace_is_left_whatever_was_written_before(forgetful_sqlite, tmp_path):
    """Of contacts that grow, shrink and go, so that SQLite moves them between pages."""
    hypothesis = pytest.importorskip("hypothesis", reason="a property test needs hypothesis")
    st = hypothesis.strategies
    phones = [HIDDEN["phone"], *(f"+1415556{i:04}" for i in range(40))]
    fields = st.fixed_dictionaries(
        {},
        optional={
            "name": st.integers(1, 30),
            "tags": st.lists(st.integers(1, 9), max_size=40, unique=True),
            "metadata": st.sampled_from([1, 50, 700, 1500, 8000]),
        },
    )
    fresh = iter(range(10**9))

    @hypothesis.settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        st.lists(st.tuples(st.sampled_from(phones), fields | st.none()), min_size=30, max_size=150),
        fields,
    )
    def check(writes, last):
        store = Store(tmp_path / f"{next(fresh)}.db", synchronous="NORMAL")
        workspace_id = store.get_or_create_workspace(DEFAULT_WORKSPACE)
        ids = {}
        for phone, change in [*writes, (HIDDEN["phone"], {"name": 1} | last)]:
            word = "zebulon" if phone == HIDDEN["phone"] else "person"
            if change is None:
                if phone in ids:
                    store.delete_contact(workspace_id, ids.pop(phone))
                continue
            contact = {
                "name": word * change.get("name", 1),
                "tags": [f"{word}{n}" for n in change.get("tags", [])],
                "metadata": {"note": word * change.get("metadata", 1)},
            }
            ids[phone] = store.create_contact(workspace_id, phone=phone, **contact)["id"]
        assert b"zebulon" in bytes_of(store.path)
        store.delete_contact(workspace_id, ids[HIDDEN["phone"]])
        assert store.empty_log()
        after = bytes_of(store.path)
        assert b"zebulon" not in after
        assert HIDDEN["phone"].encode() not in after
        store.close()

    check()


@contextmanager
def reader(database):
    """Another process that reads, as a backup does, and so keeps the log from being emptied."""
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM contact").fetchall()
        yield


def test_an_erasure_whose_traces_stay_says_so_and_the_next_one_removes_them(
    make_app, monkeypatch, forgetful_sqlite
):
    monkeypatch.setattr("store.BUSY_SECONDS", 0.1)
    app = make_app([ROMAIN, HIDDEN])
    path, run = app.extensions["store"].path, app.test_cli_runner().invoke
    app.extensions["store"].close()  # which waits for as long as it was opened with
    with reader(path):
        result = run(args=["delete", HIDDEN["phone"], "--yes"])
        assert result.exit_code == 0
        assert result.stdout.startswith("Deleted ")
        assert "stay in its files until" in result.stderr
        assert len(contacts_in(path)) == 1
        assert all(trace in bytes_of(path) for trace in TRACES)
    result = run(args=["delete", PHONE, "--yes"])
    assert result.exit_code == 0
    assert result.stderr.splitlines()[1:] == []
    assert not [trace for trace in TRACES if trace in bytes_of(path)]


def test_others_write_while_an_erasure_waits_for_a_reader(make_app, monkeypatch):
    """Such as Litestream, which reads for as long as it runs."""
    monkeypatch.setattr("store.BUSY_SECONDS", 1)
    app = make_app([ROMAIN, HIDDEN])
    path = app.extensions["store"].path
    app.extensions["store"].close()

    def writes_while_it_waits(erased):
        count = 0
        while not erased.done():
            execute(path, "UPDATE contact SET name = 'Later' WHERE phone = ?", PHONE)
            count += len(contacts_in(path)) == 1
        return count

    with reader(path), ThreadPoolExecutor() as threads:
        erased = threads.submit(
            app.test_cli_runner().invoke, args=["delete", HIDDEN["phone"], "--yes"]
        )
        assert writes_while_it_waits(erased) > 5
    assert "stay in its files until" in erased.result().stderr


def test_a_database_that_another_process_writes_to_is_erased_from_or_left_alone(
    make_app, monkeypatch
):
    monkeypatch.setattr("store.BUSY_SECONDS", 0.1)
    app = make_app([ROMAIN])
    path, run = app.extensions["store"].path, app.test_cli_runner().invoke
    app.extensions["store"].close()
    with write_lock(path):
        result = run(args=["delete", PHONE, "--yes"])
    assert (result.exit_code, result.stdout) == (1, "")
    error = result.stderr.splitlines()[-1]
    assert error == "Error: The database is busy. Nothing was written; try again."
    assert len(contacts_in(path)) == 1
    assert run(args=["delete", PHONE, "--yes"]).exit_code == 0
    assert contacts_in(path) == []
