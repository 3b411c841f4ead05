"""Fixtures as in Flask's tutorial, and the real server as a subprocess."""

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskCliRunner

import commands
from app import Service, create_app
from sandbox import Sandbox
from settings import read_settings
from store import DEFAULT_WORKSPACE, Store

ROOT = Path(__file__).parent.parent
UPDATE = "/api/v1/actions/update-contact"
TOKEN = "token-of-the-tests"
PHONE = "+14155550123"
ROMAIN = {
    "phone": PHONE,
    "name": "Romain",
    "email": "romain@example.com",
    "tags": ["vip"],
    "metadata": {"lifetime_value": 8900.5, "address": {"city": "Lyon", "zip": "69001"}},
}
MIB = 1024 * 1024
SECONDS = 20  # a generous deadline: a test that needs it has failed


class Runner(FlaskCliRunner):
    """One that keeps standard output and error apart, and returns the same with every click."""

    def __init__(self, app):
        apart = {"mix_stderr": False} if version("click").startswith("8.1.") else {}
        super().__init__(app, **apart)

    def invoke(self, *args, **options):
        result = super().invoke(*args, **options)
        return SimpleNamespace(
            exit_code=result.exit_code,
            exception=result.exception,
            stdout=result.stdout,
            stderr=result.stderr,
            output=result.stdout + result.stderr,
        )


Service.test_cli_runner_class = Runner


# A shell ignores SIGINT in what it starts in the background, and programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Leave a real browser and examples by the thousand to make test-all."""
    for item in items:
        if "browser" in item.fixturenames or item.path.name == "test_properties.py":
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def make_app(tmp_path):
    """Makes an application on a database that holds `contacts`, with these settings."""
    made = []

    def make_app(contacts=(ROMAIN,), *, sandbox=False, **settings):
        settings = {"CONTACTS_DATABASE": str(tmp_path / "contacts.db")} | settings
        if not sandbox:
            settings = {"QYVO_TOKEN": TOKEN} | settings
        app = create_app(
            read_settings(settings, sandbox=sandbox), sandbox=Sandbox() if sandbox else None
        )
        commands.init_app(app)
        app.testing = True
        made.append(app.extensions["store"])
        if not sandbox:
            made[-1].get_or_create_workspace(DEFAULT_WORKSPACE, contacts)
        return app

    yield make_app
    for store in made:
        store.close()


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def runner(app):
    return app.test_cli_runner()


@pytest.fixture
def run(runner):
    """Runs a command in the application's process, and expects its exit status."""

    def run(*args, status=0, **options):
        result = runner.invoke(args=[str(arg) for arg in args], **options)
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture
def call(client):
    return caller(client)


def caller(client, token=TOKEN):
    """Calls update-contact as that token's owner; a body that is not bytes is sent as JSON."""

    def call(body, path=UPDATE, **request):
        request.setdefault("content_type", "application/json")
        return client.post(
            path,
            data=body if isinstance(body, bytes) else json.dumps(body),
            headers={"Authorization": f"Bearer {token}"},
            **request,
        )

    return call


@pytest.fixture
def me(app):
    """A developer at a sandbox, in a workspace of their own."""
    from developer import Developer  # which imports from here

    return Developer(app)


@pytest.fixture
def other(app):
    """Another one, in another workspace."""
    from developer import Developer  # which imports from here

    return Developer(app, "sandbox-other")


@pytest.fixture
def contact(call):
    """The contact as a call that changes nothing returns it."""
    return call({"phone": PHONE}).json


@pytest.fixture
def stored(app):
    """Reads what the database holds of every contact, past the service."""
    return lambda: contacts_in(app.extensions["store"].path)


def contacts_in(path):
    with closing(sqlite3.connect(path)) as db:
        return contacts_through(db)


def contacts_through(db):
    """The same by a connection that is open already."""
    db.row_factory = sqlite3.Row
    rows = [dict(row) for row in db.execute("SELECT * FROM contact ORDER BY number")]
    for row in rows:
        del row["folded"]  # which follows from name and email
    return [
        {**row, "tags": json.loads(row["tags"]), "metadata": json.loads(row["metadata"])}
        for row in rows
    ]


