"""The sandbox: what arrived, starting over, failures on request, and who may reach it."""

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import (
    PHONE,
    ROOT,
    SECONDS,
    UPDATE,
    assert_refused,
    caller,
    connection,
    contacts_in,
    head,
    post,
    raw,
    serving,
    write_lock,
)

import sandbox as room
from store import BUSY_SECONDS

SEARCH = "/api/v1/actions/search-contacts"
GET = "/api/v1/actions/get-contact"


@pytest.fixture
def app(make_app):
    return make_app(sandbox=True)


class Developer:
    """Whoever holds this token, at the API and at /sandbox."""

    def __init__(self, app, token="sandbox-mine"):
        self._client = app.test_client()
        self._headers = {"Authorization": f"Bearer {token}"}
        self.update = caller(self._client, token)

    def __call__(self, method, path, body=None, **options):
        options["headers"] = self._headers | options.get("headers", {})
        return self._client.open(path, method=method, json=body, **options)

    def journal(self, **filters):
        return self("GET", "/sandbox/requests", query_string=filters).json

    def phones(self):
        return {c["phone"] for c in self("POST", SEARCH, {}).json}

    def arm(self, **fault):
        answer = self("PUT", "/sandbox/faults", fault)
        assert answer.status_code == 200, answer.json
        return answer.json


@pytest.fixture
def me(app):
    return Developer(app)


@pytest.fixture
def other(app):
    return Developer(app, "sandbox-other")


# Without the flag


@pytest.mark.parametrize("path", ["/", "/sandbox/requests", "/inspector/inspector.js"])
def test_a_deployment_has_none_of_it(make_app, path):
    assert_refused(make_app().test_client().get(path), 404, "Not found")


def test_a_deployment_does_without_the_files_of_the_sandbox():
    code = (
        "import sys; sys.modules['sandbox'] = None\n"
        "import app; app.create_app({'CONTACTS_DATABASE': '/nowhere'})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=20)


# The journal


def test_the_journal_tells_all_of_a_call(me):
    body = {"phone": PHONE, "metadata": {"city": "Paris"}}
    answer = me.update(body)
    [entry] = me.journal()
    assert entry.pop("milliseconds") > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry.pop("time"))
    assert entry == {
        "id": 1,
        "method": "POST",
        "path": UPDATE,
        "status": 200,
        "request_body": body,
        "response_body": answer.json,
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


def test_the_last_500_are_kept(me):
    for _ in range(502):
        me("GET", "/v1/me")
    assert [entry["id"] for entry in me.journal()] == list(range(502, 2, -1))


def test_bodies_of_4_mib_are_kept(me):
    for _ in range(70):
        me.update({"phone": PHONE, "metadata": {"large": "x" * 65_000}})
    ids = [entry["id"] for entry in me.journal()]
    assert ids == list(range(70, 70 - len(ids), -1))
    assert 60 < len(ids) < 70


def test_a_call_to_a_mistyped_path_is_in_the_journal(me):
    me("GET", "/actions/update-contact")
    [entry] = me.journal()
    assert (entry["path"], entry["status"]) == ("/actions/update-contact", 404)


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
    ],
)
def test_the_journal_is_narrowed_by_path_and_status(me, filters, ids):
    me.update({"phone": PHONE})
    me("GET", "/v1/me")
    me.update({"phone": "nonsense"})
    me.update({"phone": PHONE}, path="/v1/actions/update-contact")
    assert [entry["id"] for entry in me.journal(**filters)] == ids


@pytest.mark.parametrize(
    ("filters", "field"),
    [({"limit": 0}, "limit"), ({"limit": 501}, "limit"), ({"limit": "x"}, "limit"),
     ({"status": "ok"}, "status"), ({"pth": "/"}, "pth")],
)  # fmt: skip
def test_a_wrong_filter_is_a_422(me, filters, field):
    answer = me("GET", "/sandbox/requests", query_string=filters)
    assert_refused(answer, 422)
    assert list(answer.json["errors"]) == [field]


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        ({"data": b"{"}, 400, "The body is not JSON: "),
        ({"data": b"x", "content_type": "text/plain"}, 415, "Send JSON"),
        ({"json": {"phone": "1", "nam": ""}}, 422, "phone: Must start with +"),
        ({"json": {"phone": "+14155559999"}}, 404, "Contact not found"),
        ({"path": "/api/v1/actions/updatecontact"}, 404, "Not found"),
        ({"method": "PUT"}, 405, "Method not allowed"),
    ],
)
def test_a_refused_call_is_there_with_its_reason(app, sent, status, reason):
    headers = {"Authorization": "Bearer sandbox-mine"}
    request = {"path": UPDATE, "method": "POST", "content_type": "application/json"} | sent
    if "json" in sent:
        del request["content_type"]
    app.test_client().open(headers=headers, **request)
    [entry] = Developer(app).journal()
    assert entry["status"] == status
    assert entry["reason"].startswith(reason)


