"""Contacts in CSV, as any program may write it."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TextIO

import schemas
from commands.base import Unfinished
from commands.columns import (
    EXPORTED,
    EXPORTED_BY_0_2,
    FIELDS,
    REASON,
    Columns,
    Source,
    can_be_header,
    comparable,
    is_about_consent,
)
from commands.sources import InputFile, Options, Row, checked, importable

MAX_CELL = 1024 * 1024
MAX_SAMPLE = 40
HEADER_LINES = 10  # among which the line of titles must be

BETWEEN_VALUES = " ::: "  # several of a cell, in exports of Google
GOOGLE_LABELS = ("labels", "groupmembership")  # where * marks a label that is Google's own
CONSENT = ("opted_in_at", "opted_out_at", "last_message_at")


class CSVFile:
    """The rows of a CSV file. `notices` say what is special about it.

    Creating one reads the file once, to its end. Raises Unfinished.
    """

    ending = ".csv"
    before_correcting = (
        " In a spreadsheet, format the phone column as text first, or it drops + and leading 0."
    )

    def __init__(self, file: InputFile, options: Options):
        csv.field_size_limit(MAX_CELL)
        self._file = file
        self.encoding = file.encoding
        self.delimiter, self._header_end, skipped, header = _header(file.text, options.mapping)
        self._header = header
        self.columns = Columns(header, options.mapping, options.trusted)
        self._schema = schemas.ImportedContact(only={*self.columns.sources, "metadata"})
        self._cleared = {"name", "email", "tags"} if options.clear_empty else set()
        self._preamble = next((line for line in skipped if _SEPARATOR.fullmatch(line)), "")
        self.samples: dict[int, str] = {}
        self._tag_columns = [source[0] for source in self.columns.sources.get("tags", [])]
        self._tags = {
            position: _TagCells(self._is_google(position)) for position in self._tag_columns
        }
        self._dates = {
            source[0]: _DateCells()
            for name in CONSENT
            for source in self.columns.sources.get(name, [])
        }
        self._refusing: set[int] = set()  # columns kept that may say who wants no messages
        self._suspicious = 0  # the first line whose cell may go on for want of a quotation mark
        for line, cells in self._records():
            self._survey(line, cells)
        self.notices = list(self._notices(skipped))
        separators = {",": "commas", ";": "semicolons", "\t": "tabs"}
        self.description = (
            f"CSV in {file.encoding.codec.upper()}, separated by"
            f" {separators.get(self.delimiter, self.delimiter)}"
        )

    @property
    def preview(self) -> list[tuple[str, str, str]]:
        """The title of each column that is not empty, what becomes of it, and a sample."""
        columns = self.columns
        return [
            (name, columns.meaning(position), self.samples[position][:MAX_SAMPLE])
            for position, name in enumerate(columns.names)
            if position in self.samples
        ]

    def advice(self, name: str) -> str:
        """Return the option that would help if most rows are refused for that field, else ""."""
        kept = [(self.columns.names[i], self.samples.get(i, "")) for i in self.columns.kept]
        if name == "phone":
            numbers = [title for title, sample in kept if len(re.findall(r"\d", sample)) > 6]
            return f'Is the phone in another column? --map "{numbers[0]}=phone"' if numbers else ""
        if name in (*CONSENT, "locale", "total_messages") and not self.columns.of_an_export:
            title = self.columns.names[self.columns.sources[name][0][0]]
            return f'If this column is no {name}, keep it as it is: --map "{title}=other"'
        return ""

    def _is_google(self, position: int) -> bool:
        return comparable(self.columns.names[position]) in GOOGLE_LABELS

    def _survey(self, line: int, cells: list[str]):
        """Note a sample of each column, what separates tags, and what is suspicious."""
        if len(self.samples) < len(cells):
            for position, cell in enumerate(cells):
                if position not in self.samples and cell.strip():
                    self.samples[position] = cell.strip()
        for position in self._tag_columns:
            if position < len(cells):
                self._tags[position].survey(cells[position])
        for position, dates in self._dates.items():
            if position < len(cells):
                dates.survey(cells[position])
        for position in self.columns.kept:
            if position < len(cells) and _REFUSING.search(cells[position]):
                self._refusing.add(position)
        if not self._suspicious and any("\n" in c and self.delimiter in c for c in cells):
            self._suspicious = line

    def _notices(self, skipped: list[str]) -> Iterator[str]:
        if skipped:
            blank = f"{self.delimiter}\r\n "
            above = [
                line.strip() if _SEPARATOR.fullmatch(line) else line.strip(blank)
                for line in skipped
            ]
            above = [line or "an empty line" for line in above]
            yield f"Skipped above the titles: {', '.join(above)}."
        names = self.columns.names
        if kept := [names[position] for position in self.columns.kept if position in self.samples]:
            yield f"Kept in the metadata: {', '.join(kept)}."
        if refusing := [
            names[position]
            for position in self.columns.kept
            if position in self._refusing
            or (position in self.samples and is_about_consent(names[position]))
        ]:
            yield (
                f"Who wants no messages? These may say so, and opted_out_at is not set from them:"
                f" {', '.join(refusing)}."
            )
        if self._suspicious and not self.columns.of_an_export:
            yield (
                f"Line {self._suspicious} has a cell that goes over several lines and holds"
                " separators. Is a quotation mark not closed?"
            )
        for name, order in self.columns.orders().items():
            yield (
                f"The {name} is the first of these that is not empty, and the metadata keeps the"
                f" others: {order}."
            )
        if dropped := sorted(set().union(*(tags.dropped for tags in self._tags.values()))):
            yield f"Not read as tags, being Google's own labels: {', '.join(dropped)}."
        likely = [name for name in kept if re.search("name|nom", comparable(name))]
        if likely and "name" not in self.columns.sources:
            yield f'No column is read as the name. Is it one of these? --map "{likely[0]}=name"'

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the cells of each row below the header, with the number of its first line."""
        self._file.rewind()
        text = self._file.text
        for _ in range(self._header_end):
            text.readline()
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        line = self._header_end + 1
        try:
            for cells in reader:
                yield line, cells
                line = self._header_end + reader.line_num + 1
        except csv.Error as error:
            reason = (
                "it has a cell of more than 1 MiB. Is a quotation mark not closed?"
                if "field limit" in str(error)
                else f"{error}. Is a quotation mark not closed?"
            )
            raise Unfinished(f"Line {line} is not CSV: {reason}") from error

    def __iter__(self) -> Iterator[Row]:
        return (
            self._row(line, cells) for line, cells in self._records() if any(map(str.strip, cells))
        )

    def _row(self, line: int, cells: list[str]) -> Row:
        document, errors, read = {}, {}, set(self.columns.ignored)
        names = self.columns.names
        texts = [restored(cell.strip()) for cell in cells]
        if any(texts[len(names) :]):
            errors["row"] = ["It has more cells than there are titles."]
        texts += [""] * (len(names) - len(texts))
        for name, sources in self.columns.sources.items():
            for source in sources:
                text = " ".join(filter(None, [texts[i] for i in source]))
                try:
                    value = self._value(name, source, text)
                except ValueError as error:
                    errors[name], value = [str(error)], ""
                if value is text or name not in ("phone", "email", "locale"):
                    read.update(source)  # else the metadata keeps the whole cell
                if value:
                    break
            if value or name in self._cleared:
                document[name] = value
        others = {
            name: restored(cell)
            for i, (name, cell) in enumerate(zip(names, cells, strict=False))
            if texts[i] and i not in read
        }
        if others or "metadata" in document:
            try:
                given = schemas.parse_json(document.pop("metadata", "{}").encode())
                document["metadata"] = others | given if isinstance(given, dict) else given
            except schemas.BadJSON as error:
                errors["metadata"] = [f"The text {error}."]
        refused_before = "".join(texts[i] for i in self.columns.ignored)
        return checked(self._schema, line, cells, document, errors, refused_before)

    def _value(self, name: str, source: Source, text: str) -> Any:
        """Return what the text of a source says of the field, or "" if that is nothing.

        Raises ValueError with a text for the operator.
        """
        if name in CONSENT:
            return self._dates[source[0]].read(text)
        if name == "total_messages" and text.isdecimal():
            return int(text[:20])
        if not text or self.columns.of_an_export:
            return text
        if name in ("phone", "email"):
            return text.partition(BETWEEN_VALUES)[0] if BETWEEN_VALUES in text else text
        if name == "tags":
            return self._tags[source[0]].split(text)
        title = comparable(self.columns.names[source[0]])
        if name == "locale" and title != "locale" and not schemas.LOCALE.fullmatch(text):
            return ""  # a language by its name
        return text

    def write_refused(self, file: TextIO, rows: Iterable[Row]):
        """Append rows as they were, with the reason in the first column."""
        writer = csv.writer(file, delimiter=self.delimiter)
        kept = [i for i in range(len(self._header)) if i not in self.columns.ignored]
        if not file.tell():
            file.write(self.encoding.mark.decode(self.encoding.codec) + self._preamble)
            writer.writerow([REASON, *(self._header[i] for i in kept)])
        for row in rows:
            cells = [row.raw[i] if i < len(row.raw) else "" for i in kept]
            writer.writerow([row.refusal, *cells, *row.raw[len(self._header) :]])

    @staticmethod
    def write(file: TextIO, contacts: Iterable[dict[str, Any]]):
        """Write contacts, with no cell that a spreadsheet would run as a formula."""
        writer = csv.writer(file)
        writer.writerow(EXPORTED)
        for contact in contacts:
            values = importable(contact)
            values["tags"] = ",".join(values["tags"])
            values |= {name: neutralised(values[name]) for name in ("name", "email", "tags")}
            values["metadata"] = schemas.compact_json(values["metadata"])
            writer.writerow(values.values())

    @staticmethod
    def is_export(line: str) -> bool:
        """Return whether that is the first line of an export."""
        return line.strip().split(",") in (EXPORTED, EXPORTED_BY_0_2)


