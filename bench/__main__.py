"""Prints the table of figures. `python -m bench search memory` measures those rows alone."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import median

import requests

from bench.contacts import database, import_csv, parse_csv, write_csv
from bench.in_process import BARE, applications, time_of, updates
from bench.measuring import (
    CACHE,
    conditions,
    interleaved,
    memory,
    middle,
    ratios,
    request_times,
    send,
    wrk,
)
from bench.servers import (
    CONTACTS,
    JSON_SERVER,
    NORMAL,
    PEERS,
    PRISM,
    SANDBOX,
    SOUL,
    deployment,
    prepare,
    running,
)

SEARCHES = [
    f'POST /api/v1/actions/search-contacts {{"query": "{query}"}}'
    for query in ("nobody", "zzzqqq", "@nowhere", "+99999", "nguyễn zoé xy")
]

Row = tuple[str, str, str, str]


def compare(
    what: str, unit: str, ours: list[float], others: dict[str, list[float]]
) -> Iterator[Row]:
    """Yield a row for each of the others."""
    for name, theirs in others.items():
        figures = f"{middle(ours)} {unit}", f"{name}: {middle(theirs)} {unit}"
        yield what, *figures, ratios(ours, theirs)


def run(tests: int = 100, rounds: int = 7) -> Iterator[Row]:
    """Each test has a new session and, in the sandbox, a workspace of its own."""

    def seconds(name: str) -> float:
        with running(name, count=0) as servers:
            server = servers[name]
            for test in range(1_000_000, 1_000_000 + tests):
                with requests.Session() as session:
                    for line in server.test:
                        send(server.url, line, test, session, f"sandbox-{test}")
        return time.perf_counter() - server.began

    found = interleaved({name: partial(seconds, name) for name in (SANDBOX, *PEERS)}, rounds)
    what = f"{tests} tests of five requests each, from start to stop"
    yield from compare(what, "s", found.pop(SANDBOX), found)


def request(rounds: int = 9, count: int = 100) -> Iterator[Row]:
    """One update by Python's requests: the median of each round."""

    def milliseconds(server, on_a_session: bool) -> float:
        with requests.Session() as session:
            times = request_times(server, server.updates, session if on_a_session else None)
            return median(islice(times, count))

    with running(SANDBOX, *PEERS) as servers:
        kinds = product(servers, (True, False))
        measures = {(name, how): partial(milliseconds, servers[name], how) for name, how in kinds}
        found = interleaved(measures, rounds)
    for how, words in ((True, "on a session"), (False, "on a new connection")):
        peers = {name: found[name, how] for name in PEERS}
        what = f"an update by Python's requests, {words}, in the sandbox"
        yield from compare(what, "ms", found[SANDBOX, how], peers)


def process(rounds: int = 25, count: int = 200) -> Iterator[Row]:
    with applications() as apps:
        measures = {
            name: lambda app=app: time_of(app, updates(count)) for name, app in apps.items()
        }
        found = interleaved(measures, rounds)
    bare = {BARE: found.pop(BARE)}
    for name, times in found.items():
        yield from compare(f"an update without a server, {name}", "µs", times, bare)


def load(rounds: int = 5, seconds: int = 2, numbers=(1, 16)) -> Iterator[Row]:
    with running(NORMAL, SANDBOX, *PEERS) as servers:
        kinds = product(servers, numbers)
        measures = {(name, c): partial(wrk, servers[name], c, seconds) for name, c in kinds}
        found = interleaved(measures, rounds)
    pairs = [(NORMAL, SOUL), *((SANDBOX, peer) for peer in PEERS)]
    for connections, (ours, peer) in product(numbers, pairs):
        words = f"{connections} connections" if connections > 1 else "one connection"
        what = f"updates a second and their p99, {words}, {ours}"
        yield compare_load(what, found[ours, connections], peer, found[peer, connections])


def compare_load(what: str, ours: list[dict], other: str, theirs: list[dict]) -> Row:
    def figure(found):
        p99 = middle([result["p99"] for result in found])
        return f"{middle([result['rate'] for result in found])}, {p99} ms"

    quotients = ratios(*([result["rate"] for result in found] for found in (ours, theirs)))
    return what, figure(ours), f"{other}: {figure(theirs)}", quotients


def gunicorn(rounds: int = 5, seconds: int = 3) -> Iterator[Row]:
    """Two processes on one file, beside one."""
    packages = CACHE / "gunicorn"
    if not packages.exists():
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", packages)
        subprocess.run([*pip, "gunicorn==27.0.1"], check=True)
    command = "gunicorn -w 2 --threads 8 --bind 127.0.0.1:PORT wsgi:app"
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        path = shutil.copy(database(CONTACTS), directory)
        with deployment(path) as one, deployment(path, command, PYTHONPATH=str(packages)) as two:
            measures = {1: partial(wrk, one, 16, seconds), 2: partial(wrk, two, 16, seconds)}
            found = interleaved(measures, rounds)
    what = "updates a second and their p99, 16 connections, `gunicorn -w 2 --threads 8 wsgi:app`"
    yield compare_load(what, found[2], "`serve`", found[1])


def search(counts=(1000, 100_000, 1_000_000), rounds: int = 30) -> Iterator[Row]:
    for count in counts:
        with deployment(database(count)) as server, requests.Session() as session:
            times = list(islice(request_times(server, SEARCHES, session), rounds))
        yield f"a search that finds nothing among {count:,} contacts", f"{middle(times)} ms", "", ""


def imports(count: int = 100_000, rounds: int = 3) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        file = Path(directory, "contacts.csv")
        write_csv(file, count)
        imported = partial(import_csv, file, file.with_suffix(".db"))
        measures = {"import": imported, "parse": partial(parse_csv, file)}
        found = interleaved(measures, rounds, warm_up=0)
    ours, least = ([seconds for seconds, _ in found[name]] for name in ("import", "parse"))
    peak = max(megabytes for _, megabytes in found["import"])
    what = f"an import of {count:,} rows, in {peak:.0f} MB"
    yield from compare(what, "s", ours, {"csv and phonenumbers alone": least})


def idle_memory(rounds: int = 3, seconds: int = 2) -> Iterator[Row]:
    """After some load, while no other server shares its pages."""

    def alone(name: str) -> float:
        with running(name) as servers:
            wrk(servers[name], 16, seconds)
            return memory(servers[name].pid)

    measures = {name: partial(alone, name) for name in (SANDBOX, JSON_SERVER)}
    found = interleaved(measures, rounds, warm_up=0)
    yield from compare("memory (PSS), sandbox", "MB", found.pop(SANDBOX), found)


def start(rounds: int = 7) -> Iterator[Row]:
    def seconds(name: str) -> float:
        with running(name, count=0) as servers:
            return servers[name].start_seconds

    found = interleaved({name: partial(seconds, name) for name in (SANDBOX, PRISM)}, rounds)
    yield from compare("start to the first response, sandbox", "s", found.pop(SANDBOX), found)


ROWS = {
    "run": run,
    "request": request,
    "process": process,
    "load": load,
    "gunicorn": gunicorn,
    "search": search,
    "import": imports,
    "memory": idle_memory,
    "start": start,
}


def main(*names: str):
    """Print each row as soon as it is measured."""
    prepare()
    print(f"{conditions()}\n\n| what | here | beside it | ratio |\n|---|---|---|---|", flush=True)
    for name in names or ROWS:
        for row in ROWS[name]():
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
