"""What a user could take instead, at equal durability: soul-cli and json-server from npm.

Both run on Node and know neither validation nor tokens. soul updates a row of SQLite in WAL mode,
with better-sqlite3's default of synchronous=NORMAL; json-server rewrites its JSON file.
"""

import json
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.measuring import (
    CACHE,
    TOKEN,
    flask_serve,
    have,
    phone,
    resident_megabytes,
    sample_app,
    wrk,
)

ROUNDS = 5
STALLED = 200
NPM = CACHE / "npm"
PACKAGES = ("soul-cli@0.8.2", "json-server@0.17.4")


class Served(NamedTuple):
    """A server under test, and how one contact is updated in its words (see updates.lua)."""

    pid: int
    url: str
    method: str
    path: str
    body: str

    def load(self) -> dict[str, float]:
        """As `wrk` measures it."""
        return wrk(self.url, 3, METHOD=self.method, REQUEST_PATH=self.path, BODY=self.body)

    def half_an_update(self) -> bytes:
        """A request whose body stops in the middle."""
        header = (
            f"{self.method} {self.path.replace('NUMBER', '1')} HTTP/1.1\r\n"
            f"Host: {urlsplit(self.url).netloc}\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n\r\n"
        )
        return (header + self.body[: len(self.body) // 2]).encode()


def main():
    """Each server under the same load in turn, then with senders that stall."""
    if not have("wrk") or not have("npm"):
        return
    CACHE.mkdir(exist_ok=True)
    if not (NPM / "node_modules").exists():
        subprocess.run(["npm", "install", "--silent", "--prefix", NPM, *PACKAGES], check=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory, ExitStack() as stack:
        servers = {
            name: stack.enter_context(start(Path(directory)))
            for name, start in [
                ("qyvo-standin", this_service),
                ("soul-cli", soul),
                ("json-server", json_server),
            ]
        }
        alone, beside_stalled = ({name: [] for name in servers} for _ in range(2))
        for _ in range(ROUNDS):
            for name, server in servers.items():
                alone[name].append(server.load())
                with stalled_senders(server):
                    beside_stalled[name].append(server.load())
        print(f"| | updates a second | slowest percent | memory | while {STALLED} senders stall |")
        print("|---|---|---|---|---|")
        for name, server in servers.items():
            print(
                f"| {name} | {median(alone[name], 'rate'):,.0f}"
                f" | {median(alone[name], 'slowest'):.0f} ms"
                f" | {resident_megabytes(server.pid):.0f} MB"
                f" | {median(beside_stalled[name], 'rate'):,.0f} a second,"
                f" {median(beside_stalled[name], 'slowest'):.0f} ms |"
            )


def median(results: list[dict[str, float]], key: str) -> float:
    return statistics.median(result[key] for result in results)


@contextmanager
def this_service(directory: Path):
    """`flask serve` with synchronous=NORMAL."""
    sample_app(directory / "contacts.db")
    with flask_serve(directory / "contacts.db", CONTACTS_SYNCHRONOUS="NORMAL") as (server, url):
        path = "/api/v1/actions/update-contact"
        sent = '{"phone": "+1415555%04d", "metadata": {"lifetime_value": %d, "city": "Lyon"}}'
        yield Served(server.pid, url, "POST", path, sent)


@contextmanager
def soul(directory: Path):
    """soul on a table of the same 1,000 contacts."""
    with closing(sqlite3.connect(directory / "soul.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(
            "CREATE TABLE contact (id INTEGER PRIMARY KEY, phone TEXT UNIQUE, name TEXT,"
            " email TEXT, tags TEXT, metadata TEXT)"
        )
        db.executemany(
            "INSERT INTO contact (phone, name, email, tags, metadata) VALUES (?, ?, ?, ?, ?)",
            [
                (phone(n), f"Contact {n}", f"contact{n}@example.com", '["vip"]', "{}")
                for n in range(1000)
            ],
        )
        db.commit()
    port = str(free_port())
    command = ("soul", "-d", str(directory / "soul.db"), "-p", port)
    with node(*command, port=port) as server:
        sent = r'{"fields": {"metadata": "{\"phone\": \"+1415555%04d\", \"value\": %d}"}}'
        yield Served(*server, "PUT", "/api/tables/contact/rows/NUMBER", sent)


@contextmanager
def json_server(directory: Path):
    """json-server on a file of the same 1,000 contacts."""
    contacts = [
        {
            "id": n + 1,
            "phone": phone(n),
            "name": f"Contact {n}",
            "email": f"contact{n}@example.com",
            "tags": ["vip"],
            "metadata": {},
        }
        for n in range(1000)
    ]
    (directory / "contacts.json").write_text(json.dumps({"contacts": contacts}))
    port = str(free_port())
    command = ("json-server", "--quiet", "--port", port, str(directory / "contacts.json"))
    with node(*command, port=port) as server:
        sent = '{"phone": "+1415555%04d", "metadata": {"lifetime_value": %d, "city": "Lyon"}}'
        yield Served(*server, "PATCH", "/contacts/NUMBER", sent)


@contextmanager
def node(command: str, *arguments: str, port: str):
    """A server from npm, once it accepts connections: its process id and URL."""
    started = subprocess.Popen(
        [NPM / "node_modules/.bin" / command, *arguments],
        stdin=subprocess.PIPE,  # json-server leaves when it reads the end of its input
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", int(port))).close()
                break
            except OSError:
                time.sleep(0.1)
        yield started.pid, f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        started.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def stalled_senders(server: Served):
    """Clients with a good token that have stopped in the middle of a body."""
    address = urlsplit(server.url)
    with ExitStack() as stack:
        for _ in range(STALLED):
            sender = stack.enter_context(socket.create_connection((address.hostname, address.port)))
            sender.sendall(server.half_an_update())
        time.sleep(0.5)
        yield


if __name__ == "__main__":
    main()
