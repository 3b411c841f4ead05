"""Fault injection: requests that fail or wait because a test asked for it."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from secrets import SystemRandom
from typing import TYPE_CHECKING, Any

from flask import Blueprint, current_app, g, request
from marshmallow import ValidationError, fields, validate, validates_schema
from werkzeug.exceptions import (
    HTTPException,
    MethodNotAllowed,
    RequestEntityTooLarge,
    Unauthorized,
    UnsupportedMediaType,
)

import schemas
from sandbox.journal import ends_with
from store import BUSY, ContactNotFound, pause

if TYPE_CHECKING:
    from sandbox.workspaces import Workspaces

MAX_FAULTS = 20
MAX_DELAY_MS = 60_000
TEXT = "A fault that the sandbox was asked for."

# The statuses whose response the service itself makes.
DOCUMENTED: dict[int, Callable[[], Exception]] = {
    400: lambda: schemas.BadJSON("is not JSON"),
    401: Unauthorized,
    404: ContactNotFound,
    405: lambda: MethodNotAllowed(valid_methods=[request.method]),
    413: RequestEntityTooLarge,
    415: UnsupportedMediaType,
    422: lambda: ValidationError({"phone": [TEXT]}),
}
# The text of the others.
TEXTS = {status.value: status.phrase for status in HTTPStatus}
TEXTS |= {429: "Too many requests", 500: "Server error", 503: BUSY}
# In seconds, where a fault does not say otherwise.
RETRY_AFTER = {429: 1, 503: 1}
# Those that people ask for most, for the page.
COMMON = [400, 401, 404, 422, 429, 500, 502, 503, 504]


def is_an_endpoint(path: str):
    rules = [rule.rule for rule in current_app.url_map.iter_rules() if rule.endpoint[:4] == "api."]
    if not path or not any(ends_with(rule, path) for rule in rules):
        raise ValidationError("Must be an endpoint, for example /actions/update-contact.")


class Fault(schemas.Body):
    """A fault in the body of PUT /sandbox/faults."""

    status = fields.Integer(strict=True, validate=validate.Range(400, 599))
    times = fields.Integer(strict=True, validate=validate.Range(1, 1_000_000))
    delay_ms = fields.Integer(strict=True, validate=validate.Range(0, MAX_DELAY_MS))
    probability = fields.Float(load_default=1.0, validate=validate.Range(0, 1, min_inclusive=False))
    path = fields.String(validate=is_an_endpoint)
    retry_after = fields.Integer(strict=True, validate=validate.Range(0, 86_400))

    @validates_schema
    def check_effect(self, data, **kwargs):
        if data.keys().isdisjoint({"status", "delay_ms"}):
            text = "Pass status or delay_ms: at least one of them is required."
            raise ValidationError({"status": [text], "delay_ms": [text]})


class Faults:
    """The faults of a workspace, in order, each with the number of requests that it met."""

    def __init__(self):
        self._lock = threading.Lock()
        self.set([])

    def set(self, faults: list[dict[str, Any]]):
        """Replace all faults."""
        with self._lock:
            self._faults = [{**fault, "triggered": 0} for fault in faults]

    def trigger(self, path: str) -> dict[str, Any] | None:
        """Return the first fault that applies to a request to that path and is not used up."""
        with self._lock:
            for fault in self._faults:
                if (
                    fault["triggered"] != fault.get("times")
                    and ends_with(path, fault.get("path", ""))
                    and SystemRandom().random() < fault["probability"]
                ):
                    fault["triggered"] += 1
                    return fault
        return None

    def list(self) -> list[dict[str, Any]]:
        """Return every fault with the number of times it was triggered."""
        with self._lock:
            return [{name: f[name] for name in _ORDER if name in f} for f in self._faults]


_ORDER = [*Fault().fields, "triggered"]


def inject(workspaces: "Workspaces"):
    """Delay or fail the request, if a fault of its workspace says so."""
    if g.get("token") is None or request.endpoint.startswith("sandbox"):
        return
    environ = request.environ
    if "contacts.fault" not in environ:  # decided once, however often the request is repeated
        faults = workspaces.get(g.token).faults
        environ["contacts.fault"] = fault = faults.trigger(request.path)
        if fault:
            g.fault = fault
            if delay := fault.get("delay_ms"):
                pause(delay / 1000)
    if fault := environ["contacts.fault"]:
        g.fault = fault
        if "status" in fault:
            raise exception_of(fault)


def exception_of(fault: dict[str, Any]) -> Exception:
    """Return what leads to the fault's response."""
    status = fault["status"]
    if status in DOCUMENTED:
        return DOCUMENTED[status]()
    error = HTTPException(TEXTS.get(status, TEXT))
    error.code = status
    return error


def make_blueprint(workspaces: "Workspaces", read_json: Callable) -> Blueprint:
    """Return the endpoints that show, set and remove faults."""
    blueprint = Blueprint("sandbox_faults", __name__, url_prefix="/sandbox/faults")
    one, several = Fault(), Fault(many=True)

    @blueprint.get("")
    def list_faults():
        """Return the faults in order, used-up ones included."""
        return {"faults": workspaces.get(g.token).faults.list()}

    @blueprint.put("")
    def set_faults():
        """Replace all faults by that of the body, or by those of an array."""
        body = read_json(dict | list)
        if isinstance(body, list) and len(body) > MAX_FAULTS:
            raise ValidationError(f"Pass at most {MAX_FAULTS} faults.", "body")
        faults = several.load(body) if isinstance(body, list) else [one.load(body)]
        workspaces.get(g.token).faults.set(faults)
        workspaces.changed()
        return list_faults()

    @blueprint.delete("")
    def remove_faults():
        """Remove all faults."""
        workspaces.get(g.token).faults.set([])
        workspaces.changed()
        return "", 204

    return blueprint
