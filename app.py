"""The service: settings, authentication, error responses, and the endpoints of the API."""

import difflib
import hashlib
import hmac
import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import Any

import click
import phonenumbers
import platformdirs
from flask import Blueprint, Flask, Request, Response, current_app, g, make_response, request
from flask.json.provider import DefaultJSONProvider
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from marshmallow.exceptions import SCHEMA
from werkzeug import exceptions as http
from werkzeug.routing import MapAdapter

import openapi
import schemas
from store import (
    DEFAULT_WORKSPACE,
    DEPLOYMENT_FILE,
    SANDBOX_FILE,
    ContactNotFound,
    Refused,
    Store,
    StoreUnavailable,
    Token,
    UnusableDatabase,
    WorkspaceNotFound,
    compact_json,
    wait_until,
)

BODY_LIMIT = 1024 * 1024
API_PREFIXES = {"/api/v1": "api", "/v1": "v1"}
COUNTED_TOKENS = 10_000

error_log = logging.getLogger("contacts.error")

api = Blueprint("api", __name__)


def create_app(settings: Mapping[str, str] = os.environ, *, sandbox: bool = False) -> Flask:
    """Return the WSGI application. `settings` are read as environment variables are.

    Raises click.ClickException, which names the setting, for a wrong value. The database is
    opened by the first request.
    """
    app = Service(__name__, static_folder=None)
    app.json = ContactJSON(app)
    app.url_map.merge_slashes = False
    app.config.from_mapping(
        read_settings(settings),
        ACCESS_LOG=None,
        MAX_CONTENT_LENGTH=BODY_LIMIT + 1,  # where a longer body is cut off
        PROPAGATE_EXCEPTIONS=False,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    store = app.extensions["store"] = make_store(app.config, sandbox)
    rate_limit = RateLimit(app.config["CONTACTS_RATE_LIMIT"])
    app.before_request(start_clock)
    app.after_request(write_log)
    app.after_request(add_headers)
    if sandbox:
        import sandbox as stand_in  # which a deployment never loads

        stand_in.init_app(app, store, partial(admit, rate_limit=rate_limit), read_json)
    else:
        app.before_request(partial(admit, token_finder(app, store), rate_limit))
    for prefix, name in API_PREFIXES.items():
        app.register_blueprint(api, url_prefix=prefix, name=name)
    app.add_url_rule("/healthz", view_func=healthz)
    rules = app.url_map.iter_rules()
    app.config["PATH_WORDS"] = {word for rule in rules for word in rule.rule.split("/")}
    return app


# Settings


class Settings(Schema):
    """The environment variables that the service reads, with their defaults."""

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
    CONTACTS_THREADS = fields.Integer(load_default=2, validate=validate.Range(1, 64))
    CONTACTS_TRUSTED_PROXY = fields.IP(load_default=None)


def read_settings(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings with their defaults; an empty value counts as none.

    Raises click.ClickException for a wrong value, and for a name that is nearly a setting's.
    """
    for name in unknown_settings(environment):
        if near := difflib.get_close_matches(name.upper(), Settings().fields, 1, 0.88):
            raise click.ClickException(f"{name}: Not a setting. Did you mean {near[0]}?")
    try:
        given = {name: value for name, value in environment.items() if value}
        return Settings().load(given, unknown=EXCLUDE)
    except ValidationError as error:
        name, [text, *_] = next(iter(error.messages.items()))
        raise click.ClickException(f"{name}: {text}") from error


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """Return the names that begin as a setting's and are none."""
    names = {name for name, value in environment.items() if value and name.startswith("CONTACTS_")}
    return sorted(names - Settings().fields.keys())


def make_store(config: Mapping[str, Any], sandbox: bool) -> Store:
    """Return the store that the settings name, of a deployment or of a sandbox."""
    return Store(
        config["CONTACTS_DATABASE"] or default_database(sandbox),
        synchronous=config["CONTACTS_SYNCHRONOUS"],
        application_id=SANDBOX_FILE if sandbox else DEPLOYMENT_FILE,
    )


def default_database(sandbox: bool) -> Path:
    """Return the database that is used where CONTACTS_DATABASE names none.

    A checkout has it in instance/. An installed package must not: its folder goes with the next
    upgrade.
    """
    folder = Path(__file__).parent / "instance"
    if folder.with_name("__init__.py").exists():  # which package/ adds to the wheel
        folder = platformdirs.user_data_path("qyvo-standin", appauthor=False)
    with suppress(OSError):  # the store reports it, if that keeps it from its file
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / ("sandbox.db" if sandbox else "contacts.db")


# Authentication and rate limit


def token_finder(app: Flask, store: Store) -> Callable[[str], Token | None]:
    """Return what looks up a bearer token: in the database, and QYVO_TOKEN, if it is set."""
    if not app.config["QYVO_TOKEN"]:
        return store.find_token
    configured = hashlib.sha256(app.config["QYVO_TOKEN"].encode()).digest()

    def find_token(secret: str) -> Token | None:
        if hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), configured):
            return Token(0, "QYVO_TOKEN", store.open_workspace(DEFAULT_WORKSPACE))
        return store.find_token(secret)

    return find_token


