"""Import and export of contacts as CSV and JSON Lines."""

import csv
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TextIO

import click
from marshmallow import ValidationError

import schemas

ENCODINGS = {"utf-8": "utf-8-sig", "utf-16": "utf-16", "latin-1": "latin-1", "cp1252": "cp1252"}
MAX_CELL = 1024 * 1024

# One transaction: so little that clients of a running server hardly notice it.
BATCH_ROWS = 500
BATCH_CHARACTERS = 2 * 1024 * 1024

# The columns of an export. The id is first: a line that begins with a phone's + can be a formula to
# a spreadsheet that separates cells by semicolons.
COLUMNS = ["id", "phone", "name", "email", "tags", "metadata", "source", "created_at", "updated_at"]

# A further column, in a file of refused rows; an import ignores it.
REASON = "refused_because"

# The usual names of the columns, in lower case, without accents and punctuation.
VARIANTS = {
    "id": "id contactid",
    "phone": "phone phonenumber phoneno tel telephone telephonenumber numerodetelephone mobile"
    " mobilephone mobilenumber cell cellphone whatsapp whatsappnumber",
    "name": "name fullname contactname displayname nom nomcomplet",
    "email": "email emailaddress mail courriel adressemail",
    "tags": "tags tag labels",
    "metadata": "metadata",
    "source": "source",
    "created_at": "createdat",
    "updated_at": "updatedat",
    REASON: "refusedbecause",
}
FIELDS = {variant: field for field, variants in VARIANTS.items() for variant in variants.split()}


class Unfinished(click.ClickException):
    """The import or export can't be completed, whatever the rows say."""

    exit_code = 2


class Row(NamedTuple):
    """A contact, or why it is refused. `raw` is what the file says, `size` its characters."""

    line: int
    raw: Any
    size: int
    contact: dict[str, Any]
    refusal: str = ""


class Batch(NamedTuple):
    """Rows of one transaction, and the number of bytes of their file that have been read."""

    rows: list[Row]
    bytes_read: int


class CSVFile:
    """The rows of a CSV file. `kept_as_metadata` are the columns that are no field of a contact."""

    ending = ".csv"

    def __init__(self, lines: TextIO):
        csv.field_size_limit(MAX_CELL)
        first = lines.readline()
        self._csv = csv.reader(chain([first], lines), delimiter=_delimiter(first), strict=True)
        self._titles = self._next() or []
        columns = _columns(self._titles)
        if "phone" not in columns:
            raise Unfinished("No column is named phone: the first line must name the columns.")
        self._reason = columns.pop(REASON, None)
        rules = schemas.ImportedCells().load_fields
        self._rules = [
            (position, name, rules[name].deserialize)
            for name, position in columns.items()
            if name in rules
        ]
        self._kept = [(i, name) for name, i in columns.items() if name not in rules]
        self._metadata_rule = schemas.Metadata().deserialize
        self.kept_as_metadata = [name for _, name in self._kept]

    def __iter__(self) -> Iterator[Row]:
        line = self._csv.line_num + 1
        while (cells := self._next()) is not None:
            if any(cells):
                yield self._row(line, cells)
            line = self._csv.line_num + 1

    def refused_writer(self, file: TextIO) -> Callable[[Row], None]:
        """Return what writes a refused row to the file, with its reason in the first column."""
        writer = csv.writer(file)

        def write(reason, cells):
            writer.writerow([reason, *(c for i, c in enumerate(cells) if i != self._reason)])

        write(REASON, self._titles)
        return lambda row: write(row.refusal, row.raw)

    def _next(self) -> list[str] | None:
        line = self._csv.line_num + 1
        try:
            return next(self._csv, None)
        except csv.Error as error:
            raise Unfinished(f"Line {line} is not CSV: {error}.") from error

    def _row(self, line: int, cells: list[str]) -> Row:
        contact, errors = {}, {}
        if any(cells[len(self._titles) :]):
            errors["row"] = ["It has more cells than the first line has names."]
        cells += [""] * (len(self._titles) - len(cells))
        for position, name, rule in self._rules:
            if cell := cells[position].strip():
                try:
                    contact[name] = rule(restored(cell))
                except ValidationError as error:
                    errors[name] = error.messages
        if kept := {name: restored(cells[i]) for i, name in self._kept if cells[i]}:
            try:
                contact["metadata"] = self._metadata_rule(kept | contact.get("metadata", {}))
            except ValidationError as error:
                errors["metadata"] = error.messages
        if "phone" not in contact:
            errors.setdefault("phone", ["Is required."])
        return Row(line, cells, sum(map(len, cells)), contact, _refusal(errors))


class JSONLinesFile:
    """The lines of a JSON Lines file."""

    ending = ".jsonl"
    kept_as_metadata = ()
    _schema = schemas.ImportedContact()

    def __init__(self, lines: TextIO):
        self._lines = lines

    def __iter__(self) -> Iterator[Row]:
        for number, line in enumerate(self._lines, 1):
            if line.strip():
                yield self._row(number, line.strip())

    def refused_writer(self, file: TextIO) -> Callable[[Row], None]:
        """Return what writes a refused line to the file, with its reason if it is an object."""

        def write(row):
            raw = row.raw
            if isinstance(raw, dict):
                raw = json.dumps({REASON: row.refusal} | raw)
            file.write(raw + "\n")

        return write

    def _row(self, number: int, line: str) -> Row:
        raw, contact, refusal = line, {}, ""
        try:
            document = schemas.parse_json(line.encode())
            if isinstance(document, dict):
                raw = document
                raw.pop(REASON, None)
                contact = self._schema.load(raw)
            else:
                refusal = "The line must be a JSON object."
        except schemas.BadJSON as error:
            refusal = f"The line {error}."
        except ValidationError as error:
            refusal = _refusal(error.normalized_messages())
        return Row(number, raw, len(line), contact, refusal)