def test_every_field_is_in_the_reason_of_a_422(me):
    me.update({"phone": "1", "nam": ""})
    [entry] = me.journal()
    assert "nam: Unknown field" in entry["reason"]


def test_a_call_without_a_known_token_is_in_the_base_tokens_journal(app, me):
    for token in ("unknown", "sandboxes"):
        caller(app.test_client(), token)({"phone": PHONE, "name": "secret"})
    assert me.journal() == []
    entries = Developer(app, "sandbox").journal()
    assert [(e["status"], e["request_body"]) for e in entries] == [(401, None)] * 2


def test_no_token_is_in_the_journal(app, me):
    me.update({"phone": PHONE})
    caller(app.test_client(), "not-mine-to-see")({})
    for developer in (me, Developer(app, "sandbox")):
        text = developer("GET", "/sandbox/requests").text
        assert "Bearer" not in text
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


# Reset


def test_reset_puts_the_sample_contacts_back(me):
    samples = me.phones()
    me.update({"phone": PHONE, "name": "", "tags": "", "metadata": {"x": 1}})
    me("POST", "/api/v1/actions/create-contact", {"phone": "+14155550199"})
    assert me("POST", "/sandbox/reset").status_code == 204
    assert me.phones() == samples
    romain = me("POST", GET, {"phone": PHONE}).json
    assert (romain["name"], romain["tags"]) == ("Romain", ["vip"])
    assert "x" not in romain["metadata"]


def test_reset_empties_journal_and_faults(me):
    me.arm(status=500)
    me.update({"phone": PHONE})
    me("POST", "/sandbox/reset")
    assert me.journal() == []
    assert me("GET", "/sandbox/faults").json == {"armed": None, "struck": 0}


def test_reset_loads_the_contacts_that_it_is_given(me):
    contacts = [
        {"phone": "+33 6 39 98 01 02", "name": "Léa", "email": "lea@example.com"},
        {"phone": "+14155550188", "tags": "a, b", "metadata": {"n": [1, None]}},
    ]
    assert me("POST", "/sandbox/reset", {"contacts": contacts}).status_code == 204
    assert me.phones() == {"+33639980102", "+14155550188"}
    shown = me("POST", GET, {"phone": "+14155550188"}).json
    assert (shown["tags"], shown["metadata"]) == (["a", "b"], {"n": [1, None]})
    assert me("POST", "/sandbox/reset", {"contacts": []}).status_code == 204
    assert me.phones() == set()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "no phone"}, "contacts.1.phone"),
        ({"phone": "+14155550188", "nmae": ""}, "contacts.1.nmae"),
        ({"phone": "+14155550188", "metadata": {"x": "y" * 70_000}}, "contacts.1.metadata"),
        (7, "contacts.1"),
        (None, "contacts.1"),
    ],
)
def test_reset_is_all_or_nothing_and_says_which_entry_is_wrong(me, wrong, field):
    me.update({"phone": PHONE, "name": "As it was"})
    before = me.phones()
    answer = me("POST", "/sandbox/reset", {"contacts": [{"phone": "+14155550177"}, wrong]})
    assert_refused(answer, 422)
    assert list(answer.json["errors"]) == [field]
    assert me.phones() == before
    assert me.update({"phone": PHONE}).json["name"] == "As it was"
    assert me.journal() != []


@pytest.mark.parametrize("body", [{"contacts": None}, {"contacts": {}}, {"contact": []}, []])
def test_a_wrong_body_of_reset_is_a_422(me, body):
    assert_refused(me("POST", "/sandbox/reset", body), 422)


def test_reset_reads_phones_as_the_default_region_dials_them(make_app):
    me = Developer(make_app(sandbox=True, CONTACTS_DEFAULT_REGION="FR"))
    me("POST", "/sandbox/reset", {"contacts": [{"phone": "06 39 98 01 02"}]})
    assert me.phones() == {"+33639980102"}