def execute(path, statement, *values):
    """Run a statement on the database file as somebody other than the service."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(statement, values).fetchall()


@pytest.fixture
def forgetful_sqlite(monkeypatch):
    """SQLite as most build it: what is deleted is not overwritten, unless asked for."""
    connect = sqlite3.connect

    def connected(*args, **options):
        db = connect(*args, **options)
        db.execute("PRAGMA secure_delete = OFF")
        return db

    monkeypatch.setattr(sqlite3, "connect", connected)


@contextmanager
def write_lock(path):
    """Hold the database's write lock, as another process may. Returns what releases it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db.rollback


def assert_refused(response, status, text=None):
    """The response is the contract's error: JSON, the same text under both keys."""
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert response.json["error"] == response.json["message"]
    assert response.json["error"]
    assert ("errors" in response.json) == (status == 422)
    if text:
        assert response.json["error"] == text


def environment(database, **settings):
    """An environment with these settings alone, and no proxy between the tests and loopback."""
    ours = ("CONTACTS_", "QYVO_", "FLASK_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return kept | {"NO_PROXY": "*", "CONTACTS_DATABASE": str(database)} | settings


def flask(*args, env, **options):
    """Run `flask …` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "flask", *args],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        **options,
    )


def copy_of_the_project(folder):
    """Copy what a checkout runs into the folder, without an instance."""
    for part in (*ROOT.glob("*.py"), ROOT / "Makefile", ROOT / "requirements.txt"):
        shutil.copy(part, folder)
    for package in ROOT.glob("*/__init__.py"):
        name = package.parent.name
        if name not in ("bench", "package", "tests"):
            shutil.copytree(package.parent, folder / name)


@contextmanager
def serving(directory, *options, python=("-m", "flask"), files=None, **settings):
    """The real server on a free port: `url`, `database`, `process`, `log()`, `stop()`.

    With `files`, it may open no more of them.
    """
    directory.mkdir(exist_ok=True)
    database, log = directory / "served.db", directory / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*limit_of(files), sys.executable, *python, "serve", "--port", "0", *options],
            cwd=ROOT,
            env=environment(database, **settings),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def stop(number=signal.SIGTERM):
        process.send_signal(number)
        return process.wait(SECONDS)

    with process:
        try:
            ready = process.stdout.readline()
            assert ready.startswith("Serving on http://"), log.read_text()
            yield SimpleNamespace(
                url=ready.split()[-1],
                ready=ready,
                database=database,
                process=process,
                log=log.read_text,
                stop=stop,
            )
        finally:
            process.kill()


def limit_of(files):
    """What to put before a command that may open no more files than that."""
    return ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"] if files else []


@contextmanager
def deployed(directory, **options):
    """A deployment that holds ROMAIN and accepts TOKEN, as QYVO_TOKEN."""
    directory.mkdir(exist_ok=True)
    with closing(Store(directory / "served.db")) as store:
        store.get_or_create_workspace(DEFAULT_WORKSPACE, [ROMAIN])
    with serving(directory, QYVO_TOKEN=TOKEN, **options) as server:
        yield server


@pytest.fixture
def server(tmp_path):
    """A deployment for one test."""
    with deployed(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    """A deployment, one for all tests of a file that do no more than call it."""
    with deployed(tmp_path_factory.mktemp("deployment")) as server:
        yield server


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """A sandbox, one for all tests of a file."""
    with serving(tmp_path_factory.mktemp("sandbox"), "--sandbox") as server:
        yield server


def connection(url):
    return closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=SECONDS))


def post(url, body, token=TOKEN, path=UPDATE, **headers):
    """One call over a socket; the response has `status`, `headers` and `json`."""
    with connection(url) as http_connection:
        http_connection.request(
            "POST",
            path,
            body if isinstance(body, bytes) else json.dumps(body),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | headers,
        )
        return json_response(http_connection.getresponse())


def json_response(response):
    body = response.read()
    return SimpleNamespace(
        status_code=response.status,
        content_type=response.headers["Content-Type"],
        headers=response.headers,
        json=json.loads(body),
    )


def wait_until(condition):
    """Wait for what is about to become true."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.02)


def wait_until_begun(url):
    """Wait until every request that was sent before has a thread: they get one in their order."""
    with connection(url) as http_connection:
        http_connection.request("GET", "/healthz")
        assert http_connection.getresponse().status == 200


def wait_until_stopping(process):
    """Wait until the server has heeded SIGTERM or SIGINT, after which it catches neither."""

    def heeded():
        caught = int(re.search(r"SigCgt:\s+(\w+)", status.read_text())[1], 16)
        return not caught & 1 << (signal.SIGTERM - 1)

    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("this test needs to see signal handlers as Linux shows them")
    wait_until(heeded)


def cpu_seconds(process):
    """The processor time that it has used so far."""
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        pytest.skip("this test needs to see processor time as Linux shows it")
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def wait_until_idle(process):
    """Wait until it does nothing any more: what it still has to do waits for somebody else."""
    used = [-1.0]

    def idle():
        time.sleep(0.3)
        used.append(cpu_seconds(process))
        return used[-1] == used[-2]

    wait_until(idle)


@contextmanager
def raw(url, sent=b""):
    """A socket on which that has been sent."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as sock:
        sock.sendall(sent)
        yield sock


def head(token="sandbox", *fields, method="POST", path=UPDATE):
    """The header of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
    lines += ["Content-Type: application/json", *fields]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def for_4_mib(url):
    """A request whose response is that large: for the journal of a sandbox, which this fills."""
    for _ in range(70):
        post(url, {"phone": PHONE, "metadata": {"text": "x" * 60_000}}, "sandbox")
    return head(method="GET", path="/sandbox/requests")


def read_response(sock):
    """Status and JSON of one response, without waiting for the connection to end."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += received_or_fail(sock)
    header, _, body = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", header)[1])
    while len(body) < length:
        body += received_or_fail(sock)
    assert re.search(rb"(?i)\r\ncontent-type: application/json\r?", header)
    return int(header.split()[1]), json.loads(body)


def received_or_fail(sock):
    data = sock.recv(65536)
    assert data, "the connection was closed without a response"
    return data


def received_to_the_end(sock):
    """All that is sent until the connection is closed, in whatever way."""
    received = b""
    with suppress(ConnectionResetError):  # what was sent is not read to its end
        while data := sock.recv(65536):
            received += data
    return received


def log_line(server, part, before=""):
    """The log's line with that part, once it is there, after what it held before."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for line in server.log().removeprefix(before).splitlines(keepends=True):
            if part in line:
                return line
        time.sleep(0.02)
    raise AssertionError(f"no line with {part!r} in:\n{server.log()}")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Returns a folder that `make(folder)` filled, once for all processes of pytest-xdist."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made_once(name, make):
        with (root / f"{name}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            lock.seek(0)
            if not lock.read():
                shutil.rmtree(root / name, ignore_errors=True)  # of a failure
                make(root / name)
                lock.write("made")
        return root / name

    return made_once


@pytest.fixture(scope="session")
def wheel(made_once):
    """The wheel of this checkout."""
    pytest.importorskip("hatchling")

    def build(folder):
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
        command += ["--directory", folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=SECONDS)

    [wheel] = made_once("dist", build).iterdir()
    return wheel


def virtual_environment(folder, python=sys.executable, packages=()):
    """Make one with these packages, and return its Python. Files of it are compiled when needed."""
    made = [python, "-m", "venv", "--without-pip", folder]
    subprocess.run(made, check=True, capture_output=True, timeout=SECONDS)
    python = folder / "bin" / "python"
    if packages:
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-compile"]
        subprocess.run([*install, *packages], check=True, capture_output=True, timeout=300)
    return python
