"""The contract's table of conventions, each row as a test."""

import json
import re
import uuid

import pytest
from conftest import PHONE, TOKEN, UPDATE, assert_refused, caller, execute


def test_every_endpoint_is_served_under_api_v1_and_the_same_under_v1(call, contact):
    first = call({"phone": PHONE})
    second = call({"phone": PHONE}, path="/v1/actions/update-contact")
    assert first.status_code == second.status_code == 200
    assert first.data == second.data


@pytest.mark.parametrize("path", [UPDATE, "/v1/actions/update-contact"])
def test_every_request_needs_authorization_bearer_token(client, call, path):
    assert call({"phone": PHONE}, path).status_code == 200
    assert_refused(client.post(path, json={"phone": PHONE}), 401, "Unauthenticated.")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_bearer_is_read_in_either_case(client, scheme):
    response = client.post(
        UPDATE, json={"phone": PHONE}, headers={"Authorization": f"{scheme} {TOKEN}"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/vnd.api+json",
        "APPLICATION/JSON",
    ],
)
def test_the_request_body_is_a_json_object_of_a_json_content_type(call, content_type):
    assert call({"phone": PHONE}, content_type=content_type).status_code == 200


def test_a_byte_order_mark_is_no_reason_to_refuse_json(call):
    assert call(b"\xef\xbb\xbf" + json.dumps({"phone": PHONE}).encode()).status_code == 200


def test_the_response_body_is_json_as_utf8_text_not_escaped(call):
    response = call({"phone": PHONE, "name": "Élodie 🦊", "tags": "été"})
    assert response.content_type == "application/json"
    assert "Élodie 🦊" in response.data.decode()
    assert "été" in response.data.decode()


def test_ids_are_uuids_written_in_lower_case_with_hyphens(call, contact):
    assert contact["id"] == str(uuid.UUID(contact["id"]))
    assert call({"contact_id": contact["id"].upper()}).json["id"] == contact["id"]


def test_timestamps_are_iso_8601_utc_whole_seconds_with_offset_00_00(app, call, contact):
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", contact["updated_at"])
    execute(app.extensions["store"].path, "UPDATE contact SET updated_at = 1778141663999999")
    assert call({"phone": PHONE}).json["updated_at"] == "2026-05-07T08:14:23+00:00"


def test_phone_numbers_are_returned_as_e164(call):
    assert call({"phone": "+1 (415) 555-0123"}).json["phone"] == PHONE


def test_unset_name_or_email_is_null_in_responses(make_app):
    response = caller(make_app([{"phone": PHONE}]).test_client())({"phone": PHONE})
    assert (response.json["name"], response.json["email"]) == (None, None)
    assert '"name":null,"email":null' in response.get_data(as_text=True)


# A request that deserves several refusals, and loses one reason at each step.
STEPS = [
    (401, {"Authorization": "Bearer wrong"}),
    (415, {"Authorization": f"Bearer {TOKEN}"}),
    (400, {"Content-Type": "application/json"}),
    (422, {"data": b'{"phone": 7}'}),
    (404, {"data": b'{"phone": "+14155550199"}'}),
    (200, {"data": json.dumps({"phone": PHONE}).encode()}),
]


def test_the_order_of_checks_is_401_then_415_or_400_then_422_then_404(client):
    request = {"data": b"{", "Content-Type": "text/plain"}
    for status, change in STEPS:
        request |= change
        headers = {k: v for k, v in request.items() if k != "data"}
        assert client.post(UPDATE, data=request["data"], headers=headers).status_code == status


class Unreadable:
    """A body that nobody may touch."""

    def read(self, *args):
        raise AssertionError("the body was read")

    readline = readinto = __iter__ = read

    def tell(self):  # the test client asks where it starts and ends
        return 0

    def seek(self, *args):
        return 0


@pytest.mark.parametrize(
    ("token", "length", "status"),
    [("wrong", "20", 401), ("wrong", "9999999", 401), (TOKEN, "9999999", 413), (TOKEN, "20", 500)],
    ids=["wrong", "wrong_and_large", "large", "good_so_that_reading_would_show"],
)
def test_authentication_and_size_are_decided_before_a_byte_of_the_body_is_read(
    app, token, length, status
):
    response = app.test_client().post(
        UPDATE,
        input_stream=Unreadable(),
        environ_overrides={"CONTENT_LENGTH": length},
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert_refused(response, status)


def test_a_token_belongs_to_one_workspace_and_a_contact_of_another_is_a_404(make_app):
    app = make_app(sandbox=True)
    mine, theirs = (caller(app.test_client(), token) for token in ("sandbox-a", "sandbox-b"))
    new = {"phone": "+14155550199", "name": "Noor"}
    contact = mine(new, path="/v1/actions/create-contact").json
    for reference in ({"contact_id": contact["id"]}, {"phone": contact["phone"]}):
        assert_refused(theirs({**reference, "name": "Theirs"}), 404, "Contact not found")
    assert theirs(new, path="/v1/actions/create-contact").json["id"] != contact["id"]
    assert mine({"contact_id": contact["id"]}).json == contact
