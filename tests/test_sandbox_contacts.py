"""A look at a contact that leaves no trace: GET /sandbox/contacts."""

import pytest
from conftest import PHONE, assert_refused

GET = "/api/v1/actions/get-contact"
HEADERS = {"Authorization": "Bearer sandbox-mine"}


@pytest.fixture
def app(make_app):
    return make_app(sandbox=True, CONTACTS_RATE_LIMIT="2")


@pytest.fixture
def look(client):
    return lambda phone_or_id: client.get(f"/sandbox/contacts/{phone_or_id}", headers=HEADERS)


def test_a_contact_is_found_by_phone_and_by_id_as_get_contact_returns_it(client, look):
    contact = client.post(GET, json={"phone": PHONE}, headers=HEADERS).json
    assert contact["metadata"]
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
