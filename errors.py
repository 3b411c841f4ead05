"""Every refusal, in the shape of the contract."""

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from flask import Flask, Response, current_app, make_response, request
from marshmallow import ValidationError
from marshmallow.exceptions import SCHEMA
from werkzeug import exceptions as http

import schemas
from bodies import BODY_LIMIT
from store import (
    ContactNotFound,
    Refused,
    StoreUnavailable,
    UnusableDatabase,
    WorkspaceNotFound,
)

MAX_FIELD_NAME = 100

# What the contract says of werkzeug's exceptions. Others, such as a 403, bring their own text.
TEXTS = {
    http.NotFound: "Not found",
    http.MethodNotAllowed: "Method not allowed",
    http.RequestEntityTooLarge: f"The body is larger than {BODY_LIMIT} bytes (1 MiB): send less.",
    http.UnsupportedMediaType: "Send JSON, with the header Content-Type: application/json.",
    http.ClientDisconnected: "The body was cut off: send all of it, without a pause.",
    http.TooManyRequests: "Too many requests",
    http.InternalServerError: "Server error",  # which a sandbox's fault asks for
}

log = logging.getLogger("contacts.error")


def init_app(app: Flask):
    """Respond to every exception by the contract."""
    handlers = {
        http.HTTPException: http_error,
        http.Unauthorized: unauthenticated,
        WorkspaceNotFound: unauthenticated,
        schemas.BadJSON: bad_json,
        ValidationError: invalid,
        Refused: refused_by_the_store,
        ContactNotFound: contact_not_found,
        StoreUnavailable: unavailable,
        UnusableDatabase: unusable,
        Exception: server_error,
    }
    for exception, handler in handlers.items():
        app.register_error_handler(exception, handler)


def refusal(status: int, text: str, headers: Any = (), **more: Any) -> Response:
    """Return an error as the contract shows it: the same text under both of the vendor's keys."""
    return make_response({"error": text, "message": text, **more}, status, headers)


def http_error(error: http.HTTPException) -> Response:
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return refusal(error.code, TEXTS.get(type(error), error.description), headers)


def unauthenticated(error: Exception) -> Response:
    """Refuse a token that is not known, or whose workspace a write found deleted."""
    return refusal(401, "Unauthenticated.", {"WWW-Authenticate": "Bearer"})


def bad_json(error: schemas.BadJSON) -> Response:
    return refusal(400, f"The body {error}.")


def invalid(error: ValidationError) -> Response:
    """Name what is wrong with each field, within bounds: a client can send 100,000 of them."""
    errors = dict(islice(flat(error.normalized_messages()), schemas.MAX_ERRORS))
    return refusal(422, "The given data was invalid.", errors=errors)


def refused_by_the_store(error: Refused) -> Response:
    return invalid(ValidationError(str(error), error.field))


def contact_not_found(error: ContactNotFound) -> Response:
    return refusal(404, "Contact not found")


def unavailable(error: Exception, text: str | None = None) -> Response:
    log.error("%s %s: %s", request.method, loggable_path(), error.__cause__ or error)
    return refusal(503, text or str(error), {"Retry-After": "1"})


def unusable(error: UnusableDatabase) -> Response:
    return unavailable(error, "The database can't be used. Nothing was written; try again later.")


def server_error(error: Exception) -> Response:
    """Log what is our own fault, and tell the client nothing of it."""
    log.error("%s %s failed", request.method, loggable_path(), exc_info=error)
    return refusal(500, "Server error")


def flat(errors: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Yield the texts of nested fields under names such as contacts.0.phone."""
    for field, texts in errors.items():
        # What is wrong with all of a nested object is under SCHEMA.
        names = path if path and field == SCHEMA else (*path, str(field))
        if isinstance(texts, dict):
            yield from flat(texts, names)
        else:
            yield ".".join(names)[:MAX_FIELD_NAME], texts


def loggable_path() -> str:
    """Return the request's path for a log, with … for each part that no route has.

    Such a part may be a secret or a phone number.
    """
    if request.url_rule and not request.view_args:
        return request.url_rule.rule
    words = {word for rule in current_app.url_map.iter_rules() for word in rule.rule.split("/")}
    return "/".join(part if part in words else "…" for part in request.path[:500].split("/"))
