"""What only a developer's stand-in needs.

Sample contacts, a workspace for every token, a journal of what arrived, failures on request, and a
page that shows it all. A deployment never loads this module.
"""

import ipaddress
import itertools
import json
import re
import secrets
import shlex
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Flask, Request, Response, current_app, g, render_template, request
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from marshmallow.exceptions import SCHEMA
from werkzeug.exceptions import (
    BadGateway,
    Forbidden,
    GatewayTimeout,
    HTTPException,
    InternalServerError,
    TooManyRequests,
    Unauthorized,
)

import schemas
from store import (
    BUSY,
    BUSY_SECONDS,
    DEFAULT_WORKSPACE,
    METADATA_LIMIT,
    SEARCH_LIMIT,
    ContactNotFound,
    FairLock,
    MetadataTooLarge,
    Store,
    StoreUnavailable,
    Token,
    UnusableDatabase,
)

# Numbers that regulators keep for fiction; the first contact is the documentation's own example.
SAMPLE_CONTACTS = [
    {
        "phone": "+14155550123",
        "name": "Romain",
        "email": "romain@example.com",
        "tags": ["vip"],
        "metadata": {"lifetime_value": 8900.5, "city": "Lyon"},
    },
    {
        "phone": "+33639980101",
        "name": "Élodie Martin",
        "email": "elodie@example.com",
        "tags": ["newsletter", "vip"],
        "metadata": {"language": "fr"},
    },
    {
        "phone": "+442079460958",
        "name": "Grace Okafor",
        "email": "grace@example.com",
        "tags": ["lead"],
        "metadata": {"source_campaign": "spring"},
    },
    {"phone": "+12025550147", "name": "Kenji Sato", "tags": ["support"]},
    {"phone": "+61491570156"},
]

# The name of the base token; the others' continue it as their tokens continue the base token.
BASE = "sandbox"
MOST_WORKSPACES = 200
MOST_REQUESTS = 500
SHOWN = 100
BODY_KEPT = 64 * 1024
TEXT_KEPT = 1000
BODIES_KEPT = 4 * 1024 * 1024
LONGEST_DELAY_MS = 60_000
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

control = Blueprint("sandbox", __name__, url_prefix="/sandbox")
inspector = Blueprint(
    "inspector",
    __name__,
    template_folder="templates",
    static_folder="templates/static",
    static_url_path="/inspector",
)


def init_app(app: Flask):
    """Turns the application into a sandbox, which answers to loopback names alone.

    Whoever binds it to another address sets LOOPBACK_ONLY to False.
    """
    app.config["SANDBOX_TOKEN"] = app.config["QYVO_TOKEN"] or "sandbox"
    app.config["LOOPBACK_ONLY"] = True
    app.request_class = JournalRequest
    app.extensions["workspaces"] = Workspaces(app)
    app.extensions["find_token"] = app.extensions["workspaces"].find_token
    app.extensions["peek_token"] = app.extensions["workspaces"].peek_token
    app.extensions["rehearse"] = rehearse
    app.before_request(start_clock)
    app.before_request(refuse_other_sites)
    app.after_request(keep_in_journal)
    app.register_blueprint(control)
    app.register_blueprint(inspector)


# Workspaces


class Workspace:
    """What is known of a workspace beside its contacts."""

    def __init__(self, token: Token | None = None):
        self.token = token
        self.journal = Journal()
        self.faults = Faults()


