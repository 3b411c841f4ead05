"""The journal: every request that a workspace received, with its response."""

import itertools
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Response, current_app, g, request
from marshmallow import fields, validate
from werkzeug.exceptions import HTTPException

import schemas

MAX_ENTRIES = 500
MAX_TEXT = 1000
MAX_BODY = 64 * 1024
MAX_SIZE = 4 * 1024 * 1024  # in bytes
BESIDE_PARTS = 1024  # bytes that an entry takes beside its texts and bodies
MAX_WAIT_SECONDS = 30
LOST = "A fault lost the response, a {}."

_NEVER_KEPT = {"Authorization", "Cookie"}
_SECRET = re.compile("authorization|cookie|token|key|secret|signature", re.IGNORECASE)

# What a client sends that has no token: it is shown, since it can't be a live one.
_NO_TOKEN = re.compile(
    r"(?i:undefined|null|none|)"
    r"|(?=.{,40}\Z)(?=.*(?i:token|key|secret))"
    r"(?:(?i:[$%<{\[]+[a-z_. -]+[%>}\]]*|your[a-z_-]+)|[A-Z]+(?:_[A-Z]+)+)"
)


class JournalQuery(schemas.Body):
    """The query string of GET /sandbox/requests."""

    limit = fields.Integer(load_default=MAX_ENTRIES, validate=validate.Range(1, MAX_ENTRIES))
    path = fields.String()
    status = fields.Integer(validate=validate.Range(100, 599))
    method = fields.String()
    order = fields.String(load_default="newest", validate=validate.OneOf(["newest", "oldest"]))
    min = fields.Integer(load_default=0, validate=validate.Range(0, MAX_ENTRIES))
    timeout = fields.Float(load_default=0, validate=validate.Range(0, MAX_WAIT_SECONDS))


class Journal:
    """The last MAX_ENTRIES requests, or fewer when they would exceed MAX_SIZE."""

    def __init__(self):
        self._entries = deque()
        self.size = 0  # in bytes
        self._ids = itertools.count(1)
        self._changed = threading.Condition()
        self._ended = False

    def add(self, response: Response):
        """Add the current request with its response, but not its secrets."""
        body = b""
        if "token" in g:  # or else it may be meant for somebody else
            with suppress(HTTPException, OSError):  # it is too large, or was cut off
                body = request.get_data()
        seconds = time.monotonic() - g.began
        arrived = datetime.now(UTC) - timedelta(seconds=seconds)
        fault = g.get("fault") or {}
        lost = "respond" in fault or "close" in fault
        entry = {
            "time": arrived.isoformat(timespec="milliseconds"),
            "method": request.method,
            "path": request.path[:MAX_TEXT],
            "status": None if lost else response.status_code,
            "milliseconds": round(seconds * 1000, 1),
            "request_headers": without_secrets(request.headers),
            "request_body": body[:MAX_BODY],
            "response_headers": {} if "close" in fault else without_secrets(response.headers),
            "response_body": response.get_data()[:MAX_BODY],
            "reason": reason(response, fault),
            "fault": fault,
        }
        if secret := current_app.config["QYVO_TOKEN"]:  # which a client may send anywhere
            entry = {name: hide(secret, value) for name, value in entry.items()}
        with self._changed:
            self._entries.append({"id": next(self._ids), **entry})
            self.size += size(entry)
            while len(self._entries) > MAX_ENTRIES or self.size > MAX_SIZE:
                self._drop_oldest()
            self._changed.notify_all()

    def drop_oldest(self):
        """Forget the oldest entry, if there is one."""
        with self._changed:
            if self._entries:
                self._drop_oldest()

    def _drop_oldest(self):
        self.size -= size(self._entries.popleft())

    def clear(self):
        with self._changed:
            self._entries.clear()
            self.size = 0

    def wait_for(self, count: int, seconds: float, **filters: Any):
        """Return once `count` entries match, after those seconds, or when the waiting is ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or len(self.entries(**filters)) >= count, seconds
            )

    def end_waiting(self):
        """Let nobody wait for further entries."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def entries(
        self, path: str = "", status: int | None = None, method: str = ""
    ) -> list[dict[str, Any]]:
        """Return the entries that match, newest first. `path` is the end of an entry's path."""
        with self._changed:
            newest_first = list(reversed(self._entries))
        return [
            entry
            for entry in newest_first
            if ends_with(entry["path"], path)
            and status in (None, entry["status"])
            and method.upper() in ("", entry["method"])
        ]


def size(entry: dict[str, Any]) -> int:
    """Return about how many bytes of memory the entry takes."""
    parts = [entry["request_body"], entry["response_body"], entry["path"], entry["reason"]]
    for headers in (entry["request_headers"], entry["response_headers"]):
        parts += [*headers, *headers.values()]
    return BESIDE_PARTS + sum(map(sys.getsizeof, parts))


def without_secrets(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers by their names, with … for what may be a secret."""
    return {
        name: "…" if _SECRET.search(name) else value
        for name, value in headers
        if name not in _NEVER_KEPT
    }


def hide(secret: str, value: Any) -> Any:
    """Return the value with … in place of the secret."""
    if isinstance(value, dict):
        return {name: hide(secret, each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.replace(secret.encode(), "…".encode())
    return value.replace(secret, "…") if isinstance(value, str) else value


def reason(response: Response, fault: dict[str, Any]) -> str | None:
    """Return in one line why a request was refused or had no response."""
    if "close" in fault:
        return "A fault closed the connection before anything happened."
    if "respond" in fault:
        return " ".join(filter(None, (LOST.format(response.status_code), refusal(response))))
    return refusal(response)


def refusal(response: Response) -> str | None:
    """Return why a request was refused, in one line."""
    if response.status_code < 400:
        return None
    if response.status_code == 401 and "token" not in g:
        return token_problem(request.headers.get("Authorization", ""))
    body = response.get_json(silent=True)
    if body is None:
        return "A fault responded with an HTML page."
    errors = [f"{field}: {' '.join(texts)}" for field, texts in body.get("errors", {}).items()]
    return " ".join(errors or [body["error"]])[:MAX_TEXT]


def token_problem(authorization: str) -> str:
    """Return why no workspace has the token, without showing one that may be a live one."""
    scheme, _, token = authorization.partition(" ")
    if not scheme:
        return "No token: send the header Authorization: Bearer sandbox."
    if scheme.lower() != "bearer":
        return "The header must be Authorization: Bearer, a space and the token."
    if _NO_TOKEN.fullmatch(token):
        return f"{scheme} {token}".rstrip() + ": is the variable set?"
    return "An unknown token: use sandbox, or one that begins with sandbox-."


def ends_with(path: str, end: str) -> bool:
    """Return whether that is the path, or its last parts: /me is /api/v1/me and /v1/me."""
    return not end or f"/{path}".endswith(f"/{end.strip('/')}")


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the entry as GET /sandbox/requests shows it."""
    bodies = {name: readable(entry[name]) for name in ("request_body", "response_body")}
    return {**entry, **bodies, "fault": bool(entry["fault"])}


def readable(body: bytes) -> Any:
    """Return the JSON value that a body holds, or its text when it holds none."""
    if not body:
        return None
    try:
        return schemas.parse_json(body)
    except schemas.BadJSON:
        return body.decode(errors="replace")
