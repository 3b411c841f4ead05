"""The pytest fixture `qyvo`: a sandbox of Qyvo's contacts API, with a workspace for each test.

    def test_a_customer_becomes_vip(qyvo):
        promote("+14155550123", base_url=qyvo.base_url, token=qyvo.token)
        assert "vip" in qyvo.contact("+14155550123")["tags"]

This module imports pytest and the standard library alone. The sandbox is a process of its own,
started by the first test that uses the fixture.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

import pytest

COMMAND = (sys.executable, "-P", "-m", "qyvo_standin")
SERVE = ("serve", "--sandbox", "--port", "0", "--stop-with-stdin", "--temporary")
# Settings of the user's own service, and what would change how the sandbox's Python works.
NOT_INHERITED = ("CONTACTS_", "QYVO_", "FLASK_", "PYTHONPATH", "PYTHONWARNINGS")
START_SECONDS = 30
INSTALL_SECONDS = 120  # for --qyvo-command, which may have to install first
STOP_SECONDS = 10
REQUEST_SECONDS = 60  # a request may wait 30 seconds for others to arrive

# The sandbox is on this machine or beside it: never by way of a proxy.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _now() -> str:
    """Return the time as the journal writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Qyvo:
    """A workspace of the sandbox with the sample contacts, which no other test sees.

    Give `base_url` and `token` to the code under test. The methods look at the workspace and
    change it; they are not in its journal, and no fault meets them.
    """

    base_url: str
    """The address of the sandbox, such as `http://127.0.0.1:40123`; the API is at `/api/v1`."""

    token: str
    """The bearer token of the workspace."""

    _made: str = field(default_factory=_now, init=False, repr=False, compare=False)

    @property
    def headers(self) -> dict[str, str]:
        """The header that authenticates: `{"Authorization": "Bearer …"}`."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def env(self) -> dict[str, str]:
        """The environment variables `QYVO_BASE_URL` and `QYVO_TOKEN`."""
        return {"QYVO_BASE_URL": self.base_url, "QYVO_TOKEN": self.token}

    # Contacts

    def contact(self, phone_or_id: str) -> dict[str, Any]:
        """Return all that is stored of a contact: what get-contact returns, and `updated_at`.

        A phone number begins with `+`. Raises LookupError if there is no such contact.
        """
        return self._send("GET", _contact_path(phone_or_id))

    def contacts(self, **filters: str) -> list[dict[str, Any]]:
        """Return the contacts that search-contacts finds, each as `contact` does; 50 at most.

        `query="ana"`, `tag="vip"` and `email="ana@example.com"` select.
        """
        return self._send("GET", f"/sandbox/contacts?{urllib.parse.urlencode(filters)}")

    def put_contact(self, phone_or_id: str, **fields: Any) -> dict[str, Any]:
        """Create a contact or change the given fields of one, and return it as `contact` does.

        The fields are those of create-contact, `source`, `locale`, `opted_in_at`, `opted_out_at`,
        `last_message_at` and `total_messages`; a time is a string or a datetime with an offset.
        Raises ValueError if one is refused.
        """
        try:
            contact_id = self.contact(phone_or_id)["id"]
        except LookupError:
            contact_id = phone_or_id
            if phone_or_id.startswith("+"):
                contact_id, fields = str(uuid.uuid4()), {"phone": phone_or_id} | fields
        return self._send("PUT", _contact_path(contact_id), fields)

    def delete_contact(self, phone_or_id: str) -> None:
        """Delete a contact. Raises LookupError if there is no such contact."""
        self._send("DELETE", _contact_path(self.contact(phone_or_id)["id"]))

    def reset(self, contacts: Iterable[Mapping[str, Any]] | None = None) -> None:
        """Start over with the sample contacts, or with these; empty the journal, remove faults.

        A contact has the fields of `put_contact`, and may have an `id`. If one is refused,
        ValueError says why and nothing changes.
        """
        body = None if contacts is None else {"contacts": list(contacts)}
        self._send("POST", "/sandbox/reset", body)

    # Requests

    def requests(self, **filters: str | int | float) -> list[dict[str, Any]]:
        """Return the requests that have arrived with their responses, newest first.

        `path="/actions/update-contact"`, `method="POST"` and `status=422` select, `limit=1`
        returns that many, and `order="oldest"` turns the order.
        """
        return self._send("GET", f"/sandbox/requests?{urllib.parse.urlencode(filters)}")

    def wait_for_requests(
        self, count: int, *, timeout: float = 10, **filters: str | int
    ) -> list[dict[str, Any]]:
        """Wait until that many requests have arrived, and return them, oldest first.

        `filters` are those of `requests`. If fewer have arrived after `timeout` seconds, 30 at
        most, AssertionError says which did.
        """
        __tracebackhide__ = True
        found = self._wait(count, timeout, filters)
        if len(found) < count:
            raise AssertionError(self._too_few("wait_for_requests", count, found, timeout, filters))
        return found

    async def await_requests(
        self, count: int, *, timeout: float = 10, **filters: str | int
    ) -> list[dict[str, Any]]:
        """Do what `wait_for_requests` does while the event loop of asyncio runs on."""
        __tracebackhide__ = True
        import asyncio  # which few test runs need

        found = await asyncio.to_thread(self._wait, count, timeout, filters)
        if len(found) < count:
            raise AssertionError(self._too_few("await_requests", count, found, timeout, filters))
        return found

    def _wait(self, count: int, timeout: float, filters: dict[str, Any]) -> list[dict[str, Any]]:
        return self.requests(**filters, min=count, timeout=timeout, order="oldest")

    def _too_few(self, method, count, found, timeout, filters) -> str:
        """Return what a wait failed to see, in the words of its call, and what did arrive."""
        call = ", ".join([str(count), *(f"{name}={value!r}" for name, value in filters.items())])
        said = f"{method}({call}): {len(found)} after {timeout:g} seconds."
        lines = [said + " No requests have arrived."]
        if entries := self.requests(order="oldest"):
            lines = [said + " These have arrived:", *map(_line, entries)]
        # A request with an unknown token belongs to no workspace, and so is in that journal.
        sandbox = Qyvo(self.base_url, "sandbox")
        others = sandbox.requests(order="oldest") if self != sandbox else []
        if others := [_line(entry) for entry in others if entry["time"] >= self._made]:
            lines += ["With another token, or none (in the journal of `sandbox`):", *others]
        return "\n  ".join(lines)

    # Faults

    def fault(self, **fault: Any) -> None:
        """Make requests fail, in place of earlier faults: `qyvo.fault(status=429, times=2)`.

        One of these is required: `status` is the response's, and writes nothing; `delay_ms` waits
        before the response; `respond=False` carries the request out, and closes the connection
        without a response; `close=True` closes it before anything happens. `body="html"` goes with
        a status, and responds as a proxy would.

        `times` says how often, `probability` how likely, `path` which requests, and `retry_after`
        what the header says, in seconds.
        """
        self._send("PUT", "/sandbox/faults", fault)

    def faults(self, faults: Iterable[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Set a sequence of faults, and return it; without an argument, return what is set.

        For each request the first fault that applies and is not used up is injected. Each has
        the fields that `fault` accepts, and `triggered`, how often it was injected. An empty
        sequence removes all.
        """
        if faults is None:
            return self._send("GET", "/sandbox/faults")["faults"]
        if sequence := list(faults):
            return self._send("PUT", "/sandbox/faults", sequence)["faults"]
        self._send("DELETE", "/sandbox/faults")
        return []

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of a response; raise what its status means."""
        headers = self.headers | {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body, default=_isoformat).encode()
        request = urllib.request.Request(  # noqa: S310, the address is the user's own
            self.base_url + path, data, headers, method=method
        )
        try:
            with _opener.open(request, timeout=REQUEST_SECONDS) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            refusal = LookupError if error.code == 404 else ValueError
            raise refusal(f"{method} {path}: {error.code} {_reason(error.read())}") from None
        return json.loads(text) if text else None


def _line(entry: Mapping[str, Any]) -> str:
    """Return an entry of the journal in one line."""
    return " ".join(str(entry[key]) for key in ("method", "path", "status", "reason") if entry[key])


def _isoformat(value: Any) -> str:
    """Return what the sandbox reads for a value that JSON lacks."""
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} can't be sent as JSON.")
    if value.utcoffset() is None:
        raise ValueError(f"{value!r} has no offset: pass one with a tzinfo, such as UTC.")
    return value.isoformat()


def _contact_path(phone_or_id: str) -> str:
    if not phone_or_id.startswith("+"):
        try:
            uuid.UUID(phone_or_id)
        except ValueError:
            text = f"{phone_or_id!r}: Must be a phone number with + or a UUID."
            raise ValueError(text) from None
    return f"/sandbox/contacts/{urllib.parse.quote(phone_or_id, safe='')}"


def _reason(body: bytes) -> str:
    """Return the texts of an error response, those of its fields if there are some."""
    try:
        error = json.loads(body)
        fields = error.get("errors", {}).items()
        return " ".join(f"{name}: {' '.join(texts)}" for name, texts in fields) or error["error"]
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:200].decode(errors="replace")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --qyvo-url and --qyvo-command."""
    group = parser.getgroup("qyvo-standin")
    group.addoption(
        "--qyvo-url",
        metavar="URL",
        help="Use the sandbox that runs there for the fixture `qyvo`, instead of starting one.",
    )
    group.addoption(
        "--qyvo-command",
        metavar="COMMAND",
        help='Start the sandbox by this command, such as "uvx --from PATH qyvo-standin", instead'
        " of the package that is installed here. In addopts it runs in the rootdir.",
    )


