"""The pytest plugin, as the wheel brings it into a project's environment."""

import signal
import subprocess
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PHONE, SECONDS, environment, post, serving, virtual_environment

pytestmark = pytest.mark.slow

# What pytest needs by itself, and so all that the plugin may import.
OF_PYTEST = ["pytest", "_pytest", "py.py", "pluggy*", "iniconfig*", "packaging*", "pygments*"]
# Plugins of this project's own environment, which take long to load.
OTHER_PLUGINS = ["-p", "no:schemathesis", "-p", "no:hypothesispytest", "-p", "no:anyio"]


@pytest.fixture(scope="module")
def python(wheel, made_once):
    """The Python of an environment with the wheel, and with pytest and what else is here."""

    def make(folder):
        virtual_environment(folder, packages=["--no-deps", wheel])
        [site_packages] = folder.glob("lib/python*/site-packages")
        (site_packages / "here.pth").write_text(sysconfig.get_path("purelib"))

    return made_once("plugin", make) / "bin" / "python"


@pytest.fixture(scope="module")
def with_asyncio(wheel, made_once):
    """The Python of an environment with the plugins for async tests."""

    def make(folder):
        virtual_environment(folder, packages=[wheel, "pytest", "pytest-asyncio", "anyio"])

    return made_once("asyncio", make) / "bin" / "python"


