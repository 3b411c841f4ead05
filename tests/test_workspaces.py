"""A token's workspace is all that its requests see and change; a sandbox keeps 200 of them."""

import io
import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import (
    PHONE,
    SECONDS,
    assert_refused,
    caller,
    connection,
    contacts_in,
    head,
    raw,
    serving,
    wait_until,
    write_lock,
)
from developer import CREATE, GET, SAMPLES, Developer

ROMAIN = next(iter(SAMPLES))
NEW = "0197a1c0-5e00-7000-8000-00000000000a"
PHONES = ["+14155550101", "+14155550102", "+14155550103"]


@pytest.fixture
def app(make_app):
    """A sandbox: any token that continues `sandbox` opens a workspace of its own."""
    return make_app(sandbox=True)


@pytest.fixture
def mine(app):
    return Developer(app, "sandbox-mine")


@pytest.fixture
def theirs(app):
    return Developer(app, "sandbox-theirs")


# Apart


def test_the_same_phone_may_live_in_several_workspaces(mine, theirs, stored):
    first, second = (each("POST", CREATE, {"phone": PHONES[0]}).json for each in (mine, theirs))
    assert first["id"] != second["id"]
    assert [row["phone"] for row in stored()].count(PHONES[0]) == 2


def test_a_request_by_phone_or_id_changes_only_its_tokens_workspace(mine, theirs, stored):
    before = theirs("POST", GET, {"phone": PHONE}).json
    mine.update({"phone": PHONE, "name": "Mine", "tags": "mine", "metadata": {"mine": True}})
    mine.update({"contact_id": before["id"], "email": "mine@example.com"})
    assert theirs("POST", GET, {"phone": PHONE}).json == before
    marked = ["mine" in row["metadata"] for row in stored() if row["phone"] == PHONE]
    assert sorted(marked) == [False, True]


def test_a_contact_of_another_workspace_is_a_404_by_id(mine, theirs, stored):
    contact = theirs("POST", CREATE, {"phone": PHONES[0]}).json
    mine.me()
    before = stored()
    for body in (
        {"contact_id": contact["id"]},
        {"contact_id": contact["id"], "name": "Taken over"},
        {"contact_id": contact["id"], "phone": PHONE, "name": "Taken over"},
    ):
        response = mine.update(body)
        assert_refused(response, 404, "Contact not found")
        assert response.data == mine.update({"contact_id": str(uuid.uuid4())}).data
    assert stored() == before


def test_a_contact_of_another_workspace_is_a_404_by_phone(make_app):
    app = make_app()
    store = app.extensions["store"]
    store.get_or_create_workspace("theirs", [{"phone": "+33639980101"}])
    theirs = caller(app.test_client(), store.create_token("theirs", "theirs"))
    mine = caller(app.test_client(), store.create_token("mine", "mine"))
    assert theirs({"phone": "+33639980101"}).status_code == 200
    assert_refused(mine({"phone": "+33639980101", "name": "Taken"}), 404, "Contact not found")
    assert_refused(theirs({"phone": PHONE}), 404, "Contact not found")


def test_two_tokens_of_one_workspace_share_its_contacts(make_app):
    app = make_app()
    store, client = app.extensions["store"], app.test_client()
    first, second = (caller(client, store.create_token(name)) for name in ("first", "second"))
    assert first({"phone": PHONE, "name": "Shared"}).json == second({"phone": PHONE}).json