class _TagCells:
    """The cells of a column of tags: what separates them, once all of them were seen."""

    def __init__(self, google: bool):
        self._google = google
        self._separators = set()
        self.dropped = set()

    def survey(self, cell: str):
        unquoted = re.sub('"[^"]*"', "", cell) if '"' in cell else cell
        for separator in (BETWEEN_VALUES, ",", ";"):
            if separator in unquoted:
                self._separators.add(separator)
        if self._google and "*" in cell:
            self.dropped.update(filter(_is_googles_own, map(str.strip, cell.split(":::"))))

    def split(self, text: str) -> list[str] | str:
        """Return the tags of a cell, as a TagList accepts them."""
        separator = next((s for s in (BETWEEN_VALUES, ",", ";") if s in self._separators), ",")
        if separator == "," and '"' not in text and not self.dropped:
            return text
        if separator == BETWEEN_VALUES:
            pieces = text.split(separator)
        else:
            # Each piece may be in quotation marks, as Mailchimp writes them.
            line = " ".join(text.splitlines())
            [pieces] = csv.reader([line], delimiter=separator, skipinitialspace=True)
        pieces = [piece.strip() for piece in pieces]
        return [p for p in pieces if p and not (self._google and _is_googles_own(p))]


def _is_googles_own(label: str) -> bool:
    return label.startswith("*")


