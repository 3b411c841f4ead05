"""What every measurement shares: ratios of what was measured in turn, servers, and load."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from app import create_app

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".bench"
TOKEN = "bench"
CONNECTIONS = 16


def ratios(
    subject: Callable[[], float], yardstick: Callable[[], float], rounds: int
) -> list[float]:
    """Subject by yardstick, measured in turn, so that a busy moment falls on both."""
    found = []
    for turn in range(rounds + 1):
        if turn % 2:
            below, above = yardstick(), subject()
        else:
            above, below = subject(), yardstick()
        found.append(above / below)
    return found[1:]  # the first round warms up


def spread(values: list[float], form: str = ".2f") -> str:
    """The median, and between which values the middle half lies."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def phone(number: int) -> str:
    """The phone of the sample contact of that number: possible, and nobody's."""
    return f"+1415555{number:04}"


def sample_app(database: Path, synchronous: str = "NORMAL"):
    """The application with 1,000 contacts."""
    app = create_app(
        {
            "CONTACTS_DATABASE": str(database),
            "CONTACTS_SYNCHRONOUS": synchronous,
            "QYVO_TOKEN": TOKEN,
        }
    )
    store = app.extensions["store"]
    workspace_id = store.open_workspace("default")
    if not store.search_contacts(workspace_id):
        for number in range(1000):
            store.create_contact(
                workspace_id,
                phone=phone(number),
                name=f"Contact {number}",
                email=f"contact{number}@example.com",
                tags=["vip"],
                metadata={"lifetime_value": 0, "city": "Lyon"},
            )
    return app


@contextmanager
def process(*command: str, **environment: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server in a process of its own, and the URL that it prints once it is ready."""
    log = tempfile.NamedTemporaryFile(dir=CACHE)  # noqa: SIM115, closed with the server
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        urls = filter(None, (re.search(r"http://\S+", line) for line in started.stdout))
        if not (url := next(urls, None)):
            raise SystemExit(f"{' '.join(command)} did not start:\n{Path(log.name).read_text()}")
        yield started, url[0]
    finally:
        started.terminate()
        started.wait()
        log.close()


def flask_serve(database: Path, **environment: str):
    """`flask serve` on that file, with the token TOKEN."""
    return process(
        *(sys.executable, "-m", "flask", "serve", "--port", "0"),
        CONTACTS_DATABASE=str(database),
        QYVO_TOKEN=TOKEN,
        **environment,
    )


def resident_megabytes(pid: int) -> float:
    """The process's memory, its children's included."""
    text = Path(f"/proc/{pid}/status").read_text()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024
    return own + sum(resident_megabytes(int(child)) for child in children)


def wrk(url: str, seconds: int, **settings: str) -> dict[str, float]:
    """Requests a second, and median and slowest percent in milliseconds, under 16 connections."""
    done = subprocess.run(
        [
            *("wrk", "--threads", "1", "--connections", str(CONNECTIONS)),
            *("--duration", f"{seconds}s", "--script", str(ROOT / "bench/updates.lua"), url),
        ],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    if result["errors"]:
        raise SystemExit(
            f"{urlsplit(url).path}: {result['errors']} requests failed.\n{done.stdout}"
        )
    return result


def have(tool: str) -> bool:
    """Whether the tool is there; says so when it is not."""
    if shutil.which(tool):
        return True
    print(f"{tool} is not installed: the rows that need it are left out.", file=sys.stderr)
    return False