def test_after_a_reset_a_search_finds_what_is_there_and_no_more(me):
    many = [{"phone": f"+1415555{n:04}", "name": f"Anaïs {n:04}"} for n in range(700)]
    me("POST", "/sandbox/reset", {"contacts": many})
    assert len(me("POST", SEARCH, {"query": "anaïs 06"}).json) == 50
    me("POST", "/sandbox/reset", {"contacts": [{"phone": PHONE, "name": "Zoé"}] * 2})
    assert me("POST", SEARCH, {"query": "anaïs"}).json == []
    assert [c["name"] for c in me("POST", SEARCH, {"query": "zoé"}).json] == ["Zoé"]


def test_reset_leaves_every_other_workspace_alone(me, other):
    other.update({"phone": PHONE, "name": "Theirs"})
    other.arm(status=503, times=9)
    me("POST", "/sandbox/reset", {"contacts": []})
    assert other("GET", "/sandbox/faults").json["armed"]["status"] == 503
    assert len(other.journal()) == 1
    assert "+14155550123" in contact_phones(other)


def contact_phones(developer):
    developer("DELETE", "/sandbox/faults")
    return developer.phones()


# Faults


@pytest.mark.parametrize(
    ("status", "text", "header"),
    [
        (401, "Unauthenticated.", "WWW-Authenticate"),
        (404, "Contact not found", None),
        (422, "The given data was invalid.", None),
        (429, "Too many requests", "Retry-After"),
        (500, "Server error", None),
        (502, None, None),
        (503, "The database is busy. Nothing was written; try again.", "Retry-After"),
        (504, None, None),
    ],
)
def test_a_fault_is_the_documented_error_as_often_as_asked(me, caplog, status, text, header):
    me.arm(status=status, times=2)
    for _ in range(2):
        answer = me.update({"phone": PHONE, "name": "Never written"})
        assert_refused(answer, status, text)
        assert header is None or answer.headers[header]
    assert me.update({"phone": PHONE}).json["name"] == "Romain"
    assert "Traceback" not in caplog.text


def test_what_is_armed_and_how_often_it_has_struck_is_shown(me):
    armed = {"status": 429, "times": 2, "probability": 1.0, "path": "/me"}
    shown = me.arm(path="/me", times=2, status=429)
    assert shown == {"armed": armed, "struck": 0}
    assert list(shown["armed"]) == list(armed)  # in the order of the README
    me("GET", "/v1/me")
    assert me("GET", "/sandbox/faults").json == {"armed": armed, "struck": 1}
    me("GET", "/v1/me")
    assert me("GET", "/sandbox/faults").json == {"armed": None, "struck": 2}


def test_a_fault_lasts_until_it_is_disarmed(me):
    me.arm(status=500)
    assert {me("GET", "/v1/me").status_code for _ in range(5)} == {500}
    assert me("DELETE", "/sandbox/faults").status_code == 204
    assert me("GET", "/v1/me").status_code == 200


@pytest.mark.parametrize("path", ["/actions/update-contact", UPDATE, "update-contact"])
def test_a_fault_may_meet_one_call_only(me, path):
    me.arm(status=503, path=path)
    assert me("GET", "/v1/me").status_code == 200
    assert me("POST", GET, {"phone": PHONE}).status_code == 200
    assert me.update({"phone": PHONE}).status_code == 503


def test_a_fault_strikes_with_the_probability_it_is_given(me):
    me.arm(status=500, probability=0.5)
    struck = sum(me("GET", "/v1/me").status_code == 500 for _ in range(200))
    assert 50 < struck < 150  # by chance not so once in 10**12 times
    assert me("GET", "/sandbox/faults").json["struck"] == struck


def test_a_faulted_call_is_in_the_journal_with_what_was_sent(me):
    me.arm(status=429)
    me.update({"phone": PHONE})
    [entry] = me.journal()
    assert (entry["status"], entry["fault"]) == (429, True)
    assert entry["request_body"] == {"phone": PHONE}


def test_faults_meet_neither_the_sandboxs_own_calls_nor_other_workspaces(me, other):
    me.arm(status=500)
    assert me("POST", "/sandbox/reset").status_code == 204
    me.arm(status=500)
    assert other("GET", "/v1/me").status_code == 200
    assert me("GET", "/v1/me").status_code == 500


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["status", "delay_ms"]),
        ({"status": 418}, ["status"]),
        ({"status": "429"}, ["status"]),
        ({"status": 429, "times": 0}, ["times"]),
        ({"status": 429, "times": True}, ["times"]),
        ({"status": 429, "probability": 0}, ["probability"]),
        ({"status": 429, "probability": 1.5}, ["probability"]),
        ({"status": 429, "path": "/actions/updatecontact"}, ["path"]),
        ({"status": 429, "path": None}, ["path"]),
        ({"status": 429, "path": ""}, ["path"]),
        ({"delay_ms": 60_001}, ["delay_ms"]),
        ({"delay_ms": -1}, ["delay_ms"]),
        ({"status": 429, "time": 1}, ["time"]),
    ],
)
def test_a_wrong_fault_is_a_422_and_arms_nothing(me, body, fields):
    answer = me("PUT", "/sandbox/faults", body)
    assert_refused(answer, 422)
    assert list(answer.json["errors"]) == fields
    assert me("GET", "/sandbox/faults").json["armed"] is None


