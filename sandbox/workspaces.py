"""A workspace for every token of a sandbox, and the endpoints that change its contacts."""

import itertools
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, current_app, g, request
from marshmallow import Schema, ValidationError, fields, validates_schema

import schemas
from sandbox.faults import Faults
from sandbox.journal import Journal
from store import (
    METADATA_LIMIT,
    Store,
    Token,
    compact_json,
    leave_the_loop,
)

# Numbers that regulators keep for fiction; the first contact is the documentation's own example.
SAMPLE_CONTACTS = [
    json.loads(line)
    for line in Path(__file__).with_name("contacts.jsonl").read_text("utf-8").splitlines()
]

BASE = "sandbox"
MAX_WORKSPACES = 200
MAX_NAME = 200


class Workspace:
    """What is known of a workspace beside its contacts. `id` is None until it is opened."""

    def __init__(self, workspace_id: int | None = None):
        self.id = workspace_id
        self.journal = Journal()
        self.faults = Faults()


class Workspaces:
    """Gives the token `sandbox`, and each that continues it after a hyphen, a workspace.

    A workspace is named by its token, and made when that is first admitted. Beyond MAX_WORKSPACES
    the longest unused is dropped; that of `sandbox` stays.
    """

    def __init__(self, app: Flask, store: Store):
        self._config = app.config
        self._store = store
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._loaded = False
        self.base = Workspace()
        self._by_name = OrderedDict({BASE: self.base})  # the longest unused first
        self._versions = itertools.count(time.time_ns())
        self.changed()

    def find_token(self, secret: str) -> Token | None:
        """Return the token, and count that as use of its workspace. Opens it if necessary."""
        name = self.name_of(secret)
        if name is None:
            return None
        stored_id = self._store.find_workspace(name)  # None if a command has deleted it
        with self._lock:
            self._load()
            workspace = self._by_name.get(name)
            if workspace and stored_id and workspace.id == stored_id:
                self._by_name.move_to_end(name)
                return Token(0, name, workspace.id)
        return Token(0, name, self._open(name))

    def name_of(self, secret: str) -> str | None:
        """Return the name of the token's workspace, which need not be open; None if unknown."""
        if secret in (BASE, self._config["QYVO_TOKEN"]):
            return BASE
        if secret.startswith(f"{BASE}-") and len(BASE) + 1 < len(secret) <= MAX_NAME:
            return secret
        return None

    def _open(self, name: str) -> int:
        leave_the_loop()
        with self._opening:  # so that none is found that is about to be deleted
            workspace_id = self._store.open_workspace(name, self._config["SANDBOX_CONTACTS"])
            with self._lock:
                self._by_name.setdefault(name, Workspace()).id = workspace_id
                self._by_name.move_to_end(name)
                count = len(self._by_name) - MAX_WORKSPACES
                unused = [n for n in self._by_name if n != BASE][: max(0, count)]
            for each in unused:
                self._store.delete_workspace(self._by_name[each].id)
                with self._lock:
                    del self._by_name[each]
        self.changed()
        return workspace_id

    def _load(self):
        """Find the workspaces that an earlier run has left."""
        if not self._loaded:
            for name, workspace_id in self._store.list_workspaces().items():
                self._by_name.setdefault(name, Workspace()).id = workspace_id
            self._loaded = True

    def names(self) -> list[str]:
        """Return every workspace's name, that of `sandbox` first."""
        with self._lock:
            self._load()
            return sorted(self._by_name)

    def named(self, name: str | None) -> Workspace:
        """Return the workspace of that name if it is open, else that of `sandbox`."""
        return self._by_name.get(name, self.base)

    def is_open(self, token: Token) -> bool:
        """Return whether the workspace that the token was found for has not been dropped."""
        return self.named(token.name).id == token.workspace_id

    def get(self, token: Token) -> Workspace:
        """Return the token's workspace or, if it was dropped, one that nobody sees."""
        return self.named(token.name) if self.is_open(token) else Workspace()

    def changed(self):
        """Tell the page that there is something new to show."""
        self.version = str(next(self._versions))


# Resetting and editing


def _fits(metadata: dict[str, Any]):
    if len(compact_json(metadata).encode()) > METADATA_LIMIT:
        raise ValidationError(f"It exceeds {METADATA_LIMIT} bytes (64 KiB).")


class ResetContact(schemas.CreateContact):
    """An entry of a reset: the body of create-contact, and an `id` if the test wants to know it."""

    id = schemas.ContactId()
    metadata = schemas.Metadata(validate=_fits)


class Reset(schemas.Body):
    """The body of POST /sandbox/reset, which may be left out."""

    contacts = fields.List(fields.Nested(ResetContact))

    @validates_schema
    def check_distinct(self, data, **kwargs):
        for field in ("phone", "id"):
            seen = set()
            for position, contact in enumerate(data.get("contacts", ())):
                value = contact.get(field)
                if value in seen:
                    raise ValidationError(
                        {"contacts": {position: {field: ["An earlier entry has it."]}}}
                    )
                seen.add(value or object())


class EditPath(Schema):
    """The variable part of /sandbox/contacts/ID."""

    id = schemas.ContactId()


class EditContact(schemas.ContactFields):
    """The body of PUT /sandbox/contacts/ID."""

    phone = schemas.PhoneNumber()


def make_blueprint(workspaces: Workspaces, store: Store, read_json: Callable) -> Blueprint:
    """Return the endpoints that reset a workspace and edit its contacts."""
    blueprint = Blueprint("sandbox", __name__, url_prefix="/sandbox")
    reset_body, edit_path, edit_body = Reset(), EditPath(), EditContact()
    response = schemas.Contact()

    @blueprint.post("/reset")
    def reset():
        """Load the contacts of the body, or those of the start; empty journal and faults."""
        leave_the_loop()  # there may be thousands of contacts to read
        has_body = request.content_length or "Transfer-Encoding" in request.headers
        body = reset_body.load(read_json()) if has_body else {}
        contacts = body.get("contacts", current_app.config["SANDBOX_CONTACTS"])
        store.replace_contacts(g.token.workspace_id, contacts)
        workspace = workspaces.get(g.token)
        workspace.journal.clear()
        workspace.faults.set([])
        workspaces.changed()
        return "", 204

    @blueprint.get("/contacts/<phone_or_id>")
    def get_contact(phone_or_id: str):
        """Return the contact as get-contact does, outside of journal, faults and rate limit."""
        field = "phone" if phone_or_id.startswith("+") else "contact_id"
        reference = schemas.GetContact().load({field: phone_or_id})
        return response.dump(store.get_contact(g.token.workspace_id, **reference))

    @blueprint.put("/contacts/<contact_id>")
    def put_contact(contact_id: str):
        """Write the given fields to the contact, which is created if there is none."""
        fields = edit_path.load({"id": contact_id}) | edit_body.load(read_json())
        contact = store.put_contact(g.token.workspace_id, fields.pop("id"), **fields)
        workspaces.changed()
        return response.dump(contact)

    @blueprint.delete("/contacts/<contact_id>")
    def delete_contact(contact_id: str):
        """Delete the contact."""
        store.delete_contact(g.token.workspace_id, contact_id.lower())
        workspaces.changed()
        return "", 204

    return blueprint