@pytest.fixture
def project(tmp_path, python):
    """A project that has an `app` and a `store` of its own, and a folder for temporary files."""
    folder, temporary = tmp_path / "project", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    for name in ("app", "store", "schemas", "sandbox"):
        (folder / f"{name}.py").write_text("OURS = True\n")
    env = environment("", TMPDIR=str(temporary))

    def start(tests, *options, python=python, **settings):
        (folder / "test_contacts.py").write_text(tests)
        return subprocess.Popen(
            [python, "-m", "pytest", "-W", "error", *OTHER_PLUGINS, *options],
            cwd=folder,
            env=env | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def folders():
        """Those of sandboxes."""
        return list(temporary.glob("qyvo-standin-*"))

    def run(*arguments, **settings):
        with start(*arguments, **settings) as process:
            output, _ = process.communicate(timeout=3 * SECONDS)
        assert not folders(), output
        return SimpleNamespace(returncode=process.returncode, output=output)

    return SimpleNamespace(folder=folder, folders=folders, start=start, run=run)


def assert_passed(ran, number):
    assert ran.returncode == 0, ran.output
    assert f"{number} passed" in ran.output


METHODS = """
import http.client, json, urllib.error, urllib.request
from datetime import datetime, timedelta, timezone
import pytest

PHONE = "+14155550123"


def send(qyvo, **body):
    return urllib.request.urlopen(
        urllib.request.Request(
            qyvo.base_url + "/api/v1/actions/update-contact",
            json.dumps(body).encode(),
            qyvo.headers | {"Content-Type": "application/json"},
        )
    )


def test_headers_carry_the_token(qyvo):
    assert qyvo.headers == {"Authorization": f"Bearer {qyvo.token}"}
    assert qyvo.token.startswith("sandbox-test_headers_carry_the_token-")


def test_env_has_the_address_and_the_token(qyvo):
    assert qyvo.env == {"QYVO_BASE_URL": qyvo.base_url, "QYVO_TOKEN": qyvo.token}


def test_qyvo_url_is_the_address_for_the_whole_run(qyvo, qyvo_url):
    assert qyvo_url == qyvo.base_url


def test_contact_has_everything_that_is_stored(qyvo):
    with send(qyvo, phone=PHONE, tags="vip, new") as response:
        updated = json.load(response)
    contact = qyvo.contact(PHONE)
    assert contact["tags"] == ["vip", "new"]
    assert contact["metadata"] == {"lifetime_value": 8900.5, "city": "Lyon"}
    assert contact["updated_at"] == updated["updated_at"]
    assert contact["source"] == "shopify"
    assert qyvo.contact(contact["id"]) == contact
    [entry] = qyvo.requests()
    assert entry["request_body"] == {"phone": PHONE, "tags": "vip, new"}


def test_contacts_are_those_that_search_finds(qyvo):
    assert len(qyvo.contacts()) == 5
    assert {contact["name"] for contact in qyvo.contacts(tag="vip")} == {"Romain", "Élodie Martin"}
    assert qyvo.contacts(query="romain", tag="vip") == [qyvo.contact(PHONE)]
    assert qyvo.contacts(email="nobody@example.com") == []
    with pytest.raises(ValueError, match="nmae"):
        qyvo.contacts(nmae="Romain")


def test_contacts_are_50_at_most(qyvo):
    qyvo.reset([{"phone": f"+141555501{number:02}"} for number in range(60)])
    assert len(qyvo.contacts()) == 50


def test_put_contact_creates_and_changes(qyvo):
    made = qyvo.put_contact("+14155550199", name="Noor", opted_out_at="2026-05-02T18:30:00+00:00")
    assert made == qyvo.contact("+14155550199")
    assert (made["name"], made["opted_out_at"]) == ("Noor", "2026-05-02T18:30:00+00:00")
    changed = qyvo.put_contact("+14155550199", tags="vip", metadata={"a": 1})
    assert (changed["id"], changed["name"], changed["tags"]) == (made["id"], "Noor", ["vip"])
    assert qyvo.put_contact(made["id"], phone="+14155550198")["metadata"] == {"a": 1}
    with pytest.raises(LookupError):
        qyvo.contact("+14155550199")
    own_id = "0197a1c0-5e00-7000-8000-00000000000f"
    assert qyvo.put_contact(own_id, phone="+14155550199")["id"] == own_id
    with pytest.raises(ValueError, match="phone"):
        qyvo.put_contact("+1")
    with pytest.raises(ValueError, match="nmae"):
        qyvo.put_contact(PHONE, nmae="Ana")


def test_a_time_may_be_a_datetime_with_an_offset(qyvo):
    out = datetime(2026, 5, 8, 11, 0, 0, 250000, timezone(timedelta(hours=2)))
    changed = qyvo.put_contact(PHONE, opted_out_at=out)
    assert datetime.fromisoformat(changed["opted_out_at"]) == out.replace(microsecond=0)
    qyvo.reset([{"phone": PHONE, "opted_in_at": out}])
    assert qyvo.contact(PHONE)["opted_in_at"]
    with pytest.raises(ValueError, match="has no offset"):
        qyvo.put_contact(PHONE, opted_out_at=datetime(2026, 5, 8))


def test_a_contact_is_named_by_a_phone_number_with_a_plus_or_a_uuid(qyvo):
    for method in (qyvo.contact, qyvo.put_contact, qyvo.delete_contact):
        with pytest.raises(ValueError, match="Must be a phone number with [+] or a UUID"):
            method("0612345678")


@pytest.mark.parametrize(("path", "status"), [("send-message", 404), ("get-contact", 405)])
def test_a_first_request_that_is_refused_is_in_the_journal(qyvo, path, status):
    request = urllib.request.Request(
        f"{qyvo.base_url}/api/v1/actions/{path}", headers=qyvo.headers, method="PATCH"
    )
    with pytest.raises(urllib.error.HTTPError, match=str(status)) as refused:
        urllib.request.urlopen(request)
    refused.value.close()
    [entry] = qyvo.requests(path=path)
    assert (entry["method"], entry["status"]) == ("PATCH", status)


def test_delete_contact(qyvo):
    qyvo.delete_contact(PHONE)
    assert len(qyvo.contacts()) == 4
    with pytest.raises(LookupError, match="Contact not found"):
        qyvo.delete_contact(PHONE)
    assert qyvo.requests() == []


@pytest.mark.parametrize("name", ["Ana", "Ben/\\u00e9 [x]"])
def test_a_workspace_for_each_test(qyvo, name):
    assert qyvo.contact(PHONE)["name"] == "Romain"
    send(qyvo, phone=PHONE, name=name)
    assert qyvo.contact(PHONE)["name"] == name


def test_filters(qyvo):
    for body in ({"phone": PHONE}, {"phone": PHONE, "name": "Ana"}):
        send(qyvo, **body)
    assert len(qyvo.requests(path="/actions/update-contact", status=200)) == 2
    assert len(qyvo.requests(limit=1)) == 1
    bodies = [entry["request_body"] for entry in qyvo.requests(order="oldest")]
    assert bodies == [{"phone": PHONE}, {"phone": PHONE, "name": "Ana"}]
    assert qyvo.requests(status=422) == []
    with pytest.raises(ValueError, match="pathh"):
        qyvo.requests(pathh="/me")


def test_reset(qyvo):
    send(qyvo, phone=PHONE, name="Ana")
    qyvo.reset()
    assert qyvo.requests() == []
    assert qyvo.contact(PHONE)["name"] == "Romain"
    qyvo.reset(contacts=({"phone": phone} for phone in ["+14155550199"]))
    assert qyvo.contact("+14155550199")["name"] is None
    with pytest.raises(LookupError, match="Contact not found"):
        qyvo.contact(PHONE)
    with pytest.raises(ValueError, match="contacts.0.phone"):
        qyvo.reset(contacts=[{"phone": "0612345678"}])


def test_fault(qyvo):
    qyvo.fault(status=429, times=1, path="/actions/update-contact")
    assert qyvo.contact(PHONE)["name"] == "Romain"
    with pytest.raises(urllib.error.HTTPError, match="429"):
        send(qyvo, phone=PHONE)
    send(qyvo, phone=PHONE)
    assert [entry["status"] for entry in qyvo.requests()] == [200, 429]
    with pytest.raises(ValueError, match="status"):
        qyvo.fault(times=1)


def test_a_response_can_be_lost(qyvo):
    qyvo.fault(respond=False, times=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        send(qyvo, phone=PHONE, name="Ana")
    assert qyvo.contact(PHONE)["name"] == "Ana"
    assert qyvo.requests()[0]["status"] is None


def test_a_connection_can_be_closed_before_anything_happens(qyvo):
    qyvo.fault(close=True, times=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        send(qyvo, phone=PHONE, name="Ana")
    assert qyvo.contact(PHONE)["name"] == "Romain"


def test_a_response_can_be_that_of_a_proxy(qyvo):
    qyvo.fault(status=502, body="html")
    with pytest.raises(urllib.error.HTTPError) as refused:
        send(qyvo, phone=PHONE)
    with refused.value as response:
        assert response.headers.get_content_type() == "text/html"


def test_a_fault_can_be_removed(qyvo):
    qyvo.fault(status=500)
    assert qyvo.faults([]) == []
    send(qyvo, phone=PHONE)
"""


def test_the_fixture_gives_each_test_a_workspace_and_what_a_test_asks_about_it(project):
    assert_passed(project.run(METHODS), 21)


def test_a_project_with_an_app_and_a_store_of_its_own_never_meets_ours(project):
    tests = """
import sys
import app, schemas, store


def test_modules(qyvo):
    assert qyvo.contact("+14155550123")["name"] == "Romain"
    assert app.OURS and schemas.OURS and store.OURS
    ours = {name for name in sys.modules if name.startswith("qyvo_standin")}
    assert ours == {"qyvo_standin", "qyvo_standin.pytest_plugin"}
    assert not {"flask", "click", "marshmallow"} & set(sys.modules)
"""
    assert_passed(project.run(tests), 1)


def test_each_worker_of_xdist_has_a_sandbox_of_its_own(project):
    pytest.importorskip("xdist")
    tests = """
import pytest, time


@pytest.mark.parametrize("number", range(6))
def test_address(qyvo, number):
    assert qyvo.contact("+14155550123")["name"] == "Romain"
    with open("addresses", "a") as file:
        file.write(qyvo.base_url + "\\n")
"""
    assert_passed(project.run(tests, "-n", "2", "--dist", "each"), 12)
    addresses = (project.folder / "addresses").read_text().split()
    assert len(addresses) == 12
    assert len(set(addresses)) == 2


def test_a_run_that_does_not_use_the_fixture_starts_nothing(project):
    tests = """
import pathlib, tempfile


def test_nothing():
    assert not list(pathlib.Path(tempfile.gettempdir()).iterdir())


def test_until_now(request):
    request.getfixturevalue("qyvo")
    [folder] = pathlib.Path(tempfile.gettempdir()).iterdir()
    assert folder.name.startswith("qyvo-standin-")
"""
    assert_passed(project.run(tests), 2)


def test_the_sandbox_gets_none_of_the_users_settings(project, tmp_path):
    (tmp_path / "path").mkdir()
    for name in ("app", "flask", "sitecustomize"):
        (tmp_path / "path" / f"{name}.py").write_text("raise SystemExit('not mine')\n")
    tests = """
import os


def test_settings(qyvo):
    assert qyvo.contact("+14155550123")["name"] == "Romain"
    assert "CONTACTS_DATABASE" in os.environ
"""
    ran = project.run(
        tests,
        CONTACTS_DATABASE=str(tmp_path / "live.db"),
        CONTACTS_DATABSE="misspelt",
        CONTACTS_RATE_LIMIT="1",
        QYVO_TOKEN="the live one",
        FLASK_APP="other",
        FLASK_DEBUG="1",
        PYTHONPATH=str(tmp_path / "none"),
        PYTHONWARNINGS="error",
    )
    assert_passed(ran, 1)
    assert not (tmp_path / "live.db").exists()
    tests = tests.replace("CONTACTS_DATABASE", "PYTHONPATH")
    (tmp_path / "path" / "sitecustomize.py").unlink()
    assert_passed(project.run(tests, PYTHONPATH=str(tmp_path / "path")), 1)


RUNS_UNTIL_KILLED = """
import time


def test_endless(qyvo):
    assert qyvo.contact("+14155550123")
    with open("address", "w") as file:
        file.write(qyvo.base_url + "\\n")
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_the_run_is_ended_no_server_and_no_folder_stays(project, number):
    with project.start(RUNS_UNTIL_KILLED) as process:
        address = project.folder / "address"
        wait_until(lambda: address.exists() and address.read_text().endswith("\n"))
        assert project.folders()
        process.send_signal(number)
        process.communicate(timeout=SECONDS)
    wait_until(lambda: not project.folders())
    with pytest.raises(ConnectionRefusedError):
        post(address.read_text().strip(), {"phone": PHONE}, "sandbox")


def wait_until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


USES_IT = """
def test_it(qyvo):
    assert qyvo.contact("+14155550123")


def test_it_again(qyvo):
    assert qyvo.contact("+14155550123")
"""


def test_a_sandbox_that_runs_already_is_used(project, tmp_path):
    with serving(tmp_path / "sandbox", "--sandbox") as server:
        assert_passed(project.run(USES_IT, f"--qyvo-url={server.url}/"), 2)
        assert "GET /sandbox/contacts/" in server.log()


def test_a_service_that_is_no_sandbox_is_refused_in_one_line(project, server):
    ran = project.run(USES_IT, f"--qyvo-url={server.url}")
    assert ran.returncode == 1
    assert f"--qyvo-url: there is no sandbox at {server.url} (" in ran.output
    assert "Traceback" not in ran.output
    assert " 200 " not in server.log()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://["])
def test_an_address_at_which_nothing_responds_is_said_in_one_line(project, url):
    ran = project.run(USES_IT, f"--qyvo-url={url}")
    assert ran.returncode == 1
    assert f"--qyvo-url: there is no sandbox at {url} (" in ran.output
    assert "Traceback" not in ran.output


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "--qyvo-url is empty: write http://127.0.0.1:8000, or omit it."),
        ("127.0.0.1:1", "--qyvo-url: write http://127.0.0.1:1 instead of 127.0.0.1:1."),
        ("http://[::1]:1/v1", "--qyvo-url: write http://[::1]:1 instead of http://[::1]:1/v1."),
        ("localhost:1/api/v1/", "write http://localhost:1 instead of localhost:1/api/v1."),
    ],
)
def test_an_address_that_is_not_the_sandboxs_own_is_refused_with_what_to_write(project, url, says):
    ran = project.run(USES_IT, f"--qyvo-url={url}")
    assert ran.returncode == 1
    assert says in ran.output
    assert "Traceback" not in ran.output


def test_without_dependencies_the_fixture_says_what_to_install_or_to_give(project, bare):
    """Where only what pytest needs is installed, the plugin loads and the service can't."""
    ran = project.run(USES_IT, python=bare)
    assert ran.returncode == 1
    assert "The sandbox did not start: No module named 'click'. Install qyvo-standin" in ran.output
    assert "\n--qyvo-command, the command of a sandbox" in ran.output
    assert "Traceback" not in ran.output
    assert "pytest_plugin.py" not in ran.output  # no traceback of ours


# A sandbox from elsewhere


@pytest.fixture(scope="module")
def bare(wheel, made_once):
    """The Python of an environment with the wheel and what pytest needs, and no dependency."""

    def make(folder):
        virtual_environment(folder, packages=["--no-deps", wheel])
        [site_packages] = folder.glob("lib/python*/site-packages")
        for pattern in OF_PYTEST:
            for path in Path(sysconfig.get_path("purelib")).glob(pattern):
                (site_packages / path.name).symlink_to(path)

    return made_once("bare", make) / "bin" / "python"


def test_the_command_of_another_environment_starts_the_sandbox(project, bare, python):
    command = f"'{python.parent}/qyvo-standin'"
    assert_passed(project.run(USES_IT, "--qyvo-command", command, python=bare), 2)


def test_the_command_may_be_set_in_the_projects_configuration(project, bare, python):
    """Relative to pytest's rootdir, from whatever folder pytest runs."""
    (project.folder / "start").symlink_to(python.parent / "qyvo-standin")
    (project.folder / "pytest.ini").write_text("[pytest]\naddopts = --qyvo-command ./start\n")
    assert_passed(project.run(USES_IT, python=bare), 2)
    (project.folder / "inner").mkdir()
    (project.folder / "conftest.py").write_text("import os\nos.chdir('inner')\n")
    assert_passed(project.run(USES_IT, python=bare), 2)
    # One that is typed is relative to where it is typed.
    assert_passed(project.run(USES_IT, "--qyvo-command", "../start", python=bare), 2)


def test_the_command_is_split_as_a_shell_splits_words_and_no_shell_runs_it(
    project, bare, python, tmp_path
):
    script = tmp_path / "a folder" / "start it"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/seen"\nshift\nexec {python} "$@"\n')
    script.chmod(0o755)
    command = f"'{script}' '$HOME; *' -m qyvo_standin"
    assert_passed(project.run(USES_IT, "--qyvo-command", command, python=bare), 2)
    assert (tmp_path / "seen").read_text() == "$HOME; *\n"


def test_what_a_command_prints_before_the_sandbox_serves_does_no_harm(
    project, bare, python, tmp_path
):
    script = tmp_path / "chatty"
    script.write_text(f'#!/bin/sh\necho Installing\n{python} -m qyvo_standin "$@"\n')
    script.chmod(0o755)
    assert_passed(project.run(USES_IT, f"--qyvo-command={script}", python=bare), 2)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("nosuch-command serve", "--qyvo-command: [Errno 2] No such file or directory: "),
        ("'open", "--qyvo-command: No closing quotation."),
        ("sh -c 'echo no way >&2'", "it ended with status 0 before it was ready.\nno way\n"),
        ("sh -c 'echo no way; exit 3'", "it ended with status 3 before it was ready.\nno way\n"),
        ("false", "The sandbox did not start: it ended with status 1 before it was ready.\n"),
    ],
)
def test_a_command_that_starts_no_sandbox_is_said_with_what_it_printed(project, command, says):
    ran = project.run(USES_IT, "--qyvo-command", command)
    assert ran.returncode == 1
    assert says in ran.output
    assert "Traceback" not in ran.output
    assert "During handling" not in ran.output


