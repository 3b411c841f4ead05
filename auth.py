"""Who may ask, and how often: bearer tokens and the rate limit."""

import hashlib
import hmac
import math
import re
import threading
import time
from collections import OrderedDict, deque

from flask import Flask, Response, g, request
from werkzeug import exceptions as http

from store import DEFAULT_WORKSPACE, Store, Token

# Where the API is served, and the name of its blueprint there. Other requests are not counted.
API_PREFIXES = {"/api/v1": "api", "/v1": "v1"}
COUNTED_TOKENS = 10_000

_BEARER = re.compile(r"bearer ([\x21-\x7e]+)", re.IGNORECASE)


def public(view):
    """Let the view be requested without a token."""
    view.public = True
    return view


def is_public(view) -> bool:
    """Return whether the view can be requested without a token."""
    return getattr(view, "public", False)


def is_of_the_api() -> bool:
    """Return whether the request is to an endpoint of the API."""
    return request.blueprint in API_PREFIXES.values()


class Tokens:
    """The bearer tokens of a deployment: those of the database, and QYVO_TOKEN, if it is set."""

    def __init__(self, store: Store, configured: str | None):
        self._store = store
        self._configured = configured and hashlib.sha256(configured.encode()).digest()

    def find_token(self, secret: str) -> Token | None:
        """Return the token, if it is a known one."""
        sha256 = hashlib.sha256(secret.encode()).digest()
        if self._configured and hmac.compare_digest(sha256, self._configured):
            workspace_id = self._store.get_or_create_workspace(DEFAULT_WORKSPACE)
            return Token(0, "QYVO_TOKEN", workspace_id)
        return self._store.find_token(sha256)


class RateLimit:
    """At most so many requests in any 60 seconds for each token.

    Each process counts by itself.
    """

    def __init__(self, per_minute: int):
        self._limit = per_minute
        self._lock = threading.Lock()
        # When the requests of each token were admitted, by time.monotonic(). The tokens of a
        # sandbox have one id and different names.
        self._admitted: OrderedDict[tuple[int, str], deque[float]] = OrderedDict()

    def count(self, token: Token):
        """Count the current request. Raises TooManyRequests."""
        now = time.monotonic()
        with self._lock:
            admitted = self._admitted.setdefault((token.id, token.name), deque())
            self._admitted.move_to_end((token.id, token.name))
            if len(self._admitted) > COUNTED_TOKENS:
                self._admitted.popitem(last=False)
            while admitted and admitted[0] <= now - 60:
                admitted.popleft()
            wait = admitted[0] + 60 - now if len(admitted) == self._limit else 0
            if not wait:
                admitted.append(now)
            remaining = self._limit - len(admitted)
        g.rate_limit = {"X-RateLimit-Limit": self._limit, "X-RateLimit-Remaining": remaining}
        if wait:
            raise http.TooManyRequests(retry_after=math.floor(wait) + 1)


def init_app(app: Flask, tokens):
    """Authenticate and count every request, before its body is parsed.

    `tokens` has a method find_token(secret), which returns what becomes `g.token`: an object with
    the attributes of store.Token, or None.
    """
    limit = app.config["CONTACTS_RATE_LIMIT"]
    rate_limit = RateLimit(limit) if limit else None

    @app.before_request
    def admit():
        view = app.view_functions.get(request.endpoint)
        if view is None or is_public(view):
            return
        match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        token = tokens.find_token(match[1]) if match else None
        if token is None:
            raise http.Unauthorized
        g.token = token
        if rate_limit and is_of_the_api():
            rate_limit.count(token)

    if rate_limit:

        @app.after_request
        def add_rate_limit(response: Response) -> Response:
            response.headers.update(g.get("rate_limit", {}))
            return response
