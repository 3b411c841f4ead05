"""Services that are this one but for what a function of the request and its response changes."""

import json
import threading
from contextlib import contextmanager
from io import BytesIO
from types import SimpleNamespace

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Request, Response

ACTIONS = "/api/v1/actions"


class Received:
    """A request to the service, which may be changed before the application responds to it."""

    def __init__(self, app, environ):
        self._app, self.environ = app, environ
        request = Request(environ)
        self.path, self.action = request.path, request.path.rpartition("/")[2]
        self.authorization = request.headers.get("Authorization")
        self.content_type = request.headers.get("Content-Type", "")
        self.body = request.get_data()
        try:
            self.json = json.loads(self.body)
        except ValueError:
            self.json = None
        self.fields = dict(self.json) if isinstance(self.json, dict) else {}

    @property
    def reference(self):
        return {key: self.fields[key] for key in ("contact_id", "phone") if key in self.fields}

    def respond(self):
        """The application's response to the request as it is now."""
        body = json.dumps(self.fields).encode() if isinstance(self.json, dict) else self.body
        return self._run(self.path, body)

    def send(self, action, **fields):
        """The application's response to another request."""
        return self._run(f"{ACTIONS}/{action}", json.dumps(fields).encode())

    def contact(self):
        """The contact that the request names, as get-contact shows it."""
        return self.send("get-contact", **self.reference).json

    def _run(self, path, body):
        environ = self.environ | {"PATH_INFO": path, "wsgi.input": BytesIO(body)}
        environ["CONTENT_LENGTH"] = str(len(body))
        data, status, headers = run_wsgi_app(self._app, environ, buffered=True)
        return SimpleNamespace(
            status=int(status[:3]), headers=headers, json=json.loads(b"".join(data))
        )


def unaltered(request):
    return request.respond()


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *args):
        pass


@contextmanager
def serve(app, *, threaded=True):
    server = make_server("127.0.0.1", 0, app, threaded=threaded, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def service(app, alter=unaltered, **options):
    """The service as `alter(request)` changes it: its `url`, and `requests` with the responses."""
    requests = []

    def altered(environ, start_response):
        request = Received(app, environ)
        response = alter(request)
        requests.append((request.action, request.json, request.body, response))
        body = json.dumps(response.json, ensure_ascii=False)
        headers = {k: v for k, v in response.headers.items() if k != "Content-Length"}
        return Response(body, response.status, headers)(environ, start_response)

    with serve(altered, **options) as url:
        yield SimpleNamespace(url=url, requests=requests)


def only(*actions):
    """A decorator: requests to other actions are not altered."""
    return lambda alter: (
        lambda request: alter(request) if request.action in actions else request.respond()
    )


def after(*actions, status=None):
    """A decorator: `alter(request, response)` changes responses of these actions or of all."""

    def decorate(alter):
        def altered(request):
            response = request.respond()
            if (not actions or request.action in actions) and status in (None, response.status):
                alter(request, response)
            return response

        return altered

    return decorate