class RateLimit:
    """At most so many requests to the API in any 60 seconds by a token; None is no limit.

    Each process counts by itself.
    """

    def __init__(self, per_minute: int | None):
        self._limit = per_minute
        self._lock = threading.Lock()
        # For each of the last tokens, when its requests were admitted, by time.monotonic().
        self._admitted = lru_cache(COUNTED_TOKENS)(lambda token_id, name: deque())

    def count(self, token: Token):
        """Count the current request. Raises TooManyRequests."""
        if not self._limit or request.blueprint not in API_PREFIXES.values():
            return
        now = time.monotonic()
        with self._lock:
            admitted = self._admitted(token.id, token.name)
            while admitted and admitted[0] <= now - 60:
                admitted.popleft()
            wait = admitted[0] + 60 - now if len(admitted) == self._limit else 0
            if not wait:
                admitted.append(now)
            remaining = self._limit - len(admitted)
        limits = {"X-RateLimit-Limit": self._limit, "X-RateLimit-Remaining": remaining}
        request.environ["contacts.rate_limit"] = limits
        if wait:
            raise http.TooManyRequests(retry_after=math.floor(wait) + 1)


def admit(find_token: Callable[[str], Token | None], rate_limit: RateLimit):
    """Authenticate and count the request, before a byte of its body is read."""
    view = current_app.view_functions.get(request.endpoint)
    if view is None or getattr(view, "public", False):
        return
    environ = request.environ
    repeated = "contacts.token" in environ  # by the server, after all of this was decided
    if not repeated:
        match = _BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        environ["contacts.token"] = find_token(match[1]) if match else None
    g.token = environ["contacts.token"]
    if g.token is None:
        raise http.Unauthorized
    if not repeated:
        rate_limit.count(g.token)


_BEARER = re.compile(r"bearer ([\x21-\x7e]+)", re.IGNORECASE)


def public(view):
    """Let the view be requested without a token."""
    view.public = True
    return view


# Requests and responses


class Service(Flask):
    """Flask, but for its log, and with routes that depend on the path alone."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Read neither Host nor Upgrade, whose odd values would be refused. It takes long, too."""
        if request is None:
            return None
        root, path = f"{request.root_path}/", request.path
        return MapAdapter(self.url_map, "", root, "", request.scheme, path, request.method)

    def log_exception(self, exc_info: Any):
        """Log without the path as it was sent, which may hold a secret."""
        error_log.error("%s %s failed", request.method, loggable_path(), exc_info=exc_info)


class ContactJSON(DefaultJSONProvider):
    """Compact JSON as UTF-8 text, in the order that the schemas give it."""

    def response(self, value: Any) -> Response:
        """Lone surrogates, which a client's field may be named by, are escaped."""
        body = (compact_json(value) + "\n").encode(errors="backslashreplace")
        return Response(body, content_type="application/json")


def accepts(schema: schemas.Body):
    """Call the view with what the schema reads from the request's body, as keyword arguments."""

    def decorate(view):
        @wraps(view)
        def wrapper():
            return view(**schema.load(read_json()))

        wrapper.accepts = schema
        return wrapper

    return decorate


