"""Erasing a contact, so that no byte of it stays."""

import sqlite3
from contextlib import ExitStack, closing

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


def trigrams_of(database):
    """The blocks that hold the trigrams; one that is the first with its letter is there whole."""
    return b"".join(b for (b,) in execute(database, "SELECT block FROM contact_trigram_data"))


@pytest.mark.parametrize("spelling", [PHONE, "+1 (415) 555-0123", "tel:+1-415-555-0123"])
def test_a_contact_is_deleted_by_its_phone(runner, stored, spelling):
    result = runner.invoke(args=["delete", spelling, "--yes"])
    assert result.exit_code == 0, result.output
    assert stored() == []


def test_a_contact_is_deleted_by_its_id(runner, contact, stored):
    result = runner.invoke(args=["delete", contact["id"].upper(), "--yes"])
    assert result.output == f"Deleted {contact['id']}.\n"
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


@pytest.mark.parametrize("whom", ["+14155550199", "0197c1de-52ab-7cc3-9f3e-4a8d1f0c2b6e"])
def test_deleting_nobody_is_an_error(runner, stored, whom):
    result = runner.invoke(args=["delete", whom, "--yes"])
    assert result.exit_code == 1
    assert result.stderr == f"Error: No contact of the workspace default is {whom}.\n"
    assert len(stored()) == 1


def test_only_the_workspace_s_own_contact_is_deleted(app, runner, stored):
    app.extensions["store"].open_workspace("shop", [ROMAIN])
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
def test_no_trace_of_the_deleted_is_left_in_the_files(
    forgetful_sqlite, make_app, monkeypatch, others
):
    monkeypatch.setattr("store._INDEX_AT", min(others, 500))
    crowd = [{"phone": f"+1415556{i:04}", "name": f"Person {i}"} for i in range(others)]
    app = make_app([*crowd, HIDDEN])
    store = app.extensions["store"]
    workspace_id = store.open_workspace(DEFAULT_WORKSPACE)
    store.update_contact(workspace_id, phone=HIDDEN["phone"], name="Zebulon Quixote")
    store.import_contacts(
        workspace_id, [{"phone": f"+1415557{i:04}", "name": f"More {i}"} for i in range(others)]
    )
    before = bytes_of(store.path)
    assert all(trace in before for trace in TRACES)
    assert b"jqz" in trigrams_of(store.path)
    result = app.test_cli_runner().invoke(args=["delete", HIDDEN["phone"], "--yes"])
    assert result.exit_code == 0, result.output
    after = bytes_of(store.path)
    assert not [trace for trace in TRACES if trace in after]
    assert b"jqz" not in trigrams_of(store.path)
    assert len(contacts_in(store.path)) == 2 * others
    [found] = store.search_contacts(workspace_id, query="more 2", email="")[:1]
    assert found["name"].startswith("More 2")


def test_an_erasure_that_was_interrupted_is_said_and_the_next_one_completes_it(
    make_app, monkeypatch
):
    monkeypatch.setattr("store._INDEX_AT", 1)
    app = make_app([ROMAIN, HIDDEN])
    path = app.extensions["store"].path
    run = app.test_cli_runner().invoke
    command = ["delete", HIDDEN["phone"], "--yes"]
    delete_contact = Store.delete_contact
    with ExitStack() as another_process:

        def delete_and_be_too_late(store, *args):
            delete_contact(store, *args)
            another_process.enter_context(write_lock(path))

        monkeypatch.setattr(Store, "delete_contact", delete_and_be_too_late)
        monkeypatch.setattr("store.BUSY_SECONDS", 0.1)
        result = run(args=command)
    assert result.exit_code == 0
    assert result.stdout.startswith("Deleted ")
    assert "Run it again." in result.stderr
    assert len(contacts_in(path)) == 1
    assert b"jqz" in trigrams_of(path)
    assert all(trace in bytes_of(path) for trace in TRACES)

    result = run(args=command)
    assert result.exit_code == 1
    said = f"Error: No contact of the workspace default is {HIDDEN['phone']}.\n"
    assert result.stderr == said
    assert b"jqz" not in trigrams_of(path)
    assert not [trace for trace in TRACES if trace in bytes_of(path)]


def test_a_reader_that_keeps_the_log_alive_is_reported(app, runner, monkeypatch):
    monkeypatch.setattr("store.BUSY_SECONDS", 0.1)
    app.extensions["store"].close()
    with closing(sqlite3.connect(app.extensions["store"].path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM contact").fetchall()
        result = runner.invoke(args=["delete", PHONE, "--yes"])
    assert result.exit_code == 0
    assert "stay in its files until" in result.stderr
