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
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


class Served(NamedTuple):
    """A running server, and the requests to send to it: see updates.lua."""

    pid: int
    url: str
    requests: list[str]
    start_seconds: float


def conditions() -> str:
    return (
        f"{date.today()}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" aiohttp {version('aiohttp')}. Medians, and in brackets the middle half of the rounds."
    )


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
    """Return the subject by its yardstick, round by round, and the medians of both."""
    quotients = [above / below for above, below in zip(subject, yardstick, strict=True)]
    above, below = statistics.median(subject), statistics.median(yardstick)
    digits = 0 if below >= 100 else 1 if below >= 10 else 2
    return f"{spread(quotients)}, {above:,.{digits}f} against {below:,.{digits}f}"


def spread(values: list[float], form: str = ".2f") -> str:
    """Return the median, and between which values the middle half lies."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def wrk(server: Served, connections: int, seconds: int) -> dict[str, float]:
    """Return requests a second as `rate`, and `p99` in milliseconds."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as lines:
        lines.writelines(f"{line}\n" for line in server.requests)
        lines.flush()
        done = subprocess.run(
            [
                *(
                    "wrk",
                    "-t",
                    "1",
                    "-c",
                    str(connections),
                    "-d",
                    f"{seconds}s",
                    "--timeout",
                    "30s",
                ),
                *("--script", ROOT / "bench/updates.lua", server.url),
            ],
            env={**os.environ, "REQUESTS": lines.name, "TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            check=True,
        )
    result = json.loads(done.stdout.splitlines()[-1])
    if result["errors"]:
        raise SystemExit(f"{server.requests[0]}: {result['errors']:.0f} requests failed.")
    return result


def request_times(server: Served, session: requests.Session | None = None) -> Iterator[float]:
    """Yield how many milliseconds each request takes, without end.

    They share the session or, without one, have a new connection each.
    """
    send = session.request if session else requests.request
    for count, line in enumerate(itertools.cycle(server.requests), time.time_ns() // 1000):
        method, path, body = line.replace("COUNT", str(count)).split(" ", 2)
        began = time.perf_counter()
        response = send(method, server.url + path, data=body.encode(), headers=HEADERS)
        yield (time.perf_counter() - began) * 1000
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
