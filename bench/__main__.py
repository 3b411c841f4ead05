"""Print the first table of docs/performance.md."""

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from io import BytesIO
from pathlib import Path

from app import create_app
from bench import million
from bench.measuring import (
    CACHE,
    TOKEN,
    flask_serve,
    have,
    phone,
    process,
    ratios,
    resident_megabytes,
    sample_app,
    spread,
    wrk,
)

CALLS = 200
IMPORTED = 50_000
SEARCHES = 5

UPDATE = "/api/v1/actions/update-contact"
SEARCH = "/api/v1/actions/search-contacts"
SHORT_QUERIES = ["a", "é", "7", "zz", "qx", "ma", "42", "00"]
LONG_QUERIES = [
    *("romain", "élodie", "nguyễn", "kowalski9", "romain.sato1", "Grace Okafor", "yara.kh"),
    *("example.com", "corp.example", "com", "exa", "zzzqqq", "exampleexample", "grace.rossi"),
    *("+1415", "415 555", "(212) 555-0", "000000", "0000", "123456", "777", "+33 6 1"),
]


def main():
    """Each row is printed as soon as it is measured."""
    cores, python = os.cpu_count(), platform.python_version()
    print(f"{date.today()}, {cores} cores, Python {python}. Median (middle half of the rounds).\n")
    print("| figure | measured | aim |\n|---|---|---|")
    CACHE.mkdir(exist_ok=True)
    os.environ["BENCH_DIRECTORY"] = str(CACHE)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        for rows in [in_process, memory_and_start, over_http, imports, at_a_million]:
            for figure, measured, aim in rows(Path(directory)):
                print(f"| {figure} | {measured} | {aim} |", flush=True)


Row = tuple[str, str, str]


def in_process(directory: Path) -> Iterator[Row]:
    """An update against the least that Flask can do, without a server."""
    from bench import yardstick

    normal = sample_app(directory / "normal.db", "NORMAL")
    full = sample_app(directory / "full.db", "FULL")
    log = (directory / "log").open("w", buffering=1)
    changing = (body(phone(n % 1000), value=n) for n in itertools.count())
    same = itertools.repeat(body(phone(1), value=-1))
    cpu, wall = time.process_time, time.perf_counter
    for figure, app, bodies, least, clock, aim in [
        ("CPU of an update, `NORMAL`", normal, changing, "/parse", cpu, "at most 2.4"),
        ("time of an update, `FULL`", full, changing, "/sync", wall, "at most 1.4"),
        ("CPU of an update that changes nothing", normal, same, "/parse", cpu, "at most 1.9"),
    ]:
        found = []
        for access_log in (None, log):
            app.config["ACCESS_LOG"] = access_log
            subject = partial(calls, app, UPDATE, bodies, clock)
            found.append(ratios(subject, partial(calls, yardstick.app, least, changing, clock), 30))
        unlogged, logged = map(spread, found)
        yield figure, f"{unlogged}; {logged} with the log of `flask serve`", aim


def body(of: str, value: int) -> bytes:
    """As bench/updates.lua writes it."""
    return json.dumps({"phone": of, "metadata": {"lifetime_value": value, "city": "Lyon"}}).encode()


def calls(app, path: str, bodies: Iterator[bytes], clock: Callable[[], float]) -> float:
    """What CALLS requests cost, by that clock."""
    requests = [environ(path, sent) for sent in itertools.islice(bodies, CALLS)]
    statuses = []
    began = clock()
    for request in requests:
        answer = app.wsgi_app(request, lambda status, headers: statuses.append(status))
        b"".join(answer)
        answer.close()
    spent = clock() - began
    if set(statuses) != {"200 OK"}:
        raise SystemExit(f"{path} answered {set(statuses)}.")
    return spent


def environ(path: str, sent: bytes) -> dict:
    """A request as waitress hands it over."""
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "HTTP_AUTHORIZATION": f"Bearer {TOKEN}",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(sent)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input": BytesIO(sent),
        "wsgi.input_terminated": True,
    }


