"""The pytest plugin, as the wheel brings it into a project's environment."""

import signal
import subprocess
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PHONE, SECONDS, environment, post, serving, virtual_environment

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
import json, urllib.request
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


def test_contact_and_requests(qyvo):
    send(qyvo, phone=PHONE, tags="vip, new")
    contact = qyvo.contact(PHONE)
    assert contact["tags"] == ["vip", "new"]
    assert contact["metadata"] == {"lifetime_value": 8900.5, "city": "Lyon"}
    assert qyvo.contact(contact["id"]) == contact
    [entry] = qyvo.requests()
    assert entry["request_body"] == {"phone": PHONE, "tags": "vip, new"}


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


def test_a_fault_can_be_removed(qyvo):
    qyvo.fault(status=500)
    assert qyvo.faults([]) == []
    send(qyvo, phone=PHONE)
"""


def test_the_fixture_gives_each_test_a_workspace_and_what_a_test_asks_about_it(project):
    assert_passed(project.run(METHODS), 8)


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


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1", "http://[", ""])
def test_an_address_at_which_nothing_responds_is_said_in_one_line(project, url):
    ran = project.run(USES_IT, f"--qyvo-url={url}")
    if url:
        assert ran.returncode == 1
        assert f"--qyvo-url: there is no sandbox at {url} (" in ran.output
        assert "Traceback" not in ran.output
    else:
        assert_passed(ran, 2)


def test_a_sandbox_that_does_not_start_is_one_error_with_its_own_words(project, wheel, tmp_path):
    """Where only what pytest needs is installed, the plugin loads and the service can't."""
    folder = tmp_path / "bare"
    python = virtual_environment(folder, packages=["--no-deps", wheel])
    [site_packages] = folder.glob("lib/python*/site-packages")
    for pattern in OF_PYTEST:
        for path in Path(sysconfig.get_path("purelib")).glob(pattern):
            (site_packages / path.name).symlink_to(path)
    ran = project.run(USES_IT, python=python)
    assert ran.returncode == 1
    assert "The sandbox did not start: " in ran.output
    assert "ModuleNotFoundError: No module named 'click'" in ran.output
    assert "pytest_plugin.py" not in ran.output  # no traceback of ours


def test_a_sequence_of_faults_and_a_wait_for_requests(project):
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


def test_waiting(qyvo):
    threading.Timer(0.2, send, [qyvo]).start()
    [entry] = qyvo.requests(method="GET", min=1, timeout=10)
    assert entry["path"] == "/api/v1/me"
"""
    assert_passed(project.run(tests), 2)


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
    public = {"headers", "requests", "reset", "fault", "faults", "contact"}
    assert set(names.stdout.split()) == public
    [marker] = python.parent.parent.glob("lib/python*/site-packages/qyvo_standin/py.typed")
    assert marker.exists()