class Workspaces:
    """Gives the base token, and each that continues it after a hyphen, a workspace of its own.

    A workspace is made, with the sample contacts, when its token is first seen. Beyond
    MOST_WORKSPACES the longest unused is dropped; the base token's stays. Names never hold the
    base token, which may be a secret.
    """

    def __init__(self, app: Flask):
        self._store: Store = app.extensions["store"]
        self._rate_limit = app.extensions["rate_limit"]
        self._secret = app.config["SANDBOX_TOKEN"]
        self._lock = threading.Lock()
        self._opening = FairLock()
        self._loaded = False
        self.base = Workspace()
        self._by_name = OrderedDict({BASE: self.base})  # the longest unused first
        self._changes = itertools.count(time.time_ns())
        self.changed()

    def find_token(self, secret: str) -> Token | None:
        """Whose bearer token that is. Asking counts as use of the workspace."""
        name = self._name(secret)
        if name is None:
            return None
        return self._use(name) or self._open(name)

    def peek_token(self, secret: str) -> Token | None:
        """The same without waiting: a workspace that is not open yet is given as number 0."""
        name = self._name(secret)
        return Token(0, name, 0) if name else None

    def _name(self, secret: str) -> str | None:
        match = re.fullmatch(re.escape(self._secret) + r"(-.{1,200})?", secret)
        return BASE + (match[1] or "") if match else None

    def _use(self, name: str) -> Token | None:
        with self._lock:
            self._load()
            if name not in self._by_name:
                return None
            self._by_name.move_to_end(name)
            return self._by_name[name].token

    def _open(self, name: str) -> Token:
        # Others go on with the workspaces that are open.
        if not self._opening.acquire(BUSY_SECONDS, self._store.while_waiting):
            raise StoreUnavailable(BUSY)
        try:
            if token := self._use(name):
                return token
            self._make_room()
            stored_name = DEFAULT_WORKSPACE if name == BASE else name
            workspace_id = self._store.open_workspace(stored_name, SAMPLE_CONTACTS)
            with self._lock:
                workspace = self._by_name.setdefault(name, Workspace())
                workspace.token = Token(0, name, workspace_id)
                self.changed()
                return workspace.token
        finally:
            self._opening.release()

    def secret(self, name: str) -> str:
        """The bearer token of the workspace with that name."""
        return self._secret + name.removeprefix(BASE)

    def names(self) -> list[str]:
        """Every workspace's name, the base token's first."""
        with self._lock:
            self._load()
            return sorted(self._by_name)

    def get(self, name: str) -> Workspace | None:
        """The workspace of that name, if there is one."""
        return self._by_name.get(name)

    def current(self) -> Workspace:
        """The workspace of the caller; the base token's when the caller is nobody's."""
        if "token" not in g:
            with suppress(StoreUnavailable, UnusableDatabase, Unauthorized):
                identify()
        return self._by_name.get(g.token.name, self.base) if g.get("token") else self.base

    def changed(self):
        """Tell the page that there is something new to show."""
        self.version = str(next(self._changes))

    def _load(self):
        if not self._loaded:
            for name, workspace_id in self._store.list_workspaces().items():
                if name.startswith(f"{BASE}-"):
                    self._by_name[name] = Workspace(Token(0, name, workspace_id))
            self._loaded = True

    def _make_room(self):
        while len(self._by_name) >= MOST_WORKSPACES:
            with self._lock:
                oldest = next(name for name in self._by_name if name != BASE)
                token = self._by_name.pop(oldest).token
            self._rate_limit.forget(token)
            self._store.delete_workspace(token.workspace_id)


def workspaces() -> Workspaces:
    return current_app.extensions["workspaces"]


def identify():
    """The API's own authentication: puts who calls into `g.token`, or raises Unauthorized."""
    current_app.extensions["identify"]()


def read(schema: schemas.Body) -> dict[str, Any]:
    """What the schema reads from the body, by the API's own rules for bodies."""
    return current_app.extensions["read"](schema)


# The journal


class JournalRequest(Request):
    """Remembers its body, once something has read it."""

    body: bytes | None = None

    def get_data(self, *args: Any, **kwargs: Any) -> bytes:
        self.body = super().get_data(*args, **kwargs)
        return self.body


