"""A sandbox that leaves nothing behind: --stop-with-stdin and --temporary."""

import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import PHONE, ROOT, SECONDS, environment, flask, post

SERVE = [sys.executable, "-m", "flask", "serve", "--sandbox", "--port", "0"]


@contextmanager
def sandbox(folder, *options, stdin=subprocess.PIPE, **settings):
    """A sandbox that makes its temporary files in `folder`, and whose database that is empty."""
    with subprocess.Popen(
        [*SERVE, *options],
        cwd=ROOT,
        env=environment("", TMPDIR=str(folder), **settings),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process):
    return process.stdout.readline().split()[-1]


def test_a_temporary_sandbox_keeps_its_database_in_a_folder_that_goes_with_it(tmp_path):
    with sandbox(tmp_path, "--temporary") as process:
        assert post(url_of(process), {"phone": PHONE}, "sandbox").status_code == 200
        [folder] = tmp_path.iterdir()
        assert (folder / "sandbox.db").exists()
        assert folder.stat().st_mode & 0o777 == 0o700
        process.terminate()
        assert process.wait(SECONDS) == 0
    assert not list(tmp_path.iterdir())


def test_ctrl_c_deletes_the_folder_too(tmp_path):
    with sandbox(tmp_path, "--temporary") as process:
        url_of(process)
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS)
    assert not list(tmp_path.iterdir())


def test_the_sandbox_ends_when_its_standard_input_does(tmp_path):
    with sandbox(tmp_path, "--stop-with-stdin", "--temporary") as process:
        url = url_of(process)
        process.stdin.write("what is written there does not matter\n")
        process.stdin.flush()
        assert post(url, {"phone": PHONE}, "sandbox").status_code == 200
        process.stdin.close()
        assert process.wait(SECONDS) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, "closed"])
def test_a_standard_input_that_has_ended_already_ends_the_sandbox_at_once(tmp_path, stdin):
    command = [*SERVE, "--stop-with-stdin", "--temporary"]
    if stdin == "closed":
        command, stdin = ["sh", "-c", 'exec "$@" <&-', "sh", *command], None
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=environment("", TMPDIR=str(tmp_path)),
        stdin=stdin,
        capture_output=True,
        timeout=SECONDS,
    )
    assert ran.returncode == 0
    assert b"Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_sigterm_at_the_moment_in_which_standard_input_ends_leaves_no_folder(tmp_path):
    for _ in range(5):
        with sandbox(tmp_path, "--stop-with-stdin", "--temporary") as process:
            url_of(process)
            process.terminate()
            process.stdin.close()
            assert process.wait(SECONDS) == 0
        assert not list(tmp_path.iterdir())


def test_the_sandbox_ends_with_a_parent_that_is_killed(tmp_path):
    start = "import subprocess, sys\nsubprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
    command = [*SERVE, "--stop-with-stdin", "--temporary"]
    with subprocess.Popen(
        [sys.executable, "-c", start, *command],
        cwd=ROOT,
        env=environment("", TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        url = url_of(parent)
        parent.kill()
        parent.stdout.read()  # to its end: the sandbox holds the other one
    with pytest.raises(ConnectionRefusedError):
        post(url, {"phone": PHONE}, "sandbox")
    assert not list(tmp_path.iterdir())


def test_both_options_are_for_the_sandbox_alone(tmp_path):
    for option in ("--stop-with-stdin", "--temporary"):
        result = flask("serve", "--port", "0", option, env=environment(tmp_path / "contacts.db"))
        assert result.returncode == 2
        assert "--sandbox" in result.stderr
        assert not list(tmp_path.iterdir())


def test_a_temporary_database_and_a_named_one_exclude_each_other(tmp_path):
    env = environment(tmp_path / "contacts.db")
    result = flask("serve", "--sandbox", "--port", "0", "--temporary", env=env)
    assert result.returncode == 2
    assert "CONTACTS_DATABASE" in result.stderr
    assert not list(tmp_path.iterdir())
