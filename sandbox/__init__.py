"""What only a developer's stand-in needs.

Sample contacts, a workspace for every token, a journal of what arrived, faults on request, and a
page that shows it all. A deployment never loads this package.
"""

import ipaddress
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from flask import Flask, current_app, request
from werkzeug.exceptions import Forbidden

from sandbox import endpoints, faults, page
from sandbox.workspaces import SAMPLE_CONTACTS, Workspaces
from store import Store


def init_app(app: Flask, store: Store, admit: Callable, read_json: Callable):
    """Make the application a sandbox, which responds to loopback names alone.

    `admit` authenticates a request, given a function that finds tokens; `read_json` reads its
    body. The server sets LOOPBACK_ONLY to False when it listens on another address.
    """
    app.config.from_mapping(SANDBOX_CONTACTS=SAMPLE_CONTACTS, LOOPBACK_ONLY=True, ALLOWED_HOSTS=())
    workspaces = Workspaces(store)
    app.before_request(refuse_other_sites)
    app.before_request(partial(admit, workspaces.find_token))
    app.before_request(faults.inject)
    app.after_request(workspaces.record)
    app.after_request(workspaces.refuse_if_dropped)  # which runs first
    app.register_blueprint(endpoints.make_blueprint(store, read_json))
    app.register_blueprint(page.make_blueprint(workspaces, store))


def is_loopback(name: str) -> bool:
    """Return whether a Host header's name, without the port, is this machine's."""
    with suppress(ValueError):
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    return name.lower() == "localhost"


def refuse_other_sites():
    """Keep web pages of other sites from reading or changing what is here.

    Names other than loopback's are refused, since by DNS rebinding they can lead a browser here.
    """
    host = request.headers.get("Host", "")
    name = re.sub(r":\d*$", "", host)
    allowed = current_app.config["ALLOWED_HOSTS"]
    restricted = current_app.config["LOOPBACK_ONLY"] or allowed
    if restricted and not is_loopback(name) and name.lower() not in allowed:
        raise Forbidden(
            "The sandbox responds to 127.0.0.1, localhost and the names given by --allow-host"
            " alone: use one of these."
        )
    origin = request.headers.get("Origin", f"http://{host}")
    is_foreign = origin.partition("://")[2] != host
    if request.method not in ("GET", "HEAD", "OPTIONS") and (
        is_foreign or request.headers.get("Sec-Fetch-Site") == "cross-site"
    ):
        raise Forbidden("The sandbox accepts no changes from pages of other sites.")
