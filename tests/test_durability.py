"""What a running server keeps through kill -9, a full disk, a held lock and a lost file."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest
from conftest import (
    PHONE,
    ROMAIN,
    ROOT,
    SECONDS,
    TOKEN,
    assert_refused,
    connection,
    contacts_in,
    copy_of_the_project,
    deployed,
    environment,
    execute,
    flask,
    head,
    post,
    raw,
    read_response,
    serving,
    wait_until,
    wait_until_begun,
    wait_until_idle,
    write_lock,
)

from store import BUSY_SECONDS, DEFAULT_WORKSPACE, Store

GET = "/api/v1/actions/get-contact"


def database(path, phones=(PHONE,)):
    """A database file of a deployment with these contacts."""
    with closing(Store(path)) as store:
        store.get_or_create_workspace(
            DEFAULT_WORKSPACE, [{**ROMAIN, "phone": phone} for phone in phones]
        )
    return path


def read(url, phone=PHONE):
    response = post(url, {"phone": phone}, path=GET)
    assert response.status_code == 200
    return response.json


def assert_unavailable(response, said):
    assert_refused(response, 503)
    assert said in response.json["error"]
    assert int(response.headers["Retry-After"]) >= 1


def assert_sound(path):
    assert execute(path, "PRAGMA integrity_check") == [("ok",)]
    assert execute(path, "PRAGMA foreign_key_check") == []


# kill -9


def write_until_it_dies(url, phone, writer, acknowledged):
    """Update metadata, a new key each time; notes the keys that got a 200."""
    with suppress(OSError, HTTPException):
        for n in range(100_000):
            key = f"{writer}-{n}"
            if post(url, {"phone": phone, "metadata": {key: n}}).status_code == 200:
                acknowledged.append(key)


def test_kill_9_in_the_middle_of_concurrent_updates_loses_nothing_that_was_acknowledged(tmp_path):
    rounds = {f"+141555501{n:02}": [] for n in range(15)}
    path = database(tmp_path / "served.db", rounds)
    for number, (phone, acknowledged) in enumerate(rounds.items()):
        with serving(tmp_path, QYVO_TOKEN=TOKEN) as server, ThreadPoolExecutor(6) as writers:
            for writer in range(6):
                writers.submit(write_until_it_dies, server.url, phone, writer, acknowledged)
            while len(acknowledged) < 10:
                time.sleep(0.005)
            time.sleep(0.02 * number)
            server.process.kill()
        assert "Traceback" not in server.log()
        stored = {contact["phone"]: contact["metadata"] for contact in contacts_in(path)}
        for each, keys in rounds.items():
            assert stored[each].keys() >= set(keys)
        assert_sound(path)


# The disk is full


@contextmanager
def small_disk(folder):
    """A file system of 8 MiB; `fill` leaves no room on it, `empty` makes room again."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system to fill")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk):
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def assert_survives_a_full_disk(server, path, make_full, make_room):
    acknowledged = dict(ROMAIN["metadata"])

    def update(n):
        response = post(server.url, {"phone": PHONE, "metadata": {f"k{n}": "x" * 500}})
        if response.status_code == 200:
            acknowledged[f"k{n}"] = "x" * 500
        return response

    assert update(0).status_code == 200
    make_full()
    response = next(a for n in range(1, 100) if (a := update(n)).status_code != 200)
    assert_unavailable(response, "The disk is full")
    for n in range(100, 120):
        update(n)
        assert read(server.url)["metadata"] == acknowledged
    make_room()
    assert update(120).status_code == 200
    assert read(server.url)["metadata"] == acknowledged
    assert "Traceback" not in server.log()
    assert server.stop() == 0
    [contact] = contacts_in(path)
    assert contact["metadata"] == acknowledged
    assert_sound(path)


def test_on_a_full_disk_a_call_is_a_503_reads_work_and_writes_resume_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        path = database(disk / "contacts.db")
        with serving(tmp_path, QYVO_TOKEN=TOKEN, CONTACTS_DATABASE=str(path)) as server:
            assert_survives_a_full_disk(server, path, lambda: fill(disk), (disk / "filler").unlink)


