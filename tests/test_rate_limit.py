"""CONTACTS_RATE_LIMIT: a rolling minute for each token, as the vendor documents it."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import (
    PHONE,
    TOKEN,
    assert_refused,
    caller,
    flask,
    head,
    raw,
    serving,
    wait_until_begun,
)
from conftest import environment as environ
from developer import SEARCH, Developer

LIMIT, REMAINING = "X-RateLimit-Limit", "X-RateLimit-Remaining"


@pytest.fixture
def clock(monkeypatch):
    """The time as the application sees it; `now` is yours to set."""
    clock = SimpleNamespace(now=1000.25)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def app(make_app, clock):
    return make_app(CONTACTS_RATE_LIMIT="3")


def test_every_response_tells_the_limit_and_what_remains(call):
    responses = [call({"phone": PHONE}) for _ in range(3)]
    assert [r.headers[LIMIT] for r in responses] == ["3"] * 3
    assert [r.headers[REMAINING] for r in responses] == ["2", "1", "0"]


def test_past_the_limit_a_request_is_a_429(call):
    for _ in range(3):
        assert call({"phone": PHONE}).status_code == 200
    response = call({"phone": PHONE})
    assert_refused(response, 429, "Too many requests")
    assert (response.headers[LIMIT], response.headers[REMAINING]) == ("3", "0")


def test_refused_requests_count_too(call, client):
    assert call(b"no json").status_code == 400
    assert call({"phone": "nobody"}).status_code == 422
    assert client.get("/v1/me", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert call({"phone": PHONE}).status_code == 429


def test_retry_after_is_truthful(call, clock):
    for _ in range(3):
        call({"phone": PHONE})
        clock.now += 7.3
    seconds = int(call({"phone": PHONE}).headers["Retry-After"])
    assert seconds == 39  # 60 - 3 * 7.3 = 38.1
    clock.now += seconds - 1
    assert call({"phone": PHONE}).status_code == 429
    clock.now += 1
    assert call({"phone": PHONE}).status_code == 200


def test_the_minute_rolls(call, clock):
    call({"phone": PHONE})
    clock.now += 30
    call({"phone": PHONE})
    call({"phone": PHONE})
    clock.now += 31
    assert call({"phone": PHONE}).status_code == 200
    assert call({"phone": PHONE}).status_code == 429


def test_a_429_writes_nothing_and_comes_before_the_body_is_looked_at(call, stored):
    for _ in range(3):
        call({"phone": PHONE})
    before = stored()
    assert call({"phone": PHONE, "name": "Too late"}).status_code == 429
    assert call(b"no json").status_code == 429
    assert stored() == before


def test_each_token_has_a_limit_of_its_own(app, call):
    other = caller(app.test_client(), app.extensions["store"].create_token("other"))
    for _ in range(4):
        response = call({"phone": PHONE})
    assert response.status_code == 429
    assert other({"phone": PHONE}).headers[REMAINING] == "2"


def test_threads_together_are_admitted_no_more_often_than_one(make_app):
    app = make_app(CONTACTS_RATE_LIMIT="25")

    def status(_):
        return caller(app.test_client())({"phone": PHONE}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(status, range(60))) == [200] * 25 + [429] * 35


def test_what_needs_no_token_is_not_counted(client, call):
    for _ in range(5):
        assert LIMIT not in client.get("/api/v1/openapi.json").headers
        assert LIMIT not in caller(client, "unknown")({"phone": PHONE}).headers
    assert call({"phone": PHONE}).headers[REMAINING] == "2"


def test_without_the_setting_there_is_no_limit(make_app):
    call = caller(make_app().test_client())
    responses = [call({"phone": PHONE}) for _ in range(200)]
    assert {r.status_code for r in responses} == {200}
    assert LIMIT not in responses[0].headers


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_wrong_limit_stops_the_start_with_one_line(tmp_path, value):
    result = flask("token", "list", env=environ(tmp_path / "x.db", CONTACTS_RATE_LIMIT=value))
    assert result.returncode == 1
    assert "CONTACTS_RATE_LIMIT" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/sandbox/faults", {"status": 500}, 200),
        ("POST", "/sandbox/reset", {"contacts": []}, 204),
        ("GET", "/sandbox/requests", None, 200),
    ],
)
def test_past_the_limit_the_sandboxs_own_endpoints_work(make_app, method, path, body, status):
    me = Developer(make_app(sandbox=True, CONTACTS_RATE_LIMIT="1"))
    assert [me.me().status_code for _ in range(2)] == [200, 429]
    assert me(method, path, body).status_code == status
    assert me.me().status_code == 429


def test_a_request_counts_once_whatever_it_waits_for(tmp_path):
    with serving(tmp_path, "--sandbox", CONTACTS_RATE_LIMIT="9") as server:
        me = Developer(server.url, "sandbox-new")
        me.inject({"delay_ms": 50, "path": "/me"})
        body = b'{"phone": "+14155550123"}'
        with raw(server.url, head(me.token, f"Content-Length: {len(body)}")) as sock:
            wait_until_begun(server.url)  # the body comes later
            sock.sendall(body)
            assert b"x-ratelimit-remaining: 8" in sock.recv(65536).lower()
        assert me("POST", SEARCH, {}).headers[REMAINING] == "7"
        assert me.me().headers[REMAINING] == "6"  # after its delay
