"""Import and export of contacts as CSV and JSON Lines."""

import csv
import json
import os
import re
import shutil
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
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
    """The rows of a CSV file. `notices` say what becomes of its columns.

    `mapping` names fields by the titles of columns, which count before all others of the field.
    With `clear_empty` an empty cell clears the name, the email or the tags.
    """

    ending = ".csv"

    def __init__(self, lines: TextIO, mapping: Mapping[str, str], clear_empty: bool):
        csv.field_size_limit(MAX_CELL)
        first = lines.readline()
        delimiter = _delimiter(first, mapping)
        self._csv = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        self._titles = self._next() or []
        self._sources = _sources(self._titles, mapping)
        if "phone" not in self._sources:
            raise Unfinished(
                "No column is named phone: the first line must name the columns, or --map one."
            )
        [(self._reason,)] = self._sources.pop(REASON, [(None,)])
        self._names = [title.strip() or f"column {i}" for i, title in enumerate(self._titles, 1)]
        self._between_tags = [BETWEEN_TAGS.get(_letters(title)) for title in self._titles]
        self._cleared = {"name", "email", "tags"} if clear_empty else set()
        rules = schemas.ImportedCells().load_fields
        self._rules = {field: rules[field].deserialize for field in self._sources}
        self._metadata_rule = schemas.Metadata().deserialize
        self.notices = list(self._notices())

    def _notices(self) -> Iterator[str]:
        read = {i for sources in self._sources.values() for source in sources for i in source}
        kept = [name for i, name in enumerate(self._names) if i not in read | {self._reason}]
        if kept:
            yield f"Kept in the metadata: {', '.join(kept)}."
        for field, sources in self._sources.items():
            if len(sources) > 1:
                names = [" + ".join(self._names[i] for i in source) for source in sources]
                yield (
                    f"The {field} is the first of these that is not empty, and the metadata keeps"
                    f" the others: {', '.join(names)}."
                )
        likely = [name for name in kept if re.search("name|nom", _letters(name))]
        if likely and "name" not in self._sources:
            yield f'No column is read as the name. Is it one of these? --map "{likely[0]}=name"'

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
        contact, errors, read = {}, {}, {self._reason}
        if any(cells[len(self._titles) :]):
            errors["row"] = ["It has more cells than the first line has names."]
        cells += [""] * (len(self._titles) - len(cells))
        for field, sources in self._sources.items():
            for source in sources:
                if text := self._text(cells, source):
                    break
            if not text and field not in self._cleared:
                continue
            if field in ("phone", "email") and BETWEEN_VALUES in text:
                text = text.partition(BETWEEN_VALUES)[0]
            else:
                read.update(source)
            try:
                contact[field] = self._rules[field](text)
            except ValidationError as error:
                errors[field] = error.messages
        kept = {
            self._names[i]: restored(cell)
            for i, cell in enumerate(cells[: len(self._names)])
            if i not in read and cell.strip()
        }
        if kept:
            try:
                contact["metadata"] = self._metadata_rule(kept | contact.get("metadata", {}))
            except ValidationError as error:
                errors["metadata"] = error.messages
        if "phone" not in contact:
            errors.setdefault("phone", ["Is required."])
        return Row(line, cells, sum(map(len, cells)), contact, _refusal(errors))

    def _text(self, cells: list[str], source: tuple[int, ...]) -> str:
        """Return what the cells of the source say, tags separated by commas."""
        text = " ".join(filter(None, [restored(cells[i].strip()) for i in source]))
        if between := self._between_tags[source[0]]:
            text = ",".join(tag for tag in text.split(between) if tag != LABEL_OF_ALL)
        return text


class JSONLinesFile:
    """The lines of a JSON Lines file."""

    ending = ".jsonl"
    notices = ()
    _schema = schemas.ImportedContact()

    def __init__(self, lines: TextIO, mapping: Mapping[str, str], clear_empty: bool):
        if mapping or clear_empty:
            raise Unfinished(
                '--map and --clear-empty are for CSV: in JSON Lines "" clears a field.'
            )
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


STDIN = Path("-")


def by_ending(path: Path, formats: dict[str, Any], named: str | None = None) -> Any:
    """Return the reader or writer for the named format or else the file's. Raises Unfinished."""
    try:
        return formats[f".{named}" if named else path.suffix.lower()]
    except KeyError:
        if path == STDIN:
            raise Unfinished(
                "Say what standard input is: --format csv or --format jsonl."
            ) from None
        raise Unfinished(f"{path}: the name must end in .csv or .jsonl.") from None


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open the file once all of it is known to be in that encoding. Raises Unfinished."""
    with ExitStack() as stack:
        if path == STDIN:  # which can be read only once
            file = stack.enter_context(TemporaryFile())
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.seek(0)
        else:
            file = stack.enter_context(path.open("rb"))
        text = stack.enter_context(TextIOWrapper(file, ENCODINGS[encoding], newline=""))
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


def _delimiter(line: str, mapping: Mapping[str, str]) -> str:
    """Return the usual delimiter by which the line names most fields of a contact."""

    def count_fields(delimiter):
        titles = next(csv.reader([line], delimiter=delimiter), [])
        return sum(title.strip() in mapping or _letters(title) in FIELDS for title in titles)

    return max(",;\t", key=count_fields)


def _sources(titles: list[str], mapping: Mapping[str, str]) -> dict[str, list[tuple[int, ...]]]:
    """Return where to look for each field, in order: in a column, or in several to be joined."""
    if unknown := mapping.keys() - {title.strip() for title in titles}:
        raise Unfinished(f"--map: no column is named {min(unknown)}.")
    first = {title: (field, i - len(mapping)) for i, (title, field) in enumerate(mapping.items())}
    columns = {}
    for position, title in enumerate(titles):
        name = title.strip()
        place = first.get(name) or FIELDS.get(_letters(title)) or ("", name or position)
        if place in columns:
            raise Unfinished(
                f"The columns {titles[columns[place]]} and {title} mean the same: rename one."
            )
        columns[place] = position
    sources = defaultdict(list)
    for field, rank in sorted(place for place in columns if place[0]):
        sources[field].append((columns[field, rank],))
    parts = [sources.pop(part)[0] for part in NAME_PARTS if part in sources]
    if parts:
        sources["name"].append(tuple(chain(*parts)))
    return sources


def _letters(title: str) -> str:
    decomposed = unicodedata.normalize("NFKD", title.casefold())
    return "".join(c for c in decomposed if c.isalnum())


def _refusal(errors: dict[str, list[str]]) -> str:
    return " ".join(f"{field}: {text}" for field, texts in errors.items() for text in texts)


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
