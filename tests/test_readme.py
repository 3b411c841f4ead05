"""Every command and example of the README works as it is printed."""

import re
from pathlib import Path

from readme import examples


def test_every_section_with_examples_is_run_by_a_test():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    run = set(re.findall(r'readme\("([^"]+)"\)', sources))
    assert {example.section for example in examples()} == run