def test_random_operations_in_two_workspaces_never_meet(app):
    """Model-based: each workspace holds what was written to it, and nothing else."""
    hypothesis = pytest.importorskip("hypothesis", reason="a property test needs hypothesis")
    st = hypothesis.strategies
    changes = st.fixed_dictionaries(
        {},
        optional={
            "name": st.text("aéß🙂", max_size=5),
            "email": st.sampled_from(["", "a@example.com", "b@example.com"]),
            "tags": st.lists(st.text("aéß🙂", min_size=1, max_size=2), max_size=3, unique=True),
            "metadata": st.dictionaries(
                st.sampled_from("abc"),
                st.text(max_size=5).filter(lambda text: "\0" not in text)
                | st.none()
                | st.just("x" * 40_000),
                max_size=2,
            ),
        },
    )
    operation = st.tuples(
        st.integers(0, 1),  # whose token
        st.integers(0, 1),  # whose contact is named by id
        st.sampled_from(PHONES),
        st.sampled_from(["id", "phone", "both"]),
        changes,
    )
    developers = Developer(app, "sandbox-a"), Developer(app, "sandbox-b")

    def start(developer):
        body = {"contacts": [{"phone": phone} for phone in PHONES]}
        assert developer("POST", "/sandbox/reset", body).status_code == 204
        return {phone: developer("POST", GET, {"phone": phone}).json for phone in PHONES}

    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.lists(operation, max_size=12))
    def check(operations):
        models = [start(developer) for developer in developers]
        for sender, owner, phone, lookup, fields in operations:
            contact_id = models[owner][phone]["id"]
            body = {"contact_id": contact_id, "phone": phone}
            if lookup != "both":
                body = {key: value for key, value in body.items() if lookup in key}
            sent = {**fields, "tags": ",".join(fields["tags"])} if "tags" in fields else fields
            response = developers[sender].update(body | sent)
            model = models[sender][phone]
            metadata = model["metadata"] | fields.get("metadata", {})
            large = [value for value in metadata.values() if value and len(value) == 40_000]
            if lookup != "phone" and sender != owner:
                assert response.status_code == 404
            elif len(large) > 1 and "metadata" in fields:
                assert response.status_code == 422
            else:
                assert response.status_code == 200
                cleared = {key: fields[key] or None for key in ("name", "email") if key in fields}
                models[sender][phone] = model | fields | cleared | {"metadata": metadata}
        for developer, model in zip(developers, models, strict=True):
            for phone, contact in model.items():
                assert developer("POST", GET, {"contact_id": contact["id"]}).json == contact
                assert developer("POST", GET, {"phone": phone}).json == contact

    check()


# Opened by a token


def test_a_sandbox_token_continues_sandbox_after_a_hyphen(app):
    for token in ("sandbox", "sandbox-gw0", "sandbox-checkout-test", "sandbox--"):
        assert Developer(app, token).update({"phone": PHONE}).status_code == 200
    for token in (
        "sandbox2",
        "sandbox_a",
        "sandbox-",
        "Sandbox",
        "a-sandbox",
        "sandbox-é",
        "sandbox-a b",
        "sandbox-" + "a" * 300,
    ):
        assert_refused(Developer(app, token).update({"phone": PHONE}), 401)


def test_a_workspace_keeps_what_was_written_over_a_restart(mine, theirs, make_app):
    mine.update({"phone": PHONE, "name": "Kept"})
    assert theirs.name() == "Romain"
    restarted = Developer(make_app(sandbox=True), "sandbox-mine")
    assert restarted.name() == "Kept"
    assert restarted.contacts().keys() == SAMPLES.keys()


def test_many_tokens_at_once_get_a_workspace_each(app):
    ready = threading.Barrier(20)

    def update(n):
        ready.wait(10)
        developer = Developer(app, f"sandbox-{n % 10}")
        return developer.update({"phone": PHONE, "metadata": {f"{n}": 1}}).status_code

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(update, range(20))) == {200}
    for n in range(10):
        metadata = Developer(app, f"sandbox-{n}")("POST", GET, {"phone": PHONE}).json["metadata"]
        assert metadata.keys() >= {f"{n}", f"{n + 10}"}
        assert len(metadata) == 4  # with the sample's own two


def test_a_new_token_while_the_database_is_busy_is_a_503(app, monkeypatch):
    monkeypatch.setattr("store.BUSY_SECONDS", 0.5)
    Developer(app, "sandbox").me()
    with write_lock(app.extensions["store"].path):
        assert_refused(Developer(app, "sandbox-new").update({"phone": PHONE}), 503)
        assert_refused(Developer(app, "sandbox-new")("GET", "/v1/nowhere"), 404)
    assert Developer(app, "sandbox-new").update({"phone": PHONE}).status_code == 200


def test_new_tokens_that_wait_for_the_database_keep_nobody_else_waiting(tmp_path):
    with serving(tmp_path, "--sandbox") as server, ThreadPoolExecutor(6) as pool:
        old = Developer(server.url, "sandbox")
        old.me()
        with write_lock(server.database):
            new = [pool.submit(Developer(server.url, f"sandbox-{n}").name) for n in range(6)]
            with raw(server.url, head("sandbox-slow", "Content-Length: 9")):
                for _ in range(5):
                    with connection(server.url) as http_connection:
                        http_connection.request("GET", "/healthz")
                        assert http_connection.getresponse().status == 200
                    assert old("POST", GET, {"phone": PHONE}).status_code == 200
                assert not any(request.done() for request in new)
        assert {request.result(SECONDS) for request in new} == {"Romain"}


# Dropped