# Dates as spreadsheets write them, such as 07/05/2024 or 7.5.2024 09:30, and those of ISO 8601.
_WRITTEN_DATE = re.compile(
    r"(\d\d?)([./])(\d\d?)\2(\d{4})(?: +(\d\d?):(\d\d)(?::(\d\d))?)?", re.ASCII
)


class _DateCells:
    """The cells of a column of dates: whether the day is first, once all of them were seen."""

    def __init__(self):
        self._orders = set()  # that the column has for certain, with slashes

    def survey(self, cell: str):
        match = "/" in cell and _WRITTEN_DATE.fullmatch(cell.strip())
        if match and max(int(match[1]), int(match[3])) > 12:
            self._orders.add("day first" if int(match[1]) > 12 else "month first")

    def read(self, text: str) -> str:
        """Return the date or time with its offset, which is UTC's if there is none, or "".

        Raises ValueError with a text for the operator.
        """
        if not text:
            return ""
        match = _WRITTEN_DATE.fullmatch(text)
        if match and match[2] == "/" and len(self._orders) != 1:
            raise ValueError("Is the day or the month first? Write 2024-05-07.")
        try:
            if match:
                first, _, second, year, *time = match.groups("0")
                month_first = match[2] == "/" and "month first" in self._orders
                month, day = (first, second) if month_first else (second, first)
                moment = datetime(*map(int, (year, month, day, *time)), tzinfo=UTC)
            else:
                moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise ValueError("Must be a date such as 2026-05-07.") from error
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


