"""Faults: the requests of a workspace that fail or wait because a test asked for it."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import RemoteDisconnected

import pytest
from conftest import (
    PHONE,
    SECONDS,
    UPDATE,
    assert_refused,
    head,
    log_line,
    raw,
    read_response,
    serving,
    wait_until,
    wait_until_begun,
    wait_until_idle,
    write_lock,
)
from developer import GET, SEARCH, Developer


@pytest.fixture
def app(make_app):
    return make_app(sandbox=True)


# What a fault does


@pytest.mark.parametrize(
    ("status", "text", "header"),
    [
        (400, "The body is not JSON.", None),
        (401, "Unauthenticated.", "WWW-Authenticate"),
        (404, "Contact not found", None),
        (405, "Method not allowed", "Allow"),
        (413, "The body is larger than 1048576 bytes (1 MiB): send less.", None),
        (415, "Send JSON, with the header Content-Type: application/json.", None),
        (422, "The given data was invalid.", None),
        (429, "Too many requests", "Retry-After"),
        (500, "Server error", None),
        (502, None, None),
        (503, "The database is busy. Nothing was written; try again.", "Retry-After"),
        (504, None, None),
    ],
)
def test_a_fault_is_the_documented_error_as_often_as_asked(me, caplog, status, text, header):
    me.inject(status=status, times=2)
    for _ in range(2):
        response = me.update({"phone": PHONE, "name": "Never written"})
        assert_refused(response, status, text)
        assert header is None or response.headers[header]
    assert me.name() == "Romain"
    assert not caplog.records


def test_every_status_from_400_to_599_can_be_injected(me):
    for status in range(400, 600):
        me.inject(status=status)
        assert_refused(me.update({"phone": PHONE}), status)


@pytest.mark.parametrize("seconds", [0, 1, 7, 86_400])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_retry_after_says_how_long_to_wait(me, status, seconds):
    me.inject(status=status, retry_after=seconds)
    assert me.me().headers.getlist("Retry-After") == [str(seconds)]


def test_a_delay_lets_the_request_through_later(me):
    me.inject(delay_ms=150, times=1)
    started = time.monotonic()
    assert me.update({"phone": PHONE, "name": "Slow"}).json["name"] == "Slow"
    assert time.monotonic() - started >= 0.15
    [entry] = me.journal()
    assert entry["milliseconds"] >= 150
    assert entry["fault"]


def test_a_fault_with_status_and_delay_fails_later(me):
    me.inject(delay_ms=150, status=504)
    started = time.monotonic()
    assert me.me().status_code == 504
    assert time.monotonic() - started >= 0.15


@pytest.mark.parametrize("status", [400, 502, 599])
def test_with_body_html_the_response_is_a_page_as_of_a_proxy(me, status):
    me.inject(status=status, body="html", retry_after=2)
    response = me.update({"phone": PHONE, "name": "Never written"})
    assert response.status_code == status
    assert response.mimetype == "text/html"
    assert response.text.startswith("<!doctype html>")
    assert str(status) in response.text
    assert response.headers["Retry-After"] == "2"
    [entry] = me.journal()
    assert (entry["status"], entry["response_body"]) == (status, response.text)
    assert entry["reason"] == "A fault responded with an HTML page."
    me("DELETE", "/sandbox/faults")
    assert me.name() == "Romain"


def test_a_fault_lasts_until_it_is_removed(me):
    me.inject(status=500)
    assert {me.me().status_code for _ in range(5)} == {500}
    assert me("DELETE", "/sandbox/faults").status_code == 204
    assert me.faults() == []
    assert me.me().status_code == 200


@pytest.mark.parametrize("path", ["/actions/update-contact", UPDATE, "update-contact"])
def test_a_fault_may_apply_to_one_endpoint_only(me, path):
    me.inject(status=503, path=path)
    assert me.me().status_code == 200
    assert me("POST", GET, {"phone": PHONE}).status_code == 200
    assert me.update({"phone": PHONE}).status_code == 503
    assert me.triggered() == [1]


def test_a_fault_is_triggered_with_the_probability_it_is_given(me):
    me.inject(status=500, probability=0.5)
    failed = sum(me.me().status_code == 500 for _ in range(200))
    assert 50 < failed < 150  # by chance not so once in 10**12 times
    assert me.triggered() == [failed]


def test_a_faulted_request_is_in_the_journal_with_what_was_sent(me):
    me.inject(status=429)
    me.update({"phone": PHONE})
    [entry] = me.journal()
    assert (entry["status"], entry["fault"]) == (429, True)
    assert entry["request_body"] == {"phone": PHONE}


def test_faults_apply_neither_to_the_sandboxs_own_endpoints_nor_to_other_workspaces(me, other):
    me.inject(status=500)
    contact_id = next(iter(other.contacts()))
    assert me("PUT", f"/sandbox/contacts/{contact_id}", {"name": "x"}).status_code == 200
    assert me("GET", "/").status_code == 200
    assert me("POST", "/sandbox/reset").status_code == 204
    me.inject(status=500)
    assert other.me().status_code == 200
    assert me.me().status_code == 500
    assert me.triggered() == [1]


def test_a_request_that_is_refused_anyway_triggers_no_fault(app, me):
    me.inject(status=500)
    assert me("GET", "/v1/nowhere").status_code == 404
    assert me("GET", "/v1/me", headers={"Host": "evil.example"}).status_code == 403
    assert Developer(app, "unknown").me().status_code == 401
    assert me.triggered() == [0]


# Lists of faults


def test_the_first_fault_that_applies_and_is_not_used_up_is_injected(me):
    me.inject(
        {"status": 429, "times": 1, "path": "/actions/update-contact"},
        {"status": 503, "times": 2},
        {"status": 418, "path": "/me"},
    )
    assert me.me().status_code == 503
    assert me.update({"phone": PHONE}).status_code == 429
    assert me.update({"phone": PHONE}).status_code == 503
    assert me.update({"phone": PHONE}).status_code == 200
    assert [me.me().status_code for _ in range(3)] == [418] * 3
    assert me.triggered() == [1, 2, 3]


def test_every_fault_is_shown_in_order_with_how_often_it_was_triggered_used_up_ones_too(me):
    first = {"path": "/me", "times": 2, "retry_after": 3, "status": 429}
    second = {"delay_ms": 1}
    shown = [
        {
            "status": 429,
            "times": 2,
            "probability": 1.0,
            "path": "/me",
            "retry_after": 3,
            "triggered": 0,
        },
        {"delay_ms": 1, "probability": 1.0, "triggered": 0},
    ]
    assert me.inject(first, second) == shown
    assert list(me.faults()[0]) == list(shown[0])  # in the contract's order
    for _ in range(3):
        me.me()
    shown[0]["triggered"], shown[1]["triggered"] = 2, 1
    assert me.faults() == shown


def test_one_fault_may_be_put_without_an_array_and_replaces_all(me):
    me.inject({"status": 500}, {"status": 502})
    me.me()
    [fault] = me.inject(status=503)
    assert (fault["status"], fault["triggered"]) == (503, 0)
    assert (
        me.inject(*[{"status": 500}] * 20)
        == [{"status": 500, "probability": 1.0, "triggered": 0}] * 20
    )
    assert me("PUT", "/sandbox/faults", []).json == {"faults": []}


# Refused faults


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["status", "delay_ms", "respond", "close"]),
        ({"status": 399}, ["status"]),
        ({"status": 600}, ["status"]),
        ({"status": "429"}, ["status"]),
        ({"status": 429, "times": 0}, ["times"]),
        ({"status": 429, "times": True}, ["times"]),
        ({"status": 429, "probability": 0}, ["probability"]),
        ({"status": 429, "probability": 1.5}, ["probability"]),
        ({"status": 429, "probability": "0.5"}, ["probability"]),
        ({"status": 429, "probability": True}, ["probability"]),
        ({"status": 429, "probability": None}, ["probability"]),
        ({"status": 429, "path": "/actions/updatecontact"}, ["path"]),
        ({"status": 429, "path": None}, ["path"]),
        ({"status": 429, "path": ""}, ["path"]),
        ({"status": 429, "path": "/sandbox/reset"}, ["path"]),
        ({"status": 429, "retry_after": -1}, ["retry_after"]),
        ({"status": 429, "retry_after": 86_401}, ["retry_after"]),
        ({"delay_ms": 60_001}, ["delay_ms"]),
        ({"delay_ms": -1}, ["delay_ms"]),
        ({"status": 429, "time": 1}, ["time"]),
        ({"respond": True}, ["respond"]),
        ({"respond": 0}, ["respond"]),
        ({"respond": "false"}, ["respond"]),
        ({"close": False}, ["close"]),
        ({"close": 1}, ["close"]),
        ({"close": None}, ["close"]),
        ({"status": 502, "body": "json"}, ["body"]),
        ({"status": 502, "body": None}, ["body"]),
        ({"delay_ms": 1, "body": "html"}, ["body"]),
        ({"respond": False, "body": "html"}, ["body"]),
        ({"status": 502, "respond": False}, ["status", "respond"]),
        ({"status": 502, "close": True}, ["status", "close"]),
        ({"respond": False, "close": True}, ["respond", "close"]),
        ([{"status": 500}, {"status": 200}], ["1.status"]),
        ([{"status": 500}, {}], ["1.status", "1.delay_ms", "1.respond", "1.close"]),
        ([{"status": 500}, 7], ["1"]),
        ([{"status": 500}] * 21, ["body"]),
        (7, ["body"]),
        (None, ["body"]),
    ],
)
def test_a_wrong_fault_is_a_422_and_changes_nothing(me, body, fields):
    before = me.inject(status=502)
    response = me("PUT", "/sandbox/faults", json.dumps(body).encode())
    assert_refused(response, 422)
    assert list(response.json["errors"]) == fields
    assert me.faults() == before


def test_what_is_no_fault_is_told_what_is(me):
    response = me("PUT", "/sandbox/faults", b"7")
    assert response.json["errors"] == {
        "body": ["Pass a fault as a JSON object, or several in an array."]
    }


# On the server


def test_a_delayed_request_is_carried_out_even_if_its_client_has_gone(sandbox):
    me = Developer(sandbox.url, "sandbox-gone")
    me.inject(delay_ms=400)
    with raw(sandbox.url, head(me.token, "Content-Length: 2", path=SEARCH) + b"{}"):
        wait_until(lambda: me.triggered() == [1])
    [entry] = me.journal(min=1, timeout=10)
    assert (entry["path"], entry["status"], entry["fault"]) == (SEARCH, 200, True)


@pytest.mark.parametrize(
    ("fault", "status"), [({"delay_ms": 300, "status": 503}, 503), ({"delay_ms": 300}, 200)]
)
def test_a_faulted_request_triggers_once_and_leaves_one_entry_and_one_line(sandbox, fault, status):
    token = f"sandbox-once-{status}"
    me = Developer(sandbox.url, token)
    me.inject(path="/actions/update-contact", **fault)
    before = me("POST", GET, {"phone": PHONE}).json
    body = b'{"phone": "+14155550123", "metadata": {"n": 1}}'
    with raw(sandbox.url, head(token, f"Content-Length: {len(body)}")) as sock:
        wait_until_begun(sandbox.url)  # the body comes later
        sock.sendall(body)
        assert read_response(sock)[0] == status
    assert me.triggered() == [1]
    [entry] = me.journal(path="/actions/update-contact")
    assert (entry["status"], entry["fault"], entry["request_body"]) == (
        status,
        True,
        json.loads(body),
    )
    assert entry["milliseconds"] >= 300
    after = me("POST", GET, {"phone": PHONE}).json
    assert (after == before) == (status == 503)
    log_line(sandbox, f" {GET} 200 ")
    lines = [line for line in sandbox.log().splitlines() if f" {token} " in line]
    assert len([line for line in lines if UPDATE in line]) == 1
    assert "busy" not in sandbox.log()


LOST = {"phone": PHONE, "name": "Written"}


def test_with_respond_false_the_request_is_carried_out_and_its_response_is_lost(sandbox):
    me = Developer(sandbox.url, "sandbox-lost")
    me.inject(respond=False, times=1)
    with pytest.raises(RemoteDisconnected):
        me.update(LOST)
    [entry] = me.journal()
    assert (entry["status"], entry["fault"]) == (None, True)
    assert entry["reason"] == "A fault lost the response, a 200."
    retried = me.update(LOST)
    assert entry["response_body"] == retried.json  # which was written by the first
    assert me.triggered() == [1]


def test_a_lost_refusal_is_in_the_journal_with_its_reason(sandbox):
    me = Developer(sandbox.url, "sandbox-lost-refusal")
    me.inject(respond=False, times=1)
    with pytest.raises(RemoteDisconnected):
        me.update({"phone": "1"})
    [entry] = me.journal()
    assert entry["reason"].startswith("A fault lost the response, a 422. phone: ")
    assert entry["response_body"]["errors"]["phone"]


@pytest.mark.parametrize("delay_ms", [0, 200])
def test_with_close_the_connection_is_closed_before_anything_happens(sandbox, delay_ms):
    me = Developer(sandbox.url, f"sandbox-closed-{delay_ms}")
    me.inject(close=True, times=1, delay_ms=delay_ms)
    with pytest.raises(RemoteDisconnected):
        me.update(LOST)
    [entry] = me.journal()
    assert (entry["status"], entry["fault"], entry["response_body"]) == (None, True, None)
    assert entry["request_body"] == LOST
    assert entry["reason"] == "A fault closed the connection before anything happened."
    assert entry["milliseconds"] >= delay_ms
    assert me.name() == "Romain"


@pytest.mark.parametrize("fault", [{"respond": False}, {"close": True}])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_not_a_byte_is_sent_and_the_log_shows_the_status_0(sandbox, fault, method):
    token = f"sandbox-byte-{method}-{'-'.join(fault)}"
    me = Developer(sandbox.url, token)
    me.inject(times=1, **fault)
    request = head(token, method=method, path="/v1/me")
    with raw(sandbox.url, request + request) as sock:  # what follows is lost, too
        assert sock.recv(1) == b""
    assert " /v1/me 0 " in log_line(sandbox, f"{method} /v1/me 0 ")
    assert "Traceback" not in sandbox.log()
    assert me.me().status_code == 200


def test_60_delayed_requests_and_50_long_polls_at_once_keep_nobody_waiting(sandbox):
    slow, quick = Developer(sandbox.url, "sandbox-slow"), Developer(sandbox.url, "sandbox-quick")
    slow.inject(delay_ms=3000)
    poll = head(quick.token, method="GET", path="/sandbox/requests?path=/me&min=1&timeout=30")
    with ThreadPoolExecutor(60) as pool, ExitStack() as stack:
        polls = [stack.enter_context(raw(sandbox.url, poll)) for _ in range(50)]
        delayed = [pool.submit(slow.update, {"phone": PHONE}) for _ in range(60)]
        wait_until(lambda: slow.triggered() == [60])
        for n in range(10):
            assert quick.update({"phone": PHONE, "name": f"{n}"}).status_code == 200
            assert quick.contacts()
            assert quick("GET", "/healthz").status_code == 200
        assert not any(request.done() for request in delayed)
        quick.me()
        assert {len(read_response(sock)[1]) for sock in polls} == {1}
        assert {request.result(SECONDS).status_code for request in delayed} == {200}
    assert slow.triggered() == [60]
    assert len(slow.journal()) == 60


COUNTS_CALLS = """if True:
    import sys
    from app import create_app
    from commands.serve import listen, make_server, stop_on_signals
    from sandbox import Sandbox
    sandbox = Sandbox()
    app = create_app(sandbox=sandbox, access_log=sys.stderr)
    calls = []
    def counted(environ, start_response):
        calls.append(environ["PATH_INFO"])
        return app(environ, start_response)
    listeners = listen("127.0.0.1", 0)
    server = make_server(counted, listeners, threads=8, idle_seconds=30)
    stop_on_signals(sandbox, before_exit=lambda: None)
    print(f"Serving on http://127.0.0.1:{listeners[0].getsockname()[1]}", flush=True)
    server.run()
    print(*calls)
"""


def test_the_application_is_called_once_for_each_request_whatever_it_waits_for(tmp_path):
    with serving(tmp_path, python=("-c", COUNTS_CALLS)) as server:
        me = Developer(server.url)
        me.inject({"delay_ms": 100, "times": 1, "path": "/me"})
        me.me()
        me.contacts()
        me.journal(min=9, timeout=0.2)
        body = b'{"phone": "+14155550123", "metadata": {"n": 1}}'
        with write_lock(server.database) as release, raw(server.url) as sock:
            sock.sendall(head(me.token, f"Content-Length: {len(body)}"))
            wait_until_begun(server.url)
            sock.sendall(body)
            wait_until_idle(server.process)
            release()
            assert read_response(sock)[0] == 200
        me("POST", "/sandbox/reset", {"contacts": []})
        assert server.stop() == 0
        called = server.process.stdout.read().split()
    assert called == ["/sandbox/faults", "/v1/me", SEARCH, "/sandbox/requests", "/healthz", UPDATE,
                      "/sandbox/reset"]  # fmt: skip
