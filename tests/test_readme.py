"""Every command and example of the README works as it is printed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SECONDS, environment, flask, serving
from readme import ROOT, examples, prose, readme

ADDRESS = "http://127.0.0.1:8000"
THE_CALLS = [
    "update-contact",
    "create-contact",
    "get-contact",
    "search-contacts",
    "add-tag and remove-tag",
    "me",
    "openapi.json and healthz",
    "Errors",
]
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def test_every_section_with_examples_is_run_by_a_test():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for example in examples():
        assert f'"{example.section}"' in sources, f"no test runs the examples of {example.section}"


def test_every_test_that_the_readme_names_exists():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", prose()))
    assert named
    assert named <= set(re.findall(r"^def (test_\w+)", sources, re.M))


def shell(command, directory, **options):
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
        **options,
    ).stdout


def shape(answer):
    """JSON text with its order of keys, but without what no two runs share."""
    text = json.dumps(json.loads(answer))
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "TIME", text)


def run_in_order(blocks, url, directory):
    """Runs each command; the JSON printed below it is what it answers."""
    answer = None
    for block in blocks:
        if block.language == "sh":
            answer = shell(block.text.replace(ADDRESS, url), directory)
        else:
            assert shape(answer) == shape(block.text)


@needs_curl
@pytest.mark.skipif(
    not Path(sys.prefix, "runs").exists(), reason="this Python is not the one that make prepared"
)
def test_make_run_and_the_documented_call(tmp_path):
    [make_run, *call] = readme("Start")
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "instance", "tests"))
    (project / ".venv").symlink_to(sys.prefix)
    of_make = ("CONTACTS_", "MAKE", "PYTHON", "PORT")  # what these tests may have been started with
    with subprocess.Popen(
        ["bash", "-ec", make_run.text.strip() + " PORT=0"],
        cwd=project,
        env={k: v for k, v in environment("").items() if not k.startswith(of_make)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        url = process.stdout.readline().split()[-1]
        run_in_order(call, url, tmp_path)
        subprocess.run(["pkill", "-TERM", "-g", str(process.pid)], check=True)
        process.stdout.read()


@needs_curl
def test_the_calls(tmp_path):
    with serving(tmp_path / "server", "--sandbox") as server:
        for section in THE_CALLS:
            assert readme(section)
            run_in_order(readme(section), server.url, tmp_path)
    assert json.loads((tmp_path / "openapi.json").read_text())["openapi"].startswith("3.1")


def test_a_deployment_from_nothing_to_the_first_call(tmp_path):
    [create, serve] = readme("Commands")[0].text.splitlines()
    token = flask(*create.split()[1:], env=environment(tmp_path / "served.db")).stdout.strip()
    assert serve == "flask serve"
    with serving(tmp_path) as server:
        curl = f"curl -s {server.url}/api/v1/me -H 'Authorization: Bearer {token}'"
        assert json.loads(shell(curl, tmp_path))["name"] == "my-integration"


def test_import_export_erasure_and_restoring_a_backup(tmp_path):
    (tmp_path / "instance").mkdir()
    environ = environment(tmp_path / "instance" / "contacts.db", FLASK_APP=str(ROOT / "app.py"))
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"

    def run(block):
        return shell(block.text, tmp_path, env=environ)

    file, import_, said, export = readme("Import and export")
    (tmp_path / "contacts.csv").write_text(file.text)
    refused = import_.text.strip() + " 2>&1 || test $? = 1"
    assert shell(refused, tmp_path, env=environ) == said.text
    assert run(export) == "1\n"

    [backup] = readme("Back up and restore")[:1]
    assert "Backed up" in run(backup)
    [delete] = readme("Erase a contact")
    assert "Deleted" in run(delete)
    assert shell("flask export", tmp_path, env=environ) == ""
    [_, restore] = readme("Back up and restore")
    assert run(restore).strip() == "1"


def test_the_configuration_of_litestream_names_the_database_of_the_unit():
    [configuration] = readme("Replicate continuously")
    unit = (ROOT / "deploy" / "qyvo-standin.service").read_text()
    [database] = re.findall(r"path: (.*)", configuration.text)
    assert Path(database).name == "contacts.db"
    assert Path(database).parent.name in re.findall(r"^StateDirectory=(.*)$", unit, re.MULTILINE)