class Journal:
    """The last MOST_REQUESTS requests to the API with their answers.

    Fewer when all their bodies together exceed BODIES_KEPT bytes.
    """

    def __init__(self):
        self._entries = deque()
        self._size = 0
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, **entry: Any):
        with self._lock:
            self._entries.append({"id": next(self._ids), **entry})
            self._size += self._size_of(entry)
            while len(self._entries) > MOST_REQUESTS or self._size > BODIES_KEPT:
                self._size -= self._size_of(self._entries.popleft())

    def clear(self):
        with self._lock:
            self._entries.clear()
            self._size = 0

    def _size_of(self, entry: dict[str, Any]) -> int:
        return len(entry["request_body"] or b"") + len(entry["response_body"])

    def entries(
        self, limit: int = MOST_REQUESTS, path: str | None = None, status: int | None = None
    ) -> list[dict[str, Any]]:
        """Newest first; those alone whose path ends with `path` and whose status is `status`."""
        with self._lock:
            entries = [
                entry
                for entry in reversed(self._entries)
                if ends_with(entry["path"], path) and status in (None, entry["status"])
            ]
        return entries[:limit]


def start_clock():
    g.started = time.perf_counter()


def keep_in_journal(response: Response) -> Response:
    """Every request to the API, answered or refused; never its Authorization header.

    A path that nobody answers is kept too: it is a mistyped one of the API.
    """
    if request.url_rule is None or request.blueprint not in (None, control.name, inspector.name):
        if "fault" in g or request.url_rule is None:
            with suppress(HTTPException):
                request.get_data()  # nobody else reads it
        workspaces().current().journal.add(
            time=datetime.now(UTC).replace(microsecond=0),
            method=request.method,
            path=request.path[:TEXT_KEPT],
            status=response.status_code,
            milliseconds=round((time.perf_counter() - g.started) * 1000, 1),
            content_type=request.content_type and request.content_type[:TEXT_KEPT],
            request_body=request.body and request.body[:BODY_KEPT],
            response_body=response.get_data()[:BODY_KEPT],
            reason=reason(response),
            fault="fault" in g,
        )
        workspaces().changed()
    elif request.method not in ("GET", "HEAD"):
        workspaces().changed()
    return response


def reason(response: Response) -> str | None:
    """Why a call was refused, in one line."""
    if response.status_code < 400:
        return None
    answer = response.get_json()
    if "errors" not in answer:
        return answer["error"]
    errors = [f"{field}: {' '.join(texts)}" for field, texts in answer["errors"].items()]
    return " ".join(errors)[:TEXT_KEPT]


def ends_with(path: str, end: str | None) -> bool:
    """Whether that is the path, or its last parts: /me is /api/v1/me and /v1/me."""
    return not end or f"/{path}".endswith(f"/{end.strip('/')}")


def readable(body: bytes | None) -> Any:
    """The JSON value that a body holds, or its text when it holds none."""
    if not body:
        return None
    try:
        return schemas.parse_json(body)
    except schemas.BadJSON:
        return body.decode(errors="replace")


class JournalFilter(schemas.Body):
    """The query string of GET /sandbox/requests."""

    limit = fields.Integer(validate=validate.Range(1, MOST_REQUESTS))
    path = fields.String()
    status = fields.Integer(validate=validate.Range(100, 599))


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


# Faults


REHEARSED = {"phone": ["A fault that the sandbox was asked for."]}

FAULTS: dict[int, Callable[[], Exception]] = {
    401: Unauthorized,
    404: ContactNotFound,
    422: lambda: ValidationError(REHEARSED),
    429: lambda: TooManyRequests(retry_after=1),
    500: lambda: InternalServerError("Server error"),
    502: BadGateway,
    503: lambda: StoreUnavailable(BUSY),
    504: GatewayTimeout,
}


def is_a_call(path: str):
    rules = current_app.url_map.iter_rules()
    calls = [rule.rule for rule in rules if rule.endpoint.startswith("api.")]
    if not path or not any(ends_with(call, path) for call in calls):
        raise ValidationError("Must be a call, for example /actions/update-contact.")


class Fault(schemas.Body):
    """The body of PUT /sandbox/faults."""

    status = fields.Integer(strict=True, validate=validate.OneOf(FAULTS))
    times = fields.Integer(strict=True, validate=validate.Range(1, 1_000_000))
    delay_ms = fields.Integer(strict=True, validate=validate.Range(0, LONGEST_DELAY_MS))
    probability = fields.Float(load_default=1.0, validate=validate.Range(0, 1, min_inclusive=False))
    path = fields.String(validate=is_a_call)

    def check(self, values):
        if not values.keys() & {"status", "delay_ms"}:
            text = "Pass status or delay_ms: at least one of them is required."
            raise ValidationError({"status": [text], "delay_ms": [text]})


