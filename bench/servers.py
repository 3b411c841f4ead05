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
from pathlib import Path
from urllib.error import HTTPError

from app import create_app
from bench.contacts import contact, database, write_csv
from bench.measuring import CACHE, ROOT, TOKEN, Served
from settings import read_settings

START_SECONDS = 60
PACKAGES = ("soul-cli@0.8.2", "json-server@0.17.4", "@stoplight/prism-cli@5.14.2")
NPM = CACHE / "npm"
DOCUMENT = CACHE / "openapi.json"
CONTACTS = 1000  # where nothing else is said
METADATA = '{"lifetime_value": COUNT, "city": "Lyon"}'


@contextmanager
def serving(
    *command: str | Path, updates: list[str], test: list[str], **environment: str
) -> Iterator[Served]:
    """Run a server on the port that replaces PORT in its command, once it sends responses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+", dir=CACHE) as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word).replace("PORT", port) for word in command],
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
            yield Served(process.pid, url, updates, test, began, time.perf_counter() - began)
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


# Ours


def our_requests(count: int, prefix: str = "/api/v1") -> dict[str, list[str]]:
    """Return an update of each of the contacts, and a test's five requests."""
    post, phone = f"POST {prefix}/actions", '{"phone": "+1415COUNT"'
    phones = [contact(number)["phone"] for number in range(count)]
    return {
        "updates": [
            f'{post}/update-contact {{"phone": "{each}", "metadata": {METADATA}}}'
            for each in phones
        ],
        "test": [
            f'{post}/create-contact {phone}, "name": "Amara Okafor", "tags": "lead"}}',
            f'{post}/update-contact {phone}, "metadata": {METADATA}}}',
            f'{post}/add-tag {phone}, "tag": "vip"}}',
            f'{post}/search-contacts {{"query": "amara"}}',
            f"{post}/get-contact {phone}}}",
        ],
    }


def deployment(path: Path, command: str = "flask serve --port PORT", **environment: str):
    """Serve that database, of CONTACTS contacts or more."""
    return serving(
        *(sys.executable, "-m", *command.split()),
        **our_requests(CONTACTS),
        CONTACTS_DATABASE=str(path),
        CONTACTS_SYNCHRONOUS="NORMAL",
        QYVO_TOKEN=TOKEN,
        **environment,
    )


def normal(directory: Path, count: int):
    return deployment(shutil.copy(database(count), directory / "contacts.db"))


def sandbox(directory: Path, count: int):
    file, options = directory / "contacts.csv", []
    if count:
        write_csv(file, count)
        options = ["--contacts", file]
    return serving(
        *(sys.executable, "-m", "flask", "serve", "--sandbox", "--port", "PORT", *options),
        **our_requests(count),
        CONTACTS_DATABASE=str(directory / "sandbox.db"),
    )


# Peers: each test ends by deleting the row that it made


def peer(command: str, *options: str | Path, **requests: list[str]):
    return serving(NPM / "node_modules/.bin" / command, *options, **requests)


def soul(directory: Path, count: int):
    file, rows = directory / "soul.db", "/api/tables/contact/rows"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(
            "CREATE TABLE contact (id INTEGER PRIMARY KEY, phone TEXT UNIQUE, name TEXT,"
            " email TEXT, tags TEXT, metadata TEXT)"
        )
        insert = "INSERT INTO contact VALUES (NULL, :phone, :name, :email, :tags, '{}')"
        db.executemany(insert, map(contact, range(count)))
    metadata = json.dumps({"fields": {"metadata": METADATA}})
    made = {"id": "COUNT", "phone": "+1415COUNT", "name": "Amara Okafor", "tags": "lead"}
    return peer(
        *("soul", "-d", file, "-p", "PORT"),
        updates=[f"PUT {rows}/{number} {metadata}" for number in range(1, count + 1)],
        test=[
            f"POST {rows} {json.dumps({'fields': made})}",
            f"PUT {rows}/COUNT {metadata}",
            f'PUT {rows}/COUNT {{"fields": {{"tags": "lead,vip"}}}}',
            f"GET {rows}?_search=Amara ",
            f"GET {rows}/COUNT ",
            f"DELETE {rows}/COUNT ",
        ],
    )


def json_server(directory: Path, count: int):
    file = directory / "contacts.json"
    rows = [{"id": n, **contact(n - 1), "metadata": {}} for n in range(1, count + 1)]
    file.write_text(json.dumps({"contacts": rows}))
    metadata = f'{{"metadata": {METADATA}}}'
    made = '{"id": COUNT, "phone": "+1415COUNT", "name": "Amara Okafor", "tags": "lead"}'
    return peer(
        *("json-server", "--quiet", "--port", "PORT", file),
        updates=[f"PATCH /contacts/{row['id']} {metadata}" for row in rows],
        test=[
            f"POST /contacts {made}",
            f"PATCH /contacts/COUNT {metadata}",
            'PATCH /contacts/COUNT {"tags": "lead,vip"}',
            "GET /contacts?q=Amara ",
            "GET /contacts/COUNT ",
            "DELETE /contacts/COUNT ",
        ],
    )


def prism(directory: Path, count: int):
    """Start Prism as it comes: like `flask serve`, it keeps a log of the requests."""
    return peer("prism", "mock", "--port", "PORT", DOCUMENT, **our_requests(count, prefix=""))


NORMAL, SANDBOX = "deployment", "sandbox"
SOUL, JSON_SERVER, PRISM = PEERS = ("soul-cli", "json-server", "Prism")
STARTS = {
    NORMAL: normal,
    SANDBOX: sandbox,
    SOUL: soul,
    JSON_SERVER: json_server,
    PRISM: prism,
}


@contextmanager
def running(*names: str, count: int = CONTACTS) -> Iterator[dict[str, Served]]:
    """Run these servers beside each other, each on as many contacts; none: as it comes."""
    with ExitStack() as stack:
        servers = {}
        for name in names:
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=CACHE))
            servers[name] = stack.enter_context(STARTS[name](Path(directory), count))
        yield servers


def prepare():
    """Get what the measurements need."""
    if not shutil.which("wrk") or not shutil.which("npm"):
        raise SystemExit("The measurements need wrk (apt-get install wrk) and Node with npm.")
    CACHE.mkdir(exist_ok=True)
    if not (NPM / "node_modules/.bin/prism").exists():
        subprocess.run(["npm", "install", "--silent", "--prefix", NPM, *PACKAGES], check=True)
    client = create_app(read_settings({})).test_client()
    DOCUMENT.write_bytes(client.get("/v1/openapi.json").data)  # by which Prism responds
