"""POST /actions/update-contact: each sentence of the contract's section, as a test."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PHONE, ROMAIN, UPDATE, assert_refused, caller, execute

ALL_FIELDS = {
    "name": "Romane",
    "email": "romane@example.com",
    "tags": "new, vip",
    "metadata": {"plan": "gold"},
}


@pytest.fixture
def metadata(stored):
    return lambda: stored()[0]["metadata"]


@pytest.fixture
def other(make_app):
    """An app that holds a second contact beside Romain."""
    return make_app([ROMAIN, {"phone": "+33639980101"}])


@pytest.fixture
def age(app):
    """Makes every contact look as if it was last changed in 2001."""
    return lambda: execute(
        app.extensions["store"].path, "UPDATE contact SET updated_at = 1000000000000000"
    )


@pytest.mark.parametrize("path", [UPDATE, "/v1/actions/update-contact"])
def test_the_documented_request_works_under_both_base_paths(call, metadata, path):
    response = call({"phone": PHONE, "metadata": {"lifetime_value": 9120.00}}, path)
    assert response.status_code == 200
    assert metadata() == {**ROMAIN["metadata"], "lifetime_value": 9120.0}


# Finding the contact


def test_contact_id_finds_the_contact_by_id(call, contact):
    response = call({"contact_id": contact["id"], "name": "Found"})
    assert (response.status_code, response.json["id"]) == (200, contact["id"])
    assert response.json["name"] == "Found"


def test_contact_id_is_read_case_insensitively(call, contact):
    assert call({"contact_id": contact["id"].upper()}).json == contact


@pytest.mark.parametrize("text", ["", "42", "01J1YABCDEFGHJKMNPQRSTVWXY", "{id}0", "{hex}", "{id}"])
def test_contact_id_is_a_uuid(call, contact, text):
    ident = uuid.UUID(contact["id"])
    given = text.format(id=ident, hex=ident.hex)
    response = call({"contact_id": given})
    if text == "{id}":
        assert response.status_code == 200
    else:
        assert_refused(response, 422)
        assert list(response.json["errors"]) == ["contact_id"]


def test_phone_finds_the_contact_by_phone_normalised(call, contact):
    assert call({"phone": "+1 (415) 555-0123"}).json == contact


def test_phone_only_finds_and_is_never_written(call, contact, stored):
    before = stored()
    response = call({"contact_id": contact["id"], "phone": "+14155550199", "name": "Moved"})
    assert_refused(response, 404)
    assert call({"phone": " tel:+1-415-555-0123 "}).json["phone"] == PHONE
    assert stored() == before


@pytest.mark.parametrize("body", [{}, {"name": "Nobody"}, ALL_FIELDS])
def test_at_least_one_of_contact_id_and_phone_is_required(call, body):
    response = call(body)
    assert_refused(response, 422, "The given data was invalid.")
    assert response.json["errors"].keys() == {"contact_id", "phone"}
    assert all(response.json["errors"].values())


def test_with_both_both_must_be_true_of_one_and_the_same_contact_else_404(other):
    call = caller(other.test_client())
    romain, second = call({"phone": PHONE}).json, call({"phone": "+33639980101"}).json
    assert call({"contact_id": romain["id"], "phone": PHONE}).json == romain
    for contact_id, phone in [
        (romain["id"], second["phone"]),
        (second["id"], romain["phone"]),
        (romain["id"], "+14155550199"),
        (str(uuid.uuid4()), romain["phone"]),
    ]:
        response = call({"contact_id": contact_id, "phone": phone, "name": "Wrong person"})
        assert_refused(response, 404, "Contact not found")
    assert call({"phone": PHONE}).json == romain
    assert call({"phone": second["phone"]}).json == second


@pytest.mark.parametrize("unknown", [{"contact_id": str(uuid.uuid4())}, {"phone": "+14155550199"}])
def test_an_unknown_id_or_phone_is_a_404(call, unknown):
    assert_refused(call({**unknown, **ALL_FIELDS}), 404, "Contact not found")


# Writing fields


@pytest.mark.parametrize("field", ["name", "email", "tags", "metadata"])
def test_a_field_that_is_absent_is_left_alone(call, stored, field):
    [before] = stored()
    assert call({"phone": PHONE, field: ALL_FIELDS[field]}).status_code == 200
    [after] = stored()
    assert {k for k in before if before[k] != after[k]} == {field, "updated_at"}


@pytest.mark.parametrize("field", ["contact_id", "phone", *ALL_FIELDS])
def test_null_for_a_field_is_a_422(call, contact, stored, field):
    before = stored()
    response = call({"contact_id": contact["id"], "name": "Nulled", field: None})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [field]
    assert stored() == before


@pytest.mark.parametrize("empty", ["", "  ", "\t\u00a0\n"])
def test_empty_or_blank_text_clears_name_and_email_and_empties_tags(call, empty):
    response = call({"phone": PHONE, "name": empty, "email": empty, "tags": empty}).json
    assert (response["name"], response["email"], response["tags"]) == (None, None, [])


def test_leading_and_trailing_white_space_is_trimmed_from_strings(call, contact):
    given = {"name": " \u2003Élodie  M. \n", "email": "\te@example.com ", "tags": "  a b ,c  "}
    response = call({"contact_id": f" {contact['id']}\n", "phone": f"\t{PHONE} ", **given}).json
    assert (response["name"], response["email"]) == ("Élodie  M.", "e@example.com")
    assert response["tags"] == ["a b", "c"]


def test_name_is_a_string_up_to_255_characters(call, stored):
    longest = "é" * 254 + "🦊"
    assert call({"phone": PHONE, "name": f" {longest} "}).json["name"] == longest
    response = call({"phone": PHONE, "name": longest + "!"})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["name"]
    assert stored()[0]["name"] == longest


def test_email_is_a_valid_address_up_to_255_characters(call):
    longest = "r@" + "a.".join(["b" * 40] * 6) + ".com"
    longest = longest.replace("b", "b" * (1 + (255 - len(longest)) // 300), 1)
    longest = "r" * (255 - len(longest)) + longest
    assert len(longest) == 255
    assert call({"phone": PHONE, "email": longest}).json["email"] == longest
    assert_refused(call({"phone": PHONE, "email": "r" + longest}), 422)


@pytest.mark.parametrize(
    "email",
    [
        "romain",
        "@example.com",
        "romain@",
        "a b@example.com",
        "a@b@example.com",
        "a@b..com",
        "a@example.com\u200b",
        "a\u200b@example.com",
    ],
)
def test_an_email_that_is_no_address_is_a_422(call, stored, email):
    before = stored()
    response = call({"phone": PHONE, "email": email})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["email"]
    assert stored() == before


@pytest.mark.parametrize("field", ["contact_id", "phone", "name", "email", "tags"])
@pytest.mark.parametrize("value", [42, 1.5, True, ["vip"], {"a": "b"}])
def test_a_string_field_accepts_only_a_string(call, contact, field, value):
    response = call({"contact_id": contact["id"], field: value})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [field]


# Tags


@pytest.mark.parametrize(
    ("csv", "tags"),
    [
        pytest.param("lead", ["lead"], id="replaces_the_tag_list"),
        pytest.param("", [], id="empty_empties_it"),
        pytest.param(" a ,\tb c ,d", ["a", "b c", "d"], id="blanks_around_a_tag_are_dropped"),
        pytest.param(",a,, ,b,", ["a", "b"], id="empty_pieces_are_ignored"),
        pytest.param(",", [], id="nothing_but_empty_pieces"),
        pytest.param("b,a,b,c,a", ["b", "a", "c"], id="duplicates_kept_once_first_position_kept"),
        pytest.param("VIP,vip,été", ["VIP", "vip", "été"], id="case_and_accents_are_kept"),
    ],
)
def test_tags_is_csv_and_replaces_the_contacts_tag_list(call, stored, csv, tags):
    assert call({"phone": PHONE, "tags": csv}).json["tags"] == tags
    assert stored()[0]["tags"] == tags


def test_up_to_100_tags_of_up_to_64_characters(call):
    tags = [f"{n:0>64}" for n in range(100)]
    given = ",".join(tags)
    assert call({"phone": PHONE, "tags": given + "," + tags[0]}).json["tags"] == tags
    for refused in (given + ",one more", "x" * 65):
        response = call({"phone": PHONE, "tags": refused})
        assert_refused(response, 422)
        assert list(response.json["errors"]) == ["tags"]
    assert call({"phone": PHONE}).json["tags"] == tags


# Metadata


def test_metadata_is_merged_and_keys_not_given_stay(call, metadata):
    call({"phone": PHONE, "metadata": {"plan": "gold"}})
    call({"phone": PHONE, "metadata": {"": 1}})
    call({"phone": PHONE, "metadata": {}})
    assert metadata() == {**ROMAIN["metadata"], "plan": "gold", "": 1}


def test_a_metadata_key_given_replaces_that_keys_whole_value(call, metadata):
    call({"phone": PHONE, "metadata": {"address": {"city": "Paris"}}})
    assert metadata() == {**ROMAIN["metadata"], "address": {"city": "Paris"}}


def test_null_in_metadata_is_a_value_like_any_other_and_does_not_delete(call, metadata):
    call({"phone": PHONE, "metadata": {"lifetime_value": None, "new": None, "deep": {"a": None}}})
    assert metadata() == {
        **ROMAIN["metadata"],
        "lifetime_value": None,
        "new": None,
        "deep": {"a": None},
    }


@pytest.mark.parametrize(
    "value", [0, -1, 2**70, 9120.0, 1e-300, True, "", "été 🦊", [1, [2, {}]], {"a": {"b": []}}]
)
def test_any_json_value_survives_in_metadata(call, metadata, value):
    call({"phone": PHONE, "metadata": {"value": value}})
    assert metadata()["value"] == value
    assert type(metadata()["value"]) is type(value)


@pytest.mark.parametrize("value", ["text", 42, [[]], [["a", "b"]], True, '{"a": 1}'])
def test_metadata_is_an_object(call, metadata, value):
    response = call({"phone": PHONE, "metadata": value})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["metadata"]
    assert metadata() == ROMAIN["metadata"]


def test_an_empty_array_is_an_empty_object_as_php_writes_it(call, metadata):
    assert call({"phone": PHONE, "metadata": []}).status_code == 200
    assert metadata() == ROMAIN["metadata"]


def test_the_merged_result_is_at_most_64_kib_as_compact_utf8_json(make_app, tmp_path):
    call = caller(make_app([{"phone": PHONE}]).test_client())
    half = "é" * (16 * 1024)  # two bytes each
    assert call({"phone": PHONE, "metadata": {"a": half}}).status_code == 200
    rest = "b" * (64 * 1024 - len(f'{{"a":"{half}","b":""}}'.encode()))
    response = call({"phone": PHONE, "metadata": {"b": rest + "!"}, "name": "Too much"})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["metadata"]
    assert call({"phone": PHONE}).json["name"] is None
    assert call({"phone": PHONE, "metadata": {"b": rest}}).status_code == 200
    assert call({"phone": PHONE, "metadata": {"a": 1, "b": rest + "!"}}).status_code == 200


# What is refused whole


def test_unknown_fields_are_named_as_they_were_sent_after_those_that_are_wrong(call):
    sent = {"zz": 1, "name": 1, "aa": 2, "phone": PHONE, "mm": 3, "email": 4, "bb": 5}
    assert list(call(sent).json["errors"]) == ["name", "email", "zz", "aa", "mm", "bb"]


@pytest.mark.parametrize(
    "field", ["nmae", "id", "updated_at", "Name", "", ".a", "a.b", "_schema", "\ud800"]
)
def test_an_unknown_field_is_a_422_naming_it(call, stored, field):
    before = stored()
    response = call({"phone": PHONE, "name": "Typo", field: "x"})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [field]
    assert stored() == before


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "a\udfffb"])
@pytest.mark.parametrize(
    "field",
    [
        pytest.param(lambda text: {"name": text}, id="name"),
        pytest.param(lambda text: {"email": f"{text}@example.com"}, id="email"),
        pytest.param(lambda text: {"tags": f"vip,{text}"}, id="tags"),
        pytest.param(lambda text: {"metadata": {text: 1}}, id="key_of_metadata"),
        pytest.param(lambda text: {"metadata": {"a": [{"b": [text]}]}}, id="nested_value"),
        pytest.param(lambda text: {"metadata": {"a": [{"b": {text: 1}}]}}, id="nested_key"),
    ],
)
def test_text_that_the_database_or_utf8_could_not_carry_is_a_422(call, stored, field, text):
    before = stored()
    response = call({"phone": PHONE, **field(text)})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == list(field(text))
    assert stored() == before


def test_one_bad_field_refuses_the_whole_request_and_every_bad_field_is_named(call, stored):
    before = stored()
    response = call({"phone": PHONE, **ALL_FIELDS, "name": 7, "email": "none"})
    assert response.json["errors"].keys() == {"name", "email"}
    assert stored() == before


# Time and concurrency


def test_two_updates_at_the_same_time_both_count(app, stored):
    writes = [{"name": "Both"}, {"email": "both@example.com"}, {"tags": "both"}]
    writes += [{"metadata": {f"key{n}": n}} for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        calls = [caller(app.test_client()) for _ in writes]
        responses = threads.map(lambda call, body: call({"phone": PHONE, **body}), calls, writes)
        assert [response.status_code for response in responses] == [200] * len(writes)
    [row] = stored()
    assert (row["name"], row["email"], row["tags"]) == ("Both", "both@example.com", ["both"])
    assert row["metadata"] == ROMAIN["metadata"] | {f"key{n}": n for n in range(60)}


@pytest.mark.parametrize(
    "change",
    [{"name": "New"}, {"email": ""}, {"tags": "vip,new"}, {"metadata": {"lifetime_value": None}}],
)
def test_updated_at_is_the_time_of_the_last_request_that_changed_something(call, age, change):
    age()
    assert call({"phone": PHONE}).json["updated_at"] == "2001-09-09T01:46:40+00:00"
    changed = call({"phone": PHONE, **change}).json
    assert changed["updated_at"] > "2026"
    assert call({"phone": PHONE}).json == changed


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"name": " Romain "},
        {"email": ROMAIN["email"], "tags": "vip,vip"},
        {"metadata": {}},
        {"metadata": ROMAIN["metadata"]},
    ],
)
def test_a_request_that_changes_nothing_writes_nothing_and_keeps_updated_at(app, call, age, same):
    age()
    path = app.extensions["store"].path
    wal = path.with_name(path.name + "-wal")
    before = call({"phone": PHONE}).json, path.read_bytes(), wal.read_bytes()
    response = call({"phone": PHONE, **same})
    assert response.status_code == 200
    assert (response.json, path.read_bytes(), wal.read_bytes()) == before
    call({"phone": PHONE, "name": "Different"})
    assert wal.read_bytes() != before[2]  # so that reading the file would have shown a write


# The response


def test_200_returns_exactly_these_keys_in_this_order_and_never_metadata(call):
    response = call({"phone": PHONE, **ALL_FIELDS})
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert list(response.json) == ["id", "phone", "name", "email", "tags", "updated_at"]
    assert response.json | {"id": "", "updated_at": ""} == {
        "id": "",
        "phone": PHONE,
        "name": "Romane",
        "email": "romane@example.com",
        "tags": ["new", "vip"],
        "updated_at": "",
    }
