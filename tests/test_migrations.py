"""Files of other versions: one that can't be served is refused, an earlier one is brought along."""

import sqlite3
from contextlib import closing

import pytest
from conftest import PHONE, TOKEN, assert_refused, caller, environment, flask

import commands
import store as store_module
from app import create_app
from settings import read_settings
from store import DEPLOYMENT_FILE, LATEST_VERSION, SANDBOX_FILE

REFUSED = [
    (1, "before the first release"),
    (2, "before the first release"),
    (3, "before the first release"),
    (LATEST_VERSION + 1, "newer version"),
    (1_000_000, "newer version"),
]
versions = pytest.mark.parametrize(("version", "says"), REFUSED)


@pytest.fixture
def file(tmp_path):
    """Makes a database as the version of that number might have left it."""

    def file(version, application_id=DEPLOYMENT_FILE):
        path = tmp_path / "contacts.db"
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE contact (id TEXT PRIMARY KEY, phone TEXT, name TEXT)")
            db.execute("INSERT INTO contact VALUES ('1', ?, 'Romain')", [PHONE])
            db.execute(f"PRAGMA application_id = {application_id}")
            db.execute(f"PRAGMA user_version = {version}")
            db.commit()
        return path

    return file


def contents(path):
    return {each.name: each.read_bytes() for each in path.parent.iterdir()}


def next_version(monkeypatch, *statements):
    """Let the code be one version ahead, with a step of these statements."""
    monkeypatch.setattr(store_module, "MIGRATIONS", [*store_module.MIGRATIONS, [*statements]])
    monkeypatch.setattr(store_module, "LATEST_VERSION", LATEST_VERSION + 1)


@versions
@pytest.mark.parametrize(
    ("options", "application_id"), [([], DEPLOYMENT_FILE), (["--sandbox"], SANDBOX_FILE)]
)
def test_a_start_with_a_file_of_another_version_is_refused_in_one_line(
    file, version, says, options, application_id
):
    path = file(version, application_id)
    before = contents(path)
    ran = flask("serve", "--port", "0", *options, env=environment(path))
    assert (ran.returncode, ran.stdout) == (1, "")
    [line] = ran.stderr.splitlines()
    assert line.startswith(f"Error: {path}: ")
    assert says in line
    assert contents(path) == before


@versions
@pytest.mark.parametrize(
    "command",
    [
        ["token", "create", "ci"],
        ["token", "list"],
        ["token", "revoke", "ci"],
        ["import", "new.csv"],
        ["export"],
        ["delete", PHONE, "--yes"],
        ["backup", "copy.db"],
    ],
    ids=" ".join,
)
def test_so_is_every_command(file, tmp_path, monkeypatch, version, says, command):
    path = file(version)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.csv").write_text("phone\n+14155550199\n")
    before = contents(path)
    app = create_app(read_settings({"CONTACTS_DATABASE": str(path)}))
    commands.init_app(app)
    result = app.test_cli_runner().invoke(args=command)
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert says in line
    assert contents(path) == before


@versions
def test_a_request_to_such_a_file_is_a_503_that_shows_no_path(file, version, says):
    path = file(version)
    before = contents(path)
    app = create_app(read_settings({"CONTACTS_DATABASE": str(path), "QYVO_TOKEN": TOKEN}))
    response = caller(app.test_client())({"phone": PHONE, "name": "Unwritten"})
    assert_refused(response, 503)
    assert str(path) not in response.text
    assert contents(path) == before


def test_a_file_of_the_version_before_is_brought_up_to_date_with_all_that_it_holds(
    make_app, monkeypatch
):
    store = make_app().extensions["store"]
    secret = store.create_token("ci", "default")
    store.close()
    next_version(
        monkeypatch,
        "ALTER TABLE contact ADD COLUMN colour TEXT",
        "UPDATE contact SET colour = 'red'",
    )
    app = make_app()
    call = caller(app.test_client(), secret)
    assert call({"phone": PHONE, "name": "Renamed"}).json["name"] == "Renamed"
    app.extensions["store"].close()
    with closing(sqlite3.connect(app.extensions["store"].path)) as db:
        rows = db.execute("SELECT phone, name, colour FROM contact").fetchall()
        assert rows == [(PHONE, "Renamed", "red")]
        assert db.execute("PRAGMA user_version").fetchone() == (LATEST_VERSION + 1,)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_step_that_fails_leaves_the_file_as_it_was(make_app, monkeypatch, caplog):
    app = make_app()
    app.extensions["store"].close()
    with monkeypatch.context() as patched:
        next_version(patched, "DROP TABLE token", "ALTER TABLE nosuch ADD COLUMN x")
        assert_refused(caller(app.test_client())({"phone": PHONE}), 500, "Server error")
        app.extensions["store"].close()
    with closing(sqlite3.connect(app.extensions["store"].path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (LATEST_VERSION,)
        assert db.execute("SELECT count(*) FROM token").fetchone() == (0,)
    assert caller(app.test_client())({"phone": PHONE}).status_code == 200
