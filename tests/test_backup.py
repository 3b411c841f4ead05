"""Copying the database while it is written to, and putting the copy in its place."""

import shutil
import stat
import threading

import pytest
from conftest import (
    PHONE,
    SECONDS,
    TOKEN,
    contacts_in,
    environment,
    execute,
    flask,
    post,
    serving,
)

from store import DEFAULT_WORKSPACE

NEIGHBOUR = {"phone": "+14155550198", "name": "Neighbour"}


def test_a_backup_is_whole_private_and_can_be_restored(make_app, app, runner, tmp_path):
    copy = tmp_path / "copy.db"
    result = runner.invoke(args=["backup", str(copy)])
    assert result.stdout == f"Backed up to {copy}.\n"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob("*copy*")) == ["copy.db"]
    restored = shutil.copy(copy, tmp_path / "restored.db")
    store = make_app([], CONTACTS_DATABASE=str(restored)).extensions["store"]
    workspace_id = store.get_or_create_workspace(DEFAULT_WORKSPACE)
    store.update_contact(workspace_id, phone=PHONE, tags=["restored"])
    assert contacts_in(restored)[0]["tags"] == ["restored"]
    assert contacts_in(app.extensions["store"].path)[0]["tags"] == ["vip"]


def test_a_restored_backup_is_served_at_once(runner, tmp_path):
    restored = tmp_path / "served.db"
    assert runner.invoke(args=["backup", str(restored)]).exit_code == 0
    with serving(tmp_path, QYVO_TOKEN=TOKEN) as server:
        assert post(server.url, {"phone": PHONE, "name": "Back"}).status_code == 200
    assert contacts_in(restored)[0]["name"] == "Back"


def test_a_backup_replaces_an_earlier_one(app, runner, tmp_path):
    copy = str(tmp_path / "copy.db")
    assert runner.invoke(args=["backup", copy]).exit_code == 0
    app.extensions["store"].get_or_create_workspace("later", [NEIGHBOUR])
    assert runner.invoke(args=["backup", copy]).exit_code == 0
    assert len(contacts_in(copy)) == 2


@pytest.mark.parametrize("content", [b"", b"my thesis", b"SQLite format 3\0" + bytes(200)])
def test_a_backup_never_replaces_a_stranger_s_file(runner, tmp_path, content):
    file = tmp_path / "mine"
    file.write_bytes(content)
    assert runner.invoke(args=["backup", str(file)]).exit_code == 1
    assert file.read_bytes() == content


def test_a_backup_never_replaces_the_database_itself(app, runner, tmp_path, stored):
    before = stored()
    link = tmp_path / "link.db"
    link.symlink_to(app.extensions["store"].path)
    for file in [app.extensions["store"].path, link]:
        result = runner.invoke(args=["backup", str(file)])
        assert result.exit_code == 1
        assert "choose another name" in result.stderr
    assert stored() == before


def test_a_backup_into_a_missing_folder_is_refused_in_one_line(runner, tmp_path):
    result = runner.invoke(args=["backup", str(tmp_path / "missing" / "copy.db")])
    assert result.exit_code == 1
    database, error = result.stderr.splitlines()
    assert (database[:10], error[:7]) == ("Database: ", "Error: ")


def test_a_damaged_database_makes_no_backup_and_keeps_the_earlier_one(app, runner, tmp_path):
    copy = tmp_path / "copy.db"
    assert runner.invoke(args=["backup", str(copy)]).exit_code == 0
    good = copy.read_bytes()
    path = app.extensions["store"].path
    [(root,)] = execute(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'contact'")
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    app.extensions["store"].close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096 + 200)
        file.write(b"\xff" * 3800)
    result = runner.invoke(args=["backup", str(copy)])
    assert result.exit_code == 1
    database, error = result.stderr.splitlines()
    assert (database[:10], error[:7]) == ("Database: ", "Error: ")
    assert copy.read_bytes() == good


def test_backups_taken_while_the_server_writes_are_sound_and_of_one_moment(server, tmp_path):
    done = threading.Event()
    written = []

    def hammer():
        while not done.is_set():
            count = len(written) + 1
            body = {"phone": PHONE, "name": f"n{count}", "metadata": {"count": count}}
            assert post(server.url, body).status_code == 200
            written.append(count)

    writer = threading.Thread(target=hammer)
    writer.start()
    try:
        for turn in range(3):
            copy = tmp_path / f"copy{turn}.db"
            acknowledged = len(written)
            result = flask("backup", str(copy), env=environment(server.database))
            assert result.returncode == 0, result.stderr
            assert execute(copy, "PRAGMA integrity_check") == [("ok",)]
            [romain] = contacts_in(copy)
            count = romain["metadata"].get("count", 0)
            assert count >= acknowledged
            assert romain["name"] == (f"n{count}" if count else "Romain")
    finally:
        done.set()
        writer.join(SECONDS)
    assert len(written) > 3
