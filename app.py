"""The service: configuration, authentication, error answers and the calls of the API."""

import hashlib
import hmac
import json
import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any

import click
import phonenumbers
from flask import Blueprint, Flask, Request, Response, current_app, g, request
from flask.json.provider import DefaultJSONProvider
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from werkzeug.exceptions import (
    ClientDisconnected,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
)
from werkzeug.routing import MapAdapter

import openapi
import schemas
from store import (
    DEFAULT_WORKSPACE,
    DEPLOYMENT_FILE,
    SANDBOX_FILE,
    ContactNotFound,
    MetadataTooLarge,
    NotOnDisk,
    Store,
    StoreUnavailable,
    Token,
    TooManyTags,
    UnusableDatabase,
)

BODY_LIMIT = 1024 * 1024
API_PREFIXES = {"/api/v1": "api", "/v1": "v1"}
RETRY_AFTER_SECONDS = 1
# On every answer: no cache on the way keeps a contact, no browser takes JSON for a page.
ANSWER_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

error_log = logging.getLogger("contacts.error")

api = Blueprint("api", __name__)

update_contact_body = schemas.UpdateContact()
create_contact_body = schemas.CreateContact()
get_contact_body = schemas.GetContact()
search_contacts_body = schemas.SearchContacts()
tag_body = schemas.TagContact()
updated_contact_answer = schemas.UpdatedContact()
contact_answer = schemas.Contact()
found_contacts_answer = schemas.FoundContact(many=True)
tag_added_answer = schemas.TagAdded()
tag_removed_answer = schemas.TagRemoved()
me_answer = schemas.Me()


def create_app(settings: Mapping[str, str] = os.environ, *, sandbox: bool = False) -> Flask:
    """The WSGI application. `settings` are read as the environment's variables are.

    Raises click.ClickException, which names the setting, for a wrong value. The database is
    opened by the first request, or by `flask serve` before it.
    """
    import cli  # which imports this module for its commands

    app = Service(__name__, static_folder=None)
    app.json = CompactJSON(app)
    app.url_map.merge_slashes = False
    app.config.update(read_settings(settings))
    app.config.update(PROVIDE_AUTOMATIC_OPTIONS=False, ACCESS_LOG=None)
    if not app.config["CONTACTS_DATABASE"]:
        instance = Path(app.instance_path)
        with suppress(OSError):  # the store says it, if that keeps it from its file
            instance.mkdir(mode=0o700, exist_ok=True)
        app.config["CONTACTS_DATABASE"] = instance / ("sandbox.db" if sandbox else "contacts.db")
    store = app.extensions["store"] = Store(
        app.config["CONTACTS_DATABASE"],
        synchronous=app.config["CONTACTS_SYNCHRONOUS"],
        application_id=SANDBOX_FILE if sandbox else DEPLOYMENT_FILE,
    )
    default_workspace = cache(partial(store.open_workspace, DEFAULT_WORKSPACE))
    app.extensions["find_token"] = token_finder(app, default_workspace)
    app.extensions["peek_token"] = token_finder(app, lambda: 0)  # opens none, and so never waits
    app.extensions["rate_limit"] = RateLimit(app.config["CONTACTS_RATE_LIMIT"])
    app.extensions["identify"] = identify
    app.extensions["read"] = read
    app.extensions["rehearse"] = lambda: None
    for prefix, name in API_PREFIXES.items():
        app.register_blueprint(api, url_prefix=prefix, name=name)
    app.add_url_rule("/healthz", view_func=healthz)
    if sandbox:
        import sandbox as room  # which nobody else loads

        room.init_app(app)
    app.extensions["path_words"] = {
        part for rule in app.url_map.iter_rules() for part in rule.rule.split("/")
    }
    app.wsgi_app = answered(app)
    if app.config["CONTACTS_RATE_LIMIT"]:
        app.after_request(show_rate_limit)
    for error, handler in ERROR_HANDLERS.items():
        app.register_error_handler(error, handler)
    cli.init_app(app)
    return app


