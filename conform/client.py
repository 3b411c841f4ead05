"""HTTP: one request after another, at a rate, tried again when it may have been bad luck."""

import gzip
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult

from conform.rules import ABSENT, BEARERS, JSON, ME, NUMERIC, OK, Request, as_json

TRIES = 4
WINDOW = 60  # seconds to wait after a 429 that does not say how long: those of the documented limit
LONGEST_WAIT = 300  # seconds that a Retry-After may ask for
BODY_LIMIT = 8 * 1024 * 1024


class Stop(Exception):
    """The check can't go on; the text says why."""


@dataclass
class Response:
    status: int | None = None  # None when there was no response
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    failure: str = ""

    def __post_init__(self):
        try:
            self.body = json.loads(self.data)
        except (ValueError, RecursionError):
            self.body = ABSENT

    @property
    def ok(self) -> bool:
        return self.status is not None and OK.test(self.status, None)

    def look(self, path: str, contact_id: str | None = None) -> Any:
        """Return what the response has at `path`, or ABSENT.

        That is `status`, `header NAME`, `text`; of an object the value at `tags` or `tenant.id`,
        its `keys`, whether its `error is message`; of an array its `length`, its `last messages`;
        and of PHONE in that array, which has the id, `has PHONE`, `entry keys`, `entry NAME`,
        `first of its last message is PHONE`.
        """
        body = self.body
        kind, _, rest = path.partition(" ")
        items = [item for item in body if isinstance(item, dict)] if isinstance(body, list) else []
        mine = next((item for item in items if item.get("id") == contact_id), None)
        match kind, rest:
            case "status", _:
                return ABSENT if self.status is None else self.status
            case "header", name:
                return self.headers.get(name, ABSENT)
            case "text", _:
                return self.data
            case "keys", _:
                return list(body) if isinstance(body, dict) else ABSENT
            case "length", _:
                return len(body) if isinstance(body, list) else ABSENT
            case "last", "messages":
                return [item.get("last_message_at", ABSENT) for item in items]
            case "has", "PHONE":
                return mine is not None
            case "first", "of its last message is PHONE":
                last_message = mine and mine.get("last_message_at")
                same = (item for item in items if item.get("last_message_at") == last_message)
                return mine is not None and next(same) is mine
            case "entry", "keys":
                return list(mine) if mine else ABSENT
            case "entry", name:
                return mine.get(name, ABSENT) if mine else ABSENT
            case "error", "is message":
                return self.look("error") == self.look("message")
        for key in path.split("."):
            body = body.get(key, ABSENT) if isinstance(body, dict) else ABSENT
        return body


class Client:
    """Sends one request after another, at most `rate` a minute, and follows no redirect."""

    def __init__(self, address: SplitResult, token: str, rate: float, timeout: float):
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        self._connection = kinds[address.scheme](address.hostname, address.port, timeout=timeout)
        self._token, self._interval, self._timeout = token, 60 / rate, timeout
        self._next = time.monotonic()
        self.interrupted, self.interruptible = False, True
        self.throttled: Response | None = None  # the last 429

    def send(self, request: Request) -> Response:
        """Return the response: one of 429, of 5xx or none at all only after more tries.

        Raises Stop if every request fares like that.
        """
        for tried in range(1, TRIES + 1):
            response = self._exchange(request)
            if response.status == 429:
                self.throttled = response
            elif response.status and response.status < 500:
                return response
            if tried < TRIES:
                self.wait(retry_after(response, WINDOW if response.status == 429 else 0))
        if request != ME and self.send(ME).ok:
            return response  # that is how the service responds to this request
        what = response.status or f"no response ({response.failure})"
        raise Stop(f"{request.method} {request.path} got {what}, {TRIES} times.")

    def _exchange(self, request: Request) -> Response:
        self.wait(self._next - time.monotonic())
        self._next = time.monotonic() + self._interval
        bearer = BEARERS.get(request.bearer, f"Bearer {self._token}")
        headers = {"Accept": JSON, "User-Agent": "qyvo-standin conform"}
        headers |= {"Authorization": bearer} if bearer else {}
        body = request.body
        if body is not None:
            body = body if isinstance(body, bytes) else as_json(body).encode()
            body = gzip.compress(body) if request.compressed else body
            headers |= {"Content-Type": request.content_type, "Content-Length": str(len(body))}
        headers |= {"Content-Encoding": "gzip"} if request.compressed else {}
        try:
            self._connection.request(request.method, request.path, body, headers)
            response = self._connection.getresponse()
            return Response(response.status, response.headers, response.read(BODY_LIMIT))
        except TimeoutError as error:
            # It may still take effect: nothing is sent after it but what restores.
            self._connection.close()
            text = f"No response within {self._timeout:g} seconds: {request.path}."
            raise Stop(text) from error
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Response(failure=str(error) or type(error).__name__)

    def wait(self, seconds: float):
        """Sleep. Raises Stop when the user has interrupted, at once."""
        until = time.monotonic() + seconds
        while not (self.interrupted and self.interruptible):
            if (rest := until - time.monotonic()) <= 0:
                return
            time.sleep(min(rest, 0.1))
        raise Stop("Interrupted.")


def retry_after(response: Response, default: float) -> float:
    """Return the seconds that the response asks to wait. Raises Stop if they are too many."""
    text = response.look("header Retry-After")
    if not NUMERIC.test(text, None):
        return default
    if int(text) > LONGEST_WAIT:
        raise Stop(f"The service asks to wait {int(text)} seconds: try again later.")
    return int(text)
