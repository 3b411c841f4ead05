"""The OpenAPI document, made from the routes and from the schemas that validate."""

from functools import cache
from http import HTTPStatus
from typing import Any

from apispec import APISpec, BasePlugin
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_instance
from flask import Flask
from marshmallow import RAISE, Schema, fields

import schemas

VERSION = "0.2.0"

DESCRIPTION = (
    "An unofficial stand-in for Qyvo's contacts API. docs/api.md of qyvo-standin says which of its"
    " rules are the vendor's and which are its own."
)

# By the schema of the body. Tests send each to a sandbox with the sample contacts.
BODY_EXAMPLES = {
    "UpdateContact": {
        "phone": "+14155550123",
        "name": "Romain",
        "tags": "vip,paris",
        "metadata": {"lifetime_value": 9120.0},
    },
    "CreateContact": {
        "phone": "+14155550199",
        "name": "Noor",
        "email": "noor@example.com",
        "tags": "lead,newsletter",
        "metadata": {"city": "Lille"},
    },
    "GetContact": {"phone": "+14155550123"},
    "SearchContacts": {"query": "romain", "tag": "vip"},
    "TagContact": {"phone": "+14155550123", "tag": "newsletter"},
}
PROPERTY_EXAMPLES = {
    "contact_id": "0197a1c0-5e00-7000-8000-000000000001",
    "phone": "+14155550123",
    "name": "Romain",
    "email": "romain@example.com",
    "tags": "vip,paris",
    "metadata": {"lifetime_value": 9120.0},
    "query": "romain",
    "tag": "vip",
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
    415: ("NotJSON", "The content type is not JSON's, or the body is compressed.", RATE_LIMIT),
    422: ("Invalid", "Validation failed.", RATE_LIMIT),
    429: ("TooManyRequests", "The rate limit is used up.", RETRY_AFTER),
    500: ("ServerError", "The service's own fault.", RATE_LIMIT),
    503: ("Unavailable", "The database is busy, or can't be written to or used.", RETRY_AFTER),
}

# Neither empty nor blank, without a comma. The control characters are blank to Python alone.
TAG = r"^[^,]*[^,\s\u001c-\u001f\u0085][^,]*$"


class Error(Schema):
    """The response to a request that is refused."""

    class Meta:
        unknown = RAISE

    error = fields.String()
    message = fields.String()


class ValidationError(Error):
    """That to a body whose fields are refused, with the reasons for each."""

    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))


def document(app: Flask, servers: list[str]) -> dict[str, Any]:
    """Return the document of every endpoint of the blueprint `api`, ready for JSON.

    `servers` are the URLs below which the endpoints are served, the best one first.
    """
    return {**described(app), "servers": [{"url": url} for url in servers]}


@cache
def described(app: Flask) -> dict[str, Any]:
    """Return what of the document is the same in each response."""
    marshmallow = MarshmallowPlugin(schema_name_resolver=lambda schema: type(schema).__name__)
    spec = APISpec(
        title="qyvo-standin",
        version=VERSION,
        openapi_version="3.1.0",
        info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
        plugins=[marshmallow, WholeSchemas()],
    )
    marshmallow.converter.add_attribute_function(field_to_json_schema)
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    for status, (name, description, headers) in ERRORS.items():
        schema = ValidationError() if status == 422 else Error()
        spec.components.response(name, response(description, schema, headers))
    for rule in app.url_map.iter_rules():
        blueprint, _, name = rule.endpoint.rpartition(".")
        if blueprint == "api" and name != "openapi_yaml":  # which is openapi_json once more
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
        content = {"schema": body, "example": BODY_EXAMPLES[type(body).__name__]}
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


class WholeSchemas(BasePlugin):
    """Adds what holds for a schema as a whole, which the plugin for marshmallow can't know."""

    def schema_helper(self, name: str, definition: dict[str, Any], *, schema: Any, **kwargs: Any):
        instance = resolve_schema_instance(schema)
        if not isinstance(instance, schemas.Body):
            return {"required": list(definition["properties"])}  # a response has all of its keys
        # Postman fills in the default, unless it is told to look for examples. It does no harm
        # elsewhere: a body is required, so none is ever assumed.
        rules = {"default": BODY_EXAMPLES[name]}
        # Generators of typed clients lose the properties of a schema that has anyOf or oneOf.
        if instance.at_least_one_of:
            one, other = instance.at_least_one_of
            rules |= {"if": {"not": {"required": [one]}}, "then": {"required": [other]}}
        if instance.exactly_one_of:
            rules |= {"minProperties": 1, "maxProperties": 1}
        return rules


def field_to_json_schema(converter: Any, field: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what JSON Schema can say of the project's own fields, and an example.

    Where it can't say enough for a generator to make values that are accepted, as of a phone, the
    rest is in words.
    """
    described = rules_of(field)
    if isinstance(field.parent, schemas.Body):
        described["examples"] = [PROPERTY_EXAMPLES[field.name]]
    return described


def rules_of(field: Any) -> dict[str, Any]:
    match field:
        case schemas.Metadata():
            return {"type": "object", "additionalProperties": True}
        case schemas.ContactId():
            return {"format": "uuid"}
        case schemas.TagList():
            tag = f"[^,]{{0,{schemas.Tag.limit}}}"
            pattern = f"^{tag}(,{tag}){{0,{schemas.MAX_TAGS - 1}}}$"
            return {"pattern": pattern, "description": "Comma-separated."}
        case schemas.PhoneNumber():
            text = "With a leading + and the country code, in any usual spelling."
            return {"format": "phone", "description": text}
        case schemas.EmailAddress(clearable=True):
            address = {"type": "string", "format": "email", "maxLength": field.limit}
            return {"anyOf": [address, {"type": "string", "maxLength": 0}]}
        case schemas.EmailAddress():
            return {"format": "email", "maxLength": field.limit}
        case schemas.Tag():
            return {"maxLength": field.limit, "pattern": TAG}
        case schemas.Text():
            return {"maxLength": field.limit}
    return {}