def returns(schema: Schema, status: int = 200):
    """Respond with the view's contact in the shape of the schema."""

    def decorate(view):
        @wraps(view)
        def wrapper(**kwargs):
            return schema.dump(view(**kwargs)), status

        wrapper.returns = schema, status
        return wrapper

    return decorate


def read_json() -> Any:
    """Return the JSON value in the request's body. Raises what leads to a 4xx."""
    length = request.content_length or 0
    if length > BODY_LIMIT:
        raise http.RequestEntityTooLarge
    if not request.is_json:
        raise http.UnsupportedMediaType
    body = request.get_data()
    if len(body) > BODY_LIMIT:
        raise http.RequestEntityTooLarge
    if len(body) < length:
        raise http.ClientDisconnected
    schemas.default_region.set(current_app.config["CONTACTS_DEFAULT_REGION"])
    return schemas.parse_json(body)


def start_clock():
    """Tell the store until when it may wait for this request, if the server says so."""
    g.began = request.environ.setdefault("contacts.began", time.monotonic())
    wait_until.set(request.environ.get("contacts.wait_until"))


def add_headers(response: Response) -> Response:
    """Keep responses out of caches, and show what is left of the rate limit."""
    headers = response.headers
    headers.add("Cache-Control", "no-store")
    headers.add("X-Content-Type-Options", "nosniff")
    if rate_limit := request.environ.get("contacts.rate_limit"):
        headers.update(rate_limit)
    return response


def write_log(response: Response) -> Response:
    """Log time, method, path, status, milliseconds, the token's name, the client."""
    log = current_app.config["ACCESS_LOG"]
    if log and "unlogged" not in g:
        words = (
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            request.method if _METHOD.fullmatch(request.method) else "…",
            loggable_path(),
            str(response.status_code),
            f"{(time.monotonic() - g.began) * 1000:.1f}ms",
            g.token.name if g.get("token") else "-",
            client_address(),
        )
        with suppress(OSError):  # a full disk must not keep the response back
            log.write(" ".join(words) + "\n")  # which takes a quarter of the time that logging does
    return response


def client_address() -> str:
    """Return who holds the connection or, if that is the trusted proxy, whom the proxy names."""
    peer = request.remote_addr or "-"
    if peer != str(current_app.config["CONTACTS_TRUSTED_PROXY"]):
        return peer
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return forwarded if _ADDRESS.fullmatch(forwarded) else peer


def loggable_path() -> str:
    """Return the path without what no endpoint's path has: it may be a secret or a phone number."""
    words = current_app.config["PATH_WORDS"]
    return "/".join(part if part in words else "…" for part in request.path[:500].split("/"))


_METHOD = re.compile(r"[A-Z]{1,16}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")


# Errors

# What the contract says of werkzeug's exceptions. Others, such as a 403, bring their own text.
TEXTS = {
    http.NotFound: "Not found",
    http.MethodNotAllowed: "Method not allowed",
    http.RequestEntityTooLarge: f"The body is larger than {BODY_LIMIT} bytes (1 MiB): send less.",
    http.UnsupportedMediaType: "Send JSON, with the header Content-Type: application/json.",
    http.ClientDisconnected: "The body was cut off: send all of it, without a pause.",
    http.TooManyRequests: "Too many requests",
    http.InternalServerError: "Server error",
}


def refusal(status: int, text: str, headers: Any = (), **more: Any) -> Response:
    """Return an error as the contract shows it: the same text under both of the vendor's keys."""
    return make_response({"error": text, "message": text, **more}, status, headers)


@api.app_errorhandler(http.HTTPException)
def http_error(error: http.HTTPException) -> Response:
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return refusal(error.code, TEXTS.get(type(error), error.description), headers)


@api.app_errorhandler(schemas.BadJSON)
def bad_json(error: schemas.BadJSON) -> Response:
    return refusal(400, f"The body {error}.")


