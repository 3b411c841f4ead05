"""The documentation's pages and their examples, for the tests that run them."""

import re
import shutil
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path for path in ROOT.glob("*.md")} | {
    path.relative_to(ROOT).as_posix(): path for path in ROOT.glob("docs/*.md")
}
_HEADING_OR_BLOCK = re.compile(r"^#+ ([^\n]+)$|^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)


class Example(NamedTuple):
    """A fenced block: where it is, the word after the fence, the text."""

    place: str
    language: str
    text: str


def prose(page: str) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", PAGES[page].read_text("utf-8"), flags=re.M | re.S)


def anchor(heading: str) -> str:
    """What a link to that heading has after its #, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def all_examples() -> list[Example]:
    """Every fenced block of every page, in order."""
    found = []
    for page, path in PAGES.items():
        place = page
        for heading, language, text in _HEADING_OR_BLOCK.findall(path.read_text("utf-8")):
            if heading:
                place = f"{page}#{anchor(heading)}"
            else:
                found.append(Example(place, language, dedent(text)))
    return found


def examples(place: str) -> list[Example]:
    """The examples below a heading, such as `docs/api.md#errors`, which a test names so."""
    found = [example for example in all_examples() if example.place == place]
    assert found, f"no example at {place}"
    return found


def clone(folder: Path) -> Path:
    """A copy of the project, with the .venv that make would prepare."""
    if not Path(sys.prefix, "bin", "flask").exists():
        pytest.skip("this Python has no bin/flask beside it")
    project = folder / "qyvo-standin"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "instance", "tests"))
    (project / ".venv").symlink_to(sys.prefix)
    return project
