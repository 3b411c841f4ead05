"""Every command and example of the documentation works as it is printed, and pages hang together.

Examples of the sandbox are run in test_sandbox_docs.py, those of installing and testing in
test_install_docs.py, of conformance in test_conform.py, of systemd and proxies in test_running.py,
and the measurements in test_bench.py.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import SECONDS, environment, post, serving
from pages import PAGES, ROOT, all_examples, anchor, clone, examples, prose

ADDRESS = "http://127.0.0.1:8000"
THE_REQUESTS = [
    "docs/api.md#update-contact",
    "docs/api.md#create-contact",
    "docs/api.md#get-contact",
    "docs/api.md#search-contacts",
    "docs/api.md#add-tag-and-remove-tag",
    "docs/api.md#me",
    "docs/api.md#openapijson-and-healthz",
    "docs/api.md#errors",
]
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
needs_make = pytest.mark.skipif(
    not Path(sys.prefix, "runs").exists(), reason="this Python is not the one that make prepared"
)


# The pages


def sources():
    return "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))


def test_every_example_is_run_by_a_test():
    named = sources()
    missing = {example.place for example in all_examples() if f'"{example.place}"' not in named}
    assert not missing


def test_every_test_that_a_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", "".join(map(prose, PAGES))))
    assert "test_every_test_that_a_page_names_exists" in named
    assert named <= set(re.findall(r"^def (test_\w+)", sources(), re.M))


def test_every_link_between_pages_leads_somewhere():
    headings = {
        path: {anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.M)}
        for page, path in PAGES.items()
    }
    checked = 0
    for page, path in PAGES.items():
        for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
            if not link.startswith("https://"):
                file, _, place = link.partition("#")
                target = (path.parent / file).resolve() if file else path
                assert target.is_file(), f"{page}: {link}"
                assert not place or place in headings[target], f"{page}: {link}"
                checked += 1
    assert checked > 30


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\(([^)#]+)\)", prose("README.md")))
    assert PAGES.keys() - {"README.md"} <= linked


def test_the_readme_has_at_most_900_words_and_any_other_page_2500():
    words = {page: len(path.read_text("utf-8").split()) for page, path in PAGES.items()}
    assert words.pop("README.md") <= 900
    assert max(words.values()) <= 2500


def test_no_page_has_a_gap_that_somebody_meant_to_fill():
    assert {page for page in PAGES if "TODO" in PAGES[page].read_text("utf-8")} == set()


# The examples


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


def shape(response):
    """JSON text with its order of keys, but without what no two runs share."""
    text = json.dumps(json.loads(response))
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "TIME", text)


def run_in_order(blocks, url, directory):
    """Run each command, and compare its response with the JSON that is printed below it."""
    response = None
    for block in blocks:
        if block.language == "sh":
            response = shell(block.text.replace(ADDRESS, url), directory)
        else:
            assert shape(response) == shape(block.text)


def users_environment(**settings):
    """An environment without what these tests may have been started with."""
    ours = ("CONTACTS_", "MAKE", "PYTHON", "PORT")
    return {k: v for k, v in environment("").items() if not k.startswith(ours)} | settings


@contextmanager
def started(command, directory, **settings):
    """The URL that a shell command says it serves at, and what else it says once it is stopped."""
    with subprocess.Popen(
        ["bash", "-ec", command],
        cwd=directory,
        env=users_environment(**settings),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            ready = process.stdout.readline()
            assert ready.startswith("Serving on http://")
            yield ready.split()[-1], lambda: stopped(process)
        finally:
            stopped(process)


def stopped(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    return process.communicate(timeout=SECONDS)[0]


@needs_curl
@needs_make
def test_make_run_and_the_documented_call_where_a_live_token_is_set(tmp_path):
    [make_run, *call] = examples("README.md#start")
    command = make_run.text.strip() + " PORT=0"
    with started(command, clone(tmp_path), QYVO_TOKEN="a-live-token") as (url, stop):
        run_in_order(call, url, tmp_path)
        live = f"curl -s {url}/api/v1/me -H 'Authorization: Bearer a-live-token'"
        assert json.loads(shell(live, tmp_path))["tenant"]["name"] == "sandbox"
        assert "a-live-token" not in stop()


# Stands for python3, for its pip and for the flask that this installs.
STAND_IN_FOR_PYTHON = """#!/bin/sh
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install -r requirements.txt") ln -s "{flask}" .venv/bin/flask ;;
    *) exit 64 ;;
