"""What only a developer's stand-in needs.

Sample contacts, a workspace for every token, a journal of what arrived, faults on request, and a
page that shows it all. A deployment never loads this package.
"""

import ipaddress
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from flask import Flask, request
from werkzeug.exceptions import Forbidden

import auth
from sandbox import endpoints, faults, page
from sandbox.workspaces import SAMPLE_CONTACTS, Workspaces

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+))(?::\d*)?")
_LOOPBACK_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")


class Sandbox:
    """Makes an application a sandbox.

    Every workspace starts with `contacts`, the samples by default. With `loopback_only` the sandbox
    responds to loopback names and `allowed_hosts` alone, and likewise if there are such hosts.
    """

    def __init__(
        self,
        contacts: list[dict[str, Any]] | None = None,
        *,
        loopback_only: bool = True,
        allowed_hosts: Sequence[str] = (),
    ):
        self.contacts = contacts or SAMPLE_CONTACTS
        self.stopping = threading.Event()
        self._allowed_hosts = allowed_hosts
        self._restricted = loopback_only or allowed_hosts

    def init_app(self, app: Flask):
        """Add the sandbox's hooks and endpoints to the application, which has a store."""
        store, token = app.extensions["store"], app.config["QYVO_TOKEN"]
        self.workspaces = Workspaces(store, self.contacts, token, self.stopping)
        app.extensions["workspaces"] = self.workspaces
        app.before_request(self.refuse_other_sites)
        # What is to be done after a request is done in the opposite order.
        app.after_request(faults.lose)
        app.after_request(self.workspaces.record)
        auth.init_app(app, self.workspaces)
        app.before_request(faults.inject)
        app.after_request(self.workspaces.refuse_if_dropped)
        app.register_blueprint(endpoints.blueprint)
        app.register_blueprint(page.blueprint)

    def stop(self):
        """End the requests that wait on purpose: for a delay, or for others to arrive."""
        self.stopping.set()
        self.workspaces.end_waiting()

    def refuse_other_sites(self):
        """Keep web pages of other sites from reading or changing what is here.

        Names other than loopback's are refused, since by DNS rebinding they can lead a browser
        here.
        """
        host = request.headers.get("Host", "")
        name = name_of(host)
        allowed = is_loopback(name) or name in self._allowed_hosts
        if self._restricted and not allowed:
            raise Forbidden(
                "The sandbox responds to 127.0.0.1, localhost and the names given by --allow-host"
                " alone: use one of these."
            )
        if request.method not in ("GET", "HEAD", "OPTIONS") and is_of_another_site(host):
            raise Forbidden("The sandbox accepts no changes from pages of other sites.")


def is_of_another_site(host: str) -> bool:
    """Return whether a page that is neither this machine's nor the sandbox's own sent the request.

    Behind a proxy for development the page's origin is not the host that the sandbox is asked for.
    """
    origin = request.headers.get("Origin")
    if origin and _LOOPBACK_ORIGIN.fullmatch(origin):
        return False
    is_own = origin in (None, f"http://{host}", f"https://{host}")
    return not is_own or request.headers.get("Sec-Fetch-Site") == "cross-site"


def name_of(host: str) -> str:
    """Return the name or the address in a Host header, "" if it is neither."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else ""


def is_loopback(name: str) -> bool:
    """Return whether that name or address is this machine's."""
    with suppress(ValueError):
        address = ipaddress.ip_address(name)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return name == "localhost"
