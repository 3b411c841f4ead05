"""Fault injection: requests that fail, wait or are lost because a test asked for it."""

import json
import threading
from collections.abc import Iterable
from http.client import responses
from secrets import SystemRandom
from typing import Any

from flask import Response, after_this_request, current_app, g, request
from marshmallow import ValidationError, fields, validate, validates_schema
from werkzeug import exceptions as http

import schemas
from auth import is_of_the_api, is_public
from sandbox.journal import ends_with
from store import BUSY, ContactNotFound

MAX_FAULTS = 20
MAX_DELAY_MS = 60_000
STOPPING = "The sandbox is stopping. Nothing was written; try again."
TEXT = "A fault that the sandbox was asked for."
RETRY_AFTER = {429: 1, 503: 1}  # in seconds, where a fault does not say otherwise
HTML = "<!doctype html>\n<title>{text}</title>\n<h1>{text}</h1>\n"  # as a proxy would send it


def api_paths() -> list[str]:
    """Return the path of every endpoint of the API that needs a token."""
    views = current_app.view_functions
    return [
        rule.rule
        for rule in current_app.url_map.iter_rules()
        if rule.endpoint.startswith("api.") and not is_public(views[rule.endpoint])
    ]


def check_path(path: str):
    if not path or not any(ends_with(each, path) for each in api_paths()):
        raise ValidationError("Must be an endpoint, for example /actions/update-contact.")


def only(value: bool):
    def check(given):
        if given is not value:
            raise ValidationError(f"Must be {json.dumps(value)}, or left out.")

    return check


class Probability(fields.Float):
    """A JSON number above 0 and up to 1."""

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Fault(schemas.Body):
    """A fault in the body of PUT /sandbox/faults."""

    error_messages = {"type": "Pass a fault as a JSON object, or several in an array."}
    at_least_one_of = ("status", "delay_ms", "respond", "close")

    status = fields.Integer(strict=True, validate=validate.Range(400, 599))
    times = fields.Integer(strict=True, validate=validate.Range(1, 1_000_000))
    delay_ms = fields.Integer(strict=True, validate=validate.Range(0, MAX_DELAY_MS))
    probability = Probability(load_default=1.0, validate=validate.Range(0, 1, min_inclusive=False))
    path = fields.String(validate=check_path)
    retry_after = fields.Integer(strict=True, validate=validate.Range(0, 86_400))
    respond = fields.Raw(validate=only(False))
    close = fields.Raw(validate=only(True))
    body = fields.String(validate=validate.Equal("html", error="Must be html, or left out."))

    @validates_schema
    def check_combination(self, data, **kwargs):
        """Refuse what could not all be true of one response."""
        ends = [name for name in ("status", "respond", "close") if name in data]
        if len(ends) > 1:
            text = "status, respond and close exclude each other."
            raise ValidationError({name: [text] for name in ends})
        if "body" in data and "status" not in data:
            raise ValidationError("Pass a status with it.", "body")


class Faults:
    """The faults of a workspace, in order, each with the number of times it was triggered."""

    def __init__(self, faults: Iterable[dict[str, Any]] = ()):
        self.all = [{**fault, "triggered": 0} for fault in faults]
        self._lock = threading.Lock()

    def trigger(self, path: str) -> dict[str, Any] | None:
        """Return the first fault that applies to a request to that path and is not used up."""
        with self._lock:
            for fault in self.all:
                if (
                    fault["triggered"] != fault.get("times")
                    and ends_with(path, fault.get("path", ""))
                    and SystemRandom().random() < fault["probability"]
                ):
                    fault["triggered"] += 1
                    return fault
        return None


class NoResponse(Response):
    """Closes the connection without a byte: waitress does so for an OSError of the application.

    Its status, which only the log shows, is 0.
    """

    def __init__(self):
        super().__init__(status=0)

    def __call__(self, environ, start_response):
        raise ConnectionAbortedError


def inject() -> Response | None:
    """Delay or fail a request to the API, if a fault of its workspace says so."""
    if "token" not in g or not is_of_the_api():
        return None
    fault = g.fault = g.token.faults.trigger(request.path)
    if fault is None:
        return None
    status, delay_ms = fault.get("status"), fault.get("delay_ms")
    if delay_ms and g.token.stopping.wait(delay_ms / 1000):
        raise http.ServiceUnavailable(STOPPING, retry_after=1)
    if "close" in fault:
        return NoResponse()
    seconds = fault.get("retry_after", RETRY_AFTER.get(status))
    if seconds is not None:

        @after_this_request
        def add_retry_after(response: Response) -> Response:
            response.headers["Retry-After"] = str(seconds)
            return response

    if "body" in fault:
        page = HTML.format(text=f"{status} {responses.get(status, '')}".strip())
        return Response(page, status, mimetype="text/html")
    if status:
        raise error_of(status)
    return None


def lose(response: Response) -> Response:
    """Keep the response from the client, if a fault says so."""
    return NoResponse() if "respond" in (g.get("fault") or ()) else response


def error_of(status: int) -> Exception:
    """Return what leads to the response with that status, the documented one if there is one."""
    errors = {
        400: schemas.BadJSON("is not JSON"),
        404: ContactNotFound(),
        405: http.MethodNotAllowed([request.method]),
        422: ValidationError({"phone": [TEXT]}),
        503: http.ServiceUnavailable(BUSY),
    }
    if status in errors:
        return errors[status]
    error = http.default_exceptions.get(status, http.HTTPException)()
    error.code, error.description = status, responses.get(status, TEXT)
    return error
