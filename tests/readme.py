"""The README's examples, for the tests that run them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Example(NamedTuple):
    """A fenced block: the nearest heading above it, the word after the fence, the text."""

    section: str
    language: str
    text: str


def prose() -> str:
    return (ROOT / "README.md").read_text()


def examples() -> list[Example]:
    """Every fenced block of the README, in order."""
    found, section = [], ""
    for heading, language, text in re.findall(
        r"^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$", prose(), re.M | re.S
    ):
        if heading:
            section = heading
        else:
            found.append(Example(section, language, text))
    return found


def readme(section: str) -> list[Example]:
    """The examples below that heading. A section whose examples are run is named by this call."""
    return [example for example in examples() if example.section == section]
