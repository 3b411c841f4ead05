"""The documented examples of the sandbox work as printed, in a user's project beside this one."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import environment, post, serving
from pages import clone, examples
from test_clients import node
from test_docs import ADDRESS, needs_curl, shape, shell


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("docs"), "--sandbox") as server:
        yield server.url


@pytest.fixture
def run(url, tmp_path):
    return lambda example: shell(example.text.replace(ADDRESS, url), tmp_path)


@needs_curl
def test_what_arrived(url, run):
    [command, printed] = examples("docs/sandbox.md#what-arrived")
    run(examples("docs/sandbox.md#reset")[0])
    post(url, {"phone": "0612345678"}, "sandbox")
    [entry], [expected] = json.loads(run(command)), json.loads(printed.text)
    for each in (entry, expected):
        for varies in ("id", "time", "milliseconds"):
            assert each.pop(varies)
    assert entry == expected


@needs_curl
def test_reset(url, run):
    [samples, own] = examples("docs/sandbox.md#reset")
    assert run(own) == ""
    assert post(url, {"phone": "+14155550123"}, "sandbox").json["tags"] == ["vip", "paris"]
    assert run(samples) == ""
    assert post(url, {"phone": "+14155550123"}, "sandbox").json["tags"] == ["vip"]


@needs_curl
def test_faults(url, run):
    [command, printed] = examples("docs/sandbox.md#faults")
    assert shape(run(command)) == shape(printed.text)
    assert_two_fail(url)


def assert_two_fail(url):
    responses = [post(url, {"phone": "+14155550123"}, "sandbox") for _ in range(3)]
    assert [response.status_code for response in responses] == [429, 429, 200]
    assert responses[0].headers["Retry-After"]


@needs_curl
def test_the_first_page_on_the_sandbox(url, run):
    fault, reset = examples("README.md#the-sandbox")
    run(fault)
    assert_two_fail(url)
    post(url, {"phone": "+14155550123", "tags": ""}, "sandbox")
    run(fault)
    assert run(reset) == ""
    assert post(url, {"phone": "+14155550123"}, "sandbox").json["tags"] == ["vip"]


def test_the_test_on_the_first_page(url, tmp_path):
    test, command = examples("README.md#a-test")
    (tmp_path / "test_contacts.py").write_text(test.text.replace(ADDRESS, url))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    outside = {k: v for k, v in environment("").items() if "PYTEST" not in k}
    assert re.search(r"\b1 passed in", shell(command.text, tmp_path, env=outside))


@pytest.fixture
def project(tmp_path):
    """A user's project, beside a clone of ours."""
    clone(tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    return project


@pytest.fixture
def pytest_project(project):
    """One that has the example for pytest."""
    pytest.importorskip("requests", reason="the example sends requests")
    conftest, tests = examples("docs/testing.md#pytest")
    (project / "conftest.py").write_text(conftest.text)
    (project / "test_contacts.py").write_text(tests.text)
    return project


def assert_passes(command, project):
    """Every test of the example passes, by the Python that runs this test."""
    outside = {k: v for k, v in environment("").items() if "PYTEST" not in k}
    outside["PATH"] = f"{sys.prefix}/bin:{outside['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=project,
        env=outside,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.search(r"\b4 passed in", done.stdout), done.stdout + done.stderr


def test_the_pytest_example_under_xdist(pytest_project):
    pytest.importorskip("xdist", reason="the example runs in parallel")
    assert_passes("pytest -n2 -Werror", pytest_project)


def test_the_pytest_example_in_ci(pytest_project):
    [command] = examples("docs/testing.md#ci")
    pytest_project.with_name("qyvo-standin").rename(pytest_project / "qyvo-standin")
    assert_passes(command.text, pytest_project)


def test_the_example_for_nodes_test_runner(project):
    [tests] = examples("docs/testing.md#nodes-test-runner")
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