esac
"""


def test_the_sandbox_starts_without_make(tmp_path):
    [commands] = examples("README.md#without-make")
    project = clone(tmp_path)
    flask = project.joinpath(".venv").readlink() / "bin" / "flask"
    (project / ".venv").unlink()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").write_text(STAND_IN_FOR_PYTHON.format(flask=flask))
    (programs / "python3").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    with started(f"{commands.text.strip()} --port 0", project, PATH=path) as (url, _):
        assert post(url, {"phone": "+14155550123"}, "sandbox").status_code == 200


@needs_curl
@needs_make
def test_a_deployment_in_five_lines(tmp_path):
    [commands] = examples("README.md#a-deployment")
    assert len(commands.text.splitlines()) == 5
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    script = commands.text.replace("8001", str(port)) + "kill $!; wait\n"
    project = clone(tmp_path)
    output = shell(script, project, env=users_environment())
    assert json.loads(output.splitlines()[-1])["name"] == "my-integration"
    assert (project / "instance" / "contacts.db").exists()


@needs_curl
def test_the_requests_of_the_api(tmp_path):
    with serving(tmp_path / "server", "--sandbox") as server:
        for place in THE_REQUESTS:
            run_in_order(examples(place), server.url, tmp_path)
    document = json.loads((tmp_path / "openapi.json").read_text())
    assert document["openapi"].startswith("3.1")
    listed = re.findall(r"^\| `[A-Z]+ (/api/v1)?(/\S+)` \|", prose("README.md"), re.M)
    paths = {path.removeprefix("/api/v1") for path in document["paths"]}
    assert paths | {"/openapi.json", "/healthz"} == {path for _, path in listed}


def test_erasure_and_restoring_a_backup(tmp_path):
    project = clone(tmp_path)

    def run(command):
        return shell(command, project, env=environment(""))

    (project / "contacts.csv").write_text("phone,name\n+14155550199,Noor\n")
    run(".venv/bin/flask import contacts.csv")
    backup, restore = examples("docs/operating.md#back-up-and-restore")
    assert "Backed up" in run(backup.text)
    [delete] = examples("docs/operating.md#erase-a-contact")
    assert "Deleted" in run(delete.text)
    assert run(".venv/bin/flask export") == ""
    assert run(restore.text).strip() == "1"


# What contributors do


def make(*targets):
    """What make would run."""
    return subprocess.run(
        ["make", "--dry-run", *targets],
        cwd=ROOT,
        env=users_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_documented_targets_of_make_exist():
    [commands] = examples("CONTRIBUTING.md#set-up")
    for line in commands.text.splitlines():
        command, target = line.split()
        assert command == "make"
        assert make(target)
    for target in re.findall(r"`make ([a-z-]+)", "".join(map(prose, PAGES))):
        assert make(target)


def test_the_picture_is_taken_by_a_command(tmp_path):
    pytest.importorskip("playwright", reason="drives the browser")
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs chromium: apt-get install chromium")
    [*_, command] = make("picture").splitlines()
    assert command.endswith("bin/python docs/picture.py")
    picture = tmp_path / "picture.png"
    shell(f"{sys.executable} docs/picture.py {picture}", ROOT, env=users_environment())
    png = picture.read_bytes()
    assert png.startswith(b"\x89PNG")
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (1280, 640)
    assert len(png) > 20_000  # a page without its styles or its requests is smaller


def test_one_test_is_run_as_documented():
    [commands] = examples("CONTRIBUTING.md#the-tests")
    of_a_file, one = commands.text.splitlines()
    assert one.startswith(f"{of_a_file} -k ")
    python, *arguments = one.split()
    assert python == ".venv/bin/python"
    found = subprocess.run(
        [sys.executable, *arguments, "--collect-only", "-q", "-pno:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.splitlines()[0] == f"tests/test_docs.py::{arguments[-1]}", found.stdout


def test_commits_are_checked_by_what_make_lint_runs():
    [entry] = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert make(*entry.split()[1:]) == make("lint")