def batches(text: TextIO, contacts: CSVFile | JSONLinesFile) -> Iterator[Batch]:
    """Yield the rows of the contacts, which are read from that text, in batches."""
    rows, size = [], 0
    for row in contacts:
        rows.append(row)
        size += row.size
        if len(rows) == BATCH_ROWS or size >= BATCH_CHARACTERS:
            yield Batch(rows, text.buffer.tell())
            rows, size = [], 0
    yield Batch(rows, text.buffer.tell())


def write_csv(file: TextIO, contacts: Iterable[dict[str, Any]]):
    """Write contacts as CSV, with no cell that a spreadsheet would run as a formula."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for contact in contacts:
        values = _importable(contact)
        values["tags"] = ",".join(values["tags"])
        values |= {name: neutralised(values[name]) for name in ("name", "email", "tags")}
        values["metadata"] = _json(values["metadata"])
        writer.writerow(values.values())


def write_json_lines(file: TextIO, contacts: Iterable[dict[str, Any]]):
    """Write contacts as JSON Lines."""
    file.writelines(_json(_importable(contact)) + "\n" for contact in contacts)


def _importable(contact: dict[str, Any]) -> dict[str, Any]:
    """Return the contact's columns as an import accepts them: no name is an empty string."""
    values = {column: contact[column] for column in COLUMNS}
    values |= {column: values[column] or "" for column in ("name", "email")}
    return values | {
        column: values[column].isoformat(timespec="microseconds")
        for column in ("created_at", "updated_at")
    }


READERS = {".csv": CSVFile, ".jsonl": JSONLinesFile}
WRITERS = {".csv": write_csv, ".jsonl": write_json_lines}


def by_ending(path: Path, formats: dict[str, Any]) -> Any:
    """Return the reader or writer for the file's ending. Raises Unfinished."""
    try:
        return formats[path.suffix.lower()]
    except KeyError:
        raise Unfinished(f"{path}: the name must end in .csv or .jsonl.") from None


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open the file once all of it is known to be in that encoding. Raises Unfinished."""
    with path.open("rb") as file, TextIOWrapper(file, ENCODINGS[encoding], newline="") as text:
        try:
            while text.read(MAX_CELL):
                pass
        except UnicodeError as error:
            raise Unfinished(
                f"{path} is not {encoding.upper()}: name its encoding, as in --encoding cp1252."
            ) from error
        text.seek(0)
        yield text


@contextmanager
def refused_rows(path: Path, contacts: CSVFile | JSONLinesFile) -> Iterator[Callable[[Row], None]]:
    """Provide what writes a row to FILE.rejected.csv (.jsonl), which is made for the first one."""
    rejected = path.with_name(f"{path.name}.rejected{contacts.ending}")
    rejected.unlink(missing_ok=True)
    with ExitStack() as stack:

        @cache
        def writer():
            rejected.touch(0o600)
            file = rejected.open("w", encoding="utf-8", newline="")
            return contacts.refused_writer(stack.enter_context(file))

        yield lambda row: writer()(row)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Provide a new, private file, which is renamed to `path` once it is complete."""
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        new = Path(folder, path.name)
        new.touch(0o600)
        yield new
        _sync(new)
        new.replace(path)
        _sync(path.parent)


def _sync(path: Path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A spreadsheet runs a cell that begins so as a formula, unless an apostrophe is before it. Cells
# that have one already get one more, so that every cell can be restored.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def neutralised(cell: str) -> str:
    """Return the cell so that a spreadsheet reads it as text; restored() is the inverse."""
    return "'" + cell if _FORMULA.match(cell) else cell


def restored(cell: str) -> str:
    """Return the cell that neutralised() was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _delimiter(line: str) -> str:
    """Return the usual delimiter by which the line names most fields of a contact."""

    def count_fields(delimiter):
        return sum(map(bool, map(_field, next(csv.reader([line], delimiter=delimiter), []))))

    return max(",;\t", key=count_fields)


def _columns(titles: list[str]) -> dict[str, int]:
    """Return the position of each field; a title that names no field stands for itself."""
    columns = {}
    for position, title in enumerate(titles):
        name = _field(title) or title.strip() or f"column {position + 1}"
        if name in columns:
            raise Unfinished(
                f"The columns {titles[columns[name]]} and {title} mean the same: rename one."
            )
        columns[name] = position
    return columns


def _field(title: str) -> str | None:
    letters = unicodedata.normalize("NFKD", title.casefold())
    return FIELDS.get("".join(c for c in letters if c.isalnum()))


def _refusal(errors: dict[str, list[str]]) -> str:
    return " ".join(f"{field}: {text}" for field, texts in errors.items() for text in texts)


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
