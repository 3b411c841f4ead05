"""A developer who uses a sandbox: the API and /sandbox, through one bearer token."""

import http.client
import json
from contextlib import closing
from types import SimpleNamespace
from urllib.parse import urlencode, urlsplit

from conftest import PHONE, SECONDS, UPDATE

GET = "/api/v1/actions/get-contact"
CREATE = "/api/v1/actions/create-contact"
SEARCH = "/api/v1/actions/search-contacts"
SAMPLES = {
    "0197a1c0-5e00-7000-8000-000000000001": ("+14155550123", "Romain", ["vip"]),
    "0197a1c0-5e00-7000-8000-000000000002": (
        "+33639980101",
        "Élodie Martin",
        ["newsletter", "vip"],
    ),
    "0197a1c0-5e00-7000-8000-000000000003": ("+442079460958", "Grace Okafor", ["lead"]),
    "0197a1c0-5e00-7000-8000-000000000004": ("+12025550147", "Kenji Sato", ["support"]),
    "0197a1c0-5e00-7000-8000-000000000005": ("+61491570156", None, []),
}


class Developer:
    """Sends requests to an application, or to a server if given its URL."""

    def __init__(self, target, token="sandbox-mine"):
        self.token = token
        self._send = to_server(target) if isinstance(target, str) else to_app(target)

    def __call__(self, method, path, body=None, *, headers=(), query=None):
        """A body that is not bytes is sent as JSON."""
        headers = {"Authorization": f"Bearer {self.token}"} | dict(headers)
        if body is not None:
            headers = {"Content-Type": "application/json"} | headers
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        path = f"{path}?{urlencode(query)}" if query else path
        return self._send(method, path, body, headers)

    def update(self, body, **options):
        return self("POST", UPDATE, body, **options)

    def me(self):
        return self("GET", "/v1/me")

    def journal(self, **filters):
        response = self("GET", "/sandbox/requests", query=filters)
        assert response.status_code == 200, response.json
        return response.json

    def contacts(self):
        """Every contact of the workspace, by id, as a search shows it."""
        return {contact["id"]: contact for contact in self("POST", SEARCH, {}).json}

    def phones(self):
        return {contact["phone"] for contact in self.contacts().values()}

    def inject(self, *faults, **fault):
        """Set these faults, or that one; return the list of them."""
        response = self("PUT", "/sandbox/faults", list(faults) or fault)
        assert response.status_code == 200, response.json
        return response.json["faults"]

    def faults(self):
        return self("GET", "/sandbox/faults").json["faults"]

    def triggered(self):
        return [fault["triggered"] for fault in self.faults()]

    def name(self):
        """The name of the first sample contact, as it is now."""
        return self.update({"phone": PHONE}).json["name"]


def to_app(app):
    client = app.test_client()

    def send(method, path, body, headers):
        return client.open(path, method=method, data=body, headers=headers)

    return send


def to_server(url):
    def send(method, path, body, headers):
        address = urlsplit(url).netloc
        with closing(http.client.HTTPConnection(address, timeout=2 * SECONDS)) as http_connection:
            http_connection.request(method, path, body, headers)
            response = http_connection.getresponse()
            data = response.read()
        content_type = response.headers["Content-Type"]
        return SimpleNamespace(
            status_code=response.status,
            headers=response.headers,
            content_type=content_type,
            data=data,
            text=data.decode(),
            json=json.loads(data) if content_type == "application/json" else None,
        )

    return send
