"""On which addresses the server listens, what it prints of them, and how long connections live."""

import re
import socket
import time

import pytest
from conftest import (
    PHONE,
    SECONDS,
    TOKEN,
    deployed,
    environment,
    flask,
    head,
    log_line,
    post,
    raw,
    read_response,
    serving,
)


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
ME = head(method="GET", path="/v1/me")


def port_of(server):
    return int(server.url.rpartition(":")[2])


def test_localhost_is_each_address_that_it_resolves_to(tmp_path):
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    with serving(tmp_path, "--sandbox", "--host", "localhost") as server:
        assert re.fullmatch(r"http://localhost:\d+", server.url)
        for address in {address[0] for *_, address in found}:
            with socket.create_connection((address, port_of(server)), SECONDS) as sock:
                sock.sendall(ME)
                assert read_response(sock)[0] == 200


@needs_ipv6
def test_two_colons_are_every_address_of_both_families(tmp_path):
    with serving(tmp_path, "--sandbox", "--host", "::") as server:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, port_of(server)), SECONDS) as sock:
                sock.sendall(ME)
                assert read_response(sock)[0] == 200


@needs_ipv6
def test_an_ipv4_address_is_logged_and_compared_as_such_on_a_socket_of_both_families(tmp_path):
    trusted = {"QYVO_TOKEN": TOKEN, "CONTACTS_TRUSTED_PROXY": "::ffff:127.0.0.1"}
    with serving(tmp_path, "--host", "::", **trusted) as server:
        url = f"http://127.0.0.1:{port_of(server)}"
        post(url, {"phone": PHONE}, "wrong")
        assert log_line(server, " 401 ").endswith(" - 127.0.0.1\n")
        post(url, b"{", **{"X-Forwarded-For": "::ffff:192.0.2.7"})
        assert log_line(server, " 400 ").endswith(" QYVO_TOKEN 192.0.2.7\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::"])
def test_the_printed_url_is_one_that_works(tmp_path, host):
    if host == "::" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with serving(tmp_path, "--sandbox", "--host", host) as server:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address."),
        ("no-such-host.invalid", "[^.]+."),
    ],
)
def test_an_address_that_can_t_be_had_is_said_in_one_line(tmp_path, host, reason):
    done = flask("serve", "--host", host, env=environment(tmp_path / "contacts.db"))
    assert done.returncode == 1
    assert re.fullmatch(f"Error: Can't listen on {host}:8000: {reason}\n", done.stderr)


def test_a_port_that_is_taken_is_said_once_with_what_to_do(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = flask("serve", "--port", str(port), env=environment(tmp_path / "contacts.db"))
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: Can't listen on 127.0.0.1:{port}: Address already in use."
        " Choose another port with --port.\n"
    )


# Idle connections

IDLE_SERVER = """if True:
    from app import create_app
    from commands.serve import listen, make_server
    listeners = listen("127.0.0.1", 0)
    server = make_server(create_app(), listeners, threads=2, idle_seconds=1)
    print(f"Serving on http://127.0.0.1:{listeners[0].getsockname()[1]}", flush=True)
    server.run()
"""


def test_a_connection_is_closed_once_it_has_been_idle_for_its_time(tmp_path):
    with (
        serving(tmp_path, python=("-c", IDLE_SERVER), QYVO_TOKEN=TOKEN) as server,
        raw(server.url, head(TOKEN, method="GET", path="/v1/me")) as sock,
    ):
        assert read_response(sock)[0] == 200
        assert sock.recv(1) == b""


@pytest.mark.slow
def test_a_client_that_polls_every_minute_keeps_its_connection_in_a_sandbox_alone(tmp_path):
    """A deployment's proxy keeps its own connections."""
    (tmp_path / "deployment").mkdir()
    with (
        serving(tmp_path / "sandbox", "--sandbox") as sandbox,
        deployed(tmp_path / "deployment") as deployment,
        raw(sandbox.url, ME) as kept,
        raw(deployment.url, head(TOKEN, method="GET", path="/v1/me")) as closed,
    ):
        assert [read_response(sock)[0] for sock in (kept, closed)] == [200, 200]
        closed.settimeout(90)
        began = time.monotonic()
        assert closed.recv(1) == b""
        assert time.monotonic() - began > 29
        time.sleep(max(0, began + 61 - time.monotonic()))
        kept.sendall(ME)
        assert read_response(kept)[0] == 200
