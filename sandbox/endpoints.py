"""The endpoints under /sandbox, which act on the workspace of the request's token."""

from contextlib import suppress
from typing import Any

from flask import Blueprint, g, request
from marshmallow import Schema, ValidationError, fields

import schemas
from bodies import no_content, read_json
from sandbox.faults import MAX_FAULTS, Fault, Faults
from sandbox.journal import JournalQuery, shown
from sandbox.workspaces import workspaces
from store import ContactNotFound

blueprint = Blueprint("sandbox", __name__, url_prefix="/sandbox")


class Contacts(fields.Field):
    """Contacts with distinct phones and ids. No more errors are looked for than are named."""

    default_error_messages = {"invalid": "Must be an array."}
    _schema = schemas.StoredContact()

    def _deserialize(self, value, attr, data, **kwargs):
        if not isinstance(value, list):
            raise self.make_error("invalid")
        contacts, errors = [], {}
        for position, entry in enumerate(value):
            try:
                contacts.append(self._schema.load(entry))
            except ValidationError as error:
                is_object = isinstance(entry, dict)
                errors[position] = error.messages if is_object else ["Must be a JSON object."]
                if len(errors) == schemas.MAX_ERRORS:
                    break
        if errors:
            raise ValidationError(errors)
        for position, field, _ in schemas.find_repeated(contacts):
            raise ValidationError({position: {field: ["An earlier entry has it."]}})
        return contacts


class Reset(schemas.Body):
    """The body of POST /sandbox/reset, which may be left out."""

    contacts = Contacts()


class EditContact(schemas.FurtherFields, schemas.ContactFields):
    """The body of PUT /sandbox/contacts/ID."""

    phone = schemas.PhoneNumber()


class EditPath(Schema):
    """The variable part of that path."""

    id = schemas.ContactId()


@blueprint.post("/reset")
def reset():
    """Load the contacts of the body, or those of the start; empty journal and faults."""
    has_body = request.content_length or "Transfer-Encoding" in request.headers
    body = Reset().load(read_json()) if has_body else {}
    contacts = body.get("contacts", workspaces().contacts)
    workspaces().store.replace_contacts(g.token.workspace_id, contacts)
    g.token.journal.clear()
    g.token.faults = Faults()
    return no_content()


@blueprint.get("/contacts")
def list_contacts():
    """Return what search-contacts finds, outside of journal, faults and rate limit."""
    filters = schemas.SearchContacts().load(request.args.to_dict())
    store, workspace_id, contacts = workspaces().store, g.token.workspace_id, []
    for found in store.search_contacts(workspace_id, **filters):
        with suppress(ContactNotFound):  # deleted in the meantime
            contacts.append(full(store.get_contact(workspace_id, contact_id=found["id"])))
    return contacts


@blueprint.get("/contacts/<phone_or_id>")
def get_contact(phone_or_id: str):
    """Return all that is known of the contact, outside of journal, faults and rate limit."""
    field = "phone" if phone_or_id.startswith("+") else "contact_id"
    reference = schemas.GetContact().load({field: phone_or_id})
    return full(workspaces().store.get_contact(g.token.workspace_id, **reference))


def full(contact: dict[str, Any]) -> dict[str, Any]:
    """Return what get-contact does, in its order, and the time of the last update."""
    return {**schemas.Contact().dump(contact), "updated_at": contact["updated_at"]}


@blueprint.put("/contacts/<contact_id>")
def put_contact(contact_id: str):
    """Write the given fields to the contact, which is created if there is none."""
    path = EditPath().load({"id": contact_id})
    changes = EditContact().load(read_json())
    return full(workspaces().store.put_contact(g.token.workspace_id, path["id"], **changes))


@blueprint.delete("/contacts/<contact_id>")
def delete_contact(contact_id: str):
    """Delete the contact."""
    path = EditPath().load({"id": contact_id})
    workspaces().store.delete_contact(g.token.workspace_id, path["id"])
    return no_content()


@blueprint.get("/requests")
def list_requests():
    """Return the journal once `min` entries match or the time is over."""
    query = JournalQuery().load(request.args.to_dict())
    limit, order, count, seconds = (query.pop(key) for key in ("limit", "order", "min", "timeout"))
    g.token.journal.wait_for(count, seconds, **query)
    entries = g.token.journal.entries(**query)
    if order == "oldest":
        entries.reverse()
    return [shown(entry) for entry in entries[:limit]]


@blueprint.delete("/requests")
def clear_requests():
    """Empty the journal."""
    g.token.journal.clear()
    return no_content()


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
    return no_content()