def test_a_limit_on_the_size_of_files_is_survived_like_a_full_disk(tmp_path):
    path = database(tmp_path / "served.db")
    with serving(tmp_path, QYVO_TOKEN=TOKEN) as server:
        unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)

        def limit(size):
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))

        assert_survives_a_full_disk(
            server, path, lambda: limit(64 * 1024), lambda: limit(unlimited[0])
        )


@pytest.mark.parametrize("make", [database, Path.touch, lambda path: None])
def test_starting_on_a_full_disk_is_said_in_one_line(tmp_path, make):
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "contacts.db"
        make(path)
        before = path.exists() and path.read_bytes()
        fill(disk)
        result = flask("serve", "--port", "0", env=environment(path))
        assert (path.exists() and path.read_bytes()) in (before, b"")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: The disk is full")
    assert result.stderr.count("\n") == 1


# Another process holds the write lock


def test_calls_wait_for_a_lock_that_is_held_for_2_s_with_reads_served_meanwhile(server):
    path = server.database
    writers = 12
    with ThreadPoolExecutor(writers) as pool:
        with write_lock(path):
            release = time.monotonic() + 2
            responses = [
                pool.submit(post, server.url, {"phone": PHONE, "metadata": {f"w{n}": n}})
                for n in range(writers)
            ]
            reads = 0
            while time.monotonic() < release or reads < 5:
                read(server.url)
                reads += 1
                time.sleep(0.02)
            assert not any(response.done() for response in responses)
        assert {response.result(SECONDS).status_code for response in responses} == {200}
    [contact] = contacts_in(path)
    assert contact["metadata"].keys() >= {f"w{n}" for n in range(writers)}


def test_a_lock_held_for_longer_is_a_503_in_time_with_reads_served_meanwhile(server):
    writers = 12

    def write(n):
        started = time.monotonic()
        response = post(server.url, {"phone": PHONE, "metadata": {f"w{n}": n}})
        return response, time.monotonic() - started

    before = contacts_in(server.database)
    with ThreadPoolExecutor(writers) as threads, write_lock(server.database):
        responses = [threads.submit(write, n) for n in range(writers)]
        reads = 0
        while not all(response.done() for response in responses):
            started = time.monotonic()
            read(server.url)
            assert time.monotonic() - started < BUSY_SECONDS / 2
            reads += 1
            time.sleep(0.02)
        for response, seconds in (response.result() for response in responses):
            assert_unavailable(response, "busy")
            assert seconds < BUSY_SECONDS * 1.8  # not one wait after the other
    assert reads > writers
    assert "database is locked" in server.log()
    assert contacts_in(server.database) == before
    assert post(server.url, {"phone": PHONE, "name": "After"}).status_code == 200


def test_as_many_waiting_writers_as_threads_keep_the_next_request_until_one_is_served(tmp_path):
    with deployed(tmp_path, CONTACTS_THREADS="2") as server, ExitStack() as stack:
        with write_lock(server.database) as release:
            body = json.dumps({"phone": PHONE, "name": "Waited"}).encode()
            request = head(TOKEN, f"Content-Length: {len(body)}") + body
            writers = [stack.enter_context(raw(server.url, request)) for _ in range(2)]
            wait_until_idle(server.process)
            reader = stack.enter_context(raw(server.url, head(TOKEN, method="GET", path="/v1/me")))
            release()
        assert [read_response(sock)[0] for sock in (*writers, reader)] == [200] * 3


def test_a_token_whose_workspace_can_t_be_made_yet_is_known_and_holds_up_nobody(tmp_path):
    with (
        serving(tmp_path, QYVO_TOKEN=TOKEN) as server,
        write_lock(server.database),
        raw(server.url, head(TOKEN, "Content-Length: 2") + b"{}") as known,
        raw(server.url, head("wrong", "Content-Length: 2") + b"{}") as unknown,
    ):
        assert read_response(unknown)[0] == 401
        with connection(server.url) as http:
            http.request("GET", "/healthz")
            assert http.getresponse().status == 200
        known.setblocking(False)
        with pytest.raises(BlockingIOError):  # it waits for the lock
            known.recv(1)
        known.settimeout(SECONDS)
        status, response = read_response(known)
        assert (status, "busy" in response["error"]) == (503, True)
        assert "Traceback" not in server.log()


