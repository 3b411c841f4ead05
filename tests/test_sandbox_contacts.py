"""A look at a contact that leaves no trace: GET /sandbox/contacts."""

import pytest
from conftest import PHONE, UPDATE, assert_refused, serving
from developer import Developer

GET = "/api/v1/actions/get-contact"
ROMAIN = "0197a1c0-5e00-7000-8000-000000000001"
HEADERS = {"Authorization": "Bearer sandbox-mine"}


@pytest.fixture
def app(make_app):
    return make_app(sandbox=True, CONTACTS_RATE_LIMIT="2")


@pytest.fixture
def look(client):
    return lambda phone_or_id: client.get(f"/sandbox/contacts/{phone_or_id}", headers=HEADERS)


@pytest.fixture
def put(client):
    def put(contact_id, body):
        return client.put(f"/sandbox/contacts/{contact_id}", json=body, headers=HEADERS)

    return put


def test_a_look_by_phone_and_by_id_returns_what_get_contact_does_and_updated_at(client, look):
    contact = client.post(GET, json={"phone": PHONE}, headers=HEADERS).json
    assert contact["metadata"]
    body = {"phone": PHONE, "name": "Changed"}
    updated = client.post(UPDATE, json=body, headers=HEADERS).json["updated_at"]
    contact |= {"name": "Changed", "updated_at": updated}
    assert look(PHONE).json == look("+1 (415) 555-0123").json == contact
    assert look(contact["id"]).json == look(contact["id"].upper()).json == contact
    assert list(look(PHONE).json) == list(contact)


def test_a_look_is_outside_of_journal_faults_and_rate_limit(client, look):
    fault = {"status": 500, "times": 1}
    assert client.put("/sandbox/faults", json=fault, headers=HEADERS).status_code == 200
    for _ in range(3):
        assert look(PHONE).status_code == 200
    assert client.post(GET, json={"phone": PHONE}, headers=HEADERS).status_code == 500
    assert client.post(GET, json={"phone": PHONE}, headers=HEADERS).status_code == 200
    journal = client.get("/sandbox/requests", headers=HEADERS).json
    assert [entry["status"] for entry in journal] == [200, 500]


def test_the_list_is_what_search_contacts_finds_each_contact_whole(client, look):
    def listed(**filters):
        return client.get("/sandbox/contacts", query_string=filters, headers=HEADERS)

    assert len(listed().json) == 5
    assert listed(tag="vip", query="romain").json == [look(PHONE).json]
    assert listed(email="nobody@example.com").json == []
    assert_refused(listed(nmae="Romain"), 422)
    assert client.get("/sandbox/requests", headers=HEADERS).json == []


FURTHER = {
    "source": "woocommerce",
    "locale": "pt-BR",
    "opted_in_at": "2026-04-15T10:32:00+00:00",
    "opted_out_at": "2026-05-02T18:30:00+00:00",
    "last_message_at": "2026-05-07T08:14:23+00:00",
    "total_messages": 27,
}
NEW = "0197a1c0-5e00-7000-8000-0000000000ff"


def test_what_qyvo_says_of_a_contact_can_be_written(client, look, put):
    for contact_id, body in ((ROMAIN, FURTHER), (NEW, FURTHER | {"phone": "+14155550199"})):
        response = put(contact_id, body)
        assert response.status_code == 200
        assert response.json == look(contact_id).json
        assert response.json.items() >= body.items()
    assert client.post(GET, json={"phone": PHONE}, headers=HEADERS).json.items() >= FURTHER.items()


def test_what_qyvo_says_of_a_contact_can_be_cleared(look, put):
    put(ROMAIN, FURTHER)
    cleared = {name: "" for name in FURTHER if name not in ("source", "total_messages")}
    assert put(ROMAIN, cleared).status_code == 200
    assert {name: look(ROMAIN).json[name] for name in cleared} == dict.fromkeys(cleared)


def test_a_reset_loads_what_qyvo_says_of_a_contact(client, look):
    body = {"contacts": [FURTHER | {"phone": "+14155550188"}]}
    assert client.post("/sandbox/reset", json=body, headers=HEADERS).status_code == 204
    assert look("+14155550188").json.items() >= FURTHER.items()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "elsewhere"),
        ("source", ""),
        ("locale", "no locale"),
        ("opted_in_at", "2026-04-15"),
        ("opted_out_at", "2026-04-15T10:32:00"),
        ("last_message_at", 7),
        ("total_messages", -1),
        ("total_messages", "27"),
        ("created_at", "2026-04-15T10:32:00+00:00"),
        ("updated_at", "2026-04-15T10:32:00+00:00"),
    ],
)
def test_a_wrong_value_is_a_422_and_nothing_is_written(look, put, field, value):
    before = look(ROMAIN).json
    response = put(ROMAIN, {"name": "Never written", field: value})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [field]
    assert look(ROMAIN).json == before


def test_whom_nobody_knows_is_a_404_and_what_is_neither_id_nor_phone_a_422(look):
    assert_refused(look("+14155550000"), 404, "Contact not found")
    assert_refused(look("0197a1c0-5e00-7000-8000-0000000000ff"), 404, "Contact not found")
    assert_refused(look("+1"), 422)
    assert_refused(look("Romain"), 422)


def test_a_look_needs_a_token_and_sees_its_own_workspace_alone(client, look):
    assert_refused(client.get(f"/sandbox/contacts/{PHONE}"), 401)
    body = {"phone": "+14155550188", "name": "Mine"}
    client.post("/v1/actions/create-contact", json=body, headers=HEADERS)
    assert look("+14155550188").json["name"] == "Mine"
    other = {"Authorization": "Bearer sandbox-other"}
    assert client.get("/sandbox/contacts/+14155550188", headers=other).status_code == 404


def test_a_query_is_read_as_the_region_dials_it_in_the_first_request_of_a_thread_too(tmp_path):
    with serving(tmp_path, "--sandbox", CONTACTS_DEFAULT_REGION="FR") as server:
        me = Developer(server.url)
        for _ in range(3):
            found = me("GET", "/sandbox/contacts", query={"query": "06 39 98 01 01"}).json
            assert [contact["phone"] for contact in found] == ["+33639980101"]
