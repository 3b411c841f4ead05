"""What a stranger learns, and how much harm one can do: nothing, and next to none."""

import json
import re
import resource
import socket
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from conftest import (
    PHONE,
    SECONDS,
    TOKEN,
    UPDATE,
    after,
    assert_refused,
    connection,
    contacts_in,
    environment,
    execute,
    flask,
    head,
    json_response,
    post,
    raw,
    read_response,
    serving,
)

BODY = json.dumps({"phone": PHONE}).encode()
REQUEST = head(TOKEN, f"Content-Length: {len(BODY)}") + BODY


def everything(url, sent):
    """All that the server sends until it ends the connection."""
    header, end, body = sent.partition(b"\r\n\r\n")
    with raw(url, header + b"\r\nConnection: close" + end + body) as sock:
        return b"".join(iter(lambda: sock.recv(65536), b""))


# What an response tells

ANSWERED = {
    200: REQUEST,
    400: head(TOKEN, "Content-Length: 1") + b"{",
    401: head("wrong", "Content-Length: 1") + b"{",
    404: head(TOKEN, path="/wp-admin", method="GET"),
    405: head(TOKEN, path="/healthz"),
    413: head(TOKEN, "Content-Length: 9999999"),
    422: head(TOKEN, "Content-Length: 2") + b"{}",
}


@pytest.mark.parametrize("status", ANSWERED)
def test_no_response_may_be_cached_or_taken_for_another_type_or_names_its_software(
    shared_server, status
):
    header, _, _ = everything(shared_server.url, ANSWERED[status]).decode().partition("\r\n\r\n")
    status_line, *fields = header.split("\r\n")
    assert status_line.split()[1] == str(status)
    values = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    assert len(values) == len(fields)
    assert values["cache-control"] == "no-store"
    assert values["x-content-type-options"] == "nosniff"
    assert values["content-type"] == "application/json"
    assert values.pop("server") == "qyvo-standin"
    assert values.keys() <= {
        "allow",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "www-authenticate",
        "x-content-type-options",
    }


@pytest.mark.parametrize(
    "sent",
    [head(TOKEN, "X-Long: " + "x" * 70_000), head(TOKEN, "Transfer-Encoding: gzip")],
    ids=["large_header", "unknown_encoding"],
)
def test_what_the_http_server_refuses_by_itself_shows_neither_trace_nor_path(server, sent):
    received = everything(server.url, sent).decode()
    assert received.startswith("HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; ")
    assert len(received) < 500
    assert "Traceback" not in received
    assert str(server.database.parent) not in received
    assert server.log() == ""


def test_401_is_the_same_whatever_was_wrong_and_whatever_was_asked_for(server):
    revoked = flask("token", "create", "old", env=environment(server.database)).stdout.strip()
    assert post(server.url, {"phone": PHONE}, revoked).status_code == 200
    flask("token", "revoke", "old", env=environment(server.database))
    responses = set()
    for token in ("wrong", TOKEN[:-1], TOKEN + "x", revoked, revoked.upper(), "'", "é"):
        for body in ({"phone": PHONE}, {"phone": "+14155550199"}, {}):
            with connection(server.url) as http:
                authorization = f"Bearer {token}".encode()
                http.request("POST", UPDATE, json.dumps(body), {"Authorization": authorization})
                response = http.getresponse()
                told = {**response.headers, "Date": None, "Connection": None}
                responses.add((response.status, frozenset(told.items()), response.read()))
    assert len(responses) == 1
    assert responses.pop()[0] == 401


def test_a_500_tells_neither_trace_nor_version_nor_path(server):
    assert post(server.url, {"phone": PHONE}).status_code == 200
    execute(server.database, "ALTER TABLE contact RENAME TO elsewhere")
    response = post(server.url, {"phone": PHONE})
    assert_refused(response, 500, "Server error")
    assert response.json == {"error": "Server error", "message": "Server error"}
    assert "Traceback" in server.log()
    assert PHONE not in server.log()


