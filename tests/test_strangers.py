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
    answer_of,
    assert_refused,
    connection,
    environment,
    execute,
    flask,
    for_4_mib,
    head,
    post,
    raw,
    read_answer,
    serving,
)

BODY = json.dumps({"phone": PHONE}).encode()
REQUEST = head(TOKEN, f"Content-Length: {len(BODY)}") + BODY


def everything(url, sent):
    """All that the server sends until it ends the connection."""
    with raw(url, sent) as sock:
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


# What an answer tells

ANSWERED = {
    200: REQUEST,
    400: head(TOKEN, "Content-Length: 1") + b"{",
    401: head("wrong", "Content-Length: 1") + b"{",
    404: head(TOKEN, path="/wp-admin", method="GET"),
    405: head(TOKEN, path="/healthz"),
    413: head(TOKEN, "Content-Length: 9999999"),
    422: head(TOKEN, "Content-Length: 2") + b"{}",
    431: head(TOKEN, "X-Long: " + "x" * 40_000),
    501: head(TOKEN, "Transfer-Encoding: gzip"),
}


@pytest.mark.parametrize("status", ANSWERED)
def test_no_answer_may_be_cached_or_taken_for_another_type_or_names_its_server(server, status):
    header, _, _ = everything(server.url, ANSWERED[status]).decode().partition("\r\n\r\n")
    status_line, *fields = header.split("\r\n")
    assert status_line.split()[1] == str(status)
    values = dict(field.split(": ", 1) for field in fields)
    assert values["Cache-Control"] == "no-store"
    assert values["X-Content-Type-Options"] == "nosniff"
    assert values["Content-Type"] == "application/json"
    assert {name.lower() for name in values} <= {
        "allow",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "www-authenticate",
        "x-content-type-options",
    }


def test_401_is_the_same_whatever_was_wrong_and_whatever_was_asked_for(server):
    revoked = flask("token", "create", "old", env=environment(server.database)).stdout.strip()
    assert post(server.url, {"phone": PHONE}, revoked).status_code == 200
    flask("token", "revoke", "old", env=environment(server.database))
    answers = set()
    for token in ("wrong", TOKEN[:-1], TOKEN + "x", revoked, revoked.upper(), "'", "é"):
        for body in ({"phone": PHONE}, {"phone": "+14155550199"}, {}):
            with connection(server.url) as http:
                authorization = f"Bearer {token}".encode()
                http.request("POST", UPDATE, json.dumps(body), {"Authorization": authorization})
                answer = http.getresponse()
                told = {**answer.headers, "Date": None, "Connection": None}
                answers.add((answer.status, frozenset(told.items()), answer.read()))
    assert len(answers) == 1
    assert answers.pop()[0] == 401


def test_a_500_tells_neither_trace_nor_version_nor_path(server):
    assert post(server.url, {"phone": PHONE}).status_code == 200
    execute(server.database, "ALTER TABLE contact RENAME TO elsewhere")
    answer = post(server.url, {"phone": PHONE})
    assert_refused(answer, 500, "Server error")
    assert answer.json == {"error": "Server error", "message": "Server error"}
    assert "Traceback" in server.log()
    assert PHONE not in server.log()


def test_a_header_larger_than_32_kib_is_a_431(server):
    with raw(server.url, head(TOKEN, "X-Long: " + "x" * 32 * 1024)) as sock:
        status, answer = read_answer(sock)
    assert status == 431
    assert answer["error"] == answer["message"]
    assert post(server.url, {"phone": PHONE}, **{"X-Long": "x" * 30_000}).status_code == 200


# Clients that stall, hang up, or are many


def test_400_clients_that_stall_in_the_middle_of_a_body_hold_up_nobody(server):
    bad = head("wrong", f"Content-Length: {len(BODY)}")
    with ExitStack() as stack:
        for sent in [REQUEST[:-9], bad] * 200:
            stack.enter_context(raw(server.url, sent))
        for _ in range(20):
            started = time.monotonic()
            assert post(server.url, {"phone": PHONE}).status_code == 200
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
            assert answer_of(http.getresponse()).status_code == 200
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


def test_1200_silent_connections_keep_nobody_out(server):
    """Beyond 1,000 the longest silent are dropped, and of them first those without a token."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this test may not open 1,200 connections itself")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        with ExitStack() as stack:
            slow = stack.enter_context(raw(server.url, REQUEST[:-9]))
            for n in range(1200):
                stack.enter_context(raw(server.url, b"POST " if n % 2 else b""))
            for _ in range(5):
                started = time.monotonic()
                assert post(server.url, {"phone": PHONE}).status_code == 200
                assert time.monotonic() - started < 10  # not the 30 s until idle ones are dropped
            slow.sendall(REQUEST[-9:])
            assert read_answer(slow)[0] == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Traceback" not in server.log()


# While the clock on the wall is set back and stands still.
PATIENT_FOR_2_S = """if True:
    import time
    import server
    time.time = lambda: 1_000_000_000.0
    server.IDLE_SECONDS = 2
    from cli import main
    main()
"""


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
        serving(tmp_path, python=("-c", PATIENT_FOR_2_S), QYVO_TOKEN=TOKEN) as server,
        raw(server.url, b"GET / HTTP/1.1\r\nX-Slow: ") as dripping,
        raw(server.url) as silent,
        raw(server.url, head(TOKEN, "Content-Length: 500")) as slow,
        connection(server.url) as now_and_then,
    ):
        give_up = time.monotonic() + SECONDS
        sent = 0
        while not (is_closed(dripping) and is_closed(silent)) and time.monotonic() < give_up:
            with suppress(OSError):
                dripping.sendall(b"x")
            slow.sendall(b" ")
            sent += 1
            now_and_then.request("GET", "/v1/me", headers={"Authorization": f"Bearer {TOKEN}"})
            port = now_and_then.sock.getsockname()[1]
            assert answer_of(now_and_then.getresponse()).status_code == 200
            assert now_and_then.sock.getsockname()[1] == port
            time.sleep(0.25)
        assert is_closed(dripping)
        assert is_closed(silent)
        slow.sendall(b"{}".rjust(500 - sent))
        assert read_answer(slow)[0] == 422


def test_who_reads_nothing_of_what_was_asked_for_is_dropped(tmp_path):
    with serving(tmp_path, "--sandbox", python=("-c", PATIENT_FOR_2_S)) as server:
        with raw(server.url, for_4_mib(server.url) * 4) as sock:
            time.sleep(5)  # 2 until it is idle, and 1 until somebody looks
            received = bytearray()
            with suppress(ConnectionResetError):
                while data := sock.recv(65536):
                    received += data
        assert 0 < received.count(b"HTTP/1.1 200 OK") < 4
