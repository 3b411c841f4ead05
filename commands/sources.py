"""A file of contacts that is open in its encoding, and its rows."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TextIO

import click
from marshmallow import ValidationError

import schemas
from commands import encodings
from commands.base import Unfinished, printable, typed
from commands.columns import EXPORTED

STDIN = Path("-")


@dataclass
class Row:
    """A contact of a file or, with a `refusal`, why it is none. `raw` is what the file says."""

    line: int
    raw: Any
    phone: Any
    contact: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""
    refused_before: str = ""  # which a file of refused rows says


@dataclass
class Options:
    """How to read a file: what --map and --clear-empty say, and whether it can be trusted.

    `mapping` names fields by the titles of columns. `trusted` lets our technical columns count
    though others of an export may be missing.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    clear_empty: bool = False
    trusted: bool = False


@dataclass
class InputFile:
    """A file whose encoding is known, at the beginning of its text."""

    text: TextIO
    encoding: encodings.Encoding

    def rewind(self):
        self.text.seek(0)
        if self.encoding.mark:
            self.text.read(1)


@contextmanager
def opened(path: Path, encoding: str | None = None, *, choice: bool = False) -> Iterator[InputFile]:
    """Open the file once all of it is known to be in its encoding. Raises Unfinished.

    With a `choice` the text says how to run the command again with each likely encoding.
    """
    name = "Standard input" if path == STDIN else str(path)
    with TemporaryFile() if path == STDIN else path.open("rb") as file:
        if path == STDIN:  # which can be read only once
            shutil.copyfileobj(sys.stdin.buffer, file)
        codec, mark = recognised = encodings.recognise(file, encoding)
        if encoding and mark and not codec.startswith(encodings.codec_of(encoding)):
            raise Unfinished(f"{name} says that it is {codec.upper()}: leave --encoding out.")
        if not encodings.decodes(file, codec):
            text = f"{name} is not {(encoding or 'utf-8').upper()}."
            if not choice:
                raise Unfinished(f"{text} Save it as UTF-8.")
            raise Unfinished(
                f"{text} Which of these shows the text as it should be?"
                f"\n{_choice_of_encodings(file)}"
            )
        if encoding and not codec.startswith("utf") and encodings.is_utf_8(file):
            click.echo(f"Warning: {name} can be read as UTF-8, which is likelier.", err=True)
        with TextIOWrapper(file, codec, newline="") as text:
            source = InputFile(text, recognised)
            source.rewind()
            yield source


def _choice_of_encodings(file: BinaryIO) -> str:
    """Return how each likely encoding would read the file, with the command that says so."""
    choice = []
    for name, readings in encodings.as_candidates_read(file):
        choice.append(f"  {typed('--encoding', name)}")
        choice += [f"      line {number}: {printable(text)}" for number, text in readings]
    return "\n".join(choice)


def checked(
    schema: schemas.ImportedContact,
    line: int,
    raw: Any,
    document: dict[str, Any],
    errors: dict[str, list[str]],
    refused_before: str,
) -> Row:
    """Return the row of that document, refused for those errors or by the rules of an import."""
    contact = {}
    try:
        contact = schema.load(document)
    except ValidationError as error:
        errors = errors | error.normalized_messages()
    refusal = " ".join(f"{name}: {text}" for name, texts in errors.items() for text in texts)
    return Row(line, raw, document.get("phone"), contact, refusal, refused_before)


def importable(contact: dict[str, Any]) -> dict[str, Any]:
    """Return the contact's columns as an import accepts them: no name is an empty string."""
    values = {column: contact[column] for column in EXPORTED}
    values |= {column: values[column] or "" for column in ("name", "email")}
    for column, value in values.items():
        if isinstance(value, datetime):
            values[column] = value.isoformat(timespec="microseconds")
    return values