class Faults:
    """The fault that a workspace's calls meet, if any."""

    def __init__(self):
        self._lock = threading.Lock()
        self.arm(None)

    def arm(self, fault: dict[str, Any] | None):
        """None disarms."""
        with self._lock:
            self._armed = fault
            self._struck = 0

    def strike(self, path: str) -> dict[str, Any] | None:
        """The fault, if it is armed for this call and its turn has come."""
        with self._lock:
            fault = self._armed
            if (
                fault is None
                or not ends_with(path, fault.get("path"))
                or secrets.SystemRandom().random() >= fault["probability"]
            ):
                return None
            self._struck += 1
            if self._struck == fault.get("times"):
                self._armed = None
            return fault

    def state(self) -> dict[str, Any]:
        """What is armed, None when nothing is, and how often it has struck since it was."""
        with self._lock:
            return {"armed": self._armed, "struck": self._struck}


def rehearse():
    """Delays or fails the call, as the caller has asked for."""
    fault = workspaces().current().faults.strike(request.path)
    if fault is None:
        return
    g.fault = fault
    if fault.get("delay_ms"):
        with store().while_waiting():
            time.sleep(fault["delay_ms"] / 1000)
        identify()  # again: in the meantime the workspace may have been dropped
    if "status" in fault:
        raise FAULTS[fault["status"]]()


# /sandbox


class Reset(schemas.Body):
    """The body of POST /sandbox/reset, which may be left out."""

    contacts = fields.List(
        fields.Nested(schemas.CreateContact), load_default=lambda: SAMPLE_CONTACTS
    )


journal_filter = JournalFilter()
entries_answer = Entry(many=True)
fault_body = Fault()
reset_body = Reset()

control.before_request(identify)


@control.get("/requests")
def list_requests():
    """The journal, newest first."""
    filters = journal_filter.load(request.args.to_dict())
    return entries_answer.dump(workspaces().current().journal.entries(**filters))


@control.delete("/requests")
def clear_requests():
    """Empty the journal."""
    workspaces().current().journal.clear()
    return "", 204


@control.post("/reset")
def reset():
    """Put contacts back as they were, or as the body has them; empty journal and faults."""
    try:
        load_contacts(**(read(reset_body) if request.content_length else reset_body.load({})))
    except ValidationError as error:
        raise ValidationError(dict(flat(error.normalized_messages()))) from error
    workspace = workspaces().current()
    workspace.journal.clear()
    workspace.faults.arm(None)
    return "", 204


def load_contacts(contacts: list[dict[str, Any]]):
    try:
        store().replace_contacts(g.token.workspace_id, contacts)
    except MetadataTooLarge as error:
        text = f"It exceeds {METADATA_LIMIT} bytes (64 KiB)."
        raise ValidationError({"contacts": {error.position: {"metadata": [text]}}}) from error


