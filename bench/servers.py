"""The servers that are measured: ours, and what a user could take instead, from npm.

The peers run on Node and know no tokens. soul-cli updates a row of SQLite in WAL mode, which
better-sqlite3 sets to synchronous=NORMAL; json-server rewrites its JSON file; Prism validates by
our OpenAPI document, and keeps nothing.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from urllib.error import HTTPError

import requests

from bench.contacts import contact, database
from bench.measuring import CACHE, HEADERS, ROOT, TOKEN, Served

NPM = CACHE / "npm"
PACKAGES = ("soul-cli@0.8.2", "json-server@0.17.4", "@stoplight/prism-cli@5.14.2")
CONTACTS = [contact(number) for number in range(1000)]
START_SECONDS = 60


def updates(path: str) -> list[str]:
    metadata = '{"lifetime_value": COUNT, "city": "Lyon"}'
    return [f'POST {path} {{"phone": "{c["phone"]}", "metadata": {metadata}}}' for c in CONTACTS]


@contextmanager
def serving(*command: str | Path, requests: list[str], **environment: str) -> Iterator[Served]:
    """Run a server on the port that replaces PORT in its command, once it sends responses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+", dir=CACHE) as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [port if word == "PORT" else word for word in command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,  # json-server ends when its input does
            stdout=log,
            stderr=log,
        )
        try:
            while not responds(url):
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    log.seek(0)
                    raise SystemExit(f"{command} did not start:\n{log.read()}")
                time.sleep(0.005)
            yield Served(process.pid, url, requests, time.perf_counter() - began)
        finally:
            process.terminate()
            process.communicate()


def responds(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=1).close()
    except HTTPError as error:  # the peers don't know the path
        error.close()
    except OSError:
        return False
    return True


def served(path: Path, synchronous: str, *options: str):
    """Serve the database with `flask serve`."""
    return serving(
        *(sys.executable, "-m", "flask", "serve", "--port", "PORT", *options),
        requests=updates("/api/v1/actions/update-contact"),
        CONTACTS_DATABASE=str(path),
        CONTACTS_SYNCHRONOUS=synchronous,
        QYVO_TOKEN=TOKEN,
    )


def deployment(synchronous: str, directory: Path):
    copy = shutil.copy(database(len(CONTACTS)), directory / f"{synchronous}.db")
    return served(copy, synchronous)


@contextmanager
def sandbox(directory: Path) -> Iterator[Served]:
    with served(directory / "sandbox.db", "FULL", "--sandbox") as server:
        reset = {"contacts": CONTACTS}
        requests.post(f"{server.url}/sandbox/reset", json=reset, headers=HEADERS).raise_for_status()
        yield server


def peer(command: str, *options: str | Path, requests: list[str]):
    return serving(NPM / "node_modules/.bin" / command, *options, requests=requests)


def soul(directory: Path):
    file = directory / "soul.db"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(
            "CREATE TABLE contact (id INTEGER PRIMARY KEY, phone TEXT UNIQUE, name TEXT,"
            " email TEXT, tags TEXT, metadata TEXT)"
        )
        insert = "INSERT INTO contact VALUES (NULL, :phone, :name, :email, :tags, '{}')"
        db.executemany(insert, CONTACTS)
    body = json.dumps({"fields": {"metadata": '{"lifetime_value": COUNT, "city": "Lyon"}'}})
    rows = [f"PUT /api/tables/contact/rows/{n} {body}" for n in range(1, len(CONTACTS) + 1)]
    return peer("soul", "-d", file, "-p", "PORT", requests=rows)


def json_server(directory: Path):
    file = directory / "contacts.json"
    rows = [{"id": n, **row, "metadata": {}} for n, row in enumerate(CONTACTS, 1)]
    file.write_text(json.dumps({"contacts": rows}))
    body = '{"metadata": {"lifetime_value": COUNT, "city": "Lyon"}}'
    patches = [f"PATCH /contacts/{row['id']} {body}" for row in rows]
    return peer("json-server", "--quiet", "--port", "PORT", file, requests=patches)


def prism(directory: Path):
    """Start Prism as it comes: like `flask serve`, it keeps a log of the requests."""
    file = directory / "openapi.json"
    with served(directory / "openapi.db", "FULL") as ours:
        file.write_bytes(urllib.request.urlopen(f"{ours.url}/v1/openapi.json").read())
    requests = updates("/actions/update-contact")
    return peer("prism", "mock", "--port", "PORT", file, requests=requests)


NORMAL, FULL = "deployment, `NORMAL`", "deployment, `FULL`"
SANDBOX = "sandbox, `FULL`"
SOUL, JSON_SERVER, PRISM = PEERS = ("soul-cli", "json-server", "Prism")
STARTS = {
    NORMAL: partial(deployment, "NORMAL"),
    FULL: partial(deployment, "FULL"),
    SANDBOX: sandbox,
    SOUL: soul,
    JSON_SERVER: json_server,
    PRISM: prism,
}


@contextmanager
def running(*names: str) -> Iterator[dict[str, Served]]:
    """Run these servers beside each other, each on 1,000 contacts."""
    with tempfile.TemporaryDirectory(dir=CACHE) as directory, ExitStack() as stack:
        yield {name: stack.enter_context(STARTS[name](Path(directory))) for name in names}


def prepare():
    """Get what the measurements need."""
    if not shutil.which("wrk") or not shutil.which("npm"):
        raise SystemExit("The measurements need wrk (apt-get install wrk) and Node with npm.")
    CACHE.mkdir(exist_ok=True)
    if not (NPM / "node_modules/.bin/prism").exists():
        subprocess.run(["npm", "install", "--silent", "--prefix", NPM, *PACKAGES], check=True)
