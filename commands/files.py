"""Files of contacts: by their endings, in batches, and replaced as a whole."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import click

from commands.base import Unfinished
from commands.csv_files import CSVFile
from commands.json_lines import JSONLinesFile
from commands.sources import STDIN, Row

# One transaction: so little that clients of a running server hardly notice it.
BATCH_ROWS = 500
BATCH_BYTES = 2 * 1024 * 1024
FIRST_LINE = 1024 * 1024  # characters of it

ContactsFile = CSVFile | JSONLinesFile
FORMATS = {each.ending: each for each in (CSVFile, JSONLinesFile)}


def format_of(
    path: Path, named: str | None = None, otherwise: str = "Spreadsheets save CSV, too."
) -> type[ContactsFile]:
    """Return the named format or else that of the file's ending.

    Raises Unfinished, with what else can be done.
    """
    ending = f".{named}" if named else path.suffix.lower()
    if ending in FORMATS:
        return FORMATS[ending]
    if path == STDIN:
        raise Unfinished("Say what standard input is: --format csv or --format jsonl.")
    raise Unfinished(f"{path}: the name must end in .csv or .jsonl. {otherwise}")


def batches(text: TextIO, contacts: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows, which are read from that text, in batches."""
    rows, start = [], 0
    for row in contacts:
        rows.append(row)
        if len(rows) == BATCH_ROWS or text.buffer.tell() - start >= BATCH_BYTES:
            yield rows
            rows, start = [], text.buffer.tell()
    yield rows


def new_file_of_refused(path: Path, ending: str) -> Path:
    """Make a private file for the refused rows of `path`, by the first name that is free."""
    new = path.with_name(f"{path.name}.rejected{ending}")
    for number in count(2):
        try:
            new.touch(0o600, exist_ok=False)
            break
        except FileExistsError:
            new = path.with_name(f"{path.name}.rejected-{number}{ending}")
    return new


def append_refused(path: Path, contacts: ContactsFile, rows: list[Row]):
    """Append refused rows to the file."""
    codec = contacts.encoding.codec
    for row in rows:  # whose reasons may quote what the encoding does not have
        row.refusal = row.refusal.encode(codec, "replace").decode(codec)
    with path.open("a", encoding=codec, newline="") as file:
        contacts.write_refused(file, rows)


def is_replaceable(path: Path) -> bool:
    """Return whether the file is an export, which another may replace, or empty."""
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline(FIRST_LINE)
    return not line or any(each.is_export(line) for each in FORMATS.values())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Provide a new, private file, which is renamed to `path` once it is complete."""
    try:
        folder = TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise click.ClickException(
            f"{path.parent}: no file can be made in this folder: {error.strerror}."
        ) from error
    with folder as name:
        new = Path(name, path.name)
        new.touch(0o600)
        yield new
        _sync(new)
        new.replace(path)
        _sync(path.parent)


def _sync(path: Path):
    """Wait until the disk has the file or the folder. Windows syncs no folder."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
