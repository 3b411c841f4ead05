"""The service: the application factory, the log, and the endpoints of the API."""

import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from flask import Blueprint, Flask, Request, Response, current_app, g, request
from werkzeug.routing import MapAdapter

import auth
import bodies
import errors
import openapi
import schemas
from auth import API_PREFIXES, public
from bodies import BODY_LIMIT, accepts, returns
from settings import make_store, read_settings
from store import Store

if TYPE_CHECKING:
    from sandbox import Sandbox  # which a deployment never loads

api = Blueprint("api", __name__)


def create_app(
    settings: dict[str, Any] | None = None,
    *,
    sandbox: "Sandbox | None" = None,
    access_log: TextIO | None = None,
) -> Flask:
    """Return the WSGI application: a deployment or, if one is given, that sandbox.

    `settings` are what read_settings() returns, by default those of the environment. Requests are
    logged to `access_log`. The database is opened by the first request.
    """
    app = Service(__name__, static_folder=None)
    app.config.from_mapping(
        settings or read_settings(sandbox=sandbox is not None),
        MAX_CONTENT_LENGTH=BODY_LIMIT + 1,  # where a longer body is cut off
    )
    app.url_map.merge_slashes = False
    store = app.extensions["store"] = make_store(app.config, sandbox is not None)
    errors.init_app(app)
    init_log(app, access_log)
    if sandbox:
        sandbox.init_app(app)
    else:
        auth.init_app(app, auth.Tokens(store, app.config["QYVO_TOKEN"]))
    bodies.init_app(app)
    for prefix, name in API_PREFIXES.items():
        app.register_blueprint(api, url_prefix=prefix, name=name)
    app.add_url_rule("/healthz", view_func=healthz)
    return app


class Service(Flask):
    """Flask, with routes that depend on the path alone."""

    def add_url_rule(self, *args, **options):
        """Let OPTIONS be a wrong method like others; the setting for it came with Flask 3.1."""
        super().add_url_rule(*args, **options | {"provide_automatic_options": False})

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Read neither Host nor Upgrade, whose odd values would be refused. It takes long, too."""
        if request is None:
            return None
        return self.url_map.bind(
            "", request.root_path, None, request.scheme, request.method, request.path
        )


# The log


def init_log(app: Flask, file: TextIO | None):
    """Log time, method, path, status, milliseconds, the token's name and the client to the file."""

    @app.before_request
    def start_clock():
        g.began = time.monotonic()

    @app.after_request
    def finish(response: Response) -> Response:
        if file and "unlogged" not in g:
            words = (
                datetime.now(UTC).isoformat(timespec="milliseconds"),
                request.method if _METHOD.fullmatch(request.method) else "…",
                errors.loggable_path(),
                str(response.status_code),
                f"{(time.monotonic() - g.began) * 1000:.1f}ms",
                g.token.name if "token" in g else "-",
                client_address(),
            )
            with suppress(OSError):  # a full disk must not keep the response back
                file.write(" ".join(words) + "\n")
        return response


def client_address() -> str:
    """Return who holds the connection or, if that is the trusted proxy, whom the proxy names."""
    if not is_from_trusted_proxy():
        return peer_address()
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return plain_address(forwarded) if _ADDRESS.fullmatch(forwarded) else peer_address()


def plain_address(address: str) -> str:
    """Return the IPv4 address that a socket of both families writes as ::ffff:127.0.0.1."""
    return address.removeprefix("::ffff:")


def peer_address() -> str:
    return plain_address(request.remote_addr or "-")


def is_from_trusted_proxy() -> bool:
    return peer_address() == str(current_app.config["CONTACTS_TRUSTED_PROXY"])


_METHOD = re.compile(r"[A-Z]{1,16}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")


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
    """List at most 50 contacts that meet every filter, the last message first."""
    return store().search_contacts(g.token.workspace_id, **filters)


@api.post("/actions/add-tag")
@accepts(schemas.TagContact())
@returns(schemas.TagAdded())
def add_tag(tag, **reference):
    """Add one tag to the contact with that id or phone."""
    return {**store().add_tag(g.token.workspace_id, tag, **reference), "tag_added": tag}


@api.post("/actions/remove-tag")
@accepts(schemas.TagContact())
@returns(schemas.TagRemoved())
def remove_tag(tag, **reference):
    """Remove one tag from the contact with that id or phone."""
    return {**store().remove_tag(g.token.workspace_id, tag, **reference), "tag_removed": tag}


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
    return openapi.document(current_app._get_current_object(), servers())


@api.get("/openapi.yaml")
@public
def openapi_yaml():
    """Return the same document, for tools that ask for YAML, which JSON is a part of."""
    response = current_app.make_response(openapi_json())
    response.content_type = "application/yaml"
    return response


@public
def healthz():
    """Tell a load balancer whether the database works."""
    try:
        store().ping()
    except Exception as error:
        return errors.unavailable(error, "The database does not respond.")
    return {"status": "ok"}


def servers() -> list[str]:
    """Return where the client finds the API: URLs, or paths if its Host header is odd."""
    https = is_from_trusted_proxy() and request.headers.get("X-Forwarded-Proto") == "https"
    scheme = "https" if https else request.scheme
    root = f"{scheme}://{request.host}" if request.host else ""
    return [f"{root}{request.root_path}{prefix}" for prefix in API_PREFIXES]


def store() -> Store:
    return current_app.extensions["store"]


if __name__ == "__main__":
    from commands import main

    main()
