"""Prints the table of figures. `python -m bench search memory` measures those rows alone."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, product, takewhile
from pathlib import Path
from statistics import median, quantiles

import requests
from flask import Flask
from werkzeug.test import create_environ

from app import create_app
from bench.contacts import contact, database, import_csv, parse_csv, write_csv
from bench.measuring import (
    CACHE,
    HEADERS,
    TOKEN,
    Served,
    conditions,
    interleaved,
    ratios,
    request_times,
    spread,
    wrk,
)
from bench.others import NEW, SESSION, measure_load, measure_memory, measure_requests
from bench.servers import FULL, NORMAL, PEERS, PRISM, SANDBOX, SOUL, prepare, running, served

SEARCHES = [
    f'POST /api/v1/actions/search-contacts {{"query": "{query}"}}'
    for query in ("nobody", "zzzqqq", "@nowhere", "+99999", "nguyễn zoé xy")
]

Row = tuple[str, str, str]


def time_of_requests() -> Iterator[Row]:
    with running(FULL, SANDBOX, *PEERS) as servers:
        times = measure_requests(servers)
    cells = []
    for ours, how in product((SANDBOX, FULL), (SESSION, NEW)):
        peer = min(PEERS, key=lambda peer, how=how: median(times[peer, how]))
        cells.append(f"{ours}, {how}: {ratios(times[ours, how], times[peer, how])} ms of {peer}")
    yield "time of a request by `requests` / the fastest peer's", "; ".join(cells), "≤ 0.95"


def load() -> Iterator[Row]:
    with running(NORMAL, FULL, SANDBOX, SOUL, PRISM) as servers:
        rates, p99s = measure_load(servers)

    def against(found, ours: str, connections: int, peer: str) -> str:
        return ratios(found[ours, connections], found[peer, connections])

    figure = "updates/s, {} / soul-cli"
    yield figure.format("16 connections, `NORMAL`"), against(rates, NORMAL, 16, SOUL), "≥ 0.85"
    yield figure.format("16 connections, `FULL`"), against(rates, FULL, 16, SOUL), "≥ 0.55"
    yield figure.format("one connection, `NORMAL`"), against(rates, NORMAL, 1, SOUL), "≥ 0.65"
    one, sixteen = (against(rates, SANDBOX, connections, PRISM) for connections in (1, 16))
    measured = f"one connection: {one}; 16: {sixteen}"
    yield f"updates/s, {SANDBOX} / Prism (stateless)", measured, "≥ 1.0"
    normal, full = (against(p99s, ours, 16, SOUL) for ours in (NORMAL, FULL))
    measured = f"`NORMAL`: {normal} ms; `FULL`: {full} ms"
    yield "p99, 16 connections / soul-cli", measured, "≤ 1.0"


def million(many: int = 1_000_000, rounds: int = 25, count: int = 200) -> Iterator[Row]:
    """In this process, without a server: it would hide the difference."""
    with database(many).open("rb") as file:  # so that it is in memory
        while file.read(1024 * 1024):
            pass
    cells = []
    for synchronous in ("NORMAL", "FULL"):
        measures = {}
        for among in (1000, many):
            app = app_on(database(among), synchronous)
            measures[among] = lambda app=app, among=among: time_of(app, updates(among, count))
        times = interleaved(measures, rounds)
        cells.append(f"`{synchronous}`: {ratios(times[many], times[1000])} µs")
    yield f"update among {many:,} contacts / among 1,000", "; ".join(cells), "≤ 1.25"


def app_on(path: Path, synchronous: str) -> Flask:
    settings = {"CONTACTS_SYNCHRONOUS": synchronous, "QYVO_TOKEN": TOKEN}
    return create_app({"CONTACTS_DATABASE": str(path), **settings})


def updates(among: int, count: int) -> list[dict]:
    """Return WSGI requests that update contacts far from each other, others each time."""
    environs, now = [], time.time_ns()
    for number in range(now, now + count * 611_953, 611_953):
        update = {"phone": contact(number % among)["phone"], "metadata": {"lifetime_value": number}}
        path, body = "/api/v1/actions/update-contact", json.dumps(update)
        environs.append(create_environ(path, method="POST", headers=HEADERS, data=body))
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


def search(counts=(100_000, 1_000_000), repeated: int = 30, seconds: int = 10) -> Iterator[Row]:
    cells = []
    for count in counts:
        with served(database(count), "FULL") as server, requests.Session() as session:
            searched = server._replace(requests=SEARCHES)
            times = list(islice(request_times(searched, session), repeated))
            p99 = p99_beside_ten(searched, request_times(server, session), seconds)
        cells.append(f"{count:,}: {spread(times, '.1f')} ms, p99 {p99:.0f} ms")
    figure = "search without a match, by number of contacts, and p99 of updates beside ten of them"
    yield figure, "; ".join(cells), "≤ 25 and 250 ms, p99 < 50 ms"


def p99_beside_ten(searched: Served, updating: Iterator[float], seconds: int) -> float:
    with ThreadPoolExecutor() as pool:
        searching = pool.submit(wrk, searched, 10, seconds)
        times = list(takewhile(lambda _: not searching.done(), updating))
        searching.result()
    return quantiles(times, n=100)[98]


def imports(count: int = 1_000_000, rounds: int = 2) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        file = Path(directory, "contacts.csv")
        write_csv(file, count)
        imported = partial(import_csv, file, file.with_suffix(".db"))
        measures = {"import": imported, "parse": partial(parse_csv, file)}
        runs = interleaved(measures, rounds, warm_up=0)
    ratio = ratios(*([seconds for seconds, *_ in of] for of in runs.values()))
    _, peak, processes = map(max, zip(*runs["import"], strict=True))
    yield (
        f"import of {count:,} rows / csv and phonenumbers alone",
        f"{ratio} s; processes: {processes}, {peak:.0f} MB",
        "≤ 5.5, one process, 150 MB",
    )


def memory() -> Iterator[Row]:
    found = measure_memory(FULL, SANDBOX, *PEERS)
    lightest = min(PEERS, key=lambda peer: median(found[peer]))
    cells = [f"{ours}: {ratios(found[ours], found[lightest])} MB" for ours in (FULL, SANDBOX)]
    yield f"memory (PSS) / {lightest}, the lightest peer", "; ".join(cells), "≤ 0.5"


def start(rounds: int = 7) -> Iterator[Row]:
    def seconds(name: str) -> float:
        with running(name) as servers:
            return servers[name].start_seconds

    found = interleaved({name: partial(seconds, name) for name in (FULL, SANDBOX)}, rounds)
    cells = [f"{name}: {spread(times)} s" for name, times in found.items()]
    yield "start to the first 200", "; ".join(cells), "< 1 s"


ROWS = {
    "requests": time_of_requests,
    "load": load,
    "million": million,
    "search": search,
    "import": imports,
    "memory": memory,
    "start": start,
}


def main(*names: str):
    """Print each row as soon as it is measured."""
    prepare()
    print(f"{conditions()}\n\n| figure | measured | aim |\n|---|---|---|", flush=True)
    for name in names or ROWS:
        for row in ROWS[name]():
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
