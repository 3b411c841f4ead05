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
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from itertools import count
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from conftest import (
    MIB,
    PHONE,
    ROMAIN,
    ROOT,
    SECONDS,
    TOKEN,
    UPDATE,
    assert_refused,
    connection,
    contacts_in,
    copy_of_the_project,
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
    received_to_the_end,
    serving,
    wait_until,
    wait_until_begun,
    wait_until_idle,
    wait_until_stopping,
    write_lock,
)
from developer import Developer

from commands.serve import STOP_SECONDS
from sandbox import SAMPLE_CONTACTS

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
    assert result.stderr == (
        f"Error: Can't listen on {host}:{port}: Address already in use."
        " Choose another port with --port.\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QYVO_TOKEN", "two words"),
        ("CONTACTS_DEFAULT_REGION", "France"),
        ("CONTACTS_DEFAULT_REGION", "fr"),
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
    copy_of_the_project(tmp_path)
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


UPDATE_REQUEST = head(TOKEN, f"Content-Length: {len(BODY)}") + BODY
BOTH_SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@BOTH_SIGNALS
def test_a_request_in_progress_gets_its_response_before_it_stops(server, number):
    with write_lock(server.database) as release, raw(server.url, UPDATE_REQUEST) as sock:
        wait_until_begun(server.url)
        server.process.send_signal(number)
        wait_until_stopping(server.process)
        assert server.process.poll() is None
        release()
        assert read_response(sock)[0] == 200
        assert server.process.wait(SECONDS) == 0


def test_a_second_sigterm_does_not_wait_for_a_request_in_progress(server):
    with write_lock(server.database), raw(server.url, UPDATE_REQUEST):
        wait_until_begun(server.url)
        server.process.terminate()
        wait_until_stopping(server.process)
        assert server.process.poll() is None
        assert server.stop() == -signal.SIGTERM


@BOTH_SIGNALS
def test_a_pending_delay_ends_at_the_stop_as_a_503_and_writes_nothing(tmp_path, number):
    update = json.dumps({"phone": PHONE, "name": "Never written"}).encode()
    request = head("sandbox", f"Content-Length: {len(update)}") + update
    with serving(tmp_path, "--sandbox") as server:
        me = Developer(server.url, "sandbox")
        me.inject(delay_ms=60_000)
        with raw(server.url, request) as sock:
            wait_until(lambda: me.triggered() == [1])
            server.process.send_signal(number)
            status, response = read_response(sock)
        assert (status, "stopping" in response["error"]) == (503, True)
        # A request that went on waiting would get 5 seconds.
        assert server.process.wait(4) == 0
    assert "Never written" not in {contact["name"] for contact in contacts_in(server.database)}


def test_who_waits_for_requests_gets_those_that_there_are_at_the_stop(tmp_path):
    with serving(tmp_path, "--sandbox") as server:
        Developer(server.url, "sandbox").me()
        poll = head(method="GET", path="/sandbox/requests?min=2&timeout=30")
        with raw(server.url, poll) as sock:
            wait_until_begun(server.url)
            server.process.terminate()
            status, entries = read_response(sock)
        assert (status, [entry["path"] for entry in entries]) == (200, ["/v1/me"])
        assert server.process.wait(4) == 0


