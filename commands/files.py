"""Import and export of contacts as CSV and JSON Lines."""

import csv
import json
import os
import re
import shutil
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import TextIOWrapper
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, TextIO

import click
from marshmallow import ValidationError

import schemas

ENCODINGS = {"utf-8": "utf-8-sig", "utf-16": "utf-16", "latin-1": "latin-1", "cp1252": "cp1252"}
MAX_CELL = 1024 * 1024

# One transaction: so little that clients of a running server hardly notice it.
BATCH_ROWS = 500
BATCH_BYTES = 2 * 1024 * 1024

# The columns of an export. The id is first: a line that begins with a phone's + can be a formula to
# a spreadsheet that separates cells by semicolons.
COLUMNS = ["id", "phone", "name", "email", "tags", "metadata", "source", "created_at", "updated_at"]

# A further column, in a file of refused rows; an import ignores it.
REASON = "refused_because"

# The usual titles of the columns, those of HubSpot, Google Contacts, Outlook and WhatsApp among
# them, in lower case without accents and punctuation. Where a file has several for one field, the
# first that is not empty counts, in this order.
VARIANTS = {
    "id": "id contactid",
    "phone": "whatsapp whatsappnumber whatsappphonenumber mobile mobilephone mobilenumber"
    " mobilephonenumber cell cellphone phone phonenumber phoneno tel telephone telephonenumber"
    " numerodetelephone primaryphone phone1value phone2value phone3value phone4value homephone"
    " homephone2 businessphone businessphone2 companymainphone otherphone carphone",
    "name": "name fullname contactname displayname savedname nom nomcomplet publicname pushname",
    "first_name": "firstname givenname prenom",
    "middle_name": "middlename additionalname",
    "last_name": "lastname familyname surname",
    "email": "email emailaddress mail courriel adressemail email1value email2value email3value"
    " email2address email3address workemail",
    "tags": "tags tag labels groupmembership categories",
    "metadata": "metadata",
    "source": "source",
    "created_at": "createdat",
    "updated_at": "updatedat",
    REASON: "refusedbecause",
}
FIELDS = {
    variant: (field, rank)
    for field, variants in VARIANTS.items()
    for rank, variant in enumerate(variants.split())
}
NAME_PARTS = ["first_name", "middle_name", "last_name"]  # which make a name where there is no other

# Between the values of a cell: of any in an export of Google, and of tags, by the column's title.
BETWEEN_VALUES = " ::: "
BETWEEN_TAGS = {"labels": BETWEEN_VALUES, "groupmembership": BETWEEN_VALUES, "categories": ";"}
LABEL_OF_ALL = "* myContacts"

STDIN = Path("-")


class Unfinished(click.ClickException):
    """The import or export can't be completed, whatever the rows say."""

    exit_code = 2


@dataclass
class Row:
    """A contact of a file or, with a `refusal`, why it is none. `raw` is what the file says."""

    line: int
    raw: Any
    contact: dict[str, Any]
    refusal: str = ""