class Service(Flask):
    """Flask, without reading the host of a request: none of our routes looks at it."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None:
            return None
        root, path = f"{request.root_path}/", request.path
        return MapAdapter(self.url_map, "", root, "", request.scheme, path, request.method)


# Configuration


class Settings(Schema):
    """The environment variables that the service reads, with their defaults."""

    class Meta:
        unknown = EXCLUDE

    QYVO_TOKEN = fields.String(
        load_default=None,
        validate=validate.Regexp(r"[\x21-\x7e]+\Z", error="Must be ASCII without spaces."),
    )
    CONTACTS_DATABASE = fields.String(load_default=None)
    CONTACTS_DEFAULT_REGION = fields.String(
        load_default=None,
        validate=validate.OneOf(
            phonenumbers.SUPPORTED_REGIONS, error="Must be an ISO 3166 country such as FR."
        ),
    )
    CONTACTS_SYNCHRONOUS = fields.String(
        load_default="FULL", validate=validate.OneOf(["FULL", "NORMAL"])
    )
    CONTACTS_RATE_LIMIT = fields.Integer(load_default=None, validate=validate.Range(1, 1_000_000))
    CONTACTS_THREADS = fields.Integer(load_default=4, validate=validate.Range(1, 64))
    CONTACTS_TRUSTED_PROXY = fields.IP(load_default=None)


def read_settings(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings with their defaults; an empty value counts as none given."""
    try:
        return Settings().load({name: value for name, value in environment.items() if value})
    except ValidationError as error:
        name, [text, *_] = next(iter(error.messages.items()))
        raise click.ClickException(f"{name}: {text}") from error


# Who calls


def token_finder(app: Flask, workspace_id: Callable[[], int]) -> Callable[[str], Token | None]:
    """Looks a bearer token up among those of the database and QYVO_TOKEN, which is of
    the workspace `workspace_id()`.
    """
    store: Store = app.extensions["store"]
    if not app.config["QYVO_TOKEN"]:
        return store.find_token
    configured = hashlib.sha256(app.config["QYVO_TOKEN"].encode()).digest()

    def find_token(secret: str) -> Token | None:
        if hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), configured):
            return Token(0, "QYVO_TOKEN", workspace_id())
        return store.find_token(secret)

    return find_token


def bearer(find_token: Callable[[str], Token | None], authorization: str | None) -> Token | None:
    """Whose token an Authorization header carries; None for a header that is missing or wrong."""
    match = _BEARER.fullmatch(authorization or "")
    return find_token(match[1]) if match else None


_BEARER = re.compile(r"bearer ([\x21-\x7e]+)", re.IGNORECASE)


def identify() -> Token:
    """Finds out who calls, and puts it into `g.token` too. Raises Unauthorized."""
    g.token = None  # for what follows when the database does not answer
    authorization = request.environ.get("HTTP_AUTHORIZATION")
    g.token = token = bearer(current_app.extensions["find_token"], authorization)
    if token is None:
        raise Unauthorized
    return token


@api.before_request
def admit():
    """Decides before a byte of the body is read (ours)."""
    app = current_app._get_current_object()
    if getattr(app.view_functions[request.endpoint], "public", False):
        return
    token = identify()
    app.extensions["rate_limit"].count(token)
    app.extensions["rehearse"]()


def refuses_by_header(app: Flask, path: str, headers: Mapping[str, str]) -> bool:
    """Whether path and header alone settle that it is refused, so that its body can be left.

    `headers` are keyed as in CGI without the HTTP_ prefix: AUTHORIZATION, CONTENT_LENGTH.
    Waits for nothing: the server asks for it between two reads.
    """
    if int(headers.get("CONTENT_LENGTH", 0)) > BODY_LIMIT:
        return True
    token = bearer(app.extensions["peek_token"], headers.get("AUTHORIZATION"))
    if token is None:
        return True
    return path.startswith(tuple(API_PREFIXES)) and app.extensions["rate_limit"].is_used_up(token)


class RateLimit:
    """So many requests in any 60 seconds for each token; without a number, any number of them.

    Each process counts by itself.
    """

    def __init__(self, per_minute: int | None):
        self._limit = per_minute
        # When the requests of the last minute were admitted, by a clock that nobody sets.
        self._admitted: dict[tuple[int, str], deque[float]] = {}
        self._lock = threading.Lock()

    def count(self, token: Token):
        """Raises TooManyRequests, with the seconds after which a request is answered again."""
        if not self._limit:
            return
        now = time.monotonic()
        with self._lock:
            admitted = self._admitted.setdefault(_key(token), deque())
            while admitted and admitted[0] <= now - 60:
                admitted.popleft()
            wait = admitted[0] + 60 - now if len(admitted) == self._limit else 0
            if not wait:
                admitted.append(now)
            remaining = self._limit - len(admitted)
        g.rate_limit_headers = {
            "X-RateLimit-Limit": str(self._limit),
            "X-RateLimit-Remaining": str(remaining),
        }
        if wait:
            raise TooManyRequests(retry_after=math.floor(wait) + 1)

    def is_used_up(self, token: Token) -> bool:
        """Whether count() would refuse, without counting."""
        with self._lock:
            admitted = self._admitted.get(_key(token), ())
            return len(admitted) == self._limit and admitted[0] > time.monotonic() - 60

    def forget(self, token: Token):
        """Free what is kept for a token that is no more."""
        with self._lock:
            self._admitted.pop(_key(token), None)


def _key(token: Token) -> tuple[int, str]:
    return token.id, token.name


