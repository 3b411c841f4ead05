"""The page that shows all that a sandbox knows of one workspace."""

import json
import re
import shlex
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, g, render_template, request, send_from_directory
from marshmallow import EXCLUDE, Schema, fields

import schemas
from auth import public
from sandbox.endpoints import full
from sandbox.faults import MAX_DELAY_MS, endpoints
from sandbox.journal import readable
from sandbox.workspaces import workspaces
from store import SANDBOX_WORKSPACE, SEARCH_LIMIT, ContactNotFound, Store

MAX_ENTRIES = 100
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
    store = workspaces().store
    given = {name: value for name, value in request.args.items() if value}
    wrong = PageQuery().validate(given)  # such as a status that is no number
    view = PageQuery().load({name: given[name] for name in given.keys() - wrong.keys()})
    names = sorted({SANDBOX_WORKSPACE, *store.list_workspaces()})
    if view["workspace"] not in names:
        view["workspace"] = SANDBOX_WORKSPACE
    workspace = workspaces().find_token(view["workspace"])
    version = workspaces().version  # before what it is the version of
    if version in request.if_none_match:
        return "", 304
    url = request.host_url.rstrip("/")
    entries = workspace.journal.entries()
    entry = next((e for e in entries if e["id"] == view["request"]), None)
    html = render_template(
        "inspector.html",
        view=view,
        names=names,
        url=url,
        contacts=find_contacts(store, workspace.workspace_id, view["q"]),
        contact=view["contact"] and find_contact(store, workspace.workspace_id, view["contact"]),
        entries=workspace.journal.entries(view["path"], view["status"])[:MAX_ENTRIES],
        paths=choices((without_prefix(e["path"]) for e in entries), view["path"]),
        statuses=choices((e["status"] for e in entries), view["status"]),
        entry=entry,
        curl=entry and as_curl(entry, url, view["workspace"]),
        faults=workspace.faults.all,
        active=any(f["triggered"] != f.get("times") for f in workspace.faults.all),
        max_delay_ms=MAX_DELAY_MS,
        max_query=schemas.Text.limit,
        max_contacts=SEARCH_LIMIT,
        max_entries=MAX_ENTRIES,
        endpoints=sorted(map(without_prefix, endpoints())),
    )
    # What was refused may hold lone surrogates: those are escaped.
    response = Response(html.encode(errors="backslashreplace"), mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.set_etag(version)
    return response


@blueprint.get("/inspector/<path:name>")
@public
def static(name: str):
    """Return a file of the page."""
    g.unlogged = True
    response = send_from_directory(f"{blueprint.root_path}/static", name)
    del response.headers["Cache-Control"]  # every response of the service has its own
    return response


def find_contacts(store: Store, workspace_id: int, text: str) -> list[dict[str, Any]]:
    """Return what search-contacts finds, and the contacts with that tag or that id."""
    found = store.search_contacts(workspace_id, query=text)
    if not text:
        return found
    found += store.search_contacts(workspace_id, tag=text)
    with suppress(ContactNotFound):
        found.append(store.get_contact(workspace_id, contact_id=text.lower()))
    distinct = {contact["id"]: contact for contact in found}.values()
    newest_first = sorted(distinct, key=lambda contact: contact["updated_at"], reverse=True)
    return newest_first[:SEARCH_LIMIT]


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


def as_curl(entry: dict[str, Any], url: str, token: str) -> str:
    """Return the request as a command that sends it again."""
    method = ["--head"] if entry["method"] == "HEAD" else ["-X", entry["method"]]
    lines = [
        ["curl", *method, url + quote(entry["path"])],
        ["-H", f"Authorization: Bearer {token}"],
    ]
    if content_type := entry["request_headers"].get("Content-Type"):
        lines.append(["-H", f"Content-Type: {content_type}"])
    if entry["request_body"]:
        body = entry["request_body"].decode(errors="replace")
        lines.append(["--data-raw", body])  # which takes no @file
    return " \\\n  ".join(map(shlex.join, lines))


@blueprint.app_template_filter()
def pretty(body: bytes) -> str:
    """Return a body as it is best read: JSON indented, anything else as it came."""
    value = readable(body)
    return body.decode(errors="replace") if isinstance(value, str | None) else indented(value)


@blueprint.app_template_filter()
def indented(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
