"""The least a Flask application can do for the same request. Run as a module, it is served
by our server, or by waitress as it comes.
"""

import os
import sys
import tempfile

from flask import Flask, request

ANSWER = {
    "id": "0197c1de-52ab-7cc3-9f3e-4a8d1f0c2b6e",
    "phone": "+14155550123",
    "name": "Romain",
    "email": "romain@example.com",
    "tags": ["vip"],
    "updated_at": "2026-05-07T08:14:23+00:00",
}

app = Flask(__name__)
synced_file = tempfile.TemporaryFile(dir=os.environ.get("BENCH_DIRECTORY"))  # noqa: SIM115
page = bytes(4096)


@app.post("/parse")
def parse():
    """Parse the body, answer a constant."""
    request.get_json()
    return ANSWER


@app.post("/sync")
def sync():
    """The same, with 4 KiB brought to the disk."""
    request.get_json()
    os.pwrite(synced_file.fileno(), page, 0)
    os.fdatasync(synced_file.fileno())
    return ANSWER


@app.post("/api/v1/actions/update-contact")
def constant():
    """Answer a constant."""
    return ANSWER


if __name__ == "__main__":
    which, threads = sys.argv[1], int(sys.argv[2])
    if which == "waitress":
        from waitress import create_server

        server = create_server(app, host="127.0.0.1", port=0, threads=threads)
        print(f"http://127.0.0.1:{server.effective_port}", flush=True)
    else:
        from server import Server

        server = Server(app, "127.0.0.1", 0, threads, lambda path, headers: False, {}, lambda: None)
        print(server.url, flush=True)
    server.run()
