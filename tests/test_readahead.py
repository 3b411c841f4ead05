"""A large file of contacts is read by a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ROOT, SECONDS, environment, execute, write_lock

LARGE = 1024 * 1024
CSV = "phone;prénom;tags\n+14155550199;Zoé;vip\nx;Nobody;\n01 23 45 67 89;Léa;\n+14155550199;Ana;\n"
JSON_LINES = (
    '{"phone": "+14155550199", "tags": ["vip"]}\n{"phone": 1}\n[]\n{"phone": "0123456789"}\n'
)


@pytest.mark.parametrize(
    ("name", "text"), [("contacts.csv", CSV), ("contacts.jsonl", JSON_LINES)], ids=["csv", "jsonl"]
)
def test_a_large_file_is_imported_as_a_small_one_is(make_app, tmp_path, name, text):
    app = make_app([], CONTACTS_DEFAULT_REGION="FR")
    runner, results = app.test_cli_runner(), []
    for workspace, blank_lines in [("small", 0), ("large", LARGE)]:
        folder = tmp_path / workspace
        folder.mkdir()
        (folder / name).write_text(text + "\n" * blank_lines, encoding="cp1252")
        result = runner.invoke(
            args=["import", str(folder / name), "--workspace", workspace, "--encoding", "cp1252"]
        )
        contacts = execute(
            app.extensions["store"].path,
            "SELECT phone, contact.name, tags, metadata FROM contact"
            " JOIN workspace ON workspace.id = workspace_id WHERE workspace.name = ?"
            " ORDER BY number",
            workspace,
        )
        [rejected] = [file.read_text() for file in folder.glob("*.rejected.*")]
        results.append((result.exit_code, result.output, contacts, rejected))
    small, large = results
    assert small == large
    assert small[0] == 1
    assert [phone for phone, *_ in small[2]] == ["+14155550199", "+33123456789"]


def test_a_large_file_that_ends_in_the_middle_of_a_quotation_is_said(make_app, tmp_path):
    file = tmp_path / "contacts.csv"
    file.write_text("phone\n+14155550199\n" + "\n" * LARGE + '"never closed\n')
    result = make_app([]).test_cli_runner().invoke(args=["import", str(file)])
    assert result.exit_code == 2
    assert f"Error: Line {LARGE + 3} is not CSV: unexpected end of data." in result.stderr


@pytest.fixture
def importing(make_app, tmp_path):
    """An import of a large file that has written its first rows."""
    database = make_app([]).extensions["store"].path
    file = tmp_path / "many.csv"
    file.write_text("phone,name\n" + "".join(f"+4477{i:08},{'x' * 200}\n" for i in range(20_000)))
    with subprocess.Popen(
        [sys.executable, "-m", "flask", "import", file],
        cwd=ROOT,
        env=environment(database),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not execute(database, "SELECT 1 FROM contact LIMIT 1"):
            assert process.poll() is None
        with ExitStack() as process.lock:  # until it is released, the import can't come to its end
            process.lock.enter_context(write_lock(database))
            yield process
        process.kill()


def reader_of(process):
    """The number of the process that reads for that one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    [reader] = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return int(reader)


def assert_ends(number):
    deadline = time.monotonic() + SECONDS
    while Path(f"/proc/{number}/status").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


pytestmark = pytest.mark.skipif(
    not Path("/proc").exists(), reason="looks at processes as Linux does"
)


def test_ctrl_c_ends_both_processes_and_says_how_far_they_came(importing):
    reader = reader_of(importing)
    os.kill(reader, signal.SIGINT)  # as a terminal does, which tells both
    importing.send_signal(signal.SIGINT)
    _, stderr = importing.communicate(timeout=SECONDS)
    assert re.fullmatch(
        r"Stopped after \d+ contacts or a few more\. They are in the database, and another run"
        r" leaves them as they are\.\n"
        r"\s*Aborted!\n",
        stderr,
    )
    assert importing.returncode == 1
    assert_ends(reader)


def test_a_reader_that_is_killed_is_missed(importing):
    time.sleep(0.5)  # for the reader to wait in the middle of a batch, which the pipe can't hold
    os.kill(reader_of(importing), signal.SIGKILL)
    importing.lock.close()
    _, stderr = importing.communicate(timeout=SECONDS)
    assert stderr.splitlines()[1:] == ["Error: The process that read the file was stopped."]
    assert stderr.startswith("Stopped after ")
    assert importing.returncode == 2


def test_a_reader_without_an_importer_ends(importing):
    reader = reader_of(importing)
    importing.kill()
    assert_ends(reader)
