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
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import pytest

COMMAND = ("qyvo_standin", "serve", "--sandbox", "--port", "0", "--stop-with-stdin", "--temporary")
# Settings of the user's own service, and what would change how the sandbox's Python works.
NOT_INHERITED = ("CONTACTS_", "QYVO_", "FLASK_", "PYTHONPATH", "PYTHONWARNINGS")
START_SECONDS = 30
STOP_SECONDS = 10
REQUEST_SECONDS = 60  # a request may wait 30 seconds for others to arrive

# The sandbox is on this machine or beside it: never by way of a proxy.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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

    @property
    def headers(self) -> dict[str, str]:
        """The header that authenticates: `{"Authorization": "Bearer …"}`."""
        return {"Authorization": f"Bearer {self.token}"}

    def requests(self, **filters: str | int | float) -> list[dict[str, Any]]:
        """Return the requests that have arrived with their responses, newest first.

        `path="/actions/update-contact"`, `method="POST"` and `status=422` select, and `limit=1`
        returns that many. `min=2, timeout=5` waits up to 5 seconds until at least 2 match.
        """
        query = urllib.parse.urlencode(filters)
        return self._send("GET", f"/sandbox/requests?{query}")

    def reset(self, contacts: Iterable[Mapping[str, Any]] | None = None) -> None:
        """Start over with the sample contacts, or with these; empty the journal, remove faults.

        A contact has the fields of create-contact, and may have an `id`. When one is refused,
        ValueError says why and nothing changes.
        """
        body = None if contacts is None else {"contacts": list(contacts)}
        self._send("POST", "/sandbox/reset", body)

    def fault(self, **fault: Any) -> None:
        """Make requests fail, in place of earlier faults: `qyvo.fault(status=429, times=2)`.

        `status` is the response's, `delay_ms` a wait before it; one of them is required. `times`
        says how often, `probability` how likely, `path` which requests, and `retry_after` what
        the header says, in seconds.
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

    def contact(self, phone_or_id: str) -> dict[str, Any]:
        """Return all that the sandbox holds of a contact, as get-contact does.

        A phone number begins with `+`. Raises LookupError when there is no such contact.
        """
        return self._send("GET", f"/sandbox/contacts/{urllib.parse.quote(phone_or_id)}")

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of a response; raise what its status means."""
        headers = self.headers | {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
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


def _reason(body: bytes) -> str:
    """Return the texts of an error response, those of its fields if there are some."""
    try:
        error = json.loads(body)
        fields = error.get("errors", {}).items()
        return " ".join(f"{name}: {' '.join(texts)}" for name, texts in fields) or error["error"]
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:200].decode(errors="replace")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --qyvo-url."""
    parser.getgroup("qyvo-standin").addoption(
        "--qyvo-url",
        metavar="URL",
        help="Use the sandbox that runs there for the fixture `qyvo`, instead of starting one.",
    )


@pytest.fixture
def qyvo(qyvo_url: str, request: pytest.FixtureRequest) -> Qyvo:
    """A workspace of the sandbox for this test alone, with the sample contacts."""
    # The name shows on the sandbox's page which test it was.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)[:60]
    return Qyvo(qyvo_url, f"sandbox-{name}-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def qyvo_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of the sandbox: --qyvo-url, or else that of one which ends with the run."""
    given = pytestconfig.getoption("--qyvo-url")
    if given:
        yield _checked(given.rstrip("/"))
    else:
        with _running_sandbox() as url:
            yield url


def _checked(url: str) -> str:
    """Return the address if a sandbox is there, since no live service may be taken for one."""
    try:
        if isinstance(Qyvo(url, "sandbox").requests(limit=1), list):
            return url
        problem = "its response is not a sandbox's"
    except (OSError, HTTPException, ValueError, LookupError) as error:
        problem = str(error)
    pytest.fail(f"--qyvo-url: there is no sandbox at {url} ({problem}).", pytrace=False)


@contextmanager
def _running_sandbox() -> Iterator[str]:
    """Start a sandbox, which ends with the block or else with this process, however that ends."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(  # noqa: S603, nothing of it is anybody's input
            [sys.executable, "-P", "-m", *COMMAND],
            env=environment,
            stdin=subprocess.PIPE,  # the sandbox ends when this process's end of it closes
            stdout=subprocess.PIPE,
            stderr=log,
            process_group=0,  # Ctrl-C is for pytest, whose fixtures still use the sandbox
        ) as process,
    ):
        deadline = threading.Timer(START_SECONDS, process.kill)
        deadline.daemon = True
        deadline.start()
        try:
            ready = process.stdout.readline().decode()
            deadline.cancel()
            if ready.startswith("Serving on "):
                yield ready.split()[-1]
                return
        finally:
            _stop(process)
        log.seek(0)
        words = log.read().decode(errors="replace").strip()
        problem = words or f"it was not ready after {START_SECONDS} seconds."
        pytest.fail(f"The sandbox did not start: {problem}", pytrace=False)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