@pytest.fixture
def at_most_four(monkeypatch):
    monkeypatch.setattr("sandbox.workspaces.MAX_WORKSPACES", 4)


def workspaces_in(app):
    return {row["workspace_id"] for row in contacts_in(app.extensions["store"].path)}


def test_200_workspaces_are_kept_and_the_next_is_opened_too(make_app):
    app = make_app(sandbox=True, CONTACTS_SYNCHRONOUS="NORMAL")
    developers = [Developer(app, "sandbox")]
    developers += [Developer(app, f"sandbox-{n}") for n in range(199)]
    for developer in developers:
        developer.update({"phone": PHONE, "name": "Kept"})
    assert {developer.name() for developer in developers} == {"Kept"}
    assert len(workspaces_in(app)) == 200
    assert Developer(app, "sandbox-new").name() == "Romain"
    assert len(workspaces_in(app)) == 200
    assert developers[2].name() == "Kept"
    assert developers[1].name() == "Romain"


def test_the_longest_unused_workspace_is_dropped_with_all_that_is_in_it(at_most_four, app):
    a, b, c, d = (Developer(app, f"sandbox-{name}") for name in "abcd")
    for developer in (a, b, c):
        developer.update({"phone": PHONE, "name": "Kept"})
        developer.inject(status=500, path="/me")
    a.faults()  # b is now the longest unused
    d.me()
    assert len(workspaces_in(app)) == 3
    assert a.name() == "Kept"
    assert b.name() == "Romain"
    assert len(b.journal()) == 1
    assert b.me().status_code == 200


def test_the_number_of_a_dropped_workspace_is_never_given_to_another(at_most_four, app):
    given = set()
    for name in "abcabde":  # when d comes, c is the newest and the longest unused
        Developer(app, f"sandbox-{name}").me()
        given |= workspaces_in(app)
    assert len(given) == 5


def test_the_workspace_of_sandbox_stays(at_most_four, app):
    Developer(app, "sandbox").update({"phone": PHONE, "name": "Kept"})
    for n in range(9):
        Developer(app, f"sandbox-{n}").me()
    assert Developer(app, "sandbox").name() == "Kept"


def test_workspaces_of_an_earlier_run_count_towards_the_bound(at_most_four, make_app):
    app = make_app(sandbox=True)
    for name in "abc":
        Developer(app, f"sandbox-{name}").update({"phone": PHONE, "name": "Kept"})
    app = make_app(sandbox=True)
    Developer(app, "sandbox-d").me()
    names = [Developer(app, f"sandbox-{name}").name() for name in "cba"]
    assert names == ["Kept", "Kept", "Romain"]


REFUSED = [
    {"headers": {"Host": "evil.example"}},
    {"headers": {"Origin": "http://evil.example"}},
    {"path": "/v1/nowhere"},
    {"path": "/sandbox/nowhere"},
    {"method": "PUT"},
    {"headers": {"Authorization": "Basic sandbox-a"}},
    {"headers": {"Authorization": "Bearer  sandbox-a"}},
    {"headers": {"Authorization": "Bearer sandbox-a extra"}},
]


@pytest.mark.parametrize("refused", REFUSED)
def test_a_refused_request_opens_no_workspace(app, refused):
    Developer(app, "sandbox").me()
    before = workspaces_in(app)
    request = {"method": "POST", "path": "/v1/actions/update-contact", "body": {"phone": PHONE}}
    assert Developer(app, "sandbox-a")(**request | refused).status_code in (401, 403, 404, 405)
    assert workspaces_in(app) == before
    assert "sandbox-a<" not in app.test_client().get("/").text


@pytest.mark.parametrize("refused", REFUSED)
def test_a_refused_request_drops_no_workspace_and_counts_as_use_of_none(at_most_four, app, refused):
    a, b, c, d = (Developer(app, f"sandbox-{name}") for name in "abcd")
    for developer in (a, b, c):
        developer.update({"phone": PHONE, "name": "Kept"})
    request = {"method": "POST", "path": "/v1/actions/update-contact", "body": {"phone": PHONE}}
    for developer in (d, a):
        assert developer(**request | refused).status_code in (401, 403, 404, 405)
    assert len(workspaces_in(app)) == 3
    d.me()  # for which that of `a` is dropped
    assert [developer.name() for developer in (b, c)] == ["Kept", "Kept"]
    assert a.name() == "Romain"


