"""The page that shows all that a sandbox knows of one workspace."""

import json
import re
import shlex
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from unicodedata import combining, normalize
from urllib.parse import quote

from flask import Blueprint, Response, g, render_template, request, send_from_directory
from marshmallow import EXCLUDE, Schema, fields

import schemas
from auth import public
from sandbox.endpoints import full
from sandbox.faults import MAX_DELAY_MS, api_paths
from sandbox.journal import readable
from sandbox.workspaces import Workspace, workspaces
from store import SANDBOX_WORKSPACE, SEARCH_LIMIT, ContactNotFound, Store

MAX_ENTRIES = 100
MAX_WITHOUT_ACCENTS = 5000  # contacts, the oldest, among which a search ignores accents
EXAMPLE_PATH = "/api/v1/actions/update-contact"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


blueprint = Blueprint("page", __name__, template_folder="templates")


class PageQuery(Schema):
    """The query string of the page: what it shows."""

    class Meta:
        unknown = EXCLUDE

    workspace = fields.String(load_default=SANDBOX_WORKSPACE)
    q = schemas.Text(load_default="")
    path = fields.String(load_default="")
    status = fields.Integer(load_default=None)
    contact = fields.String(load_default=None)
    request = fields.Integer(load_default=None)


@blueprint.get("/")
@public
def page():
    """Without news since its ETag, the page is a 304."""
    g.unlogged = True  # it asks for news twice a second
    version = workspaces().version  # before what it is the version of
    if version in request.if_none_match:
        return "", 304
    view = read_query()
    name = view["workspace"]
    url = request.host_url.rstrip("/")
    can_be = workspaces().is_name(name)
    workspace = workspaces().look_at(name) if can_be else None
    example = as_curl(url, name, "POST", EXAMPLE_PATH, "application/json", example_body())
    html = render_template(
        "inspector.html",
        view=view,
        names=workspaces().list_names(),
        url=url,
        can_be=can_be,
        example=example,
        missing=workspace is None,
        **(show(workspace, view, url) if workspace else {}),
    )
    # What was refused may hold lone surrogates: those are escaped.
    response = Response(html.encode(errors="backslashreplace"), mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.set_etag(version)
    return response


def read_query() -> dict[str, Any]:
    """Return what to show. What can't be is left out, since it is a person who would read why."""
    given = {name: value for name, value in request.args.items() if value}
    wrong = PageQuery().validate(given)
    return PageQuery().load({name: given[name] for name in given.keys() - wrong.keys()})


def show(workspace: Workspace, view: dict[str, Any], url: str) -> dict[str, Any]:
    """Return what the page shows of a workspace."""
    store, workspace_id = workspaces().store, workspace.workspace_id
    entries = workspace.journal.entries()
    entry = next((e for e in entries if e["id"] == view["request"]), None)
    return {
        "contacts": find_contacts(store, workspace_id, view["q"]),
        "contact": view["contact"] and find_contact(store, workspace_id, view["contact"]),
        "entries": workspace.journal.entries(view["path"], view["status"])[:MAX_ENTRIES],
        "paths": choices((without_prefix(e["path"]) for e in entries), view["path"]),
        "statuses": choices((e["status"] for e in entries), view["status"]),
        "entry": entry,
        "curl": entry and entry_as_curl(entry, url, workspace.name),
        "faults": workspace.faults.all,
        "active": any(f["triggered"] != f.get("times") for f in workspace.faults.all),
        "max_delay_ms": MAX_DELAY_MS,
        "max_query": schemas.Text.limit,
        "max_contacts": SEARCH_LIMIT,
        "max_entries": MAX_ENTRIES,
        "sources": schemas.SOURCES,
        "endpoints": sorted(map(without_prefix, api_paths())),
    }


@blueprint.get("/inspector/<path:name>")
@public
def static(name: str):
    """Return a file of the page."""
    g.unlogged = True
    response = send_from_directory(f"{blueprint.root_path}/static", name)
    del response.headers["Cache-Control"]  # every response of the service has its own
    return response


def find_contacts(store: Store, workspace_id: int, text: str) -> list[dict[str, Any]]:
    """Return what search-contacts finds, and who has that tag, that id, or the name with accents.

    They are in the order of search-contacts.
    """
    found = store.search_contacts(workspace_id, query=text)
    if not text:
        return found
    found += store.search_contacts(workspace_id, tag=text)
    with suppress(ContactNotFound):
        found.append(store.get_contact(workspace_id, contact_id=text.lower()))
    if len(found) < SEARCH_LIMIT:
        found += find_without_accents(store, workspace_id, text)
    distinct = {contact["id"]: contact for contact in found}.values()
    return sorted(distinct, key=recency, reverse=True)[:SEARCH_LIMIT]


def find_without_accents(store: Store, workspace_id: int, text: str) -> list[dict[str, Any]]:
    text = without_accents(text)
    with closing(store.export_contacts(workspace_id)) as contacts:
        names = islice(contacts, MAX_WITHOUT_ACCENTS)
        found = (c for c in names if c["name"] and text in without_accents(c["name"]))
        return list(islice(found, SEARCH_LIMIT))


def recency(contact: dict[str, Any]) -> tuple[datetime, datetime]:
    return contact["last_message_at"] or datetime.min.replace(tzinfo=UTC), contact["updated_at"]


def without_accents(text: str) -> str:
    """Return the text as a person types it who has no such keys."""
    return "".join(c for c in normalize("NFKD", text.casefold()) if not combining(c))


def find_contact(store: Store, workspace_id: int, contact_id: str) -> dict[str, Any] | None:
    with suppress(ContactNotFound):
        return full(store.get_contact(workspace_id, contact_id=contact_id))
    return None


def without_prefix(path: str) -> str:
    """Return a path of the API as its documentation names it, for example /me."""
    return re.sub(r"^(/api)?/v1(?=/)", "", path)


def choices(occurring: Iterable, chosen: Any) -> list:
    """Return what a filter offers: the values that occur, and the one that is chosen."""
    return sorted({*occurring, chosen} - {None, ""})


def entry_as_curl(entry: dict[str, Any], url: str, token: str) -> str:
    """Return the request as a command that sends it again."""
    content_type = entry["request_headers"].get("Content-Type", "")
    body = entry["request_body"].decode(errors="replace")
    return as_curl(url, token, entry["method"], entry["path"], content_type, body)


def as_curl(url: str, token: str, method: str, path: str, content_type: str, body: str) -> str:
    """Return the command, in lines for a shell."""
    lines = [
        ["curl", *(["--head"] if method == "HEAD" else ["-X", method]), url + quote(path)],
        ["-H", f"Authorization: Bearer {token}"],
    ]
    if content_type:
        lines.append(["-H", f"Content-Type: {content_type}"])
    if body:
        lines.append(["--data-raw", body])  # which takes no @file
    return " \\\n  ".join(map(shlex.join, lines))


def example_body() -> str:
    """Return the body of an update that changes the first contact of a new workspace."""
    return json.dumps({"phone": workspaces().contacts[0]["phone"], "tags": "vip, paris"})


@blueprint.app_template_filter()
def pretty(body: bytes) -> str:
    """Return a body as it is best read: JSON indented, anything else as it came."""
    value = readable(body)
    return body.decode(errors="replace") if isinstance(value, str | None) else indented(value)


@blueprint.app_template_filter()
def indented(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