def memory_and_start(directory: Path) -> Iterator[Row]:
    """What a server costs that nobody asks anything of, and how soon it answers."""
    database = directory / "normal.db"
    waiting = "import flask; print('http://ready', flush=True); input()"

    def idle_server():
        with flask_serve(database) as (server, url):
            urllib.request.urlopen(f"{url}/healthz").read()
            return resident_megabytes(server.pid)

    def idle_flask():
        with process(sys.executable, "-c", waiting) as (python, _):
            return resident_megabytes(python.pid)

    yield "memory of the idle server", spread(ratios(idle_server, idle_flask, 5)), "at most 1.4"

    def first_answer():
        began = time.perf_counter()
        with flask_serve(database) as (_, url):
            urllib.request.urlopen(f"{url}/healthz").read()
            return time.perf_counter() - began

    def import_flask():
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import flask"], check=True)
        return time.perf_counter() - began

    yield "start to the first 200", spread(ratios(first_answer, import_flask, 9)), "at most 3"


def over_http(directory: Path) -> Iterator[Row]:
    """Under load from 16 connections, against a constant on the same server."""
    if not have("wrk"):
        return
    threads = str(create_app({}).config["CONTACTS_THREADS"])
    percentiles = []
    yardstick = (sys.executable, "-m", "bench.yardstick")
    with (
        process(*yardstick, "server", threads) as (_, constant),
        process(*yardstick, "waitress", threads) as (_, constant_on_waitress),
        flask_serve(directory / "full.db") as (_, url),
    ):

        def updates():
            result = wrk(url, 3)
            percentiles.append(result["slowest"] / result["median"])
            return result["rate"]

        for of, yard in [("", constant), (", by waitress as it comes", constant_on_waitress)]:
            rate = ratios(updates, partial(rate_of, yard), 7)
            yield f"updates a second over HTTP, `FULL`{of}", spread(rate), "at least 0.75"
    yield "slowest percent by its median", spread(percentiles[1:]), "at most 2.5"


def rate_of(url: str) -> float:
    """Requests a second there."""
    return wrk(url, 3)["rate"]


def imports(directory: Path) -> Iterator[Row]:
    """`flask import` against reading the file and parsing its phones."""
    file, database = directory / "contacts.csv", directory / "imported.db"
    runs = []

    def imported():
        runs.append(million.import_csv(file, database))
        return runs[-1].seconds

    def parsed():
        return million.parse_csv(file).seconds

    million.write_csv(file, IMPORTED)
    yield f"import of {IMPORTED:,} rows", spread(ratios(imported, parsed, 3)), "at most 2"
    if not million.DATABASE.exists():
        million.write_csv(file, million.MILLION)
        yield "import of 1,000,000 rows, once", f"{imported() / parsed():.2f}", "at most 2"
        database.rename(million.DATABASE)
    peak = max(run.peak_megabytes for run in runs)
    yield "memory of the import", f"{peak:.0f} MB", "under 150 MB"


def at_a_million(directory: Path) -> Iterator[Row]:
    """The same update, and searches, in a database of a million."""
    os.sync()  # the system would otherwise still be writing what was imported
    with million.DATABASE.open("rb") as file:  # and reading it for the first time since it started
        while file.read(1024 * 1024):
            pass
    of_few = (body(phone(n * 389 % 1000), value=n) for n in itertools.count())
    # Spread over the million, and other contacts each time the cached database is measured.
    start = time.time_ns() % million.MILLION
    of_many = (
        body(million.contact((start + n * 611_953) % million.MILLION)[0], value=n)
        for n in itertools.count()
    )
    for synchronous in ("FULL", "NORMAL"):
        few = sample_app(directory / f"{synchronous.lower()}.db", synchronous)
        many = sample_app(million.DATABASE, synchronous)

        def among_many(app=many):
            return calls(app, UPDATE, of_many, time.perf_counter)

        def among_few(app=few):
            return calls(app, UPDATE, of_few, time.perf_counter)

        yield (
            f"time of an update at 1,000,000 by one at 1,000, `{synchronous}`",
            spread(ratios(among_many, among_few, 25)),
            "at most 1.2",
        )
    for queries, which, aim in [
        (LONG_QUERIES, "three characters and more", "under 50 ms, never above 250 ms"),
        (SHORT_QUERIES, "one and two characters", "never above 250 ms"),
    ]:
        times = {}
        for query in queries:
            document = [json.dumps({"query": query}).encode()] * SEARCHES
            times[query] = statistics.median(
                calls(many, SEARCH, iter([sent]), time.perf_counter) * 1000 for sent in document
            )
        slowest = max(times, key=times.get)
        typical = statistics.median(times.values())
        found = f"{typical:.1f} ms; slowest {times[slowest]:.0f} ms (`{slowest}`)"
        yield f"search at 1,000,000, {which}", found, aim


if __name__ == "__main__":
    main()
