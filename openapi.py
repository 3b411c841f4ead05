"""The OpenAPI document, made from the schemas that validate and the routes that answer."""

from functools import cache
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin, OpenAPIConverter
from apispec.ext.marshmallow.common import resolve_schema_instance
from flask import Flask

import schemas

VERSION = "0.2.0"

DESCRIPTION = (
    "An unofficial stand-in for Qyvo's contacts API. docs/api.md of qyvo-standin says which of its"
    " rules are the vendor's and which are its own."
)

# Each is sent by a test to a sandbox with the sample contacts.
REQUEST_EXAMPLES = {
    "update_contact": {"phone": "+14155550123", "metadata": {"lifetime_value": 9120.0}},
    "create_contact": {"phone": "+14155550199", "name": "Noor", "tags": "lead,newsletter"},
    "get_contact": {"phone": "+14155550123"},
    "search_contacts": {"query": "romain", "tag": "vip"},
    "add_tag": {"phone": "+14155550123", "tag": "newsletter"},
    "remove_tag": {"phone": "+14155550123", "tag": "vip"},
}

EVERY_CALL = {401: "Unauthenticated", 429: "TooManyRequests", 500: "ServerError", 503: "Busy"}
WITH_BODY = {400: "BadRequest", 413: "TooLarge", 415: "NotJSON", 422: "Invalid"}
ONE_CONTACT = {404: "ContactNotFound"}

ERRORS = {
    "BadRequest": "The body is not JSON.",
    "Unauthenticated": "No token, or not a known one.",
    "ContactNotFound": "No contact has that id or phone.",
    "TooLarge": "The body is larger than 1 MiB.",
    "NotJSON": "The content type is not JSON's.",
    "Invalid": "Validation failed.",
    "TooManyRequests": "The rate limit is used up.",
    "ServerError": "The service's own fault.",
    "Busy": "The database is busy or the disk is full; nothing was written.",
}
HEADERS = {
    "Unauthenticated": {"WWW-Authenticate": {"type": "string", "const": "Bearer"}},
    "TooManyRequests": {"Retry-After": {"type": "integer", "description": "In seconds."}},
    "Busy": {"Retry-After": {"type": "integer", "description": "In seconds."}},
}

# On every answer to a caller who is known, when the operator has set a limit.
RATE_LIMIT = {
    "X-RateLimit-Limit": {"type": "integer", "description": "Requests a minute."},
    "X-RateLimit-Remaining": {"type": "integer", "description": "What is left of them."},
}

TEXT = r"^[^\u0000]*$"
NOT_BLANK = r"[^,\s\u001c-\u001f\u0085\u0000]"  # Python strips a few more than \s stands for


@cache
def document(app: Flask) -> dict[str, Any]:
    """The document of every call of the blueprint `api`, as a dictionary ready for JSON."""
    plugin = MarshmallowPlugin(schema_name_resolver=lambda schema: type(schema).__name__)
    plugin.Converter = Converter
    spec = APISpec(
        title="qyvo-standin",
        version=VERSION,
        openapi_version="3.1.0",
        info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": "/api/v1"}, {"url": "/v1"}],
        plugins=[plugin],
    )
    plugin.converter.add_attribute_function(field_to_json_schema)
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    add_errors(spec)
    for rule in app.url_map.iter_rules():
        blueprint, _, name = rule.endpoint.rpartition(".")
        if blueprint == "api":
            [method] = rule.methods - {"HEAD", "OPTIONS"}
            path = rule.rule.removeprefix("/api/v1")
            view = app.view_functions[rule.endpoint]
            spec.path(path, operations={method.lower(): operation(name, view)})
    return spec.to_dict()


