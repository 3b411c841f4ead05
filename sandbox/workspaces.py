"""A workspace for every token of a sandbox."""

import json
import re
import threading
import time
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

from flask import Response, current_app, g, request
from werkzeug.exceptions import Unauthorized

import schemas
from auth import is_of_the_api
from sandbox.faults import Faults
from sandbox.journal import Journal
from store import SANDBOX_WORKSPACE, Store

# Numbers that regulators keep for fiction; the first contact is the documentation's own example.
SAMPLE_CONTACTS = [
    schemas.ImportedContact().load(json.loads(line))
    for line in Path(__file__).with_name("contacts.jsonl").read_text("utf-8").splitlines()
]
PREFIX = f"{SANDBOX_WORKSPACE}-"
MAX_WORKSPACES = 200
MAX_NAME = 200
_VISIBLE = re.compile(r"[\x21-\x7e]+")
MAX_JOURNALS = 64 * 1024 * 1024  # bytes of all of them


class Workspace:
    """A workspace, and the token of the same name that opens it: it is what `g.token` is."""

    id = 0  # the token's

    def __init__(self, name: str, stopping: threading.Event):
        self.name = name
        self.stopping = stopping
        self.workspace_id = 0  # until it is opened
        self.journal = Journal()
        self.faults = Faults()
        self.used = 0.0  # at which time.monotonic()


class Workspaces:
    """Gives the token `sandbox`, and each that begins with `sandbox-`, a workspace.

    A workspace is made when its token is first admitted. Beyond MAX_WORKSPACES the longest unused
    is dropped; that of `sandbox` stays. `version` changes whenever the page may have news.

    `stopping` is set when the server stops.
    """

    def __init__(
        self,
        store: Store,
        contacts: list[dict[str, Any]],
        qyvo_token: str | None,
        stopping: threading.Event,
    ):
        self.store = store
        self.contacts = contacts  # with which each starts
        self.stopping = stopping
        self._own_names = (SANDBOX_WORKSPACE, qyvo_token)
        self._lock = threading.Lock()  # for opening and dropping
        self._by_name = {SANDBOX_WORKSPACE: Workspace(SANDBOX_WORKSPACE, stopping)}
        self.version = uuid4().hex

    def find_token(self, secret: str) -> Workspace | None:
        """Return the token's workspace, and count that as use of it. Opens it if necessary."""
        name = self._name_of(secret)
        if name is None:
            return None
        workspace = self._by_name.get(name)
        # A command may have deleted it meanwhile.
        if workspace is None or workspace.workspace_id != self.store.find_workspace(name):
            workspace = self._open(name)
        workspace.used = time.monotonic()
        return workspace

    def look_at(self, name: str) -> Workspace | None:
        """Return the workspace, if there is one, without counting that as use of it.

        None is made but that of `sandbox`, which is always there.
        """
        with self._lock:
            if name == SANDBOX_WORKSPACE:
                workspace_id = self.store.get_or_create_workspace(name, self.contacts)
            else:
                workspace_id = self.store.find_workspace(name)
            return self._attach(name, workspace_id) if workspace_id else None

    def list_names(self) -> list[str]:
        """Return the name of every workspace, the last used first."""
        names = dict.fromkeys([SANDBOX_WORKSPACE, *reversed(self.store.list_workspaces())])
        return sorted(filter(self.is_name, names), key=self._used, reverse=True)

    def is_name(self, name: str) -> bool:
        """Return whether a workspace can have that name, which is then its token."""
        return bool(_VISIBLE.fullmatch(name)) and self._name_of(name) == name

    def _name_of(self, secret: str) -> str | None:
        if secret in self._own_names:
            return SANDBOX_WORKSPACE
        if secret.startswith(PREFIX) and len(PREFIX) < len(secret) <= MAX_NAME:
            return secret
        return None

    def _open(self, name: str) -> Workspace:
        with self._lock:
            workspace_id = self.store.get_or_create_workspace(name, self.contacts)
            workspace = self._attach(name, workspace_id)
            workspace.used = time.monotonic()
            self._drop_unused()
        return workspace

    def _attach(self, name: str, workspace_id: int) -> Workspace:
        workspace = self._by_name.get(name)
        if workspace is None or workspace.workspace_id not in (0, workspace_id):
            self._forget(name)
            workspace = self._by_name[name] = Workspace(name, self.stopping)
        workspace.workspace_id = workspace_id
        return workspace

    def _used(self, name: str) -> float:
        return self._by_name[name].used if name in self._by_name else 0

    def _drop_unused(self):
        stored = self.store.list_workspaces()  # those of earlier runs too, the oldest first
        for name in self._by_name.keys() - stored.keys() - {SANDBOX_WORKSPACE}:
            self._forget(name)  # a command has deleted it
        stored.pop(SANDBOX_WORKSPACE, None)
        for name in sorted(stored, key=self._used)[: max(0, len(stored) + 1 - MAX_WORKSPACES)]:
            self.store.delete_workspace(stored[name])
            self._forget(name)

    def _forget(self, name: str):
        if workspace := self._by_name.pop(name, None):
            workspace.journal.end_waiting()

    def _bound_journals(self):
        """Let the largest journal lose its oldest entries until all of them fit."""
        journals = [workspace.journal for workspace in list(self._by_name.values())]
        while sum(journal.size for journal in journals) > MAX_JOURNALS:
            max(journals, key=attrgetter("size")).drop_oldest()

    def end_waiting(self):
        """Let no request wait for others to arrive."""
        for workspace in list(self._by_name.values()):
            workspace.journal.end_waiting()

    def refuse_if_dropped(self, response: Response) -> Response:
        """Respond with a 401 to a request whose workspace was dropped in the meantime."""
        token = g.get("token")
        if token and self._by_name.get(token.name) is not token:
            return current_app.handle_user_exception(Unauthorized())
        return response

    def record(self, response: Response) -> Response:
        """Add every request to the API to the journal of its token's workspace.

        One that belongs to no open workspace is in that of `sandbox`. A path that does not exist,
        or a wrong method on any path, counts as the API's: it is a mistake on the way to it.
        """
        if request.url_rule is None or is_of_the_api():
            secret = request.headers.get("Authorization", "").partition(" ")[2]
            workspace = self._by_name.get(self._name_of(secret), self._by_name[SANDBOX_WORKSPACE])
            workspace.journal.add(response)
            self._bound_journals()
        if request.blueprint != "page":
            self.version = uuid4().hex
        return response


def workspaces() -> Workspaces:
    """Return the workspaces of the current application."""
    return current_app.extensions["workspaces"]