class CSVFile:
    """The rows of a CSV file. `notices` say what becomes of its columns.

    `mapping` names fields by the titles of columns, which count before all others of the field.
    With `clear_empty` an empty cell clears the name, the email or the tags.
    """

    ending = ".csv"

    def __init__(self, text: TextIO, mapping: Mapping[str, str], clear_empty: bool):
        first = text.readline()
        self._records = _records(chain([first], text), _delimiter(first, mapping))
        _, titles = next(self._records, (1, []))
        self._names = [title.strip() or f"column {i}" for i, title in enumerate(titles, 1)]
        self._sources = _sources(self._names, mapping)
        if "phone" not in self._sources:
            raise Unfinished(
                "No column is named phone: the first line must name the columns, or --map one."
            )
        self._ignored = list(chain(*self._sources.pop(REASON, [])))
        self._cleared = {"name", "email", "tags"} if clear_empty else set()
        self.notices = list(self._notices())

    def _notices(self) -> Iterator[str]:
        read = {*self._ignored, *chain(*chain(*self._sources.values()))}
        kept = [name for name in self._names if name not in read]
        if kept:
            yield f"Kept in the metadata: {', '.join(kept)}."
        for field, sources in self._sources.items():
            if len(sources) > 1:
                yield (
                    f"The {field} is the first of these that is not empty, and the metadata keeps"
                    f" the others: {', '.join(map(' + '.join, sources))}."
                )
        likely = [name for name in kept if re.search("name|nom", _letters(name))]
        if likely and "name" not in self._sources:
            yield f'No column is read as the name. Is it one of these? --map "{likely[0]}=name"'

    def __iter__(self) -> Iterator[Row]:
        return (self._row(line, cells) for line, cells in self._records if any(cells))

    def _row(self, line: int, cells: list[str]) -> Row:
        named = dict(zip(self._names, cells, strict=False))
        document, errors, read = {}, {}, set(self._ignored)
        if any(cells[len(self._names) :]):
            errors["row"] = ["It has more cells than the first line has names."]
        for field, sources in self._sources.items():
            for source in sources:
                if text := _text(named, source):
                    break
            if field in ("phone", "email") and BETWEEN_VALUES in text:
                text = text.partition(BETWEEN_VALUES)[0]  # the metadata keeps the whole cell
            else:
                read.update(source)
            if text or field in self._cleared:
                document[field] = text
        others = {
            name: restored(cell)
            for name, cell in named.items()
            if name not in read and cell.strip()
        }
        if others or "metadata" in document:
            try:
                given = schemas.parse_json(document.pop("metadata", "{}").encode())
                document["metadata"] = others | given if isinstance(given, dict) else given
            except schemas.BadJSON as error:
                errors["metadata"] = [f"The text {error}."]
        return _checked(line, cells, document, errors)

    def write_refused(self, file: TextIO, rows: Iterable[Row]):
        """Append rows, with the reason in the first column."""
        lines = [] if file.tell() else [(REASON, self._names)]
        lines += [(row.refusal, row.raw) for row in rows]
        for reason, cells in lines:
            named = zip_longest(self._names, cells)
            kept = [cell for name, cell in named if name not in self._ignored]
            csv.writer(file).writerow([reason, *kept])

    @staticmethod
    def write(file: TextIO, contacts: Iterable[dict[str, Any]]):
        """Write contacts, with no cell that a spreadsheet would run as a formula."""
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for contact in contacts:
            values = _importable(contact)
            values["tags"] = ",".join(values["tags"])
            values |= {name: neutralised(values[name]) for name in ("name", "email", "tags")}
            values["metadata"] = _json(values["metadata"])
            writer.writerow(values.values())


class JSONLinesFile:
    """The lines of a JSON Lines file."""

    ending = ".jsonl"
    notices = ()

    def __init__(self, text: TextIO, mapping: Mapping[str, str], clear_empty: bool):
        if mapping or clear_empty:
            raise Unfinished(
                '--map and --clear-empty are for CSV: in JSON Lines "" clears a field.'
            )
        self._lines = enumerate(text, 1)

    def __iter__(self) -> Iterator[Row]:
        return (self._row(number, line.strip()) for number, line in self._lines if line.strip())

    def _row(self, number: int, line: str) -> Row:
        try:
            document = schemas.parse_json(line.encode())
        except schemas.BadJSON as error:
            return Row(number, line, {}, f"The line {error}.")
        if not isinstance(document, dict):
            return Row(number, line, {}, "The line must be a JSON object.")
        document.pop(REASON, None)
        return _checked(number, document, document, {})

    def write_refused(self, file: TextIO, rows: Iterable[Row]):
        """Append rows, with the reason where the row is an object."""
        for row in rows:
            is_object = isinstance(row.raw, dict)
            line = json.dumps({REASON: row.refusal} | row.raw) if is_object else row.raw
            file.write(f"{line}\n")

    @staticmethod
    def write(file: TextIO, contacts: Iterable[dict[str, Any]]):
        """Write contacts, one in each line."""
        file.writelines(_json(_importable(contact)) + "\n" for contact in contacts)


FORMATS = {each.ending: each for each in (CSVFile, JSONLinesFile)}