def test_a_delay_slows_and_lets_the_call_through(me):
    me.arm(delay_ms=150, times=1)
    started = time.monotonic()
    assert me.update({"phone": PHONE, "name": "Slow"}).json["name"] == "Slow"
    assert time.monotonic() - started >= 0.15
    [entry] = me.journal()
    assert entry["milliseconds"] >= 150


def test_delayed_calls_hold_nobody_else_up(tmp_path):
    with serving(tmp_path, "--sandbox") as server, ThreadPoolExecutor(60) as pool:
        with connection(server.url) as http:
            headers = {"Authorization": "Bearer sandbox-slow", "Content-Type": "application/json"}
            http.request("PUT", "/sandbox/faults", json.dumps({"delay_ms": 1500}), headers)
            assert http.getresponse().status == 200
        started = time.monotonic()
        slow = [pool.submit(post, server.url, {"phone": PHONE}, "sandbox-slow") for _ in range(50)]
        time.sleep(0.5)
        for _ in range(20):
            assert post(server.url, {"phone": PHONE}, "sandbox-quick").status_code == 200
        assert not any(call.done() for call in slow)
        assert {call.result(30).status_code for call in slow} == {200}
        assert time.monotonic() - started < 15  # four at a time it would be 19


# Workspaces


@pytest.fixture
def few_workspaces(monkeypatch):
    monkeypatch.setattr(room, "MOST_WORKSPACES", 4)


def test_the_longest_unused_workspace_is_dropped_with_all_that_is_in_it(few_workspaces, app):
    a, b, c, d = (Developer(app, f"sandbox-{name}") for name in "abcd")
    for developer in (a, b, c):
        developer.update({"phone": PHONE, "name": "Kept"})
        developer.arm(status=500, path="/me")
    a("GET", "/sandbox/faults")  # b is now the longest unused
    d.update({"phone": PHONE})
    stored = contacts_in(app.extensions["store"].path)
    assert len({row["workspace_id"] for row in stored}) == 3
    assert a.update({"phone": PHONE}).json["name"] == "Kept"
    assert b.update({"phone": PHONE}).json["name"] == "Romain"
    assert len(b.journal()) == 1
    assert b("GET", "/v1/me").status_code == 200


def test_the_number_of_a_dropped_workspace_is_never_given_to_another(few_workspaces, app):
    path = app.extensions["store"].path
    given = set()
    for name in "abcabde":  # when d comes, c is the newest and the longest unused
        Developer(app, f"sandbox-{name}").update({"phone": PHONE})
        given |= {(row["workspace_id"], row["id"]) for row in contacts_in(path)}
    assert len({workspace for workspace, _ in given}) == 5


def test_what_the_rate_limit_keeps_of_a_workspace_goes_with_it(few_workspaces, make_app):
    app = make_app(sandbox=True, CONTACTS_RATE_LIMIT="1")
    for name in "abcda":
        assert Developer(app, f"sandbox-{name}")("GET", "/v1/me").status_code == 200
    assert Developer(app, "sandbox-a")("GET", "/v1/me").status_code == 429


def test_the_base_tokens_workspace_stays(few_workspaces, app):
    Developer(app, "sandbox").update({"phone": PHONE, "name": "Kept"})
    for n in range(9):
        Developer(app, f"sandbox-{n}").update({"phone": PHONE})
    assert Developer(app, "sandbox").update({"phone": PHONE}).json["name"] == "Kept"


def test_workspaces_outlive_a_restart_and_count_towards_the_bound(few_workspaces, make_app):
    app = make_app(sandbox=True)
    for name in "abc":
        Developer(app, f"sandbox-{name}").update({"phone": PHONE, "name": "Kept"})
    app = make_app(sandbox=True)
    Developer(app, "sandbox-d").update({"phone": PHONE})
    names = [
        Developer(app, f"sandbox-{name}").update({"phone": PHONE}).json["name"] for name in "cba"
    ]
    assert names == ["Kept", "Kept", "Romain"]


