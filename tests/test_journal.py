"""The journal of a sandbox: what arrived, what became of it, and waiting for what is to arrive."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from conftest import (
    PHONE,
    SECONDS,
    UPDATE,
    assert_refused,
    head,
    post,
    raw,
    read_response,
    wait_until_begun,
    wait_until_idle,
)
from developer import Developer

LONG_POLLS = 40
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"


@pytest.fixture
def app(make_app):
    return make_app(sandbox=True)


# Entries


def test_an_entry_tells_all_of_a_request(me):
    body = {"phone": PHONE, "metadata": {"city": "Paris"}}
    response = me.update(body)
    [entry] = me.journal()
    assert entry.pop("milliseconds") > 0
    assert re.fullmatch(TIME, entry.pop("time"))
    for name in ("request_headers", "response_headers"):
        assert entry.pop(name)["Content-Type"] == "application/json"
    assert entry == {
        "id": 1,
        "method": "POST",
        "path": UPDATE,
        "status": 200,
        "request_body": body,
        "response_body": response.json,
        "reason": None,
        "fault": False,
    }


def test_the_newest_is_first_and_ids_go_on_after_it_is_emptied(me):
    for name in "ab":
        me.update({"phone": PHONE, "name": name})
    assert [entry["request_body"]["name"] for entry in me.journal()] == ["b", "a"]
    assert me("DELETE", "/sandbox/requests").status_code == 204
    assert me.journal() == []
    me.update({"phone": PHONE})
    assert [entry["id"] for entry in me.journal()] == [3]


def test_the_bodies_of_all_journals_together_are_at_most_64_mib(app):
    developers = [Developer(app, f"sandbox-{n}") for n in range(18)]
    for developer in developers:
        developer.me()
        for _ in range(64):
            developer("POST", UPDATE, b"x" * 65_536)
    kept = [len(developer.journal(status=400)) for developer in developers]
    assert sum(kept) * 65_536 <= 64 * 1024 * 1024
    assert min(kept) > 32  # the largest gives way
    assert all(developer.journal(limit=1) for developer in developers)


def test_the_last_500_are_kept(me):
    for _ in range(502):
        me.me()
    assert [entry["id"] for entry in me.journal()] == list(range(502, 2, -1))


def test_a_time_is_that_of_the_arrival_in_milliseconds(me):
    me.inject(delay_ms=200, times=1)
    before = datetime.now(UTC)
    me.me()
    arrived = datetime.fromisoformat(me.journal()[0]["time"])
    assert before - timedelta(milliseconds=1) <= arrived < before + timedelta(milliseconds=200)


def test_request_and_response_headers_are_in_the_journal(make_app):
    me = Developer(make_app(sandbox=True, CONTACTS_RATE_LIMIT="9"))
    me.inject(status=429, retry_after=7)
    me.update({"phone": PHONE}, headers={"X-Request-Id": "r-1", "User-Agent": "crm/2"})
    [entry] = me.journal()
    sent, received = entry["request_headers"], entry["response_headers"]
    assert (sent["X-Request-Id"], sent["User-Agent"], sent["Host"]) == ("r-1", "crm/2", "localhost")
    assert (received["Retry-After"], received["X-RateLimit-Limit"]) == ("7", "9")
    assert received["Content-Type"] == "application/json"


@pytest.mark.parametrize("name", ["Authorization", "Cookie"])
def test_authorization_and_cookie_are_never_kept(app, me, name):
    for developer in (me, Developer(app, "unknown")):
        developer("GET", "/v1/me", headers={name: "Bearer not-to-be-kept"})
    for developer in (me, Developer(app, "sandbox")):
        for entry in developer.journal():
            assert name not in entry["request_headers"]
        assert "not-to-be-kept" not in developer("GET", "/sandbox/requests").text


@pytest.mark.parametrize(
    "name",
    [
        "Proxy-Authorization",
        "X-Cookie-Copy",
        "X-Auth-Token",
        "X-API-Key",
        "apikey",
        "Client-Secret",
        "X-Hub-Signature-256",
    ],
)
def test_the_value_of_a_header_that_is_named_like_a_secret_is_never_kept(me, name):
    me("GET", "/v1/me", headers={name: "not-to-be-kept"})
    [entry] = me.journal()
    assert entry["request_headers"][name.title()] == "…"
    assert "not-to-be-kept" not in me("GET", "/sandbox/requests").text


def test_headers_count_towards_what_is_kept(me):
    for _ in range(100):
        me("GET", "/v1/me", headers={"X-Large": "x" * 50_000})
    assert 75 < len(me.journal()) < 84


def test_bodies_of_4_mib_are_kept(me):
    for _ in range(70):
        me.update({"phone": PHONE, "metadata": {"large": "x" * 65_000}})
    ids = [entry["id"] for entry in me.journal()]
    assert ids == list(range(70, 70 - len(ids), -1))
    assert 60 < len(ids) < 70


def test_a_request_to_a_mistyped_path_is_in_the_journal(me):
    me.me()
    me("GET", "/actions/update-contact")
    assert (me.journal()[0]["path"], me.journal()[0]["status"]) == ("/actions/update-contact", 404)


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        ({"body": b"{"}, 400, "The body is not JSON: "),
        ({"body": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "Send JSON"),
        ({"body": {"phone": "1", "nam": ""}}, 422, "phone: Must start with +"),
        ({"body": {"phone": "+14155559999"}}, 404, "Contact not found"),
        ({"path": "/api/v1/actions/updatecontact"}, 404, "Not found"),
        ({"method": "PUT"}, 405, "Method not allowed"),
        ({"headers": {"Host": "evil.example"}}, 403, "The sandbox responds to"),
    ],
)
def test_a_refused_request_is_there_with_its_reason(me, sent, status, reason):
    me.me()
    me(**{"method": "POST", "path": UPDATE, "body": {"phone": PHONE}} | sent)
    entry = me.journal()[0]
    assert entry["status"] == status
    assert entry["reason"].startswith(reason)


def test_every_field_is_in_the_reason_of_a_422(me):
    me.update({"phone": "1", "nam": ""})
    [entry] = me.journal()
    assert "nam: Unknown field" in entry["reason"]


def test_a_request_without_a_known_token_is_in_the_journal_of_sandbox_without_its_body(app, me):
    me.me()
    for token in ("unknown", "sandboxes"):
        Developer(app, token).update({"phone": PHONE, "name": "secret"})
    assert len(me.journal()) == 1
    entries = Developer(app, "sandbox").journal()
    assert [(e["status"], e["request_body"]) for e in entries] == [(401, None)] * 2


def test_the_request_body_is_null_if_the_token_or_the_path_was_refused(app):
    Developer(app, "unknown").update({"phone": PHONE})
    me = Developer(app, "sandbox")
    me("POST", "/v1/actions/updatecontact", {"phone": PHONE})
    assert [(e["status"], e["request_body"]) for e in me.journal()] == [(404, None), (401, None)]


def why_refused(app, authorization):
    headers = {"Authorization": authorization} if authorization is not None else {}
    app.test_client().get("/v1/me", headers=headers)
    entry = Developer(app, "sandbox").journal(limit=1)[0]
    assert entry["status"] == 401
    return entry["reason"]


@pytest.mark.parametrize(
    "token",
    [
        "undefined", "null", "None", "", "YOUR_TOKEN_HERE", "QYVO_TOKEN", "your-token",
        "{{token}}", "{{ bearer_token }}", "${TOKEN}", "$TOKEN", "<token>", "<YOUR_API_KEY>",
        "[your token]", "%QYVO_TOKEN%",
    ],
)  # fmt: skip
def test_a_token_that_is_none_is_shown_with_the_question_whether_the_variable_is_set(app, token):
    shown = f"Bearer {token}".strip()
    assert why_refused(app, f"Bearer {token}") == f"{shown}: is the variable set?"


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "No token: send the header Authorization: Bearer sandbox."),
        ("", "No token: send the header Authorization: Bearer sandbox."),
        ("Basic dTpw", "The header must be Authorization: Bearer, a space and the token."),
        ("sandbox", "The header must be Authorization: Bearer, a space and the token."),
    ],
)
def test_the_reason_says_what_is_wrong_with_the_header(app, authorization, reason):
    assert why_refused(app, authorization) == reason


@pytest.mark.parametrize(
    "token",
    [
        "sandboxes", "qv_live_51Habc", "eyJhbGciOiJub25lIn0.e30.", "my-secret-token",
        "<qv_live_51H_token>", "undefined1", "{{" + "token" * 20 + "}}", "$", "TOKEN",
    ],
)  # fmt: skip
def test_of_any_other_refused_token_nothing_is_shown(app, token):
    reason = why_refused(app, f"Bearer {token}")
    assert reason == "An unknown token: use sandbox, or one that begins with sandbox-."


def test_a_401_that_a_fault_asked_for_has_the_reason_of_a_fault(me):
    me.inject(status=401)
    me.me()
    assert me.journal()[0]["reason"] == "Unauthenticated."


def test_no_token_is_in_the_journal(app, me):
    me.update({"phone": PHONE})
    Developer(app, "not-mine-to-see").update({})
    for developer in (me, Developer(app, "sandbox")):
        text = developer("GET", "/sandbox/requests").text
        assert "Bearer sandbox" not in text
        assert "not-mine-to-see" not in text


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"no json \xff", "no json \ufffd"),
        (b'{"phone": NaN}', '{"phone": NaN}'),
        (b'{"name": "\\ud800"}', {"name": "\ud800"}),
        (b"[" * 1000, "[" * 1000),
        (b"", None),
        (b'"' + b"x" * 200_000 + b'"', '"' + "x" * (64 * 1024 - 1)),
    ],
    ids=["not UTF-8", "NaN", "surrogate", "deep", "empty", "large"],
)
def test_whatever_a_body_is_the_journal_can_show_it(me, sent, shown):
    me.update(sent)
    [entry] = me.journal()
    assert entry["request_body"] == shown


def test_what_is_not_of_the_api_is_not_in_the_journal(me):
    me("POST", "/sandbox/reset")
    me("GET", "/healthz")
    me("GET", "/")
    me("GET", "/sandbox/requests")
    assert me.journal() == []


def test_each_workspace_has_a_journal_of_its_own(me, other):
    me.update({"phone": PHONE})
    other.update({"phone": PHONE})
    other("DELETE", "/sandbox/requests")
    assert len(me.journal()) == 1
    assert other.journal() == []


def test_requests_at_the_same_time_are_each_in_the_journal_of_their_workspace(app):
    def send(n):
        developer = Developer(app, f"sandbox-{n}")
        for _ in range(50):
            developer.me()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, [0, 1, 2, 3] * 2))
    for n in range(4):
        assert len(Developer(app, f"sandbox-{n}").journal()) == 100
    assert Developer(app, "sandbox").journal() == []


# Filters


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({}, [4, 3, 2, 1]),
        ({"limit": 2}, [4, 3]),
        ({"path": "/api/v1/actions/update-contact"}, [3, 1]),
        ({"path": "/actions/update-contact"}, [4, 3, 1]),
        ({"path": "contact"}, []),
        ({"status": 422}, [3]),
        ({"status": 200, "path": "/v1/me", "limit": 9}, [2]),
        ({"status": 500}, []),
        ({"method": "GET"}, [2]),
        ({"method": "post", "status": 200}, [4, 1]),
        ({"method": "PUT"}, []),
    ],
)
def test_the_journal_is_narrowed_by_limit_path_status_and_method(me, filters, ids):
    me.update({"phone": PHONE})
    me.me()
    me.update({"phone": "nonsense"})
    me("POST", "/v1/actions/update-contact", {"phone": PHONE})
    assert [entry["id"] for entry in me.journal(**filters)] == ids


def test_with_order_oldest_the_oldest_is_first(me):
    for _ in range(3):
        me.me()
    assert [entry["id"] for entry in me.journal(order="oldest")] == [1, 2, 3]
    assert [entry["id"] for entry in me.journal(order="oldest", limit=2)] == [1, 2]
    assert [entry["id"] for entry in me.journal(order="newest")] == [3, 2, 1]


@pytest.mark.parametrize(
    ("filters", "field"),
    [({"limit": 0}, "limit"), ({"limit": 501}, "limit"), ({"limit": "x"}, "limit"),
     ({"order": "first"}, "order"),
     ({"status": "ok"}, "status"), ({"pth": "/"}, "pth"), ({"min": -1}, "min"),
     ({"min": 501}, "min"), ({"timeout": 30.1}, "timeout"), ({"timeout": -1}, "timeout"),
     ({"timeout": "nan"}, "timeout")],
)  # fmt: skip
def test_a_wrong_filter_is_a_422(me, filters, field):
    response = me("GET", "/sandbox/requests", query=filters)
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [field]


# Waiting


def test_enough_entries_are_not_waited_for(me):
    me.me()
    me.me()
    started = time.monotonic()
    assert len(me.journal(min=2, timeout=30)) == 2
    assert len(me.journal(min=1, timeout=30, limit=1)) == 1
    assert len(me.journal(min=9)) == 2  # without a timeout
    assert time.monotonic() - started < SECONDS


def test_when_the_time_is_over_the_journal_responds_with_what_there_is(me):
    me.me()
    started = time.monotonic()
    assert [entry["path"] for entry in me.journal(min=2, timeout=0.3)] == ["/v1/me"]
    assert time.monotonic() - started >= 0.3


def poll(server, token, query):
    """A socket on which a long poll waits. read_response() has its entries."""
    path = f"/sandbox/requests?{query}&timeout=30"
    return raw(server.url, head(token, method="GET", path=path))


def test_the_server_responds_as_soon_as_enough_entries_match(sandbox):
    me = Developer(sandbox.url, "sandbox-waiting")
    me.update({"phone": PHONE})
    with poll(sandbox, me.token, "path=/me&status=200&min=2") as waiting:
        wait_until_begun(sandbox.url)
        me.me()
        me.update({"phone": PHONE})
        me.me()
        assert [entry["id"] for entry in read_response(waiting)[1]] == [4, 2]


def test_many_who_wait_hold_nobody_up(sandbox):
    mine = Developer(sandbox.url, "sandbox-awaited")
    mine.me()
    other = Developer(sandbox.url, "sandbox-meanwhile")
    with ExitStack() as stack:
        query = "path=/actions/update-contact&min=1"
        waiting = [stack.enter_context(poll(sandbox, mine.token, query)) for _ in range(LONG_POLLS)]
        wait_until_begun(sandbox.url)
        for n in range(30):
            assert other.update({"phone": PHONE, "name": f"{n}"}).status_code == 200
            assert other.contacts()
        mine.update({"phone": PHONE})
        for sock in waiting:
            assert [entry["id"] for entry in read_response(sock)[1]] == [2]


def test_those_who_wait_use_no_processor_time(sandbox):
    me = Developer(sandbox.url, "sandbox-idle")
    me.me()
    with ExitStack() as stack:
        waiting = [stack.enter_context(poll(sandbox, me.token, "min=2")) for _ in range(100)]
        wait_until_idle(sandbox.process)  # or it fails: what is looked at again and again is busy
        me.me()
        assert {len(read_response(sock)[1]) for sock in waiting} == {2}


def test_who_waits_in_a_journal_that_is_emptied_waits_on(sandbox):
    me = Developer(sandbox.url, "sandbox-emptied")
    me.me()
    with poll(sandbox, me.token, "min=2") as waiting:
        wait_until_begun(sandbox.url)
        me("DELETE", "/sandbox/requests")
        me.me()
        me.me()
        assert [entry["id"] for entry in read_response(waiting)[1]] == [3, 2]


def test_the_first_requests_of_new_tokens_may_wait_without_keeping_a_search_waiting(sandbox):
    developers = [Developer(sandbox.url, f"sandbox-patient-{n}") for n in range(8)]
    with ExitStack() as stack:
        waiting = [stack.enter_context(poll(sandbox, each.token, "min=1")) for each in developers]
        wait_until_begun(sandbox.url)
        search = "/v1/actions/search-contacts"
        found = post(sandbox.url, {"tag": "lead"}, "sandbox-searching", path=search)
        assert [contact["name"] for contact in found.json] == ["Grace Okafor"]
        for developer, sock in zip(developers, waiting, strict=True):
            developer.me()
            assert len(read_response(sock)[1]) == 1


def test_the_value_of_qyvo_token_is_shown_nowhere_whatever_it_was_sent_as(make_app):
    me = Developer(make_app(sandbox=True, QYVO_TOKEN="live-one"), "sandbox")
    me("GET", "/v1/live-one")
    body = {"phone": PHONE, "name": "live-one"}
    me("POST", UPDATE, body, headers={"X-Other": "live-one", "Authorization": "Bearer live-one"})
    me.update({"live-one": 1})
    assert len(me.journal()) == 3
    assert "live-one" not in json.dumps(me.journal())
