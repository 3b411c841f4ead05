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
    MIB,
    PHONE,
    SECONDS,
    TOKEN,
    UPDATE,
    assert_refused,
    connection,
    contacts_in,
    deployed,
    environment,
    execute,
    flask,
    head,
    json_response,
    post,
    raw,
    read_response,
    received_to_the_end,
    wait_until_idle,
)

BODY = json.dumps({"phone": PHONE}).encode()
REQUEST = head(TOKEN, f"Content-Length: {len(BODY)}") + BODY


def everything(url, sent):
    """All that the server sends until it ends the connection."""
    header, end, body = sent.partition(b"\r\n\r\n")
    with raw(url, header + b"\r\nConnection: close" + end + body) as sock:
        return received_to_the_end(sock)


# What a response tells

REQUESTS = {
    200: REQUEST,
    400: head(TOKEN, "Content-Length: 1") + b"{",
    401: head("wrong", "Content-Length: 1") + b"{",
    404: head(TOKEN, path="/wp-admin", method="GET"),
    405: head(TOKEN, path="/healthz"),
    413: head(TOKEN, f"Content-Length: {MIB + 1}") + b" " * (MIB + 1),
    422: head(TOKEN, "Content-Length: 2") + b"{}",
}


@pytest.mark.parametrize("status", REQUESTS)
def test_no_response_may_be_cached_or_taken_for_another_type_or_names_its_software(
    shared_server, status
):
    header, _, _ = everything(shared_server.url, REQUESTS[status]).decode().partition("\r\n\r\n")
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
    [head(TOKEN, "X-Long: " + "x" * 70_000), head(TOKEN, "Transfer-Encoding: gzip"), b"?\r\n"],
    ids=["large_header", "unknown_encoding", "no_http"],
)
def test_what_the_http_server_refuses_by_itself_shows_neither_trace_nor_path_nor_version(
    server, sent
):
    received = everything(server.url, sent).decode()
    assert re.match(r"HTTP/1\.[01] (400|431|501) [A-Za-z ]+\r\n", received)
    assert "\r\nContent-Type: text/plain" in received
    assert "\r\nServer: qyvo-standin\r\n" in received
    assert len(received) < 500
    assert "Traceback" not in received
    assert "waitress" not in received
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
    assert re.match(rb"HTTP/1\.[01] 431 ", everything(shared_server.url, header))


def test_a_header_that_never_ends_is_a_431(shared_server):
    with raw(shared_server.url, b"GET / HTTP/1.1\r\n") as sock:
        with suppress(OSError):
            for n in range(1000):
                sock.sendall(b"X-%d: %s\r\n" % (n, b"x" * 8000))
        assert re.match(rb"HTTP/1\.[01] 431 ", received_to_the_end(sock))


# Clients that stall, hang up, or are many


@pytest.mark.parametrize("token", [TOKEN, "wrong"])
def test_400_clients_that_stall_in_the_middle_of_a_body_hold_up_nobody(shared_server, token):
    request = head(token, f"Content-Length: {len(BODY)}") + BODY
    with ExitStack() as stack:
        stalled = [stack.enter_context(raw(shared_server.url, request[:-9])) for _ in range(400)]
        for _ in range(20):
            assert post(shared_server.url, {"phone": PHONE}).status_code == 200
        for sock in stalled[::50]:
            sock.sendall(request[-9:])
            assert read_response(sock)[0] == (200 if token == TOKEN else 401)


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads memory as Linux shows it")
def test_those_who_ask_for_much_at_once_keep_nobody_waiting(server):
    """Each of 60 asks 240 times, in the 8 KiB that are read at once, for a document of 17 KB."""
    much = b"GET /v1/openapi.json HTTP/1.1\r\n\r\n" * 240
    with connection(server.url) as http, ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(raw(server.url, much))
        for _ in range(3):
            http.request("GET", "/healthz")
            assert json_response(http.getresponse()).status_code == 200
        assert server.log().count("openapi") < 60 * 240  # so they were not waited for
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


def test_900_silent_connections_keep_nobody_out(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("this test may not open 900 connections itself")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    try:
        with ExitStack() as stack:
            slow = stack.enter_context(raw(server.url, REQUEST[:-9]))
            for n in range(900):
                stack.enter_context(raw(server.url, b"POST " if n % 2 else b""))
            for _ in range(5):
                assert post(server.url, {"phone": PHONE}).status_code == 200
            slow.sendall(REQUEST[-9:])
            assert read_response(slow)[0] == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Traceback" not in server.log()


@pytest.mark.slow
def test_800_unfinished_bodies_that_wait_in_files_keep_nobody_out(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2300:
        pytest.skip("there may not be 2,300 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    try:
        with ExitStack() as stack:
            body = b" " * 530_000  # beyond 512 KiB
            for _ in range(800):
                stack.enter_context(raw(server.url, head("wrong", "Content-Length: 999999") + body))
            assert post(server.url, {"phone": PHONE, "name": "Written"}).status_code == 200
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            assert int(re.search(r"VmRSS:\s+(\d+)", status)[1]) < 200 * 1024
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_beyond_the_limit_wait_until_others_are_closed(tmp_path):
    """Where 200 files may be open, half of them are for connections, and the others suffice."""
    with deployed(tmp_path, files=200) as server, ExitStack() as late_ones:
        with ExitStack() as silent:
            for _ in range(150):
                silent.enter_context(raw(server.url))
            late = late_ones.enter_context(raw(server.url, REQUEST))
            wait_until_idle(server.process)
            late.setblocking(False)
            with pytest.raises(BlockingIOError):
                late.recv(1)
        late.settimeout(SECONDS)
        assert read_response(late)[0] == 200
        assert post(server.url, {"phone": PHONE, "name": "Written"}).status_code == 200


# Waitress looks for idle connections every 30 seconds, or as often as they may last.
CLOSES_AFTER_2_S = """if True:
    import logging, sys
    from app import create_app
    from commands.serve import listen, make_server
    listeners = listen("127.0.0.1", 0)
    app = create_app(access_log=sys.stderr)
    server = make_server(app, listeners, threads=4, idle_seconds=2)
    print(f"Serving on http://127.0.0.1:{listeners[0].getsockname()[1]}", flush=True)
    server.run()
"""


def test_who_is_silent_is_closed_and_who_sends_slowly_or_now_and_then_is_not(tmp_path):
    with (
        deployed(tmp_path, python=("-c", CLOSES_AFTER_2_S)) as server,
        raw(server.url) as silent,
        raw(server.url, REQUEST[:-9]) as stalled,
        raw(server.url, head(TOKEN, "Content-Length: 500")) as slow,
        connection(server.url) as now_and_then,
    ):
        before = contacts_in(server.database)
        sent = 0
        while not (is_closed(silent) and is_closed(stalled)):
            slow.sendall(b" ")
            sent += 1
            assert sent < 400, "it was not closed"
            now_and_then.request("GET", "/v1/me", headers={"Authorization": f"Bearer {TOKEN}"})
            port = now_and_then.sock.getsockname()[1]
            assert json_response(now_and_then.getresponse()).status_code == 200
            assert now_and_then.sock.getsockname()[1] == port
            time.sleep(0.1)  # which is slowly
        slow.sendall(b"{}".rjust(500 - sent))
        assert read_response(slow)[0] == 422
        assert contacts_in(server.database) == before


def is_closed(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""  # a response would be another byte
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
