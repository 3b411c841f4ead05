"""The journal: every request that a workspace received, with its response."""

import itertools
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, g, request
from marshmallow import Schema, fields, validate
from werkzeug.exceptions import HTTPException

import schemas
from store import compact_json, leave_the_loop, pause

if TYPE_CHECKING:
    from sandbox.workspaces import Workspaces

MAX_ENTRIES = 500
MAX_TEXT = 1000
MAX_BODY = 64 * 1024
MAX_BODIES = 4 * 1024 * 1024
MAX_WAIT_SECONDS = 30
POLL_SECONDS = 0.05

# These are decided by the header. A body is not waited for to be shown.
BODY_LEFT_UNREAD = {401, 403, 413, 429}


class Journal:
    """The last MAX_ENTRIES requests, or fewer when their bodies together exceed MAX_BODIES."""

    def __init__(self):
        self._entries = deque()
        self._size = 0
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, **entry: Any):
        with self._lock:
            self._entries.append({"id": next(self._ids), **entry})
            self._size += self._size_of(entry)
            while len(self._entries) > MAX_ENTRIES or self._size > MAX_BODIES:
                self._size -= self._size_of(self._entries.popleft())

    def clear(self):
        with self._lock:
            self._entries.clear()
            self._size = 0

    @staticmethod
    def _size_of(entry: dict[str, Any]) -> int:
        return len(entry["request_body"]) + len(entry["response_body"])

    def entries(
        self, path: str = "", status: int | None = None, method: str = ""
    ) -> list[dict[str, Any]]:
        """Return the entries that match, newest first. `path` is the end of an entry's path."""
        with self._lock:
            newest_first = list(reversed(self._entries))
        return [
            entry
            for entry in newest_first
            if ends_with(entry["path"], path)
            and status in (None, entry["status"])
            and method.upper() in ("", entry["method"])
        ]


def add_response(workspaces: "Workspaces", response: Response) -> Response:
    """Add every request to the API, whatever its response, but never its Authorization header.

    A path that does not exist is added too: it is a misspelt one of the API.
    """
    rule = request.url_rule
    if rule and rule.endpoint.startswith(("sandbox", "page.")):
        return response
    if rule and request.blueprint is None:
        return response
    body = b""
    if "fault" in g or response.status_code not in BODY_LEFT_UNREAD:
        with suppress(HTTPException, OSError):  # the latter if it was cut off
            body = request.get_data()
    workspace_of(workspaces).journal.add(
        time=datetime.now(UTC).replace(microsecond=0),
        method=request.method,
        path=request.path[:MAX_TEXT],
        status=response.status_code,
        milliseconds=round((time.monotonic() - g.began) * 1000, 1),
        content_type=request.content_type and request.content_type[:MAX_TEXT],
        request_body=body[:MAX_BODY],
        response_body=response.get_data()[:MAX_BODY],
        reason=reason(response),
        fault="fault" in g,
    )
    workspaces.changed()
    return response


def workspace_of(workspaces: "Workspaces"):
    """Return the workspace of the request's token, that of `sandbox` if none is open."""
    if token := g.get("token"):
        return workspaces.named(token.name)
    secret = request.headers.get("Authorization", "").partition(" ")[2]
    return workspaces.named(workspaces.name_of(secret))


def reason(response: Response) -> str | None:
    """Return why a request was refused, in one line."""
    if response.status_code < 400:
        return None
    body = response.get_json()
    if "errors" not in body:
        return body["error"]
    errors = [f"{field}: {' '.join(texts)}" for field, texts in body["errors"].items()]
    return " ".join(errors)[:MAX_TEXT]


def ends_with(path: str, end: str) -> bool:
    """Return whether that is the path, or its last parts: /me is /api/v1/me and /v1/me."""
    return not end or f"/{path}".endswith(f"/{end.strip('/')}")


def readable(body: bytes) -> Any:
    """Return the JSON value that a body holds, or its text when it holds none."""
    if not body:
        return None
    try:
        return schemas.parse_json(body)
    except schemas.BadJSON:
        return body.decode(errors="replace")


class JournalQuery(schemas.Body):
    """The query string of GET /sandbox/requests."""

    limit = fields.Integer(load_default=MAX_ENTRIES, validate=validate.Range(1, MAX_ENTRIES))
    path = fields.String()
    status = fields.Integer(validate=validate.Range(100, 599))
    method = fields.String()
    min = fields.Integer(load_default=0, validate=validate.Range(0, MAX_ENTRIES))
    timeout = fields.Float(load_default=0, validate=validate.Range(0, MAX_WAIT_SECONDS))


class Bytes(fields.Field):
    def _serialize(self, value, attr, obj, **kwargs):
        return readable(value)


class Entry(Schema):
    """A request as GET /sandbox/requests shows it."""

    id = fields.Integer()
    time = fields.AwareDateTime(format="iso")
    method = fields.String()
    path = fields.String()
    status = fields.Integer()
    milliseconds = fields.Float()
    request_body = Bytes()
    response_body = Bytes()
    reason = fields.String()
    fault = fields.Boolean()


def make_blueprint(workspaces: "Workspaces") -> Blueprint:
    """Return the endpoints that show and empty the journal."""
    blueprint = Blueprint("sandbox_journal", __name__, url_prefix="/sandbox/requests")
    query, response = JournalQuery(), Entry(many=True)

    @blueprint.get("")
    def list_requests():
        """Return the journal, newest first, once `min` entries match or the time is over."""
        filters = query.load(request.args.to_dict())
        limit, least = filters.pop("limit"), filters.pop("min")
        deadline = g.began + filters.pop("timeout")
        journal = workspaces.get(g.token).journal
        while len(journal.entries(**filters)) < least and time.monotonic() < deadline:
            pause(POLL_SECONDS)
        leave_the_loop()  # there may be 4 MiB to write
        text = compact_json(response.dump(journal.entries(**filters)[:limit]))
        # A request's body may hold lone surrogates, which UTF-8 can't carry.
        return Response(text.encode(errors="backslashreplace"), mimetype="application/json")

    @blueprint.delete("")
    def clear_requests():
        """Empty the journal."""
        workspaces.get(g.token).journal.clear()
        workspaces.changed()
        return "", 204

    return blueprint
