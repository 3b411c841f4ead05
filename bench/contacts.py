"""Made-up contacts: as CSV, and in databases that `flask import` fills."""

import csv
import os
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import phonenumbers

from bench.measuring import CACHE, ROOT, memory
from store import MIGRATIONS

FIRST = ("Amara", "Chloé", "Élodie", "Grace", "Hugo", "Kenji", "Olivia", "Romain")
LAST = ("Cohen", "García", "Haddad", "Khan", "Müller", "Nguyễn", "Okafor")
# What seven digits can follow, in eight countries.
PREFIXES = ("+1212", "+1415", "+3361", "+44771", "+491511", "+551191", "+91981", "+3461")
TAGS = ("vip", "lead", "newsletter", "vip,lead")


def contact(number: int) -> dict[str, str]:
    """Return one of ten million contacts, always the same. Phones are in no order."""
    return {
        "phone": PREFIXES[number % 8] + f"{number * 7_368_787 % 10**7:07}",
        "name": f"{FIRST[number % 8]} {LAST[number % 7]}",
        "email": f"contact.{number}@example.com",
        "tags": TAGS[number % 4],
    }


def database(count: int) -> Path:
    """Return the database of that many contacts, which is made once."""
    schema = zlib.crc32(repr(MIGRATIONS).encode())
    path = CACHE / f"{count}-{schema:08x}.db"
    if not path.exists():
        source, new = path.with_suffix(".csv"), path.with_suffix(".new")
        write_csv(source, count)
        import_csv(source, new)
        source.unlink()
        new.rename(path)
        os.sync()  # or the system would write it while something is measured
    return path


def write_csv(path: Path, count: int):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, contact(0))
        writer.writeheader()
        writer.writerows(map(contact, range(count)))


def import_csv(path: Path, database: Path) -> tuple[float, float]:
    """Run `flask import` into a new database."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    return run("flask", "import", str(path), CONTACTS_DATABASE=str(database))


def parse_csv(path: Path) -> tuple[float, float]:
    """Do the least that an import must."""
    return run("bench.contacts", str(path))


def run(*module: str, **environment: str) -> tuple[float, float]:
    """Return the command's seconds, and its peak of memory in MB."""
    command, began, peak = [sys.executable, "-m", *module], time.perf_counter(), 0
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        with suppress(OSError, TypeError):  # when it has just ended
            peak = max(peak, memory(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed.")
    return time.perf_counter() - began, peak


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            phonenumbers.parse(row["phone"])
