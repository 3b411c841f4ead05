"""An update without a server: by the service, and by bare Flask, which only reads JSON.

`python -m bench.in_process` lists where the time of an update goes. cProfile makes Python's
functions look dearer than those of C, such as SQLite's.
"""

import cProfile
import json
import os
import pstats
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import copy

from flask import Flask, request
from werkzeug.test import create_environ

from app import create_app
from bench.contacts import contact, database
from bench.measuring import CACHE, TOKEN, headers
from sandbox import Sandbox
from settings import read_settings

UPDATE = "/api/v1/actions/update-contact"
CONTACTS = 1000
BARE, NORMAL, SANDBOX = "bare Flask", "deployment", "sandbox"


@contextmanager
def applications() -> Iterator[dict[str, Flask]]:
    """Make the three, two with a database of CONTACTS contacts and a log that nobody keeps."""
    with (
        tempfile.TemporaryDirectory(dir=CACHE) as directory,
        open(os.devnull, "w", encoding="utf-8", buffering=1) as log,
    ):
        path = copy(database(CONTACTS), directory)
        settings = {"CONTACTS_DATABASE": path, "CONTACTS_SYNCHRONOUS": "NORMAL"}
        deployment = create_app(read_settings({**settings, "QYVO_TOKEN": TOKEN}), access_log=log)
        contacts = [
            {**each, "tags": each["tags"].split(",")} for each in map(contact, range(CONTACTS))
        ]
        settings = read_settings({"CONTACTS_DATABASE": f"{directory}/sandbox.db"}, sandbox=True)
        sandbox = create_app(settings, sandbox=Sandbox(contacts), access_log=log)
        yield {BARE: bare_flask(), NORMAL: deployment, SANDBOX: sandbox}
        for app in (deployment, sandbox):
            app.extensions["store"].close()


def bare_flask() -> Flask:
    app = Flask("bare_flask")

    @app.post(UPDATE)
    def update_contact():
        return request.get_json()

    return app


def updates(count: int) -> list[dict]:
    """Return WSGI requests that update contacts far from each other, others each time."""
    environs, now = [], time.time_ns()
    for number in range(now, now + count * 611_953, 611_953):
        phone, value = contact(number % CONTACTS)["phone"], {"lifetime_value": number}
        body = json.dumps({"phone": phone, "metadata": value})
        environs.append(create_environ(UPDATE, method="POST", headers=headers(), data=body))
    return environs


def time_of(app: Flask, environs: list[dict]) -> float:
    """Return the mean time of the requests in microseconds."""
    statuses = set()
    began = time.perf_counter()
    for environ in environs:
        response = app(environ, lambda status, headers: statuses.add(status))
        b"".join(response)
        response.close()
    spent = time.perf_counter() - began
    if statuses != {"200 OK"}:
        raise SystemExit(f"An update failed: {statuses}")
    return spent / len(environs) * 1e6


def main(count: int = 5000):
    CACHE.mkdir(exist_ok=True)
    with applications() as apps:
        for name in (NORMAL, SANDBOX):
            time_of(apps[name], updates(100))
            profiler = cProfile.Profile()
            profiler.runcall(time_of, apps[name], updates(count))
            print(name)
            pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
