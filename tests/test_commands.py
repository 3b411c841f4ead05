"""The operator's commands on workspaces, and on the database of a sandbox, which may be running."""

import json
import re
import signal
import subprocess
import sys

import pytest
from conftest import (
    PHONE,
    ROMAIN,
    SECONDS,
    TOKEN,
    assert_refused,
    caller,
    contacts_in,
    environment,
    execute,
    flask,
    post,
    serving,
)
from developer import SAMPLES, Developer
from pages import clone

import commands
from app import create_app
from settings import read_settings
from store import DEPLOYMENT_FILE, SANDBOX_FILE, Store

NOOR = "+14155550199"


def imports(tmp_path, text=f"phone,name\n{NOOR},Noor\n"):
    """The command that imports a text."""
    file = tmp_path / "contacts.csv"
    file.write_text(text)
    return "import", str(file)


# Workspaces


def test_workspace_list_shows_names_contacts_tokens_and_the_last_change(app, run):
    run("token", "create", "ci")
    app.extensions["store"].get_or_create_workspace("shop")
    first, second = (line.split("\t") for line in run("workspace", "list").stdout.splitlines())
    assert first[:3] == ["default", "1", "1"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first[3])
    assert second == ["shop", "0", "0", "never"]


def test_workspace_delete_erases_its_contacts_and_tokens_and_no_others(app, client, run):
    kept = run("token", "create", "kept").stdout.strip()
    lost = run("token", "create", "lost", "--workspace", "shop").stdout.strip()
    store = app.extensions["store"]
    store.import_contacts(store.get_or_create_workspace("shop"), [ROMAIN | {"name": "Zebulon"}])
    assert run("workspace", "delete", "shop", "--yes").stdout == "Deleted shop.\n"
    assert [line.split("\t")[0] for line in run("workspace", "list").stdout.splitlines()] == [
        "default"
    ]
    assert_refused(caller(client, lost)({"phone": PHONE}), 401)
    assert caller(client, kept)({"phone": PHONE}).status_code == 200
    files = store.path.parent.glob(f"{store.path.name}*")
    assert not any(b"Zebulon" in file.read_bytes() for file in files)


def test_workspace_delete_says_what_goes_and_asks(run, stored):
    result = run("workspace", "delete", "default", status=1, input="n\n")
    assert "Delete the workspace default (contacts: 1, tokens: 0) for good?" in result.output
    assert run("workspace", "delete", "default", status=1, input="").exit_code == 1
    assert len(stored()) == 1
    run("workspace", "delete", "default", input="y\n")
    assert stored() == []


def test_a_workspace_that_is_not_there_is_an_error(run):
    result = run("workspace", "delete", "shop", "--yes", status=1)
    assert result.stderr == "Error: There is no workspace named shop.\n"


def test_a_deleted_workspace_is_made_anew_for_qyvo_token_by_a_running_server(server):
    assert post(server.url, {"phone": PHONE}).status_code == 200
    deleted = flask("workspace", "delete", "default", "--yes", env=environment(server.database))
    assert deleted.returncode == 0, deleted.stderr
    assert post(server.url, {"phone": PHONE}).status_code == 404
    created = post(server.url, {"phone": NOOR}, path="/v1/actions/create-contact")
    assert created.status_code == 201


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_an_import_makes_a_workspace_only_when_it_is_told_to(run, tmp_path, stored, options):
    command = imports(tmp_path)
    result = run(*command, "--workspace", "shpo", *options, status=2)
    assert result.stderr == ("Error: There is no workspace named shpo: add --create to make it.\n")
    assert len(stored()) == 1
    run(*command, "--workspace", "shop", "--create")
    run(*command, "--workspace", "shop", *options)
    assert len(stored()) == 2


def test_an_import_makes_the_default_workspace_unasked(tmp_path):
    result = flask(*imports(tmp_path), env=environment(tmp_path / "new.db"))
    assert (result.returncode, result.stdout) == (0, "Imported: 1. Refused: 0.\n")
    assert execute(tmp_path / "new.db", "SELECT name FROM workspace") == [("default",)]


@pytest.mark.parametrize("name", ["a b", "a\nb", "x" * 65])
def test_a_new_workspace_has_a_name_of_one_word(run, tmp_path, stored, name):
    result = run(*imports(tmp_path), "--workspace", name, "--create", status=2)
    assert "letters, digits" in result.stderr
    assert len(stored()) == 1


# The sandbox's database


@pytest.fixture
def path(make_app):
    """The database of a sandbox whose workspaces `sandbox` and `sandbox-mine` were opened."""
    app = make_app(sandbox=True)
    for token in ("sandbox", "sandbox-mine"):
        assert Developer(app, token).update({"phone": PHONE}).status_code == 200
    return app.extensions["store"].path


@pytest.fixture
def run_on_sandbox(path):
    """Runs a command with --sandbox, beside the sandbox's own process."""
    runner = runner_on(path)

    def run_on_sandbox(*args, status=0):
        result = runner.invoke(args=[*args, "--sandbox"])
        assert result.exit_code == status, result.output
        return result

    return run_on_sandbox


def runner_on(path):
    """Runs `flask …` with that as CONTACTS_DATABASE."""
    app = create_app(read_settings({"CONTACTS_DATABASE": str(path)}))
    commands.init_app(app)
    return app.test_cli_runner()


def test_export_and_delete_mean_the_workspace_sandbox_unless_another_is_named(run_on_sandbox):
    lines = run_on_sandbox("export").stdout.splitlines()
    assert {json.loads(line)["id"] for line in lines} == SAMPLES.keys()
    run_on_sandbox("delete", PHONE, "--yes")
    assert len(run_on_sandbox("export").stdout.splitlines()) == len(SAMPLES) - 1
    mine = run_on_sandbox("export", "--workspace", "sandbox-mine").stdout
    assert len(mine.splitlines()) == len(SAMPLES)


