"""The OpenAPI document, made from the routes and from the schemas that validate."""

from functools import cache
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin, OpenAPIConverter
from apispec.ext.marshmallow.common import resolve_schema_instance
from flask import Flask
from marshmallow import RAISE, Schema, fields

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


def header(required: bool, **schema: str) -> dict[str, Any]:
    return {"required": required, "schema": schema}


# In every response to a known token, when the operator has set a limit.
RATE_LIMIT = {
    "X-RateLimit-Limit": header(False, type="integer", description="Requests a minute."),
    "X-RateLimit-Remaining": header(False, type="integer", description="What is left of them."),
}
RETRY_AFTER = {
    "Retry-After": header(True, type="integer", description="In seconds."),
    **RATE_LIMIT,
}
AUTHENTICATE = {"WWW-Authenticate": header(True, type="string", const="Bearer")}

# By status: the name and description of the response, and its headers.
ERRORS = {
    400: ("BadRequest", "The body is not JSON.", RATE_LIMIT),
    401: ("Unauthenticated", "No token, or not a known one.", AUTHENTICATE),
    404: ("ContactNotFound", "No contact has that id or phone.", RATE_LIMIT),
    413: ("TooLarge", "The body is larger than 1 MiB.", RATE_LIMIT),
    415: ("NotJSON", "The content type is not JSON's.", RATE_LIMIT),
    422: ("Invalid", "Validation failed.", RATE_LIMIT),
    429: ("TooManyRequests", "The rate limit is used up.", RETRY_AFTER),
    500: ("ServerError", "The service's own fault.", RATE_LIMIT),
    503: ("Busy", "The database is busy or the disk is full; nothing was written.", RETRY_AFTER),
}

TEXT = r"^[^\u0000]*$"
# With a character that is not blank. Python strips a few more than \s stands for.
TAG = r"^[^,\u0000]*[^,\s\u001c-\u001f\u0085\u0000][^,\u0000]*$"


class Error(Schema):
    """The response to a request that is refused."""

    class Meta:
        unknown = RAISE

    error = fields.String()
    message = fields.String()


class ValidationError(Error):
    """That to a body whose fields are refused, with the reasons for each."""

    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))


@cache
def document(app: Flask) -> dict[str, Any]:
    """Return the document of every endpoint of the blueprint `api`, ready for JSON."""
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
    for status, (name, description, headers) in ERRORS.items():
        schema = ValidationError() if status == 422 else Error()
        spec.components.response(name, response(description, schema, headers))
    for rule in app.url_map.iter_rules():
        blueprint, _, name = rule.endpoint.rpartition(".")
        if blueprint == "api":
            [method] = rule.methods - {"HEAD", "OPTIONS"}
            path = rule.rule.removeprefix("/api/v1")
            view = app.view_functions[rule.endpoint]
            spec.path(path, operations={method.lower(): operation(name, view)})
    return spec.to_dict()


def operation(name: str, view: Any) -> dict[str, Any]:
    """Describe an endpoint by its view's docstring and decorators, and every error it can have."""
    public = getattr(view, "public", False)
    schema, status = getattr(view, "returns", ({"type": "object"}, 200))
    body = getattr(view, "accepts", None)
    errors = {500} if public else {401, 429, 500, 503}
    described = {
        "operationId": name,
        "summary": view.__doc__.strip(),
        "security": [] if public else [{"bearer": []}],
    }
    if body:
        errors |= {400, 413, 415, 422}
        if body.at_least_one_of or body.exactly_one_of:
            errors.add(404)
        content = {"schema": body, "example": REQUEST_EXAMPLES[name]}
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    headers = {} if public else RATE_LIMIT
    described["responses"] = {
        str(status): response(HTTPStatus(status).phrase, schema, headers),
        **{str(code): ERRORS[code][0] for code in sorted(errors)},
    }
    return described


def response(description: str, schema: Any, headers: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {"description": description, "headers": headers, "content": content}


class Converter(OpenAPIConverter):
    """Adds the rules between fields, and that a response has all of its keys."""

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
    """Return what JSON Schema can say of the project's own fields."""
    match field:
        case schemas.Metadata():
            return {"type": "object", "additionalProperties": True}
        case schemas.ContactId():
            return {"format": "uuid"}
        case schemas.TagList():
            tag = rf"[^,\u0000]{{0,{schemas.Tag.limit}}}"
            pattern = f"^{tag}(,{tag}){{0,{schemas.MAX_TAGS - 1}}}$"
            return {"pattern": pattern, "description": "Comma-separated."}
        case schemas.PhoneNumber():
            spelling = "With a leading +, in any usual spelling."
            pattern = schemas.PHONE_PATTERN
            return {"maxLength": field.limit, "pattern": pattern, "description": spelling}
        case schemas.EmailAddress(clearable=True):
            address = {"format": "email", "maxLength": field.limit}
            return {"anyOf": [address, {"pattern": r"^\s*$"}]}
        case schemas.EmailAddress():
            return {"format": "email", "maxLength": field.limit}
        case schemas.Tag():
            return {"maxLength": field.limit, "pattern": TAG}
        case schemas.Text():
            return {"maxLength": field.limit, "pattern": TEXT}
    return {}