def format_of(path: Path, named: str | None = None) -> type[CSVFile | JSONLinesFile]:
    """Return the named format or else that of the file's ending. Raises Unfinished."""
    ending = f".{named}" if named else path.suffix.lower()
    if ending in FORMATS:
        return FORMATS[ending]
    if path == STDIN:
        raise Unfinished("Say what standard input is: --format csv or --format jsonl.")
    raise Unfinished(f"{path}: the name must end in .csv or .jsonl.")


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open the file once all of it is known to be in that encoding. Raises Unfinished."""
    with (
        TemporaryFile() if path == STDIN else path.open("rb") as file,
        TextIOWrapper(file, ENCODINGS[encoding], newline="") as text,
    ):
        if path == STDIN:  # which can be read only once
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.seek(0)
        try:
            while text.read(MAX_CELL):
                pass
        except UnicodeError as error:
            raise Unfinished(
                f"{'Standard input' if path == STDIN else path} is not {encoding.upper()}: name its"
                " encoding, as in `import --encoding cp1252`."
            ) from error
        text.seek(0)
        yield text


def batches(text: TextIO, contacts: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows, which are read from that text, in batches."""
    rows, start = [], 0
    for row in contacts:
        rows.append(row)
        if len(rows) == BATCH_ROWS or text.buffer.tell() - start >= BATCH_BYTES:
            yield rows
            rows, start = [], text.buffer.tell()
    yield rows


def write_refused(path: Path, contacts: CSVFile | JSONLinesFile, rows: list[Row]):
    """Append refused rows to the file, which is private, and made for the first of them."""
    path.touch(0o600)
    with path.open("a", encoding="utf-8", newline="") as file:
        contacts.write_refused(file, rows)


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


def _importable(contact: dict[str, Any]) -> dict[str, Any]:
    """Return the contact's columns as an import accepts them: no name is an empty string."""
    values = {column: contact[column] for column in COLUMNS}
    values |= {column: values[column] or "" for column in ("name", "email")}
    for column in ("created_at", "updated_at"):
        values[column] = values[column].isoformat(timespec="microseconds")
    return values


# A spreadsheet runs a cell that begins so as a formula, unless an apostrophe is before it. Cells
# that have one already get one more, so that every cell can be restored.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def neutralised(cell: str) -> str:
    """Return the cell so that a spreadsheet reads it as text; restored() is the inverse."""
    return "'" + cell if _FORMULA.match(cell) else cell


def restored(cell: str) -> str:
    """Return the cell that neutralised() was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row, and the number of its first line. Raises Unfinished."""
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise Unfinished(f"Line {line} is not CSV: {error}.") from error


def _delimiter(line: str, mapping: Mapping[str, str]) -> str:
    """Return the usual delimiter by which the line names most fields of a contact."""

    def count_fields(delimiter):
        titles = next(csv.reader([line], delimiter=delimiter), [])
        return sum(title.strip() in mapping or _letters(title) in FIELDS for title in titles)

    return max(",;\t", key=count_fields)


def _sources(names: list[str], mapping: Mapping[str, str]) -> dict[str, list[tuple[str, ...]]]:
    """Return where to look for each field, in order: in a column, or in several to be joined."""
    if unknown := mapping.keys() - set(names):
        raise Unfinished(f"--map: no column is named {min(unknown)}.")
    first = {name: (field, i - len(mapping)) for i, (name, field) in enumerate(mapping.items())}
    columns = {}
    for name in names:
        place = first.get(name) or FIELDS.get(_letters(name)) or ("", name)
        if place in columns:
            raise Unfinished(f"The columns {columns[place]} and {name} mean the same: rename one.")
        columns[place] = name
    sources = defaultdict(list)
    for (field, _), name in sorted(columns.items()):
        sources[field].append((name,))
    sources.pop("", None)
    if parts := [sources.pop(part)[0] for part in NAME_PARTS if part in sources]:
        sources["name"].append(tuple(chain(*parts)))
    return sources


def _text(cells: dict[str, str], source: tuple[str, ...]) -> str:
    """Return what the cells of the source say, tags separated by commas."""
    text = " ".join(filter(None, [restored(cells.get(name, "").strip()) for name in source]))
    if between := BETWEEN_TAGS.get(_letters(source[0])):
        text = ",".join(tag for tag in text.split(between) if tag != LABEL_OF_ALL)
    return text


@cache
def _letters(title: str) -> str:
    decomposed = unicodedata.normalize("NFKD", title.casefold())
    return "".join(c for c in decomposed if c.isalnum())


_schema = schemas.ImportedContact()


def _checked(line: int, raw: Any, document: dict[str, Any], errors: dict[str, list[str]]) -> Row:
    """Return the row of that document, refused for those errors or by the rules of an import."""
    contact = {}
    try:
        contact = _schema.load(document)
    except ValidationError as error:
        errors = errors | error.normalized_messages()
    refusal = " ".join(f"{name}: {text}" for name, texts in errors.items() for text in texts)
    return Row(line, raw, contact, refusal)


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