def test_import_fills_the_workspace_of_a_token(path, run_on_sandbox, make_app, tmp_path):
    command = imports(tmp_path)
    run_on_sandbox(*command)
    run_on_sandbox(*command, "--workspace", "sandbox-new", status=2)
    run_on_sandbox(*command, "--workspace", "sandbox-new", "--create")
    app = make_app(sandbox=True)
    assert Developer(app, "sandbox").phones() >= {PHONE, NOOR}
    assert Developer(app, "sandbox-new").phones() == {NOOR}


@pytest.mark.parametrize("name", ["new", "sandbox-"])
def test_no_workspace_is_made_that_no_token_of_the_sandbox_opens(run_on_sandbox, tmp_path, name):
    result = run_on_sandbox(*imports(tmp_path), "--workspace", name, "--create", status=2)
    assert result.stderr.endswith(f"is named as its token: sandbox-{name}.\n")


def test_backup_copies_the_sandbox(path, run_on_sandbox, tmp_path):
    run_on_sandbox("backup", str(tmp_path / "copy.db"))
    assert contacts_in(tmp_path / "copy.db") == contacts_in(path)


def test_workspaces_of_the_sandbox_are_listed_and_deleted(run_on_sandbox):
    run_on_sandbox("workspace", "delete", "sandbox-mine", "--yes")
    [line] = run_on_sandbox("workspace", "list").stdout.splitlines()
    assert line.split("\t")[:3] == ["sandbox", "5", "0"]


@pytest.mark.parametrize(
    ("options", "made_as", "says"),
    [
        (["--sandbox"], DEPLOYMENT_FILE, "belongs to a deployment, not to the sandbox"),
        ([], SANDBOX_FILE, "belongs to a sandbox"),
    ],
)
def test_no_command_takes_one_database_for_the_other(tmp_path, options, made_as, says):
    store = Store(tmp_path / "given.db", application_id=made_as)
    store.check_writable()
    store.close()
    for command in (["export"], ["workspace", "list"], ["backup", str(tmp_path / "copy.db")]):
        result = runner_on(store.path).invoke(args=[*command, *options])
        assert result.exit_code == 1
        assert says in result.stderr


def test_a_sandbox_s_database_that_is_missing_is_reported_and_not_made(tmp_path):
    runner = runner_on(tmp_path / "none.db")
    for command in (["workspace", "list"], ["export"], ["backup", str(tmp_path / "copy.db")]):
        result = runner.invoke(args=[*command, "--sandbox"])
        assert result.stderr == f"Error: {tmp_path / 'none.db'}: there is no database.\n"
    assert list(tmp_path.iterdir()) == []


def test_without_contacts_database_it_is_the_one_that_a_sandbox_uses(tmp_path):
    project = clone(tmp_path)
    command = [sys.executable, "-m", "flask", *imports(tmp_path), "--sandbox"]
    subprocess.run(command, cwd=project, env=environment(""), check=True, timeout=SECONDS)
    assert len(contacts_in(project / "instance" / "sandbox.db")) == 1
    assert not (project / "instance" / "contacts.db").exists()


# A sandbox that runs


def test_commands_and_a_running_sandbox_work_on_the_same_workspaces(tmp_path):
    with serving(tmp_path, "--sandbox") as server:
        env = environment(server.database)

        def run(*args):
            result = flask(*args, "--sandbox", env=env)
            assert result.returncode == 0, result.stderr
            return result.stdout

        mine = Developer(server.url, "sandbox-mine")
        assert mine.phones() == {phone for phone, _, _ in SAMPLES.values()}
        run(*imports(tmp_path), "--workspace", "sandbox-mine")
        assert NOOR in mine.phones()
        run(*imports(tmp_path), "--workspace", "sandbox-new", "--create")
        assert Developer(server.url, "sandbox-new").phones() == {NOOR}
        mine.inject(path="/me", status=500)
        run("workspace", "delete", "sandbox-mine", "--yes")
        assert "sandbox-mine" not in run("workspace", "list")
        assert NOOR not in mine.phones()
        assert (len(mine.journal()), mine.faults()) == (1, [])
        assert mine.update({"phone": PHONE, "name": "Anew"}).status_code == 200


@pytest.mark.parametrize("link", [False, True])
def test_a_second_sandbox_on_the_same_file_is_refused_in_one_line(tmp_path, link):
    with serving(tmp_path, "--sandbox") as server:
        path = server.database
        if link:
            path = tmp_path / "link.db"
            path.symlink_to(server.database)
        second = flask("serve", "--sandbox", "--port", "0", env=environment(path))
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == (
            f"Error: {path}: another sandbox is serving it. Stop that one, or use another file:"
            " set CONTACTS_DATABASE or add --temporary.\n"
        )
        assert post(server.url, {"phone": PHONE, "name": "Still"}, "sandbox").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_sandbox_starts_however_the_one_before_ended(tmp_path, number):
    with serving(tmp_path, "--sandbox") as server:
        server.stop(number)
    with serving(tmp_path, "--sandbox") as server:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200


def test_deployments_share_a_file(server, tmp_path):
    with serving(tmp_path, QYVO_TOKEN=TOKEN) as second:
        assert post(second.url, {"phone": PHONE, "name": "Shared"}).status_code == 200
    assert post(server.url, {"phone": PHONE}).json["name"] == "Shared"