def show_rate_limit(response: Response) -> Response:
    """On every answer to a request that was counted."""
    response.headers.update(g.get("rate_limit_headers", {}))
    return response


def public(view):
    """The view may be called without a token."""
    view.public = True
    return view


# What goes in and out


class CompactJSON(DefaultJSONProvider):
    """JSON as UTF-8 text in the order that the schemas give it."""

    _encode = staticmethod(
        json.JSONEncoder(
            ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat
        ).encode
    )

    def response(self, value: Any, status: int = 200) -> Response:
        """A refused field's name may hold lone surrogates: those are escaped."""
        body = self._encode(value).encode(errors="backslashreplace") + b"\n"
        return Response(body, status, content_type="application/json")


def takes(schema: schemas.Body):
    """The view gets what the schema reads from the request's JSON body, as keyword arguments."""

    def decorate(view):
        @wraps(view)
        def wrapper():
            return view(**read(schema))

        wrapper.takes = schema
        return wrapper

    return decorate


def read(schema: schemas.Body) -> dict[str, Any]:
    """What the schema reads from the request's JSON body."""
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    return schema.read(read_json())


def gives(schema: Schema, status: int = 200):
    """The view's contact is answered in the shape of the schema."""

    def decorate(view):
        @wraps(view)
        def wrapper(**kwargs):
            return current_app.json.response(schema.dump(view(**kwargs)), status)

        wrapper.gives = schema, status
        return wrapper

    return decorate


def read_json() -> dict[str, Any]:
    """The JSON object in the request's body; raises what answers 413, 415, 503, 400 and 422."""
    call = request._get_current_object()
    length = call.content_length
    if length is None:
        call.max_content_length = BODY_LIMIT
    elif length > BODY_LIMIT:
        raise RequestEntityTooLarge
    if call.environ.get("CONTENT_TYPE") != "application/json" and not call.is_json:
        raise UnsupportedMediaType
    body = call.get_data()
    if len(body) < (length or 0):
        raise ClientDisconnected
    document = schemas.parse_json(body)
    if not isinstance(document, dict):
        raise ValidationError("The body must be a JSON object.", "body")
    return document


# Errors


def refusal(
    status: int,
    text: str,
    headers: Mapping[str, str] | None = None,
    errors: Mapping[str, list[str]] | None = None,
) -> Response:
    """An error as the contract shows it: the same text under both keys the vendor uses."""
    answer = {"error": text, "message": text}
    if errors:
        answer["errors"] = errors
    response = current_app.json.response(answer)
    response.status_code = status
    response.headers.update(headers or {})
    return response


def invalid(errors: Mapping[str, list[str]]) -> Response:
    return refusal(422, "The given data was invalid.", errors=errors)


def server_error(error: Exception) -> Response:
    error_log.error(
        "%s %s failed", request.method, loggable_path(current_app, request.environ), exc_info=error
    )
    return refusal(500, "Server error")


def unavailable(text: str, error: Exception) -> Response:
    error_log.error(
        "%s %s: %s",
        request.method,
        loggable_path(current_app, request.environ),
        error.__cause__ or error,
    )
    return refusal(503, text, {"Retry-After": str(RETRY_AFTER_SECONDS)})


ERROR_HANDLERS: dict[type[Exception], Callable[[Any], Response]] = {
    schemas.BadJSON: lambda error: refusal(400, f"The body {error}."),
    Unauthorized: lambda _: refusal(401, "Unauthenticated.", {"WWW-Authenticate": "Bearer"}),
    ContactNotFound: lambda _: refusal(404, "Contact not found"),
    NotFound: lambda _: refusal(404, "Not found"),
    MethodNotAllowed: lambda error: refusal(
        405, "Method not allowed", {"Allow": ", ".join(sorted(error.valid_methods))}
    ),
    RequestEntityTooLarge: lambda _: refusal(
        413, f"The body is larger than {BODY_LIMIT} bytes (1 MiB): send less."
    ),
    UnsupportedMediaType: lambda _: refusal(
        415, "Send JSON, with the header Content-Type: application/json."
    ),
    # The server left the body because the header was refused, and a moment later it was not.
    ClientDisconnected: lambda error: unavailable("The body was not read: try again.", error),
    TooManyRequests: lambda error: refusal(
        429, "Too many requests", {"Retry-After": str(error.retry_after)}
    ),
    ValidationError: lambda error: invalid(error.normalized_messages()),
    TooManyTags: lambda _: invalid(
        {"tag": [f"The contact has {schemas.TagList.most_tags} tags already: remove one first."]}
    ),
    MetadataTooLarge: lambda error: invalid({error.field: [str(error)]}),
    StoreUnavailable: lambda error: unavailable(str(error), error),
    NotOnDisk: lambda error: unavailable(
        "The disk has failed. Whether this was written is not known: look before trying again.",
        error,
    ),
    UnusableDatabase: lambda error: unavailable(
        "The database can't be used. Nothing was written; try again later.", error
    ),
    HTTPException: lambda error: refusal(error.code, error.description),
    Exception: server_error,
}