_REFUSING = re.compile(
    "unsubscribed|opt(ed)?[ -]?out|d[ée]sabonn|d[ée]sinscri|abgemeldet|dado de baja", re.IGNORECASE
)

# A spreadsheet runs a cell that begins so as a formula, unless an apostrophe is before it. Cells
# that have one already get one more, so that every cell can be restored.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def neutralised(cell: str) -> str:
    """Return the cell so that a spreadsheet reads it as text; restored() is the inverse."""
    return "'" + cell if _FORMULA.match(cell) else cell


def restored(cell: str) -> str:
    """Return the cell that neutralised() was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?[\r\n]*', re.IGNORECASE)  # which Excel reads and hides
_NUMBER = re.compile(r"\+?[\d\s()./-]{7,}")


def _header(text: TextIO, mapping: Mapping[str, str]) -> tuple[str, int, list[str], list[str]]:
    """Return the delimiter, the number of lines to the titles' end, those above, and the titles.

    The first of the first lines that has the title of a phone is it, by the delimiter that makes
    most titles known. Raises Unfinished.
    """
    lines = list(islice(iter(text.readline, ""), HEADER_LINES))
    known = FIELDS.keys() | set(map(comparable, mapping))
    said = _SEPARATOR.fullmatch(lines[0]) if lines else None
    found, others = [], []
    for delimiter in said[1] if said else ",;\t|":
        reader = csv.reader(lines, delimiter=delimiter)
        start = 0
        try:
            for cells in reader:
                if can_be_header(cells, mapping):
                    count = sum(comparable(title) in known for title in cells)
                    found.append((count, delimiter, reader.line_num, lines[:start], cells))
                    break
                start = reader.line_num
                if any(map(str.strip, cells)) and not _SEPARATOR.fullmatch(lines[start - 1]):
                    others.append([cell.strip() for cell in cells])
        except csv.Error:
            continue
    if not found:
        raise Unfinished(_without_phone(others))
    return max(found, key=lambda each: each[0])[1:]


def _without_phone(rows: list[list[str]]) -> str:
    """Return what is wrong with a file that begins with these rows, and the option that helps."""
    if not rows:
        return "No column is named phone: there is nothing in the file."
    titles = max(rows, key=len)  # the first of those that have most cells
    if any(_NUMBER.fullmatch(title) or "@" in title for title in titles):
        return "No column has a title. Add a first line with titles, such as phone,name,email."
    columns = [zip(titles, row, strict=False) for row in rows]
    numbers = [title for column in columns for title, cell in column if _NUMBER.fullmatch(cell)]
    likely = (numbers or list(filter(None, titles)))[0]
    return (
        f"No column is named phone. The columns are: {', '.join(filter(None, titles))}. Say which"
        f' of them has the numbers, as in --map "{likely}=phone"; if the text looks wrong, add'
        " --encoding."
    )