def test_a_header_larger_than_64_kib_is_a_431(shared_server):
    fields = {f"X-{n}": "x" * 8000 for n in range(8)}
    assert post(shared_server.url, {"phone": PHONE}, **fields).status_code == 200
    header = head(
        TOKEN, *(f"{name}: {value}" for name, value in fields.items()), "X: " + "x" * 2000
    )
    assert everything(shared_server.url, header).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("size", [10, 8000, 10_000])
def test_a_header_that_never_ends_is_a_400(shared_server, size):
    with raw(shared_server.url, b"GET / HTTP/1.1\r\n") as sock:
        with suppress(OSError):
            for n in range(1000):
                sock.sendall(b"X-%d: %s\r\n" % (n, b"x" * size))
        assert sock.recv(65536).startswith(b"HTTP/1.0 400 ")


# Clients that stall, hang up, or are many


def test_400_clients_that_stall_in_the_middle_of_a_body_hold_up_nobody(shared_server):
    bad = head("wrong", f"Content-Length: {len(BODY)}")
    with ExitStack() as stack:
        for sent in [REQUEST[:-9], bad] * 200:
            stack.enter_context(raw(shared_server.url, sent))
        for _ in range(20):
            started = time.monotonic()
            assert post(shared_server.url, {"phone": PHONE}).status_code == 200
            assert time.monotonic() - started < 2  # 3 ms, when nothing else keeps the machine busy


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads memory as Linux shows it")
def test_those_who_ask_for_much_at_once_keep_nobody_waiting(server):
    """Each of 60 asks 240 times, in the 8 KiB that are read at once, for a document of 17 KB."""
    much = b"GET /v1/openapi.json HTTP/1.1\r\n\r\n" * 240
    with connection(server.url) as http, ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(raw(server.url, much))
        for _ in range(3):
            started = time.monotonic()
            http.request("GET", "/healthz")
            assert json_response(http.getresponse()).status_code == 200
            assert time.monotonic() - started < 1.5
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert int(re.search(r"VmRSS:\s+(\d+)", status)[1]) < 100 * 1024


