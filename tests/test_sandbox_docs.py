"""What the README says of the sandbox works as it is printed, in a user's project beside ours."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment, post, serving
from readme import ROOT, readme
from test_clients import node
from test_readme import ADDRESS, needs_curl, shape, shell


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("docs"), "--sandbox") as server:
        yield server.url


@pytest.fixture
def run(url, tmp_path):
    return lambda example: shell(example.text.replace(ADDRESS, url), tmp_path)


@needs_curl
def test_what_arrived(url, run):
    [command, printed] = readme("What arrived")
    run(readme("Starting over")[0])
    post(url, {"phone": "0612345678"}, "sandbox")
    [response], [expected] = json.loads(run(command)), json.loads(printed.text)
    for entry in (response, expected):
        for varies in ("id", "time", "milliseconds"):
            assert entry.pop(varies)
    assert response == expected


@needs_curl
def test_starting_over(url, run):
    [samples, own] = readme("Starting over")
    assert run(own) == ""
    assert post(url, {"phone": "+14155550123"}, "sandbox").json["tags"] == ["vip", "paris"]
    assert run(samples) == ""
    assert post(url, {"phone": "+14155550123"}, "sandbox").json["tags"] == ["vip"]


@needs_curl
def test_faults(url, run):
    [command, printed] = readme("Faults")
    assert shape(run(command)) == shape(printed.text)
    responses = [post(url, {"phone": "+14155550123"}, "sandbox") for _ in range(3)]
    assert [response.status_code for response in responses] == [429, 429, 200]
    assert responses[0].headers["Retry-After"]


@pytest.fixture
def project(tmp_path):
    """A user's project, beside a clone of ours."""
    clone = tmp_path / "qyvo-standin"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "instance", "tests", "docs"))
    if not Path(sys.prefix, "bin", "flask").exists():
        pytest.skip("this Python has no bin/flask beside it")
    (clone / ".venv").symlink_to(sys.prefix)
    project = tmp_path / "project"
    project.mkdir()
    return project


def test_the_pytest_example_with_and_without_xdist(project):
    pytest.importorskip("requests", reason="the example uses requests")
    pytest.importorskip("xdist", reason="the example runs in parallel")
    conftest, tests = readme("pytest")
    (project / "conftest.py").write_text(conftest.text)
    (project / "test_contacts.py").write_text(tests.text)
    kept = {k: v for k, v in environment("").items() if "PYTEST" not in k}
    for options in (["-n2"], ["-pno:xdist"]):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "-Werror"],
            cwd=project,
            env=kept,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert re.search(r"\b4 passed in", done.stdout), done.stdout + done.stderr


def test_the_example_for_nodes_test_runner(project):
    [tests] = readme("Node's test runner")
    (project / "contacts.test.mjs").write_text(tests.text)
    done = subprocess.run(
        [node(), "--test"],
        cwd=project,
        env={k: v for k, v in os.environ.items() if k not in ("QYVO_TOKEN", "QYVO_STANDIN")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"pass 2\b", done.stdout)