def test_a_log_that_nobody_reads_holds_up_its_stop_for_no_longer_than_allowed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "serve", "--sandbox", "--temporary", "--port", "0"],
        cwd=ROOT,
        env=environment("", TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        url = process.stdout.readline().split()[-1].decode()
        assert list(tmp_path.iterdir())
        with raw(url, head("sandbox", method="GET", path="/v1/me") * 2000):
            wait_until_idle(process)  # the pipe is full
            process.terminate()
            assert process.wait(10) == 0
        assert not list(tmp_path.iterdir())


def test_responses_that_are_not_read_hold_up_its_stop_for_no_longer_than_allowed(tmp_path):
    with serving(tmp_path, "--sandbox") as server:
        requests = for_4_mib(server.url) * 8
        with raw(server.url, requests) as sock:
            received_or_fail(sock)
            wait_until_idle(server.process)
            server.process.terminate()
            assert server.process.wait(10) == 0


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


def test_a_request_whose_body_is_on_its_way_at_the_stop_is_closed_and_writes_nothing(server):
    before = contacts_in(server.database)
    with raw(server.url) as idle, raw(server.url, UPDATE_REQUEST[:-5]) as slow:
        wait_until_begun(server.url)
        assert server.stop() == 0
        assert received_to_the_end(idle) == received_to_the_end(slow) == b""
    assert contacts_in(server.database) == before


def test_a_stopped_server_accepts_no_connection(server):
    server.stop()
    with pytest.raises(ConnectionRefusedError), raw(server.url):
        pass


# Bodies


def test_expect_100_continue_is_told_to_continue(url):
    fields = [f"Content-Length: {len(BODY)}", "Expect: 100-continue"]
    with raw(url, head("sandbox", *fields)) as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 Continue\r\n")
        sock.sendall(BODY)
        assert read_response(sock)[0] == 200


def chunks(size):
    """A valid body of that size in pieces, for http.client to send chunked."""
    body = BODY.ljust(size)
    return (body[n : n + 50_000] for n in range(0, size, 50_000))


@pytest.mark.parametrize(
    ("size", "status"), [(len(BODY), 200), (MIB, 200), (MIB + 1, 413), (2 * MIB - 9000, 413)]
)
@pytest.mark.parametrize("framing", ["chunked", "content_length"])
def test_a_body_up_to_1_mib_is_taken_and_a_larger_one_gets_a_413(url, framing, size, status):
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


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("Content-Length: 99999999999", b""),
        ("Transfer-Encoding: chunked", b"200000\r\n".ljust(2 * MIB)),
    ],
)
@pytest.mark.parametrize("token", ["sandbox", "wrong"])
def test_beyond_2_mib_the_413_is_the_http_servers_own_in_plain_text(url, token, field, body):
    with raw(url, head(token, field) + body) as sock:
        received = received_to_the_end(sock)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"Content-Type: text/plain" in received
    assert b"exceeds max_body of 2097152" in received


def test_a_large_body_without_a_good_token_gets_a_401(url):
    assert_refused(post(url, b" " * (2 * MIB - 100), "wrong"), 401, "Unauthenticated.")


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


def test_a_client_that_closes_its_side_after_sending_gets_its_response(url):
    with raw(url, head("sandbox", f"Content-Length: {len(BODY)}") + BODY) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert read_response(sock)[0] == 200


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
    "header_of_64_kib": head("sandbox", "X-A: " + "a" * 65536),
    "bare_newline": head("sandbox", "X-A: a\nb"),
}
CLOSED = {
    "length_of_5000_digits": head("sandbox", "Content-Length: " + "9" * 5000),
    "open_bracket": b"GET http://[ HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
def test_malformed_http_gets_a_4xx_or_501_and_its_connection_is_closed(url, sent):
    with raw(url, sent) as sock:
        received = received_to_the_end(sock)
    assert re.match(rb"HTTP/1\.[01] (4\d\d|501) ", received)
    assert b"\r\nContent-Type: text/plain" in received
    assert post(url, {"phone": PHONE}, "sandbox").status_code == 200


@pytest.mark.parametrize("sent", CLOSED.values(), ids=CLOSED)
def test_what_the_http_server_can_t_read_at_all_is_closed_without_a_response(url, sent):
    with raw(url, sent) as sock:
        assert received_to_the_end(sock) == b""
    assert post(url, {"phone": PHONE}, "sandbox").status_code == 200


def test_header_fields_are_bounded_by_their_size_and_not_by_their_number(url):
    fields = [f"X-{n}: a" for n in range(1000)]
    with raw(url, head("sandbox", *fields, f"Content-Length: {len(BODY)}") + BODY) as sock:
        assert read_response(sock)[0] == 200


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


def assert_harmless(log, requests, said):
    """At most one line a request, none of which says anything of what was sent."""
    *lines, end = log.split("\n")
    assert len(lines) <= requests
    assert end == ""
    for line in lines:
        assert re.fullmatch(rf"{STAMP} {said} \d+\.\dms - 127\.0\.0\.1", line)


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
    assert_harmless(server.log(), len(ODD_TARGETS), "POST [/…]+ 404")


ODD_METHODS = ["\x1b[2J", "+14155550123", "FORGED" * 1000, "\x00", "\x9bJ"]


def test_nothing_can_be_written_into_the_log_through_the_method(server, subtests):
    for method in ODD_METHODS:
        with subtests.test(ascii(method)), raw(server.url, head(TOKEN, method=method)) as sock:
            assert re.match(rb"HTTP/1\.[01] 4\d\d ", sock.recv(65536))
    server.stop()
    assert_harmless(server.log(), len(ODD_METHODS), f"… {UPDATE} 405")