def test_url_and_command_exclude_each_other(project):
    ran = project.run(USES_IT, "--qyvo-command=qyvo-standin", "--qyvo-url=http://127.0.0.1:1")
    assert ran.returncode == 1
    assert "Give --qyvo-url or --qyvo-command, not both." in ran.output


def test_a_sequence_of_faults(project):
    tests = """
import threading, urllib.error, urllib.request


def send(qyvo):
    request = urllib.request.Request(qyvo.base_url + "/api/v1/me", headers=qyvo.headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


def test_faults(qyvo):
    qyvo.faults([{"status": 503, "times": 1}, {"status": 429, "times": 1, "retry_after": 7}])
    assert send(qyvo)[0] == 503
    assert [fault["triggered"] for fault in qyvo.faults()] == [1, 0]
    status, headers = send(qyvo)
    assert (status, headers["Retry-After"]) == (429, "7")
    assert send(qyvo)[0] == 200
    assert [fault["status"] for fault in qyvo.faults()] == [503, 429]
"""
    assert_passed(project.run(tests), 1)


WAITING = """
import threading, urllib.error, urllib.request
import pytest


def send(qyvo, *paths):
    for path in paths:
        request = urllib.request.Request(qyvo.base_url + path, headers=qyvo.headers)
        try:
            urllib.request.urlopen(request).close()
        except urllib.error.HTTPError as error:
            error.close()


def later(qyvo, *paths):
    threading.Timer(0.2, send, [qyvo, *paths]).start()
"""