def operation(name: str, view: Any) -> dict[str, Any]:
    """One call: its docstring, what it takes, what it gives, and every error it can answer."""
    public = getattr(view, "public", False)
    answer, status = getattr(view, "returns", ({"type": "object"}, 200))
    body = getattr(view, "accepts", None)
    errors = {500: "ServerError"} if public else dict(EVERY_CALL)
    described = {
        "operationId": name,
        "summary": view.__doc__.strip(),
        "security": [] if public else [{"bearer": []}],
    }
    if body:
        errors |= WITH_BODY
        if body.at_least_one_of or body.exactly_one_of:
            errors |= ONE_CONTACT
        content = {"schema": body, "example": REQUEST_EXAMPLES[name]}
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    described["responses"] = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "headers": described_headers({} if public else RATE_LIMIT),
            "content": {"application/json": {"schema": answer}},
        },
        **{str(code): errors[code] for code in sorted(errors)},
    }
    return described


def add_errors(spec: APISpec):
    text = {"type": "string"}
    error = {
        "type": "object",
        "properties": {"error": text, "message": text},
        "required": ["error", "message"],
        "additionalProperties": False,
    }
    texts = {"type": "array", "items": text}
    failed = {
        **error,
        "properties": {
            **error["properties"],
            "errors": {"type": "object", "additionalProperties": texts},
        },
        "required": ["error", "message", "errors"],
    }
    spec.components.schema("Error", error)
    spec.components.schema("ValidationError", failed)
    for name, description in ERRORS.items():
        schema = "ValidationError" if name == "Invalid" else "Error"
        response = {
            "description": description,
            "content": {"application/json": {"schema": schema}},
        }
        response["headers"] = described_headers(HEADERS.get(name, {}), required=True)
        if name != "Unauthenticated":
            response["headers"] |= described_headers(RATE_LIMIT)
        spec.components.response(name, response)


def described_headers(headers: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {name: {"required": required, "schema": schema} for name, schema in headers.items()}


class Converter(OpenAPIConverter):
    """Adds the rules that stand between fields, and that an answer has all of its keys."""

    def schema2jsonschema(self, schema):
        described = super().schema2jsonschema(schema)
        instance = resolve_schema_instance(schema)
        if not isinstance(instance, schemas.Body):
            described["required"] = list(described["properties"])
            return described
        # Generators of typed clients lose the properties of a schema that has anyOf or oneOf.
        if instance.at_least_one_of:
            one, other = instance.at_least_one_of
            described["if"] = {"not": {"required": [one]}}
            described["then"] = {"required": [other]}
        if instance.exactly_one_of:
            described["minProperties"] = described["maxProperties"] = 1
        return described


def field_to_json_schema(converter: Converter, field: Any, **kwargs: Any) -> dict[str, Any]:
    """What JSON Schema can say of the project's own fields."""
    match field:
        case schemas.ContactId():
            return {"type": "string", "format": "uuid"}
        case schemas.PhoneNumber():
            return {
                "type": "string",
                "pattern": schemas.PHONE_PATTERN,
                "maxLength": field.limit,
                "description": "With a leading +, in any usual spelling.",
            }
        case schemas.EmailAddress():
            address = {"format": "email", "maxLength": field.limit}
            if field.clearable:
                return {"type": "string", "anyOf": [address, {"pattern": r"^\s*$"}]}
            return {"type": "string", **address}
        case schemas.TagList():
            tag = rf"[^,\u0000]{{0,{schemas.Tag.limit}}}"
            pattern = f"^{tag}(,{tag}){{0,{schemas.MAX_TAGS - 1}}}$"
            return {"type": "string", "pattern": pattern, "description": "Comma-separated."}
        case schemas.Tag():
            pattern = rf"^[^,\u0000]*{NOT_BLANK}[^,\u0000]*$"
            return {"type": "string", "maxLength": field.limit, "pattern": pattern}
        case schemas.Text():
            return {"type": "string", "maxLength": field.limit, "pattern": TEXT}
        case schemas.Metadata():
            return {"type": "object", "additionalProperties": True}
    return {}
