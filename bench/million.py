"""A million made-up contacts: as CSV, and in a database that `flask import` fills once."""

import csv
import os
import subprocess
import sys
import time
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench.measuring import CACHE, ROOT, resident_megabytes
from store import MIGRATIONS

MILLION = 1_000_000
DATABASE = CACHE / f"million-{len(MIGRATIONS)}.db"

FIRST = "Amara Chloé Élodie Emma Grace Hugo Inès Kenji Liam Lucas Mateo Noah Olivia Romain Yara Zoé"
LAST = "Ali Cohen Dupont García Haddad Khan Kowalski Larsen Müller Nguyễn Novák Okafor Rossi Sato"
DOMAINS = "example.com mail.example corp.example"
# What seven digits can follow, in eight countries.
PREFIXES = "+1212 +1415 +3361 +44771 +491511 +551191 +91981 +3461"
TAGS = "vip lead newsletter vip,lead"

HEADER = ("phone", "name", "email", "tags")


def contact(number: int) -> tuple[str, str, str, str]:
    """The contact of that number below a million, always the same, with a phone of its own."""

    def pick(words: str, salt: int) -> str:
        choices = words.split()
        return choices[number * salt // 64 % len(choices)]

    first, last = pick(FIRST, 73), pick(LAST, 101)
    phone = pick(PREFIXES, 37) + f"{number * 7_368_787 % 10**7:07}"
    local = unicodedata.normalize("NFKD", f"{first}.{last}".lower()).encode("ascii", "ignore")
    address = f"{local.decode()}{number * 7_919 % 10**6}@{pick(DOMAINS, 31)}"
    return phone, f"{first} {last}", address, pick(TAGS, 59)


def write_csv(path: Path, rows: int):
    """The first of the million, as a spreadsheet exports them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(map(contact, range(rows)))


class Run(NamedTuple):
    """What a command took, all its processes together."""

    seconds: float
    peak_megabytes: float


def run(*command: str, **environment: str) -> Run:
    """Run a command of Python's to its end."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        with suppress(OSError, TypeError):  # one that has just ended
            peak = max(peak, resident_megabytes(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed.")
    return Run(time.perf_counter() - began, peak)


def import_csv(path: Path, database: Path) -> Run:
    """`flask import` into a new database."""
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    return run("-m", "flask", "import", str(path), CONTACTS_DATABASE=str(database))


def parse_csv(path: Path) -> Run:
    """The least that an import can do."""
    return run("-m", "bench.million", str(path))


if __name__ == "__main__":
    import phonenumbers

    with open(sys.argv[1], encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            phonenumbers.parse(row["phone"])
