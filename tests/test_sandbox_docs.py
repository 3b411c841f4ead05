"""The documented examples of the sandbox work as printed."""

import json
import time

import pytest
from conftest import environment, post, serving
from pages import clone, examples
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
        assert each["request_headers"].pop("Host")
    assert entry == expected


@needs_curl
def test_reset(url, run):
    [samples, own] = examples("docs/sandbox.md#reset")
    assert run(own) == ""
    assert post(url, {"phone": "+14155550123"}, "sandbox").json["tags"] == ["vip", "paris"]
    body = {"phone": "+14155550123"}
    stored = post(url, body, "sandbox", "/v1/actions/get-contact").json
    assert stored["opted_out_at"] == "2026-05-02T18:30:00+00:00"
    assert run(samples) == ""
    assert post(url, {"phone": "+14155550123"}, "sandbox").json["tags"] == ["vip"]


@needs_curl
def test_one_contact(url, run):
    [edit_look_and_delete] = examples("docs/sandbox.md#one-contact")
    run(examples("docs/sandbox.md#reset")[0])
    edited, looked_at = run(edit_look_and_delete).splitlines()
    assert edited == looked_at
    assert json.loads(edited)["name"] == "Ruby"
    assert post(url, {"phone": "+61491570156"}, "sandbox").status_code == 404


def test_your_own_contacts(tmp_path):
    project = clone(tmp_path)
    start, commands = examples("docs/sandbox.md#your-own-contacts")
    make_file, serve = start.text.splitlines()
    shell(make_file, project)
    options = serve.removeprefix(".venv/bin/flask serve ").replace(
        "start.csv", f"{project}/start.csv"
    )
    with serving(tmp_path / "served", *options.split(), CONTACTS_DATABASE="") as server:
        assert post(server.url, {"phone": "+14155550199"}, "sandbox-a").json["tags"] == ["vip"]
    output = shell(commands.text, project, env=environment(""))
    assert "Imported: 1. Refused: 0." in output
    assert "sandbox-mine\t1\t" in output
    assert "Noor" in (project / "start.jsonl").read_text()


@needs_curl
def test_faults(url, run):
    [command, printed, sequence, listed] = examples("docs/sandbox.md#faults")
    assert shape(run(command)) == shape(printed.text)
    assert_two_fail(url)
    assert shape(run(sequence)) == shape(listed.text)
    assert post(url, {"phone": "+14155550123"}, "sandbox").status_code == 503
    began = time.monotonic()
    assert post(url, {"phone": "+14155550123"}, "sandbox").status_code == 200
    assert time.monotonic() - began >= 0.2


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
