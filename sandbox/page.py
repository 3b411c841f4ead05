"""The page that shows all that a sandbox knows of one workspace."""

import json
import re
import shlex
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Blueprint, Response, current_app, g, render_template, request, send_from_directory
from marshmallow import EXCLUDE, Schema, fields

import schemas
from sandbox.faults import COMMON, MAX_DELAY_MS
from sandbox.journal import readable
from store import SEARCH_LIMIT, ContactNotFound, Store, leave_the_loop

if TYPE_CHECKING:
    from sandbox.workspaces import Workspaces

SHOWN = 100
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class View(Schema):
    """The query string of the page: what it shows."""

    class Meta:
        unknown = EXCLUDE

    workspace = fields.String(load_default="sandbox")
    q = schemas.Text(load_default="")
    path = fields.String(load_default="")
    status = fields.Integer(load_default=None)
    contact = fields.String(load_default=None)
    request = fields.Integer(load_default=None)


def make_blueprint(workspaces: "Workspaces", store: Store) -> Blueprint:
    """Return the page and its static files, which need no token."""
    blueprint = Blueprint("page", __name__, template_folder="templates")
    blueprint.add_app_template_filter(pretty)
    blueprint.add_app_template_filter(indented)
    query = View()

    @blueprint.before_request
    def leave_out_of_the_log():
        """The page asks for news twice a second."""
        g.unlogged = True

    @blueprint.get("/")
    def page():
        """Without news since its ETag, the page is a 304."""
        view = query.load({name: value for name, value in request.args.items() if value})
        names = workspaces.names()
        name = view["workspace"] if view["workspace"] in names else "sandbox"
        token = workspaces.find_token(name)
        version = workspaces.version  # before what it is the version of
        if version in request.if_none_match:
            return "", 304
        leave_the_loop()
        workspace, url = workspaces.get(token), request.host_url.rstrip("/")
        entries = workspace.journal.entries()
        matches = workspace.journal.entries(view["path"], view["status"])
        entry = next((e for e in entries if e["id"] == view["request"]), None)
        html = render_template(
            "inspector.html",
            view={**view, "workspace": name},
            names=names,
            url=url,
            contacts=find_contacts(store, token.workspace_id, view["q"]),
            contact=view["contact"] and opened_contact(token.workspace_id, view["contact"]),
            entries=matches[:SHOWN],
            paths=choices((without_prefix(e["path"]) for e in entries), view["path"]),
            statuses=choices((e["status"] for e in entries), view["status"]),
            entry=entry,
            curl=entry and as_curl(entry, url, name),
            faults=(faults := workspace.faults.list()),
            active=any(fault["triggered"] != fault.get("times") for fault in faults),
            fault_statuses=COMMON,
            max_delay_ms=MAX_DELAY_MS,
            max_query=query.fields["q"].limit,
            max_contacts=SEARCH_LIMIT,
            max_entries=SHOWN,
            endpoints=sorted(
                without_prefix(rule.rule)
                for rule in current_app.url_map.iter_rules()
                if rule.endpoint.startswith("v1.")
            ),
        )
        # What was refused may hold lone surrogates: those are escaped.
        response = Response(html.encode(errors="backslashreplace"), mimetype="text/html")
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        response.set_etag(version)
        return response

    @blueprint.get("/inspector/<path:name>")
    def static(name: str):
        """Return a file of the page."""
        response = send_from_directory(f"{blueprint.root_path}/static", name)
        del response.headers["Cache-Control"]  # every response of the service has its own
        return response

    def opened_contact(workspace_id: int, contact_id: str) -> dict[str, Any] | None:
        try:
            contact = store.get_contact(workspace_id, contact_id=contact_id)
        except ContactNotFound:
            return None
        # Beside what get-contact returns, in its order.
        shown = {**schemas.Contact().dump(contact), "updated_at": contact["updated_at"]}
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in shown.items()
        }

    page.public = static.public = True
    return blueprint


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
        shlex.join(["curl", *method, url + quote(entry["path"])]),
        "-H " + shlex.quote(f"Authorization: Bearer {token}"),
    ]
    if entry["content_type"]:
        lines.append("-H " + shlex.quote(f"Content-Type: {entry['content_type']}"))
    if entry["request_body"]:
        body = entry["request_body"].decode(errors="replace")
        lines.append("--data-raw " + shlex.quote(body))  # which takes no @file
    return " \\\n  ".join(lines)


def pretty(body: bytes) -> str:
    """Return a body as it is best read: JSON indented, anything else as it came."""
    value = readable(body)
    return body.decode(errors="replace") if isinstance(value, str | None) else indented(value)


def indented(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