def reset(sock):
    """Hang up as a crashed client does: what was not read is refused with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("prepare", [reset, lambda sock: sock.shutdown(socket.SHUT_RD)])
def test_clients_that_hang_up_half_way_leave_no_traceback_in_the_log(server, prepare):
    large = head(TOKEN, "Content-Length: 1000000") + b" " * 500_000
    chunked = head(TOKEN, "Transfer-Encoding: chunked") + b"ffff\r\n{"
    several = REQUEST * 20
    refused = head("wrong", "Content-Length: 100")
    for sent in (REQUEST, REQUEST[:-9], REQUEST[:40], large, chunked, several, refused):
        for _ in range(100):
            with raw(server.url, sent) as sock:
                prepare(sock)
    for _ in range(20):
        assert post(server.url, {"phone": PHONE}).status_code == 200
    assert all(" POST " in line for line in server.log().splitlines()), server.log()


def test_1500_silent_connections_keep_nobody_out(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this test may not open 1,500 connections itself")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        with ExitStack() as stack:
            slow = stack.enter_context(raw(server.url, REQUEST[:-9]))
            for n in range(1500):
                stack.enter_context(raw(server.url, b"POST " if n % 2 else b""))
            for _ in range(5):
                started = time.monotonic()
                assert post(server.url, {"phone": PHONE}).status_code == 200
                assert time.monotonic() - started < 10  # not the 30 s until idle ones are dropped
            slow.sendall(REQUEST[-9:])
            assert read_response(slow)[0] == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Traceback" not in server.log()


WITH_3_CONNECTIONS = after("server.CONNECTIONS = 3")


def test_a_connection_too_many_is_closed_at_once(tmp_path):
    with (
        serving(tmp_path, python=WITH_3_CONNECTIONS, QYVO_TOKEN=TOKEN) as server,
        ExitStack() as stack,
    ):
        for _ in range(3):
            kept = stack.enter_context(raw(server.url, head(TOKEN, method="GET", path="/v1/me")))
            assert read_response(kept)[0] == 200
        with raw(server.url) as fourth:
            assert fourth.recv(1) == b""
        kept.sendall(head(TOKEN, method="GET", path="/v1/me"))
        assert read_response(kept)[0] == 200


WITH_200_FILES = after("resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))")


def test_where_few_files_may_be_open_half_of_them_are_for_connections(tmp_path):
    with (
        serving(tmp_path, python=WITH_200_FILES, QYVO_TOKEN=TOKEN) as server,
        ExitStack() as stack,
    ):
        for _ in range(90):
            stack.enter_context(raw(server.url))
        search = "/v1/actions/search-contacts"  # in a thread, which opens the database
        assert post(server.url, {"query": "x"}, path=search).json == []


PATIENT_FOR_2_S = after("server.PATIENCE_SECONDS = 2")


def is_closed(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_header_that_drips_in_is_dropped_and_who_sends_slowly_or_now_and_then_is_not(tmp_path):
    with (
        serving(tmp_path, python=PATIENT_FOR_2_S, QYVO_TOKEN=TOKEN) as server,
        raw(server.url, b"GET / HTTP/1.1\r\nX-Slow: ") as dripping,
        raw(server.url) as silent,
        raw(server.url, head(TOKEN, "Content-Length: 500")) as slow,
        connection(server.url) as now_and_then,
    ):
        deadline = time.monotonic() + SECONDS
        sent = 0
        while not (is_closed(dripping) and is_closed(silent)) and time.monotonic() < deadline:
            with suppress(OSError):
                dripping.sendall(b"x")
            slow.sendall(b" ")
            sent += 1
            now_and_then.request("GET", "/v1/me", headers={"Authorization": f"Bearer {TOKEN}"})
            port = now_and_then.sock.getsockname()[1]
            assert json_response(now_and_then.getresponse()).status_code == 200
            assert now_and_then.sock.getsockname()[1] == port
            time.sleep(0.25)
        assert is_closed(dripping)
        assert is_closed(silent)
        slow.setblocking(True)
        slow.sendall(b"{}".rjust(500 - sent))
        assert read_response(slow)[0] == 422


def test_a_body_without_progress_is_a_400_and_its_connection_is_closed(server):
    server.stop()
    before = contacts_in(server.database)
    with (
        serving(server.database.parent, python=PATIENT_FOR_2_S, QYVO_TOKEN=TOKEN) as patient,
        raw(patient.url, REQUEST[:-9]) as stalled,
    ):
        status, response = read_response(stalled)
        assert (status, response["error"]) == (400, response["message"])
        assert stalled.recv(1) == b""
    assert contacts_in(server.database) == before


def test_a_refused_request_whose_body_stalls_is_closed_at_once(shared_server):
    for length in (50, 900_000):
        with raw(shared_server.url, head("wrong", f"Content-Length: {length}") + b" " * 20) as sock:
            assert read_response(sock)[0] == 401
            assert sock.recv(1) == b""


def test_who_is_refused_and_goes_on_sending_slowly_gets_the_response_in_seconds(shared_server):
    with raw(shared_server.url, head("wrong", "Content-Length: 900000")) as sock:
        began = time.monotonic()
        sock.setblocking(False)
        received = b""
        while not received and time.monotonic() - began < SECONDS:
            with suppress(OSError):
                sock.send(b" ")
            with suppress(BlockingIOError):
                received = sock.recv(65536)
            time.sleep(0.05)
        assert received.startswith(b"HTTP/1.1 401 ")
        assert time.monotonic() - began < 5  # 2, where the machine has nothing else to do


def test_a_body_that_is_cut_off_is_no_500_at_a_path_that_does_not_exist_either(tmp_path):
    with (
        serving(tmp_path, "--sandbox", python=PATIENT_FOR_2_S) as server,
        raw(server.url, head("sandbox", "Content-Length: 50", path="/v1/nothing")) as stalled,
    ):
        assert read_response(stalled)[0] == 404
        assert "Traceback" not in server.log()