def test_requests_that_are_waited_for_are_returned_oldest_first(project):
    tests = """
def test_waiting(qyvo):
    later(qyvo, "/api/v1/nothing", "/api/v1/me")
    first, second = qyvo.wait_for_requests(2)
    assert (first["path"], second["path"]) == ("/api/v1/nothing", "/api/v1/me")
    assert qyvo.wait_for_requests(1, path="/me", timeout=0) == [second]
    with pytest.raises(ValueError, match="timeout"):
        qyvo.wait_for_requests(1, timeout=31)
"""
    assert_passed(project.run(WAITING + tests), 1)


def test_too_few_requests_fail_the_test_with_those_that_did_arrive(project):
    tests = """
def test_some(qyvo):
    send(qyvo, "/api/v1/me", "/api/v1/nothing")
    qyvo.wait_for_requests(2, path="/me", status=200, timeout=0.1)


def test_none(qyvo):
    qyvo.wait_for_requests(1, timeout=0)


def test_another_token(qyvo):
    send(Qyvo(qyvo.base_url, "wrong"), "/api/v1/me")
    qyvo.wait_for_requests(1, timeout=0)
"""
    ran = project.run(WAITING + "from qyvo_standin.pytest_plugin import Qyvo\n" + tests)
    assert "3 failed" in ran.output
    said = [line[1:].strip() for line in ran.output.splitlines() if line.startswith("E ")]
    assert said == [
        "AssertionError: wait_for_requests(2, path='/me', status=200): 1 after 0.1 seconds."
        " These have arrived:",
        "GET /api/v1/me 200",
        "GET /api/v1/nothing 404 Not found",
        "AssertionError: wait_for_requests(1): 0 after 0 seconds. No requests have arrived.",
        "AssertionError: wait_for_requests(1): 0 after 0 seconds. No requests have arrived.",
        "With another token, or none (in the journal of `sandbox`):",
        "GET /api/v1/me 401 An unknown token: use sandbox, or one that begins with sandbox-.",
    ]
    assert "pytest_plugin.py" not in ran.output  # no traceback of ours