def flat(errors: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """The texts of nested fields under names such as contacts.0.phone."""
    for field, texts in errors.items():
        name = prefix if field == SCHEMA else f"{prefix}.{field}".lstrip(".")
        if isinstance(texts, dict):
            yield from flat(texts, name)
        else:
            yield name, texts


@control.get("/faults")
def show_faults():
    """What is armed, and how often it has struck."""
    return workspaces().current().faults.state()


@control.put("/faults")
def arm():
    """Arm this fault in place of any other."""
    faults, fault = workspaces().current().faults, read(fault_body)
    faults.arm({name: fault[name] for name in fault_body.fields if name in fault})
    return faults.state()


@control.delete("/faults")
def disarm():
    """Let all be well again."""
    workspaces().current().faults.arm(None)
    return "", 204


def store() -> Store:
    return current_app.extensions["store"]


# The page


class View(Schema):
    """The query string of the page: what it shows."""

    class Meta:
        unknown = EXCLUDE

    workspace = fields.String(load_default=BASE)
    q = schemas.Text(load_default="")
    contact = fields.String(load_default=None)
    request = fields.Integer(load_default=None)


view_query = View()
contact_answer = schemas.Contact()


@inspector.before_request
def leave_out_of_the_log():
    """The page looks for news twice a second."""
    g.unlogged = True


@inspector.get("/")
def page():
    """All that the sandbox knows of one workspace. Without news since its ETag, a 304."""
    view = view_query.load(request.args.to_dict())
    names = workspaces().names()
    name = view["workspace"] if view["workspace"] in names else BASE
    secret = workspaces().secret(name)
    workspace_id = workspaces().find_token(secret).workspace_id
    version = workspaces().version  # before what it is the version of
    if version in request.if_none_match:
        return "", 304
    workspace = workspaces().get(name)
    entries = workspace.journal.entries()
    entry = next((e for e in entries if e["id"] == view["request"]), None)
    html = render_template(
        "inspector.html",
        view={**view, "workspace": name},
        names=names,
        secret=secret,
        url=request.host_url.rstrip("/"),
        contacts=store().search_contacts(workspace_id, query=view["q"]),
        contact=view["contact"] and opened_contact(workspace_id, view["contact"]),
        entries=entries[:SHOWN],
        entry=entry,
        curl=entry and as_curl(entry, request.host_url.rstrip("/"), secret),
        faults=workspace.faults.state(),
        statuses=sorted(FAULTS),
        longest_delay_ms=LONGEST_DELAY_MS,
        longest_query=view_query.fields["q"].limit,
        most_contacts=SEARCH_LIMIT,
        calls=sorted(
            r.rule.removeprefix("/v1")
            for r in current_app.url_map.iter_rules()
            if r.endpoint.startswith("v1.")
        ),
    )
    # What was refused may hold lone surrogates: those are escaped.
    response = Response(html.encode(errors="backslashreplace"), mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.set_etag(version)
    return response


def opened_contact(workspace_id: int, contact_id: str) -> dict[str, Any] | None:
    try:
        contact = store().get_contact(workspace_id, contact_id=contact_id)
    except ContactNotFound:
        return None
    return {**contact_answer.dump(contact), "updated_at": contact["updated_at"].isoformat()}


def as_curl(entry: dict[str, Any], url: str, secret: str) -> str:
    """The request as a command that sends it again."""
    method = ["--head"] if entry["method"] == "HEAD" else ["-X", entry["method"]]
    lines = [
        shlex.join(["curl", *method, url + quote(entry["path"])]),
        "-H " + shlex.quote(f"Authorization: Bearer {secret}"),
    ]
    if entry["content_type"]:
        lines.append("-H " + shlex.quote(f"Content-Type: {entry['content_type']}"))
    if entry["request_body"]:
        body = entry["request_body"].decode(errors="replace")
        lines.append("--data-raw " + shlex.quote(body))  # which takes no @file
    return " \\\n  ".join(lines)


@inspector.app_template_filter("pretty")
def pretty(body: bytes | None) -> str:
    """A body as it is best read: JSON indented, anything else as it came."""
    value = readable(body)
    if value is None or isinstance(value, str):
        return (body or b"").decode(errors="replace")
    return indented(value)


@inspector.app_template_filter("indented")
def indented(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


# Who may reach it


def is_loopback(name: str) -> bool:
    """Whether a Host header's name, without the port, is this machine's and no DNS name."""
    with suppress(ValueError):
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    return name.lower() == "localhost"


def refuse_other_sites():
    """A web page of another site must neither read nor change what is here.

    Names other than loopback's are refused, since by DNS rebinding they can lead a browser here.
    """
    name = re.sub(r":\d*$", "", request.headers.get("Host", ""))
    if current_app.config["LOOPBACK_ONLY"] and not is_loopback(name):
        raise Forbidden("The sandbox answers to 127.0.0.1 and localhost alone: use these.")
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    origin = request.headers.get("Origin")
    if (origin is not None and origin.partition("://")[2] != request.headers.get("Host")) or (
        request.headers.get("Sec-Fetch-Site") == "cross-site"
    ):
        raise Forbidden("The sandbox takes no changes from pages of other sites.")