# The disk


@contextmanager
def traced(server, tmp_path, *options):
    """The server's system calls that write, sync and send, as lines of text once it is over."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    output, lines = tmp_path / "trace", []
    calls = "trace=pwrite64,fdatasync,sendto,write,writev"
    command = ["strace", "-f", "-y", "-s", "16", "-e", calls, "-o", output, *options]
    process = subprocess.Popen(
        [*command, "-p", str(server.process.pid)], stderr=subprocess.PIPE, text=True
    )
    assert "attached" in process.stderr.readline()
    try:
        yield lines
    finally:
        process.terminate()
        process.communicate()
    lines += output.read_text().splitlines()


def test_with_full_no_response_is_sent_before_the_disk_has_what_it_says(server, tmp_path):
    def update(n):
        assert post(server.url, {"phone": PHONE, "metadata": {"n": n}}).status_code == 200

    with traced(server, tmp_path) as lines, ThreadPoolExecutor(8) as threads:
        list(threads.map(update, range(100)))
    syncs = responses = 0
    for line in lines:
        if "fdatasync" in line and line.endswith("= 0"):
            syncs += 1
        elif "HTTP/1.1 200" in line:
            responses += 1
            assert responses <= syncs  # each update is a commit, with a sync of its own
    assert responses == 100


def test_with_normal_no_request_waits_for_the_disk(tmp_path):
    database(tmp_path / "served.db")
    with serving(tmp_path, QYVO_TOKEN=TOKEN, CONTACTS_SYNCHRONOUS="NORMAL") as server:
        post(server.url, {"phone": PHONE, "name": "First"})  # as a log begins, its header is synced
        with traced(server, tmp_path) as lines:
            for n in range(20):
                assert post(server.url, {"phone": PHONE, "metadata": {"n": n}}).status_code == 200
        assert sum("HTTP/1.1 200" in line for line in lines) == 20
        assert not any("fdatasync" in line for line in lines)


def test_when_the_disk_fails_to_sync_nobody_is_told_that_all_is_well(server, tmp_path):
    assert post(server.url, {"phone": PHONE, "name": "Kept"}).status_code == 200
    with traced(server, tmp_path, "-e", "inject=fdatasync:error=EIO"):
        for _ in range(3):
            response = post(server.url, {"phone": PHONE, "name": "Perhaps"})
            assert_unavailable(
                response, "The disk has failed. Whether this was written is not known"
            )
    assert read(server.url)["name"] == "Kept"
    assert post(server.url, {"phone": PHONE, "name": "After"}).status_code == 200
    assert "disk I/O error" in server.log()


def test_a_slow_disk_stops_neither_reads_nor_health_checks(server, tmp_path):
    assert post(server.url, {"phone": PHONE}).status_code == 200
    with (
        traced(server, tmp_path, "-e", "inject=fdatasync:delay_enter=2000000"),
        ThreadPoolExecutor(1) as pool,
    ):
        update = pool.submit(post, server.url, {"phone": PHONE, "name": "Slowly"})
        wait_until(lambda: "fdatasync" in (tmp_path / "trace").read_text())
        for _ in range(5):
            assert read(server.url)["name"] == "Romain"
            with connection(server.url) as http:
                http.request("GET", "/healthz")
                assert http.getresponse().status == 200
        assert not update.done()
        assert update.result(SECONDS).json["name"] == "Slowly"


# The file


def serve_without_rights(folder, env):
    """Run `flask serve` in the folder as somebody whom permissions bind."""
    command = [sys.executable, "-m", "flask", "serve", "--port", "0"]
    if os.geteuid() == 0:  # whom they bind only without its capabilities
        if not shutil.which("setpriv"):
            pytest.skip("setpriv is not installed, and permissions do not bind root")
        command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", *command]
    ran = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.count("\n") == 1
    return ran.stderr


@pytest.mark.parametrize("folder_mode", [0o500, 0o700], ids=oct)
def test_a_read_only_file_is_said_in_one_line_and_left_as_it_was(tmp_path, folder_mode):
    path = database(tmp_path / "contacts.db")
    before = path.read_bytes()
    path.chmod(0o400)
    tmp_path.chmod(folder_mode)
    try:
        assert serve_without_rights(ROOT, environment(path)).startswith(f"Error: {path}: ")
    finally:
        tmp_path.chmod(0o700)
    assert path.read_bytes() == before


def test_a_folder_that_can_t_be_made_is_named(tmp_path):
    copy_of_the_project(tmp_path)
    tmp_path.chmod(0o500)
    try:
        said = serve_without_rights(tmp_path, environment(""))
    finally:
        tmp_path.chmod(0o700)
    assert said == f"Error: {tmp_path}/instance: the folder can't be made: Permission denied.\n"


def test_a_damaged_file_is_said_in_one_line_and_left_as_it_was(tmp_path):
    path = database(tmp_path / "contacts.db")
    damaged = path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096)
    path.write_bytes(damaged)
    result = flask("serve", "--port", "0", env=environment(path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {path}: ")
    assert result.stderr.count("\n") == 1
    assert path.read_bytes() == damaged


def test_a_symbolic_link_to_a_database_is_followed_and_one_to_nothing_is_refused(tmp_path):
    database(tmp_path / "real.db")
    link = tmp_path / "served.db"
    link.symlink_to("real.db")
    with serving(tmp_path, QYVO_TOKEN=TOKEN) as server:
        assert post(server.url, {"phone": PHONE, "name": "Linked"}).status_code == 200
        assert server.stop() == 0
    assert contacts_in(tmp_path / "real.db")[0]["name"] == "Linked"
    link.unlink()
    link.symlink_to("nothing.db")
    result = flask("serve", "--port", "0", env=environment(link))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "nothing.db").exists()


def lose(path):
    path.rename(path.with_name("moved.db"))


def replace(path):
    lose(path)
    database(path)


@pytest.mark.parametrize("happened", [lose, replace])
def test_nothing_is_acknowledged_to_a_file_that_was_moved_away_under_the_server(server, happened):
    assert post(server.url, {"phone": PHONE}).status_code == 200
    happened(server.database)
    replaced = server.database.exists() and server.database.read_bytes()
    for path in (GET, "/api/v1/actions/update-contact"):
        response = post(server.url, {"phone": PHONE}, path=path)
        assert_unavailable(response, "The database can't be used")
        assert str(server.database) not in response.json["error"]
    with connection(server.url) as http:
        http.request("GET", "/healthz")
        assert http.getresponse().status == 503
    assert f"{server.database}: the file was moved or replaced" in server.log()
    assert "Traceback" not in server.log()
    assert (server.database.exists() and server.database.read_bytes()) == replaced

    server.database.with_name("moved.db").rename(server.database)
    assert post(server.url, {"phone": PHONE, "name": "Back"}).json["name"] == "Back"


def test_nothing_is_acknowledged_to_a_file_that_was_moved_away_while_a_request_waited(server):
    body = json.dumps({"phone": PHONE, "name": "Lost"}).encode()
    with (
        write_lock(server.database) as release,
        raw(server.url, head(TOKEN, f"Content-Length: {len(body)}") + body) as waiting,
    ):
        wait_until_begun(server.url)
        replace(server.database)
        release()
        status, response = read_response(waiting)
    assert (status, "The database can't be used" in response["error"]) == (503, True)
    [moved] = contacts_in(server.database.with_name("moved.db"))
    assert moved["name"] == "Romain"


def test_a_moved_file_loses_nothing_to_connections_that_are_opened_afterwards(server):
    """More requests at once than there were connections: each would make a new, empty file."""
    moved = server.database.with_name("moved.db")
    server.database.rename(moved)
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda n: post(server.url, {"phone": PHONE}), range(60)))
    assert {response.status_code for response in responses} == {503}
    assert not server.database.exists()
    moved.rename(server.database)
    assert post(server.url, {"phone": PHONE}).json["name"] == "Romain"