@api.app_errorhandler(http.Unauthorized)
@api.app_errorhandler(WorkspaceNotFound)  # it was dropped, and its token with it
def unauthenticated(error: Exception) -> Response:
    return refusal(401, "Unauthenticated.", {"WWW-Authenticate": "Bearer"})


@api.app_errorhandler(ContactNotFound)
def contact_not_found(error: ContactNotFound) -> Response:
    return refusal(404, "Contact not found")


@api.app_errorhandler(ValidationError)
def invalid(error: ValidationError) -> Response:
    errors = dict(flat(error.normalized_messages()))
    return refusal(422, "The given data was invalid.", errors=errors)


@api.app_errorhandler(Refused)
def refused_by_the_store(error: Refused) -> Response:
    return invalid(ValidationError(str(error), error.field))


@api.app_errorhandler(StoreUnavailable)
def unavailable(error: Exception, text: str | None = None) -> Response:
    error_log.error("%s %s: %s", request.method, loggable_path(), error.__cause__ or error)
    return refusal(503, text or str(error), {"Retry-After": "1"})


@api.app_errorhandler(UnusableDatabase)
def unusable(error: UnusableDatabase) -> Response:
    return unavailable(error, "The database can't be used. Nothing was written; try again later.")


def flat(errors: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Yield the texts of nested fields under names such as contacts.0.phone."""
    for field, texts in errors.items():
        # What is wrong with all of a nested object is under SCHEMA.
        names = path if path and field == SCHEMA else (*path, str(field))
        if isinstance(texts, dict):
            yield from flat(texts, names)
        else:
            yield ".".join(names), texts


# The endpoints


@api.post("/actions/update-contact")
@accepts(schemas.UpdateContact())
@returns(schemas.UpdatedContact())
def update_contact(**fields):
    """Write the given fields to the contact with that id or phone."""
    return store().update_contact(g.token.workspace_id, **fields)


@api.post("/actions/create-contact")
@accepts(schemas.CreateContact())
@returns(schemas.UpdatedContact(), 201)
def create_contact(**fields):
    """Create a contact, or update the one that has the phone."""
    return store().create_contact(g.token.workspace_id, **fields)


@api.post("/actions/get-contact")
@accepts(schemas.GetContact())
@returns(schemas.Contact())
def get_contact(**reference):
    """Return all that is known of the contact with that id, phone or email."""
    return store().get_contact(g.token.workspace_id, **reference)


@api.post("/actions/search-contacts")
@accepts(schemas.SearchContacts())
@returns(schemas.FoundContact(many=True))
def search_contacts(**filters):
    """List at most 50 contacts that meet every filter, most recently updated first."""
    return store().search_contacts(g.token.workspace_id, **filters)


@api.post("/actions/add-tag")
@accepts(schemas.TagContact())
@returns(schemas.TagAdded())
def add_tag(tag, **reference):
    """Add one tag to the contact with that id or phone."""
    add = partial(schemas.with_tag, tag=tag)
    return {**store().change_tags(g.token.workspace_id, add, **reference), "tag_added": tag}


@api.post("/actions/remove-tag")
@accepts(schemas.TagContact())
@returns(schemas.TagRemoved())
def remove_tag(tag, **reference):
    """Remove one tag from the contact with that id or phone."""
    remove = partial(schemas.without_tag, tag=tag)
    return {**store().change_tags(g.token.workspace_id, remove, **reference), "tag_removed": tag}


@api.get("/me")
@returns(schemas.Me())
def me():
    """Return whose token it is: the cheapest way to try one."""
    return {
        "id": g.token.id,
        "email": f"token-{g.token.id}@qyvo-standin.invalid",
        "name": g.token.name,
        "tenant": store().workspace(g.token.workspace_id),
    }


@api.get("/openapi.json")
@public
def openapi_json():
    """Return the OpenAPI document of every endpoint."""
    return openapi.document(current_app._get_current_object())


@public
def healthz():
    """Tell a load balancer whether the database works."""
    try:
        store().ping()
    except Exception as error:
        return unavailable(error, "The database does not answer.")
    return {"status": "ok"}


def store() -> Store:
    return current_app.extensions["store"]


if __name__ == "__main__":
    from cli import main

    main()
