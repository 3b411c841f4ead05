"""The measurements can be made: what they find is for people to read, not for a test.

The sandbox stands in for the peers, which npm would have to install.
"""

import re
import shutil
import subprocess

import pytest
from pages import ROOT, examples

pytest.importorskip("requests", reason="make bench measures as it does")

import bench.__main__ as figures
from bench import contacts, in_process, servers

pytestmark = pytest.mark.slow

FIGURE = r"[\d,.]+"
RATIO = rf"{FIGURE}( \({FIGURE} to {FIGURE}\))?"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for module in (contacts, servers, figures, in_process):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    monkeypatch.setattr(figures, "PEERS", (servers.SOUL,))
    monkeypatch.setitem(servers.STARTS, servers.SOUL, servers.sandbox)


def assert_measured(rows, count, figure):
    """Every row compares two figures of that form, or shows one."""
    rows = list(rows)
    assert len(rows) == count
    for what, ours, others, ratio in rows:
        assert what
        assert re.fullmatch(figure, ours)
        assert others == ratio == "" or (
            re.fullmatch(f".+: {figure}", others) and re.fullmatch(RATIO, ratio)
        )


def test_the_commands_that_measure_exist():
    for example in examples("docs/performance.md#how-to-repeat-them"):
        done = subprocess.run(
            [*example.text.split(), "--dry-run"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        [module, rows] = re.findall(r"python -m (bench)(.*)$", done.stdout, re.M)[0]
        assert module == "bench"
        assert figures.ROWS.keys() >= set(rows.split())


def test_a_run_of_tests_is_measured_from_start_to_stop():
    assert_measured(figures.run(tests=2, rounds=1), 1, f"{FIGURE} s")


def test_an_update_by_requests_is_measured_on_a_session_and_on_new_connections():
    assert_measured(figures.request(rounds=1, count=2), 2, f"{FIGURE} ms")


def test_an_update_without_a_server_is_measured_beside_bare_flask():
    assert_measured(figures.process(rounds=1, count=3), 2, f"{FIGURE} µs")


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_updates_a_second_are_measured_with_their_p99():
    assert_measured(figures.load(rounds=1, seconds=1, numbers=(2,)), 2, f"{FIGURE}, {FIGURE} ms")


def test_a_search_is_measured_among_few_and_many_contacts():
    assert_measured(figures.search(counts=(10, 60), rounds=2), 2, f"{FIGURE} ms")


def test_an_import_is_measured_beside_what_it_must_do_at_least():
    assert_measured(figures.imports(count=50, rounds=1), 1, f"{FIGURE} s")


def test_the_profile_of_an_update_names_the_costliest_functions(capsys):
    in_process.main(count=2)
    assert "Connection" in capsys.readouterr().out