class LateBody(io.BytesIO):
    """A body that is read only when it has arrived."""

    def __init__(self, body):
        super().__init__(json.dumps(body).encode())
        self.awaited, self.arrived = threading.Event(), threading.Event()

    def readinto(self, buffer):
        self.awaited.set()
        assert self.arrived.wait(SECONDS)
        return super().readinto(buffer)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/actions/update-contact", {"phone": PHONE, "name": "Too late"}),
        ("POST", "/v1/actions/create-contact", {"phone": "+14155550199"}),
        ("POST", "/v1/actions/search-contacts", {}),
        ("POST", "/sandbox/reset", {"contacts": []}),
        ("PUT", "/sandbox/faults", {"status": 500}),
        ("PUT", f"/sandbox/contacts/{ROMAIN}", {"name": "Too late"}),
        ("PUT", f"/sandbox/contacts/{NEW}", {"phone": "+14155550199"}),
    ],
)
@pytest.mark.parametrize("reopened", [False, True])
def test_a_request_whose_workspace_is_dropped_meanwhile_is_a_401_and_changes_nothing(
    at_most_four, app, caplog, method, path, body, reopened
):
    base, a = Developer(app, "sandbox"), Developer(app, "sandbox-a")
    for developer in (base, a):
        developer.me()
        developer.inject(status=502, path="/actions/add-tag")
    late = LateBody(body)
    headers = {"Authorization": f"Bearer {a.token}", "Content-Length": len(late.getvalue())}
    request = {"method": method, "input_stream": late, "content_type": "application/json"}
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(app.test_client().open, path, headers=headers, **request)
        assert late.awaited.wait(SECONDS)
        for name in "bcda" if reopened else "bcd":
            Developer(app, f"sandbox-{name}").me()
        late.arrived.set()
        assert_refused(sent.result(SECONDS), 401, "Unauthenticated.")
    assert [fault["status"] for fault in base.faults()] == [502]
    assert a.faults() == []
    for developer in (base, a):
        assert {c["id"]: c["name"] for c in developer.contacts().values()} == {
            contact_id: name for contact_id, (_, name, _) in SAMPLES.items()
        }
    assert "/v1/me" in [entry["path"] for entry in base.journal()]
    assert not caplog.records


def test_a_delayed_request_whose_workspace_is_dropped_meanwhile_is_a_401(at_most_four, app):
    a = Developer(app, "sandbox-a")
    a.inject(delay_ms=1000)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(a.update, {"phone": PHONE, "name": "Too late"})
        wait_until(lambda: a.triggered() == [1])
        for name in "bcd":
            Developer(app, f"sandbox-{name}").me()
        assert not late.done()
        assert_refused(late.result(SECONDS), 401, "Unauthenticated.")
    assert a.name() == "Romain"


def test_who_waits_for_requests_of_a_workspace_that_is_dropped_gets_a_401(at_most_four, app):
    a = Developer(app, "sandbox-a")
    a.me()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(a, "GET", "/sandbox/requests", query={"min": 9, "timeout": 1})
        while not waiting.done():  # so that some of it happens once the wait has begun
            for name in "bcde":
                Developer(app, f"sandbox-{name}").me()
        assert_refused(waiting.result(), 401, "Unauthenticated.")


def test_a_workspace_that_is_opened_again_while_it_is_dropped_can_be_used(at_most_four, make_app):
    app = make_app(sandbox=True, CONTACTS_SYNCHRONOUS="NORMAL")
    developers = [Developer(app, f"sandbox-{n}") for n in range(5)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(40):
            for request in [pool.submit(developer.me) for developer in developers * 3]:
                assert request.result(SECONDS).status_code in (200, 401)
            assert {developer.me().status_code for developer in reversed(developers)} == {200}


def test_more_tokens_than_workspaces_at_once_are_all_served_and_none_is_lost(tmp_path):
    with (
        serving(tmp_path, "--sandbox", CONTACTS_SYNCHRONOUS="NORMAL") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        developers = [Developer(server.url, f"sandbox-{n}") for n in range(220)]
        Developer(server.url, "sandbox").update({"phone": PHONE, "name": "Kept"})
        developers[0].inject(delay_ms=1500)
        late = pool.submit(developers[0].update, {"phone": PHONE})
        requests = [pool.submit(each.me) for each in developers[1:] * 2]
        statuses = {request.result(SECONDS).status_code for request in requests}
        assert 200 in statuses <= {200, 401, 503}
        assert late.result(SECONDS).status_code in (200, 401, 503)
        assert {each.me().status_code for each in developers} == {200}
        assert Developer(server.url, "sandbox").name() == "Kept"
        assert "Traceback" not in server.log()