def test_a_new_token_while_the_database_is_busy_is_a_503_after_one_wait(app, monkeypatch):
    monkeypatch.setattr("store.BUSY_SECONDS", 1)
    app.extensions["store"].open()
    with write_lock(app.extensions["store"].path):
        started = time.monotonic()
        assert_refused(Developer(app, "sandbox-new").update({"phone": PHONE}), 503)
        assert time.monotonic() - started < 1.8
        assert_refused(Developer(app, "sandbox-new")("GET", "/v1/nowhere"), 404)
    assert Developer(app, "sandbox-new").update({"phone": PHONE}).status_code == 200


def test_new_tokens_that_wait_for_the_database_keep_nobody_else_waiting(tmp_path):
    with serving(tmp_path, "--sandbox") as server, ThreadPoolExecutor(8) as pool:
        assert post(server.url, {"phone": PHONE}, "sandbox").status_code == 200
        with write_lock(server.database):
            new = [
                pool.submit(post, server.url, {"phone": PHONE}, f"sandbox-{n}") for n in range(8)
            ]
            with raw(server.url, head("sandbox-slow", "Content-Length: 9")):
                time.sleep(0.3)  # for all of them to reach the lock
                for _ in range(5):
                    started = time.monotonic()
                    with connection(server.url) as http:
                        http.request("GET", "/healthz")
                        assert http.getresponse().status == 200
                    answer = post(server.url, {"phone": PHONE}, "sandbox", path=GET)
                    assert answer.status_code == 200
                    assert time.monotonic() - started < BUSY_SECONDS / 2
                assert not any(call.done() for call in new)
        assert {call.result(SECONDS).status_code for call in new} == {200}


def test_many_tokens_at_once_get_a_workspace_each(app):
    ready = threading.Barrier(20)

    def call(n):
        ready.wait(10)
        return Developer(app, f"sandbox-{n % 10}").update({"phone": PHONE, "metadata": {f"{n}": 1}})

    with ThreadPoolExecutor(20) as pool:
        ids = [answer.json["id"] for answer in pool.map(call, range(20))]
    assert len(set(ids)) == 10


def test_calls_at_the_same_time_are_each_in_the_journal_of_their_workspace(app):
    def calls(n):
        developer = Developer(app, f"sandbox-{n}")
        for _ in range(50):
            developer("GET", "/v1/me")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, [0, 1, 2, 3] * 2))
    for n in range(4):
        assert len(Developer(app, f"sandbox-{n}").journal()) == 100
    assert Developer(app, "sandbox").journal() == []


# Who may reach it


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8000", "127.0.0.2:80", "[::1]:9", "LOCALHOST:80"]
)
def test_the_sandbox_answers_to_the_names_of_loopback(me, host):
    assert me("GET", "/v1/me", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", ""]
)
@pytest.mark.parametrize("path", ["/", "/v1/me", "/sandbox/requests", "/inspector/inspector.js"])
def test_the_sandbox_answers_to_no_other_name(me, host, path):
    assert_refused(me("GET", path, headers={"Host": host}), 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("path", [UPDATE, "/sandbox/reset"])
def test_no_page_of_another_site_may_change_anything(me, headers, path):
    before = contacts_in_workspace(me)
    assert_refused(me("POST", path, {"phone": PHONE, "name": "x"}, headers=headers), 403)
    assert contacts_in_workspace(me) == before


def contacts_in_workspace(developer):
    return developer("POST", SEARCH, {}).json


def test_the_sandboxs_own_page_may(me):
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert me("POST", "/sandbox/reset", headers=own).status_code == 204


def test_sandbox_calls_need_a_token(app):
    for method, path in [
        ("GET", "/sandbox/requests"), ("DELETE", "/sandbox/requests"), ("POST", "/sandbox/reset"),
        ("GET", "/sandbox/faults"), ("PUT", "/sandbox/faults"), ("DELETE", "/sandbox/faults"),
    ]:  # fmt: skip
        answer = Developer(app, "unknown")(method, path)
        assert_refused(answer, 401, "Unauthenticated.")


def test_beyond_loopback_one_line_says_who_sees_everything(tmp_path):
    with serving(tmp_path, "--sandbox", "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert post(url, {"phone": PHONE}, "sandbox", Host="box.example").status_code == 200
        assert [line for line in server.log().splitlines() if "sees and changes everything" in line]