@pytest.fixture
def qyvo(qyvo_url: str, request: pytest.FixtureRequest) -> Qyvo:
    """A workspace of the sandbox for this test alone, with the sample contacts."""
    # The name shows on the sandbox's page which test it was.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)[:60]
    workspace = Qyvo(qyvo_url, f"sandbox-{name}-{uuid.uuid4().hex[:12]}")
    # A refused request opens none: without this, it would be missing if it were the first.
    workspace.requests(limit=1)
    return workspace


@pytest.fixture(scope="session")
def qyvo_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of the sandbox: --qyvo-url, or else that of one which ends with the run."""
    url, command = pytestconfig.getoption("--qyvo-url"), pytestconfig.getoption("--qyvo-command")
    if url is not None and command:
        pytest.fail("Give --qyvo-url or --qyvo-command, not both.", pytrace=False)
    if url is not None:
        yield _checked(url.rstrip("/"))
    else:
        # A command that is typed starts from where it is typed.
        words = [word.removeprefix("--qyvo-command=") for word in pytestconfig.getini("addopts")]
        folder = pytestconfig.rootpath if command in words else None
        with _running_sandbox(command, folder) as started:
            yield started


def _checked(url: str) -> str:
    """Return the address if a sandbox is there, since no live service may be taken for one."""
    if not url:
        pytest.fail("--qyvo-url is empty: write http://127.0.0.1:8000, or omit it.", pytrace=False)
    base = re.sub(r"(/api)?/v1$", "", url if "://" in url else f"http://{url}")
    if base != url:
        pytest.fail(f"--qyvo-url: write {base} instead of {url}.", pytrace=False)
    try:
        if isinstance(Qyvo(url, "sandbox").requests(limit=1), list):
            return url
        problem = "its response is not a sandbox's"
    except (OSError, HTTPException, ValueError, LookupError) as error:
        problem = str(error)
    pytest.fail(f"--qyvo-url: there is no sandbox at {url} ({problem}).", pytrace=False)


@contextmanager
def _running_sandbox(command: str | None, folder: Path | None) -> Iterator[str]:
    """Start a sandbox, which ends with the block or else with this process, however that ends."""
    seconds = INSTALL_SECONDS if command else START_SECONDS
    began, printed = time.monotonic(), b""
    with tempfile.TemporaryFile() as log, _started(command, folder, log) as process:
        deadline = threading.Timer(seconds, _kill, [process])
        deadline.daemon = True
        deadline.start()
        try:
            for line in process.stdout:
                if line.startswith(b"Serving on "):
                    deadline.cancel()
                    yield line.split()[-1].decode()
                    return
                printed += line
            late = time.monotonic() - began >= seconds
        finally:
            deadline.cancel()
            _stop(process)
        log.seek(0)
        words = (printed + log.read()).decode(errors="replace").strip()
        problem = f"it ended with status {process.returncode} before it was ready."
        if late:
            problem = f"it was not ready after {seconds} seconds."
        missing = re.search(r"^ModuleNotFoundError: (.+)$", words, re.MULTILINE)
        if missing and not command:
            problem = f"{missing[1]}. Install qyvo-standin with its dependencies, or give"
            words = "--qyvo-command, the command of a sandbox that is installed elsewhere."
        pytest.fail(f"The sandbox did not start: {problem}\n{words}".rstrip(), pytrace=False)


def _started(command: str | None, folder: Path | None, log: BinaryIO) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603, the command is the user's own
            [*(shlex.split(command) if command else COMMAND), *SERVE],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)},
            stdin=subprocess.PIPE,  # the sandbox ends when this process's end of it closes
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C is for pytest, whose fixtures still use the sandbox.
            process_group=0,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # on Windows
        )
    except (OSError, ValueError) as error:
        problem = str(error)
    pytest.fail(f"--qyvo-command: {problem}.", pytrace=False)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the sandbox by the end of its standard input, or else by force."""
    process.stdin.close()
    for force in (subprocess.Popen.terminate, _kill):
        try:
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            force(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and, where there are process groups, those that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
