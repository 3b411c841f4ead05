"""Reads a JSON request, and makes a JSON response."""

from functools import wraps
from typing import Any

from flask import Flask, Response, request
from flask.json.provider import DefaultJSONProvider
from marshmallow import Schema
from werkzeug import exceptions as http

import schemas

BODY_LIMIT = 1024 * 1024


class CompressedBody(http.UnsupportedMediaType):
    """The request has a Content-Encoding."""

    description = "Send the body uncompressed, without the header Content-Encoding."

    def get_headers(self, *args: Any) -> list[tuple[str, str]]:
        return [*super().get_headers(*args), ("Accept-Encoding", "identity")]


class ContactJSON(DefaultJSONProvider):
    """Compact JSON as UTF-8 text, in the order that the schemas give it."""

    def response(self, value: Any) -> Response:
        """Return the value as a response. Lone surrogates, as a client may send, are escaped."""
        body = (schemas.compact_json(value) + "\n").encode(errors="backslashreplace")
        return Response(body, content_type="application/json")


def init_app(app: Flask):
    """Let what a view returns become JSON, and say how what a request sends is read.

    Its hooks run after all others before a request, and before all others after it.
    """
    app.json = ContactJSON(app)
    reading = schemas.PhoneReading(app.config["CONTACTS_DEFAULT_REGION"])

    @app.before_request
    def set_phone_reading():
        schemas.phone_reading.set(reading)

    @app.after_request
    def add_headers(response: Response) -> Response:
        """Keep responses out of caches."""
        response.headers.add("Cache-Control", "no-store")
        response.headers.add("X-Content-Type-Options", "nosniff")
        return response


def read_json() -> Any:
    """Return the JSON value in the request's body. Raises what leads to a 4xx."""
    length = request.content_length or 0
    if length > BODY_LIMIT:
        raise http.RequestEntityTooLarge
    if not request.is_json:
        raise http.UnsupportedMediaType
    if request.headers.get("Content-Encoding", "").lower() not in ("", "identity"):
        raise CompressedBody
    body = request.get_data()
    if len(body) > BODY_LIMIT:
        raise http.RequestEntityTooLarge
    if len(body) < length:
        raise http.ClientDisconnected
    return schemas.parse_json(body)


def no_content() -> Response:
    """Return a 204, which has no body and so no type of one."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


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
    """Respond with what the view returns, in the shape of the schema."""

    def decorate(view):
        @wraps(view)
        def wrapper(**kwargs):
            return schema.dump(view(**kwargs)), status

        wrapper.returns = schema, status
        return wrapper

    return decorate
