"""`flask serve`: the real server over real sockets."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPException
from itertools import count
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from conftest import (
    PHONE,
    ROMAIN,
    ROOT,
    SECONDS,
    TOKEN,
    UPDATE,
    after,
    assert_refused,
    connection,
    contacts_in,
    environment,
    flask,
    for_4_mib,
    head,
    json_response,
    log_line,
    post,
    raw,
    read_response,
    received_or_fail,
    serving,
    write_lock,
)
from server import STOP_SECONDS

from sandbox import SAMPLE_CONTACTS

MIB = 1024 * 1024
BODY = json.dumps({"phone": PHONE}).encode()


@pytest.fixture(scope="module")
def url(sandbox):
    """Where the sandbox that the tests of this file share is served."""
    return sandbox.url


# Starting


def test_once_ready_it_prints_one_line_with_the_url(server):
    assert re.fullmatch(r"Serving on http://127\.0\.0\.1:\d+\n", server.ready)
    assert post(server.url, {"phone": PHONE}).status_code == 200


def test_the_curl_command_on_the_sandboxs_screen_works_when_pasted(tmp_path):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    with serving(tmp_path, "--sandbox") as server:
        screen = ""
        while "-d '" not in screen:
            screen += server.process.stdout.readline()
        command = screen[screen.index("curl -X POST") :]
        assert f"{server.url}{UPDATE}" in command
        shell = subprocess.run(
            ["sh", "-c", command],
            capture_output=True,
            timeout=SECONDS,
            env=environment("unused"),
        )
        contact = json.loads(shell.stdout)
        assert list(contact) == ["id", "phone", "name", "email", "tags", "updated_at"]
        assert (contact["phone"], contact["name"]) == (PHONE, "Romain")
        assert contacts_in(server.database)[0]["metadata"]["lifetime_value"] == 9120.0


def test_qyvo_token_works_in_the_sandbox_too_and_is_on_no_screen(tmp_path):
    with serving(tmp_path, "--sandbox", QYVO_TOKEN="s3cret") as server:
        for token in ("s3cret", "sandbox"):
            response = post(server.url, {"phone": PHONE}, token)
            assert (response.status_code, response.json["name"]) == (200, "Romain")
        server.stop()
        screen = server.process.stdout.read()
    assert '"Authorization: Bearer sandbox"' in screen
    assert "s3cret" not in screen + server.log()


def test_python_app_py_is_the_same_as_flask():
    ran = subprocess.run(
        [sys.executable, "app.py", "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment("unused"),
    )
    assert ran.returncode == 0
    assert all(option in ran.stdout for option in ("--host", "--port", "--sandbox"))


def by_a_stranger(tmp_path):
    return socket.create_server(("127.0.0.1", 0))


@contextmanager
def by_another_server(tmp_path):
    with serving(tmp_path, "--sandbox") as server:
        yield SimpleNamespace(getsockname=lambda: ("127.0.0.1", urlsplit(server.url).port))


@pytest.mark.parametrize("take", [by_a_stranger, by_another_server])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_said_in_one_line_with_exit_status_1(tmp_path, host, take):
    with take(tmp_path) as taken:
        port = taken.getsockname()[1]
        env = environment(tmp_path / "contacts.db")
        result = flask("serve", "--host", host, "--port", str(port), env=env)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: Can't listen on {host}:{port}: Address already in use")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QYVO_TOKEN", "two words"),
        ("CONTACTS_DEFAULT_REGION", "France"),
        ("CONTACTS_DEFAULT_REGION", "fr"),
        ("CONTACTS_SYNCHRONOUS", "OFF"),
        ("CONTACTS_THREADS", "0"),
        ("CONTACTS_THREADS", "many"),
    ],
)
def test_a_wrong_value_stops_the_start_with_one_line_that_names_the_setting(tmp_path, name, value):
    env = environment(tmp_path / "contacts.db", **{name: value})
    for options in ([], ["--sandbox"]):
        result = flask("serve", "--port", "0", *options, env=env)
        assert result.returncode == 1
        assert result.stderr.startswith(f"Error: {name}: ")
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "contacts.db").exists()


def test_an_empty_setting_counts_as_none_given(tmp_path):
    empty = ["QYVO_TOKEN", "CONTACTS_DEFAULT_REGION", "CONTACTS_SYNCHRONOUS", "CONTACTS_THREADS"]
    with serving(tmp_path, "--sandbox", **dict.fromkeys(empty, "")) as server:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200


def test_the_sandbox_holds_the_sample_contacts(url):
    for sample in SAMPLE_CONTACTS:
        response = post(url, {"phone": sample["phone"]}, "sandbox-samples")
        assert response.status_code == 200
        assert (response.json["name"], response.json["tags"]) == (
            sample.get("name"),
            sample.get("tags", []),
        )


def test_the_name_localhost_is_an_address_to_listen_on(tmp_path):
    with serving(tmp_path, "--sandbox", "--host", "localhost") as server:
        assert server.ready.startswith("Serving on http://localhost:")
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200


def test_a_server_that_stopped_leaves_its_port_free_at_once(tmp_path):
    with serving(tmp_path, "--sandbox") as server, connection(server.url) as http:
        http.request("GET", "/healthz")
        assert json_response(http.getresponse()).status_code == 200
        port = urlsplit(server.url).port
        server.stop()
    with serving(tmp_path, "--sandbox", "--port", str(port)) as server:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200


def test_each_mode_has_its_own_database_by_default(tmp_path):
    for file in ROOT.glob("*.py"):
        shutil.copy(file, tmp_path)
    shutil.copytree(ROOT / "sandbox", tmp_path / "sandbox")
    for options, name in (["--sandbox"], "sandbox.db"), ([], "contacts.db"):
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "serve", "--port", "0", *options],
            cwd=tmp_path,
            env=environment(""),
            stdout=subprocess.PIPE,
        )
        with process:
            process.stdout.readline()
            files = {file.name for file in (tmp_path / "instance").glob("*.db")}
            process.terminate()
        assert files == {"sandbox.db", name}


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_stop_it_with_exit_status_0(tmp_path, number):
    with serving(tmp_path, "--sandbox") as server:
        assert server.stop(number) == 0
        assert server.log() == ""
        assert [file.name for file in tmp_path.glob("served.db*")] == ["served.db"]


def test_after_a_stop_no_log_is_left_beside_the_database_whichever_threads_had_it_open(server):
    search = "/v1/actions/search-contacts"
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda n: post(server.url, {"query": "rom"}, path=search), range(40))
        assert {response.status_code for response in found} == {200}
    assert post(server.url, {"phone": PHONE, "name": "Last"}).status_code == 200
    assert server.stop() == 0
    assert [file.name for file in server.database.parent.glob("served.db*")] == ["served.db"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_progress_gets_its_response_before_it_stops(server, number):
    with ThreadPoolExecutor(1) as threads:
        with write_lock(server.database):
            response = threads.submit(post, server.url, {"phone": PHONE, "name": "Last"})
            time.sleep(0.5)  # for the request to reach the lock
            server.process.send_signal(number)
            time.sleep(0.3)
            assert server.process.poll() is None
        assert response.result(SECONDS).json["name"] == "Last"
        assert server.process.wait(SECONDS) == 0


def test_a_second_sigterm_does_not_wait_for_a_request_in_progress(server):
    request = head(TOKEN, f"Content-Length: {len(BODY)}") + BODY
    with write_lock(server.database), raw(server.url, request):
        time.sleep(0.5)  # for the request to reach the lock
        server.process.terminate()
        time.sleep(0.3)
        assert server.process.poll() is None
        assert server.stop() == -signal.SIGTERM


STOPS_IN_2_S = after("server.STOP_SECONDS = 2")


def test_a_request_that_waits_for_a_minute_holds_up_its_stop_for_no_longer_than_allowed(tmp_path):
    assert STOP_SECONDS <= 9  # 10 are promised
    request = head("sandbox", f"Content-Length: {len(BODY)}") + BODY
    with serving(tmp_path, "--sandbox", python=STOPS_IN_2_S) as server:
        fault = json.dumps({"delay_ms": 60_000}).encode()
        sent = head(
            "sandbox", f"Content-Length: {len(fault)}", method="PUT", path="/sandbox/faults"
        )
        with raw(server.url, sent + fault) as sock:
            assert read_response(sock)[0] == 200
        with raw(server.url, request):
            time.sleep(0.3)  # for the request to meet the fault
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 10


def test_a_log_that_nobody_reads_holds_up_its_stop_for_no_longer_than_allowed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, *STOPS_IN_2_S, "serve", "--sandbox", "--temporary", "--port", "0"],
        cwd=ROOT,
        env=environment(""),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        url = process.stdout.readline().split()[-1]
        requests = head("sandbox", method="GET", path="/v1/me") * 2000
        with raw(url, requests):
            time.sleep(1.5)  # for the pipe to be full
            began = time.monotonic()
            process.terminate()
            assert process.wait(SECONDS) == 0
            assert time.monotonic() - began < 10


ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n"
CHECKS_WITHOUT_END = after(
    "server.STOP_SECONDS = 2; import sqlite3, store;"
    f" store.Store.ping = lambda self: sqlite3.connect(':memory:').execute('{ENDLESS}').fetchall()"
)


def test_a_database_that_does_not_return_holds_up_its_stop_for_no_longer_than_allowed(tmp_path):
    request = head(method="GET", path="/healthz")
    with serving(tmp_path, python=CHECKS_WITHOUT_END) as server, raw(server.url, request):
        with raw(server.url, request) as other:
            other.settimeout(0.5)
            with pytest.raises(TimeoutError):  # the event loop is in SQLite
                other.recv(1)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10


def test_under_a_steady_load_it_stops_in_time_and_responds_to_what_it_carries_out(
    server,
):
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    acknowledged = []

    def write(writer):
        """Over one connection, until it is closed and no other is to be had."""
        with suppress(OSError, HTTPException), connection(server.url) as http:
            for n in count():
                body = json.dumps({"phone": PHONE, "metadata": {f"{writer}-{n}": 1}})
                http.request("POST", UPDATE, body, headers)
                assert json_response(http.getresponse()).status_code == 200
                acknowledged.append(f"{writer}-{n}")

    with ThreadPoolExecutor(16) as threads:
        writers = [threads.submit(write, n) for n in range(16)]
        while len(acknowledged) < 100:
            time.sleep(0.01)
        server.process.terminate()
        assert server.process.wait(STOP_SECONDS / 2) == 0
    for writer in writers:
        writer.result()
    [contact] = contacts_in(server.database)
    assert contact["metadata"].keys() - ROMAIN["metadata"].keys() == set(acknowledged)


def test_a_response_that_is_read_slowly_is_sent_whole_before_it_stops(tmp_path):
    with serving(tmp_path, "--sandbox") as server, raw(server.url) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(for_4_mib(server.url))
        received = received_or_fail(sock)
        server.process.terminate()
        for _ in range(4):
            time.sleep(1)
            received += received_or_fail(sock)
        received += b"".join(iter(lambda: sock.recv(65536), b""))
        assert server.process.wait(SECONDS) == 0
    header, _, body = received.partition(b"\r\n\r\n")
    [length] = re.findall(rb"Content-Length: (\d+)", header)
    assert len(body) == int(length) > 3 * MIB


@pytest.mark.parametrize("pause", [0, 0.01, 0.05, 0.1])
def test_ctrl_c_and_a_sigterm_stop_it_with_exit_status_0_and_leave_no_folder(tmp_path, pause):
    env = environment("", TMPDIR=str(tmp_path))
    command = [sys.executable, "-m", "flask", "serve", "--sandbox", "--temporary", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
        process.terminate()
        assert process.wait(SECONDS) == 0
    assert not list(tmp_path.iterdir())


def test_a_body_on_its_way_is_waited_for_and_an_idle_connection_is_not(server):
    request = head(TOKEN, f"Content-Length: {len(BODY)}") + BODY
    with raw(server.url) as idle, raw(server.url, request[:-5]) as slow:
        assert post(server.url, {"phone": PHONE}).status_code == 200  # so both were accepted
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        slow.sendall(request[-5:])
        assert read_response(slow)[0] == 200
        assert server.process.wait(SECONDS) == 0
        assert idle.recv(1) == b""


def test_a_stopped_server_accepts_no_connection(server):
    server.stop()
    with pytest.raises(ConnectionRefusedError), raw(server.url):
        pass


# What a request's header settles


def test_200_stalled_senders_without_a_good_token_get_a_401_before_their_body(url):
    with ExitStack() as stack:
        stalled = [
            stack.enter_context(raw(url, head("wrong", "Content-Length: 1000000")))
            for _ in range(200)
        ]
        for sock in stalled:
            status, response = read_response(sock)
            assert (status, response["error"]) == (401, "Unauthenticated.")


def test_200_stalled_senders_with_a_good_token_hold_up_nobody(url):
    with ExitStack() as stack:
        stalled = [
            stack.enter_context(
                raw(url, head("sandbox", f"Content-Length: {len(BODY)}") + BODY[:9])
            )
            for _ in range(200)
        ]
        assert post(url, {"phone": PHONE}, "sandbox").status_code == 200
        for sock in stalled[::50]:
            sock.sendall(BODY[9:])
            assert read_response(sock)[0] == 200


@pytest.mark.parametrize(
    ("token", "fields", "status"),
    [
        ("wrong", ["Transfer-Encoding: chunked"], 401),
        ("wrong", ["Content-Length: 99", "Expect: 100-continue"], 401),
        ("wrong", ["Content-Length: 99999999999"], 401),
        ("sandbox", [f"Content-Length: {MIB + 1}"], 413),
        ("sandbox", ["Content-Length: 99999999999", "Expect: 100-continue"], 413),
    ],
)
def test_it_gets_its_response_before_a_byte_of_the_body_is_sent(url, token, fields, status):
    with raw(url, head(token, *fields)) as sock:
        assert read_response(sock)[0] == status


def test_expect_100_continue_is_told_to_continue(url):
    fields = [f"Content-Length: {len(BODY)}", "Expect: 100-continue"]
    with raw(url, head("sandbox", *fields)) as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 Continue\r\n")
        sock.sendall(BODY)
        assert read_response(sock)[0] == 200


def test_expect_100_continue_without_a_body_gets_a_response_and_so_does_the_next_request(url):
    with raw(url, head("sandbox", "Content-Length: 0", "Expect: 100-continue")) as sock:
        assert read_response(sock)[0] == 400
        sock.sendall(head("sandbox", method="GET", path="/v1/me"))
        assert read_response(sock)[0] == 200


# Bodies


def chunks(size):
    """A valid body of that size in pieces, for http.client to send chunked."""
    body = BODY.ljust(size)
    return (body[n : n + 50_000] for n in range(0, size, 50_000))


@pytest.mark.parametrize(
    ("size", "status"),
    [(len(BODY), 200), (MIB, 200), (MIB + 1, 413), (3 * MIB, 413), (9 * MIB, 413)],
)
@pytest.mark.parametrize("framing", ["chunked", "content_length"])
def test_a_body_up_to_1_mib_is_taken_and_a_larger_one_gets_a_413_and_not_a_reset(
    url, framing, size, status
):
    with connection(url) as http:
        body = chunks(size) if framing == "chunked" else BODY.ljust(size)
        headers = {"Authorization": "Bearer sandbox", "Content-Type": "application/json"}
        http.request("POST", UPDATE, body, headers, encode_chunked=framing == "chunked")
        response = json_response(http.getresponse())
    if status == 200:
        assert (response.status_code, response.json["phone"]) == (200, PHONE)
    else:
        assert_refused(response, 413)
        assert "1 MiB" in response.json["error"]
        if size > MIB + 1:  # some of it is left unread
            assert response.headers["Connection"] == "close"


def test_a_large_body_without_a_good_token_gets_a_401_and_not_a_reset(url):
    assert_refused(post(url, b" " * 9 * MIB, "wrong"), 401, "Unauthenticated.")


def test_a_connection_is_kept_for_the_next_request(url):
    with connection(url) as http:
        for token, status in [("sandbox", 200), ("wrong", 401), ("sandbox", 200)]:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            http.request("POST", UPDATE, BODY, headers)
            response = http.getresponse()
            assert json_response(response).status_code == status


def test_pipelined_requests_get_their_responses_in_order(url):
    bodies = [json.dumps({"phone": sample["phone"]}).encode() for sample in SAMPLE_CONTACTS]
    sent = b"".join(head("sandbox", f"Content-Length: {len(b)}") + b for b in bodies)
    with raw(url, sent) as sock, sock.makefile("rb") as file:
        for sample in SAMPLE_CONTACTS:
            length = 0
            while (line := file.readline().lower()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            assert json.loads(file.read(length))["phone"] == sample["phone"]


def test_a_client_that_hangs_up_in_the_middle_harms_nobody(url):
    for cut in (10, 60, -1):
        with raw(url, (head("sandbox", f"Content-Length: {len(BODY)}") + BODY)[:cut]):
            pass
    assert post(url, {"phone": PHONE}, "sandbox").status_code == 200


GARBAGE = {
    "no_http": b"hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "bytes": bytes(range(256)) + b"\r\n\r\n",
    "negative_length": head("sandbox", "Content-Length: -1"),
    "two_lengths": head("sandbox", "Content-Length: 1", "Content-Length: 2"),
    "unknown_encoding": head("sandbox", "Transfer-Encoding: gzip"),
    "bad_chunk": head("sandbox", "Transfer-Encoding: chunked") + b"zz\r\n",
    "folded": head("sandbox", "X-A: b", " folded"),
    "header_of_64_kib": head("sandbox", "X-A: " + "a" * 65536),
    "many_headers": head("sandbox", *[f"X-{n}: a" for n in range(200)]),
    "two_framings": head("sandbox", "Content-Length: 9", "Transfer-Encoding: chunked")
    + b"0\r\n\r\n",
    "bare_newline": head("sandbox", "X-A: a\nb"),
    "length_of_5000_digits": head("sandbox", "Content-Length: " + "9" * 5000),
    "open_bracket": b"GET http://[ HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
def test_malformed_http_gets_a_4xx_and_its_connection_is_closed(url, sent):
    with raw(url, sent) as sock:
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", received)
    assert post(url, {"phone": PHONE}, "sandbox").status_code == 200


def test_a_header_with_an_underscore_does_not_pass_for_the_one_with_hyphens(url):
    request = head("wrong", f"Content-Length: {len(BODY)}", "Content_Length: 2") + BODY
    with raw(
        url, request.replace(b"\r\n\r\n", b"\r\nX_Authorization: Bearer sandbox\r\n\r\n")
    ) as sock:
        assert read_response(sock)[0] == 401
    request = head(
        "sandbox", f"Content-Length: {len(BODY)}", "Content_Length: 2", "Content_Type: a/b"
    )
    with raw(url, request + BODY) as sock:
        assert read_response(sock)[0] == 200


@pytest.mark.parametrize("host", ["", "a b", "[::1", "{}", "\xff", "a" * 3000, "x:notaport"])
def test_an_odd_host_header_is_not_our_failure(url, host):
    request = head("sandbox", f"Content-Length: {len(BODY)}") + BODY
    request = request.replace(b"Host: localhost", b"Host: " + host.encode("latin-1"))
    with raw(url, request) as sock:
        status, response = read_response(sock)
        assert status in (200, 400, 403)
        assert status == 200 or response["error"] == response["message"]


@pytest.mark.parametrize("field", ["Host: a..b", "Upgrade: websocket", "Upgrade: foo"])
def test_host_and_upgrade_are_no_matter_to_a_deployment(shared_server, field):
    fields = [f"Content-Length: {len(BODY)}", "Connection: Upgrade", field]
    request = head(TOKEN, *fields).replace(b"Host: localhost\r\n", b"", "Host" in field)
    with raw(shared_server.url, request + BODY) as sock:
        assert read_response(sock)[0] == 200


def test_head_has_no_body(url):
    with raw(url, head("sandbox", "Connection: close", method="HEAD")) as sock:
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 405 ")
    assert received.endswith(b"\r\n\r\n")


# Clients that read slowly, and other servers


def test_a_client_that_asks_for_much_and_reads_none_of_it_holds_up_nobody(tmp_path):
    """Eight responses of 4 MiB wait to be sent, more than buffers on the way take."""
    with (
        serving(tmp_path, "--sandbox") as server,
        raw(server.url, for_4_mib(server.url) * 8) as sock,
    ):
        for _ in range(5):
            assert post(server.url, {"phone": PHONE}, "sandbox-other").status_code == 200
        received = bytearray()
        while received.count(b"HTTP/1.1 200 OK") < 8:
            received += received_or_fail(sock)
        assert len(received) > 8 * 3 * MIB


def test_another_wsgi_server_with_threads_serves_wsgi_app_as_well(tmp_path):
    script = """if True:
        from werkzeug.serving import make_server
        from wsgi import app
        server = make_server("127.0.0.1", 0, app, threaded=True)
        print(f"Serving on http://127.0.0.1:{server.port}", flush=True)
        server.serve_forever()
    """
    with serving(tmp_path, python=("-c", script), QYVO_TOKEN=TOKEN) as server:
        path = "/v1/actions/create-contact"
        assert post(server.url, {"phone": PHONE, "name": "Romain"}, path=path).status_code == 201
        with ThreadPoolExecutor(8) as threads:
            bodies = [{"phone": PHONE, "metadata": {f"w{n}": n}} for n in range(40)]
            statuses = {r.status_code for r in threads.map(partial(post, server.url), bodies)}
        assert statuses == {200}
        found = post(server.url, {"query": "rom"}, path="/v1/actions/search-contacts")
        assert [contact["phone"] for contact in found.json] == [PHONE]
        assert post(server.url, b"{", "wrong").status_code == 401
        assert post(server.url, b" " * (MIB + 1)).status_code == 413
    assert contacts_in(server.database)[0]["metadata"] == {f"w{n}": n for n in range(40)}


# The log

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"


def test_a_line_a_request_time_method_path_status_milliseconds_token_and_address(server):
    secret = flask("token", "create", "shop-7", env=environment(server.database)).stdout.strip()
    for token, expected in {
        secret: r"200 \d+\.\dms shop-7 127\.0\.0\.1",
        TOKEN: r"200 \d+\.\dms QYVO_TOKEN 127\.0\.0\.1",
        "wrong": r"401 \d+\.\dms - 127\.0\.0\.1",
    }.items():
        response = post(server.url, {"phone": PHONE}, token)
        line = log_line(server, f"ms {expected.split()[-2]} ").rstrip("\n")
        assert re.fullmatch(rf"{STAMP} POST {UPDATE} {expected}", line), (response, line)
    assert server.log().count("\n") == 3


def test_the_log_never_holds_a_token_a_body_or_a_phone_number(server):
    secret = flask("token", "create", "ci", env=environment(server.database)).stdout.strip()
    private = {"phone": PHONE, "name": "Zaphod", "metadata": {"note": "private"}}
    with connection(server.url) as http:
        for token in (secret, secret[::-1]):
            for path in (
                UPDATE,
                f"{UPDATE}?phone={PHONE}&token={token}",
                f"/v1/contacts/{PHONE}/{token}",
                "/v1/contacts/%2B1%20415%20555%200123",
                f"/{token}{secret}{PHONE}",
                f"/static/{PHONE}",
            ):
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                for body in (json.dumps(private), '{"phone": "+14155550123", "name": "Zaphod"'):
                    http.request("POST", path, body, headers)
                    json_response(http.getresponse())
    for sent in GARBAGE.values():
        with raw(server.url, sent.replace(b"sandbox", secret.encode())) as sock:
            sock.recv(65536)
    log = server.log()
    assert log.count("\n") >= 24
    assert "Traceback" not in log
    for leak in (secret, secret[::-1], "Zaphod", "private", "5550123", "555 0123", "metadata"):
        assert leak not in log


def assert_harmless(log, requests):
    """At most one line a request, none of which says anything of what was sent."""
    *lines, end = log.split("\n")
    assert len(lines) <= requests
    assert end == ""
    for line in lines:
        assert re.fullmatch(rf"{STAMP} POST [/…]+ 404 \d+\.\dms - 127\.0\.0\.1", line)


ODD_TARGETS = [
    "/a%0a2026-01-01%20forged", "/a%0d%0aforged", "/%1b[2Jforged", "/a%e2%80%a8forged",
    "/a\x1bforged", "/static/%1b[2Jforged", "/\u2028forged", "/%00forged", "/" + "forged" * 1000,
]  # fmt: skip


def test_nothing_can_be_written_into_the_log_through_the_path(server, subtests):
    for target in ODD_TARGETS:
        request = head(TOKEN, f"Content-Length: {len(BODY)}", path=target) + BODY
        with subtests.test(ascii(target)), raw(server.url, request) as sock:
            assert re.match(rb"HTTP/1\.[01] 40[04] ", sock.recv(65536))
    server.stop()
    assert_harmless(server.log(), len(ODD_TARGETS))


ODD_METHODS = ["\x1b[2J", "+14155550123", "FORGED" * 1000, "\x00", "\x9bJ"]


def test_nothing_can_be_written_into_the_log_through_the_method(server, subtests):
    for method in ODD_METHODS:
        with subtests.test(ascii(method)), raw(server.url, head(TOKEN, method=method)) as sock:
            assert re.match(rb"HTTP/1\.[01] 4\d\d ", sock.recv(65536))
    server.stop()
    assert_harmless(server.log(), len(ODD_METHODS))
