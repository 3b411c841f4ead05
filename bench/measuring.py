"""How things are measured: interleaved, as medians, and with all their processes."""

import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import requests

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".bench"
TOKEN = "sandbox"  # which deployments accept too, as QYVO_TOKEN


class Served(NamedTuple):
    """A running server, and what to send to it.

    Each of the requests is a method, a path and a body, in which COUNT stands for a number that no
    other request has.
    """

    pid: int
    url: str
    updates: list[str]
    test: list[str]
    began: float  # by time.perf_counter()
    start_seconds: float


def conditions() -> str:
    node = subprocess.check_output(["node", "--version"], text=True).strip()
    return (
        f"{date.today()}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" waitress {version('waitress')}, Node {node}. Medians, and in brackets the middle half"
        " of the rounds."
    )


def headers(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def interleaved(
    measures: dict[Any, Callable[[], Any]], rounds: int, *, warm_up: int = 1
) -> dict[Any, list]:
    """Measure one after the other, round by round, so that a busy moment falls on all of them."""
    found = {name: [] for name in measures}
    for turn in range(warm_up + rounds):
        for name in list(measures)[:: -1 if turn % 2 else 1]:
            found[name].append(measures[name]())
    return {name: results[warm_up:] for name, results in found.items()}


def ratios(subject: list[float], yardstick: list[float]) -> str:
    """Return the subject by its yardstick, round by round."""
    return spread([above / below for above, below in zip(subject, yardstick, strict=True)])


def spread(values: list[float], digits: int = 2) -> str:
    """Return the median, and between which values the middle half lies."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def middle(values: list[float]) -> str:
    """Return the median with three digits or more."""
    median = statistics.median(values)
    return f"{median:,.{0 if median >= 100 else 1 if median >= 10 else 2}f}"


def wrk(server: Served, connections: int, seconds: int) -> dict[str, float]:
    """Return updates a second as `rate`, and `p99` in milliseconds."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as lines:
        lines.writelines(f"{line}\n" for line in server.updates)
        lines.flush()
        options = f"-t 1 -c {connections} -d {seconds}s --timeout 30s --script bench/updates.lua"
        done = subprocess.run(
            ["wrk", *options.split(), server.url],
            cwd=ROOT,
            env={**os.environ, "REQUESTS": lines.name, "TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            check=True,
        )
    result = json.loads(done.stdout.splitlines()[-1])
    if result["errors"]:
        raise SystemExit(f"{server.updates[0]}: {result['errors']:.0f} requests failed.")
    return result


def request_times(
    server: Served, lines: list[str], session: requests.Session | None = None
) -> Iterator[float]:
    """Yield how many milliseconds each request takes, without end.

    They share the session or, without one, have a new connection each.
    """
    for count, line in enumerate(itertools.cycle(lines), time.time_ns() // 1000):
        began = time.perf_counter()
        send(server.url, line, count, session or requests)
        yield (time.perf_counter() - began) * 1000


def send(url: str, line: str, count: int, session: Any, token: str = TOKEN):
    """Send one of the requests of Served by a session or by the module `requests`."""
    method, path, body = line.replace("COUNT", str(count)).split(" ", 2)
    response = session.request(method, url + path, data=body.encode(), headers=headers(token))
    response.raise_for_status()


def memory(pid: int) -> float:
    """Return the proportional set size in MB of the process and all its descendants."""
    total = 0
    for process in processes(pid):
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1])
    return total / 1024


def processes(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for file in files for child in file.read_text().split()]
    return [pid, *(descendant for child in children for descendant in processes(child))]
