"""Contacts in JSON Lines."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import schemas
from commands.base import Unfinished
from commands.columns import EXPORTED, EXPORTED_BY_0_2, REASON, TECHNICAL
from commands.sources import InputFile, Options, Row, checked, importable


class JSONLinesFile:
    """The lines of a JSON Lines file."""

    ending = ".jsonl"
    before_correcting = ""
    preview = ()

    def __init__(self, file: InputFile, options: Options):
        if options.mapping or options.clear_empty:
            raise Unfinished(
                '--map and --clear-empty are for CSV: in JSON Lines "" clears a field.'
            )
        self._file = file
        self.encoding = file.encoding
        self._schema = schemas.ImportedContact()
        first = next((row for row in self._documents() if isinstance(row, dict)), {})
        self._technical = options.trusted or first.keys() >= set(EXPORTED_BY_0_2)
        self.notices = []
        if kept := [] if self._technical else [name for name in first if name in TECHNICAL]:
            self.notices.append(f"Kept in the metadata: {', '.join(kept)}.")
        self.description = f"JSON Lines in {file.encoding.codec.upper()}"

    def advice(self, name: str) -> str:
        return ""

    def _lines(self) -> Iterator[tuple[int, str]]:
        self._file.rewind()
        return (
            (number, line.strip()) for number, line in enumerate(self._file.text, 1) if line.strip()
        )

    def _documents(self) -> Iterator[Any]:
        for _, line in self._lines():
            try:
                yield schemas.parse_json(line.encode())
            except schemas.BadJSON:
                yield None

    def __iter__(self) -> Iterator[Row]:
        return (self._row(number, line) for number, line in self._lines())

    def _row(self, number: int, line: str) -> Row:
        try:
            document = schemas.parse_json(line.encode())
        except schemas.BadJSON as error:
            return Row(number, line, None, refusal=f"The line {error}.")
        if not isinstance(document, dict):
            return Row(number, line, None, refusal="The line must be a JSON object.")
        refused_before = str(document.pop(REASON, ""))
        raw = dict(document)
        metadata = document.get("metadata", {})
        if not self._technical and isinstance(metadata, dict):
            kept = {name: document.pop(name) for name in TECHNICAL if name in document}
            if kept:
                document["metadata"] = kept | metadata
        return checked(self._schema, number, raw, document, {}, refused_before)

    def write_refused(self, file: TextIO, rows: Iterable[Row]):
        """Append rows, with the reason where the row is an object."""
        if not file.tell():
            file.write(self.encoding.mark.decode(self.encoding.codec))
        for row in rows:
            is_object = isinstance(row.raw, dict)
            line = json.dumps({REASON: row.refusal} | row.raw) if is_object else row.raw
            file.write(f"{line}\n")

    @staticmethod
    def write(file: TextIO, contacts: Iterable[dict[str, Any]]):
        """Write contacts, one in each line."""
        file.writelines(schemas.compact_json(importable(contact)) + "\n" for contact in contacts)

    @staticmethod
    def is_export(line: str) -> bool:
        """Return whether that is the first line of an export."""
        try:
            document = schemas.parse_json(line.encode())
        except schemas.BadJSON:
            return False
        return isinstance(document, dict) and list(document) in (EXPORTED, EXPORTED_BY_0_2)
