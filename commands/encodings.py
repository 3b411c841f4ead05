"""The encoding of a text file: recognised where it can be, else shown for a person to choose."""

import codecs
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# As which a file is shown that is in none of these.
CANDIDATES = ["cp1252", "cp1250", "cp1251", "mac-roman", "shift-jis"]
MAX_LINES = 3
MAX_WIDTH = 72
CHUNK = 1024 * 1024


class Encoding(NamedTuple):
    """A codec of Python's, and the mark that the file begins with."""

    codec: str
    mark: bytes = b""


def codec_of(name: str) -> str:
    """Return Python's codec of that name. Raises LookupError if there is none for text."""
    "".encode(name)
    name = codecs.lookup(name).name
    # Windows' own has a few characters more; the mark is looked for anyway.
    return {"shift_jis": "cp932", "utf-8-sig": "utf-8"}.get(name, name)


def recognise(file: BinaryIO, named: str | None = None) -> Encoding:
    """Return the encoding by the file's mark, by its name, by its zeros, else UTF-8."""
    file.seek(0)
    head = file.read(64 * 1024)
    for mark, codec in MARKS.items():
        if head.startswith(mark):
            return Encoding(codec, mark)
    codec = codec_of(named) if named else "utf-8"
    even, odd = head[::2].count(0), head[1::2].count(0)
    # Digits and separators have one in UTF-16.
    if codec == "utf-16" or (not named and (even + odd) * 10 > len(head)):
        codec = "utf-16-be" if even > odd else "utf-16-le"
    return Encoding(codec)


def decodes(file: BinaryIO, codec: str) -> bool:
    """Return whether all of the file is in that encoding."""
    decoder = codecs.getincrementaldecoder(codec)()
    file.seek(0)
    try:
        while chunk := file.read(CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True


def is_utf_8(file: BinaryIO) -> bool:
    """Return whether the file is in UTF-8, and not in ASCII alone."""
    return decodes(file, "utf-8") and not decodes(file, "ascii")


def as_candidates_read(file: BinaryIO) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield each candidate that can read the file, with lines that it reads unlike the others.

    Of candidates that read all lines alike the first is enough.
    """
    names = [name for name in CANDIDATES if decodes(file, codec_of(name))]
    shown = {name: [] for name in names}
    file.seek(0)
    for number, line in enumerate(file, 1):
        if line.isascii():
            continue
        longer = {n: [*shown[n], (number, line.decode(codec_of(n)).strip())] for n in names}
        if not any(shown.values()) or _distinct(longer) > _distinct(shown):
            shown = longer
        if len(next(iter(shown.values()))) == MAX_LINES:
            break
    seen = []
    for name, lines in shown.items():
        if lines not in seen:
            seen.append(lines)
            yield name, [(number, _around_the_first_special(text)) for number, text in lines]


def _distinct(readings: dict[str, list]) -> int:
    return len(set(map(tuple, readings.values())))


def _around_the_first_special(text: str) -> str:
    first = next((i for i, c in enumerate(text) if not c.isascii()), 0)
    start = max(0, first - MAX_WIDTH // 2)
    return text[start : start + MAX_WIDTH]