# Around every request


def answered(app: Flask) -> Callable:
    """The WSGI application with what each answer gets: its headers, and its line in the log."""
    inner = app.wsgi_app
    headers_of_all = list(ANSWER_HEADERS.items())

    def wsgi_app(environ, start_response):
        started = time.perf_counter()

        def start(status, headers):
            if app.config["ACCESS_LOG"] and "unlogged" not in g:
                log_answer(app, environ, status, time.perf_counter() - started)
            return start_response(status, headers + headers_of_all)

        return inner(environ, start)

    return wsgi_app


def log_answer(app: Flask, environ: Mapping[str, Any], status: str, seconds: float):
    """One line: time, method, path, status, milliseconds, the token's name, the client."""
    method = environ["REQUEST_METHOD"]
    token = g.get("token")
    line = (
        f"{datetime.now(UTC).isoformat(timespec='milliseconds')}"
        f" {method if _METHOD.fullmatch(method) else '…'} {loggable_path(app, environ)}"
        f" {status[:3]} {seconds * 1000:.1f}ms {token.name if token else '-'}"
        f" {client_address(app, environ)}\n"
    )
    with suppress(OSError):  # a full disk must not take the answer with it
        app.config["ACCESS_LOG"].write(line)


def client_address(app: Flask, environ: Mapping[str, Any]) -> str:
    """Who holds the connection or, if that is the trusted proxy, whom the proxy names."""
    peer = environ.get("REMOTE_ADDR", "-")
    proxy = app.config["CONTACTS_TRUSTED_PROXY"]
    if proxy is None or peer != str(proxy):
        return peer
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
    return forwarded if _ADDRESS.fullmatch(forwarded) else peer


def loggable_path(app: Flask, environ: Mapping[str, Any]) -> str:
    """The path without the parts that no call's path has: one may be a secret or a phone number."""
    words = app.extensions["path_words"]
    parts = environ["PATH_INFO"][:500].split("/")
    return "/".join([part if part in words else "…" for part in parts])


_METHOD = re.compile(r"[A-Z]{1,16}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")


# The calls


@api.post("/actions/update-contact")
@takes(update_contact_body)
@gives(updated_contact_answer)
def update_contact(**fields):
    """Write the fields that are given to the contact with that id or phone."""
    return store().update_contact(g.token.workspace_id, **fields)


@api.post("/actions/create-contact")
@takes(create_contact_body)
@gives(updated_contact_answer, 201)
def create_contact(**fields):
    """Make a contact, or update the one that has the phone."""
    return store().create_contact(g.token.workspace_id, **fields)


@api.post("/actions/get-contact")
@takes(get_contact_body)
@gives(contact_answer)
def get_contact(**reference):
    """Return all that is known of the contact with that id, phone or email."""
    return store().get_contact(g.token.workspace_id, **reference)


@api.post("/actions/search-contacts")
@takes(search_contacts_body)
@gives(found_contacts_answer)
def search_contacts(**filters):
    """List at most 50 contacts that meet every filter, most recently updated first."""
    return store().search_contacts(g.token.workspace_id, **filters)


@api.post("/actions/add-tag")
@takes(tag_body)
@gives(tag_added_answer)
def add_tag(tag, **reference):
    """Add one tag to the contact with that id or phone."""
    contact = store().add_tag(
        g.token.workspace_id, tag=tag, most_tags=schemas.TagList.most_tags, **reference
    )
    return {**contact, "tag_added": tag}


@api.post("/actions/remove-tag")
@takes(tag_body)
@gives(tag_removed_answer)
def remove_tag(tag, **reference):
    """Remove one tag from the contact with that id or phone."""
    return {
        **store().remove_tag(g.token.workspace_id, tag=tag, **reference),
        "tag_removed": tag,
    }


@api.get("/me")
@gives(me_answer)
def me():
    """Say whose token it is: the cheapest way to try one."""
    return {
        "id": g.token.id,
        "email": f"token-{g.token.id}@qyvo-standin.invalid",
        "name": g.token.name,
        "tenant": store().workspace(g.token.workspace_id),
    }


@api.get("/openapi.json")
@public
def openapi_json():
    """Return the OpenAPI document of every call."""
    return openapi.document(current_app._get_current_object())


def healthz():
    """For a load balancer: whether the database answers."""
    try:
        store().ping()
    except Exception as error:
        return unavailable("The database does not answer.", error)
    return {"status": "ok"}


def store() -> Store:
    return current_app.extensions["store"]


if __name__ == "__main__":
    from cli import main

    main()
