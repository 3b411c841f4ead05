"""The endpoints under /sandbox, which act on the workspace of the request's token."""

import time
from collections.abc import Callable
from typing import Any

from flask import Blueprint, current_app, g, request
from marshmallow import Schema, ValidationError, fields, validates_schema

import schemas
from sandbox.faults import MAX_FAULTS, Fault, Faults
from sandbox.journal import JournalQuery, shown
from store import METADATA_LIMIT, Store, compact_json, leave_the_loop, pause

POLL_SECONDS = 0.05


def fits(metadata: dict[str, Any]):
    if len(compact_json(metadata).encode()) > METADATA_LIMIT:
        raise ValidationError(f"It exceeds {METADATA_LIMIT} bytes (64 KiB).")


class ResetContact(schemas.CreateContact):
    """An entry of a reset: the body of create-contact, and an `id` if the test wants to know it."""

    id = schemas.ContactId()
    metadata = schemas.Metadata(validate=fits)


class Reset(schemas.Body):
    """The body of POST /sandbox/reset, which may be left out."""

    contacts = fields.List(fields.Nested(ResetContact))

    @validates_schema
    def check_distinct(self, data, **kwargs):
        seen = set()
        for position, contact in enumerate(data.get("contacts", ())):
            for field in ("phone", "id"):
                value = contact.get(field)
                if value and value in seen:
                    errors = {position: {field: ["An earlier entry has it."]}}
                    raise ValidationError({"contacts": errors})
                seen.add(value)


class EditContact(schemas.ContactFields):
    """The body of PUT /sandbox/contacts/ID."""

    phone = schemas.PhoneNumber()


class EditPath(Schema):
    """The variable part of that path."""

    id = schemas.ContactId()


def make_blueprint(store: Store, read_json: Callable) -> Blueprint:
    """Return the endpoints. `read_json` returns what the request's body holds."""
    blueprint = Blueprint("sandbox", __name__, url_prefix="/sandbox")

    @blueprint.post("/reset")
    def reset():
        """Load the contacts of the body, or those of the start; empty journal and faults."""
        leave_the_loop()  # there may be thousands of contacts to read
        has_body = request.content_length or "Transfer-Encoding" in request.headers
        body = Reset().load(read_json()) if has_body else {}
        contacts = body.get("contacts", current_app.config["SANDBOX_CONTACTS"])
        store.replace_contacts(g.token.workspace_id, contacts)
        g.token.journal.clear()
        g.token.faults = Faults()
        return "", 204

    @blueprint.get("/contacts/<phone_or_id>")
    def get_contact(phone_or_id: str):
        """Return the contact as get-contact does, outside of journal, faults and rate limit."""
        field = "phone" if phone_or_id.startswith("+") else "contact_id"
        reference = schemas.GetContact().load({field: phone_or_id})
        return schemas.Contact().dump(store.get_contact(g.token.workspace_id, **reference))

    @blueprint.put("/contacts/<contact_id>")
    def put_contact(contact_id: str):
        """Write the given fields to the contact, which is created if there is none."""
        path = EditPath().load({"id": contact_id})
        changes = EditContact().load(read_json())
        contact = store.put_contact(g.token.workspace_id, path["id"], **changes)
        return schemas.Contact().dump(contact)

    @blueprint.delete("/contacts/<contact_id>")
    def delete_contact(contact_id: str):
        """Delete the contact."""
        store.delete_contact(g.token.workspace_id, contact_id.lower())
        return "", 204

    @blueprint.get("/requests")
    def list_requests():
        """Return the journal, newest first, once `min` entries match or the time is over."""
        filters = JournalQuery().load(request.args.to_dict())
        limit, least = filters.pop("limit"), filters.pop("min")
        deadline = g.began + filters.pop("timeout")
        journal = g.token.journal
        while len(journal.entries(**filters)) < least and time.monotonic() < deadline:
            pause(POLL_SECONDS)
        leave_the_loop()  # there may be 4 MiB to write
        return [shown(entry) for entry in journal.entries(**filters)[:limit]]

    @blueprint.delete("/requests")
    def clear_requests():
        """Empty the journal."""
        g.token.journal.clear()
        return "", 204

    @blueprint.get("/faults")
    def list_faults():
        """Return the faults in order, used-up ones included."""
        return {"faults": g.token.faults.all}

    @blueprint.put("/faults")
    def set_faults():
        """Replace all faults by that of the body, or by those of an array."""
        body = read_json()
        if isinstance(body, list) and len(body) > MAX_FAULTS:
            raise ValidationError(f"Pass at most {MAX_FAULTS} faults.", "body")
        loaded = Fault().load(body, many=isinstance(body, list))
        g.token.faults = Faults(loaded if isinstance(body, list) else [loaded])
        return list_faults()

    @blueprint.delete("/faults")
    def remove_faults():
        """Remove all faults."""
        g.token.faults = Faults()
        return "", 204

    return blueprint
