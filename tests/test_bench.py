"""The measurements can be made: what they find is for people to read, not for a test."""

import re
import subprocess
import sys

from pages import ROOT, examples


def test_the_commands_that_measure_exist():
    for example in examples("docs/performance.md#how-to-repeat-them"):
        done = subprocess.run(
            [*example.text.split(), "--dry-run"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        [module] = re.findall(r"python -m (bench[.\w]*)$", done.stdout, re.M)
        subprocess.run(
            [sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True, capture_output=True
        )


def test_the_least_measurements_run(tmp_path):
    code = (
        "import pathlib, sys, bench.__main__ as bench\n"
        "bench.CALLS = 2\n"
        "for row in bench.in_process(pathlib.Path(sys.argv[1])): print(*row, sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = done.stdout.splitlines()
    assert len(rows) == 3
    for row in rows:
        _, measured, aim = row.split("|")
        spread = r"[\d.]+ \([\d.]+ to [\d.]+\)"
        assert re.fullmatch(f"{spread}; {spread} with the log of `flask serve`", measured)
        assert aim.startswith("at most")