ASYNC = """
import asyncio, urllib.request
import pytest


@pytest.mark.{plugin}
async def test_it(qyvo):
    def send():
        request = urllib.request.Request(qyvo.base_url + "/api/v1/me", headers=qyvo.headers)
        urllib.request.urlopen(request).close()

    async def after_a_while():
        await asyncio.sleep(0.1)
        await asyncio.to_thread(send)

    task = asyncio.create_task(after_a_while())
    [request] = await qyvo.await_requests(1, path="/me")
    assert request["path"] == "/api/v1/me"
    await task


@pytest.mark.{plugin}
async def test_too_few(qyvo):
    await qyvo.await_requests(1, status=500, timeout=0)


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_an_async_test_waits_for_requests_while_its_event_loop_runs(project, with_asyncio, plugin):
    """Under pytest-asyncio, and under anyio on asyncio."""
    options = ["-p", "anyio", "-o", "asyncio_default_fixture_loop_scope=function"]
    ran = project.run(ASYNC.format(plugin=plugin), *options, python=with_asyncio)
    assert "1 failed, 1 passed" in ran.output
    assert "AssertionError: await_requests(1, status=500): 0 after 0 seconds." in ran.output
    assert "pytest_plugin.py" not in ran.output  # no traceback of ours


def test_every_public_name_has_types_and_a_docstring(python):
    script = """
import inspect, typing
from qyvo_standin.pytest_plugin import Qyvo

assert inspect.getdoc(Qyvo)
for name, value in vars(Qyvo).items():
    if name.startswith("_"):
        continue
    function = value.fget if isinstance(value, property) else value
    assert inspect.getdoc(function), name
    hints = typing.get_type_hints(function)
    assert set(inspect.signature(function).parameters) - {"self"} == set(hints) - {"return"}, name
    assert "return" in hints, name
    print(name)
"""
    names = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    public = {"headers", "env", "requests", "wait_for_requests", "await_requests", "reset"}
    public |= {"fault", "faults", "contact", "contacts", "put_contact", "delete_contact"}
    assert set(names.stdout.split()) == public
    [marker] = python.parent.parent.glob("lib/python*/site-packages/qyvo_standin/py.typed")
    assert marker.exists()
