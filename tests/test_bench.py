"""The measurements can be made: what they find is for people to read, not for a test."""

import re
import subprocess
import sys

import pytest
from pages import ROOT, examples

pytest.importorskip("requests", reason="make bench measures as it does")

import bench.__main__ as figures
from bench import contacts, measuring, profile, servers

SPREAD = r"[\d.]+ \([\d.]+ to [\d.]+\)"
RATIO = rf"{SPREAD}, [\d,.]+ against [\d,.]+"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for module in (contacts, servers, figures, profile):
        monkeypatch.setattr(module, "CACHE", tmp_path)


def only_row(rows):
    [(figure, measured, aim)] = rows
    assert figure
    assert aim
    return measured


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
        subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True)


def test_an_update_among_many_is_measured_by_one_among_few():
    measured = only_row(figures.million(many=1200, rounds=2, count=3))
    assert re.fullmatch(f"`NORMAL`: {RATIO} µs; `FULL`: {RATIO} µs", measured)


def test_an_import_is_measured_by_what_it_must_do_at_least():
    measured = only_row(figures.imports(count=50, rounds=1))
    pattern = r"[\d.]+, [\d.]+ against [\d.]+ s; processes: 1, \d+ MB"
    assert re.fullmatch(pattern, measured)


def test_requests_to_the_deployment_and_the_sandbox_are_measured():
    with servers.running(servers.FULL, servers.SANDBOX) as running:
        times = figures.measure_requests(running, rounds=1, count=2)
        memory = [measuring.memory(server.pid) for server in running.values()]
    assert all(server.start_seconds > 0 for server in running.values())
    assert len(times) == 4
    assert all(milliseconds > 0 for [milliseconds] in times.values())
    assert all(megabytes > 10 for megabytes in memory)


def test_the_profile_of_an_update_names_the_costliest_functions(capsys):
    profile.main(count=2)
    assert "Connection" in capsys.readouterr().out
