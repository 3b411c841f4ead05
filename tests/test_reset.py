"""Starting over, and editing contacts: what a test does to a workspace beside the API."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PHONE, assert_refused, head, raw
from developer import CREATE, GET, SAMPLES, SEARCH, Developer

ROMAIN, ELODIE = list(SAMPLES)[:2]
NEW = "0197a1c0-5e00-7000-8000-00000000000a"


@pytest.fixture
def app(make_app):
    return make_app(sandbox=True)


def reset(developer, *contacts):
    return developer("POST", "/sandbox/reset", {"contacts": list(contacts)})


# Reset


def test_reset_puts_the_sample_contacts_back(me):
    before = me("POST", GET, {"phone": PHONE}).json
    me.update({"phone": PHONE, "name": "", "tags": "", "metadata": {"x": 1}})
    me("POST", CREATE, {"phone": "+14155550199"})
    assert me("POST", "/sandbox/reset").status_code == 204
    assert me.contacts().keys() == SAMPLES.keys()
    after = me("POST", GET, {"phone": PHONE}).json
    assert {**after, "created_at": None} == {**before, "created_at": None}


def test_reset_empties_journal_and_faults(me):
    me.inject(status=500)
    me.update({"phone": PHONE})
    me("POST", "/sandbox/reset")
    assert me.journal() == []
    assert me.faults() == []


def test_reset_loads_the_contacts_that_it_is_given(me):
    contacts = [
        {"phone": "+33 6 39 98 01 02", "name": "Léa", "email": "lea@example.com"},
        {"phone": "+14155550188", "tags": "a, b", "metadata": {"n": [1, None]}},
    ]
    assert reset(me, *contacts).status_code == 204
    assert me.phones() == {"+33639980102", "+14155550188"}
    shown = me("POST", GET, {"phone": "+14155550188"}).json
    assert (shown["tags"], shown["metadata"]) == (["a", "b"], {"n": [1, None]})
    assert reset(me).status_code == 204
    assert me.phones() == set()


def test_an_entry_of_a_reset_may_say_its_id(me, other):
    for developer in (me, other):
        assert reset(developer, {"phone": PHONE, "id": NEW.upper()}).status_code == 204
        assert developer.contacts().keys() == {NEW}
        assert developer.update({"contact_id": NEW, "name": "Found"}).json["id"] == NEW


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "no phone"}, "contacts.1.phone"),
        ({"phone": "+14155550188", "nmae": ""}, "contacts.1.nmae"),
        ({"phone": "+14155550188", "metadata": {"x": "y" * 70_000}}, "contacts.1.metadata"),
        ({"phone": "+14155550188", "id": "7"}, "contacts.1.id"),
        ({"phone": "+14155550188", "id": NEW.upper()}, "contacts.1.id"),
        ({"phone": "+1 415 555 0177"}, "contacts.1.phone"),
        (7, "contacts.1"),
        (None, "contacts.1"),
    ],
)
def test_reset_is_all_or_nothing_and_says_which_entry_is_wrong(me, wrong, field):
    me.update({"phone": PHONE, "name": "As it was"})
    before = me.contacts()
    response = reset(me, {"phone": "+14155550177", "id": NEW}, wrong)
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [field]
    assert me.contacts() == before
    assert me.journal() != []


def test_contacts_without_an_id_or_with_different_ones_are_no_duplicates(me):
    assert reset(me, {"phone": PHONE}, {"phone": "+14155550177"}).status_code == 204
    ids = [{"phone": PHONE, "id": ROMAIN}, {"phone": "+14155550177", "id": ELODIE}]
    assert reset(me, *ids).status_code == 204


@pytest.mark.parametrize("body", [{"contacts": None}, {"contacts": {}}, {"contact": []}, [{}]])
def test_a_wrong_body_of_reset_is_a_422(me, body):
    assert_refused(me("POST", "/sandbox/reset", body), 422)
    assert me.contacts().keys() == SAMPLES.keys()


def test_an_empty_array_as_the_body_of_a_reset_is_none_as_php_writes_it(me):
    me("DELETE", f"/sandbox/contacts/{ROMAIN}")
    assert me("POST", "/sandbox/reset", []).status_code == 204
    assert me.contacts().keys() == SAMPLES.keys()


def test_reset_reads_a_body_that_is_sent_in_chunks(sandbox):
    me = Developer(sandbox.url, "sandbox-chunks")
    body = b'{"contacts": [{"phone": "+14155550177"}]}'
    fields = ("Transfer-Encoding: chunked", "Connection: close")
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    request = head(me.token, *fields, path="/sandbox/reset") + chunks
    with raw(sandbox.url, request) as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 204 ")
    assert me.phones() == {"+14155550177"}


def test_reset_reads_phones_as_the_default_region_dials_them(make_app):
    me = Developer(make_app(sandbox=True, CONTACTS_DEFAULT_REGION="FR"))
    reset(me, {"phone": "06 39 98 01 02"})
    assert me.phones() == {"+33639980102"}


def test_after_a_reset_a_search_finds_what_is_there_and_no_more(me):
    reset(me, *({"phone": f"+1415555{n:04}", "name": f"Anaïs {n:04}"} for n in range(700)))
    assert len(me("POST", SEARCH, {"query": "anaïs 06"}).json) == 50
    reset(me, {"phone": PHONE, "name": "Zoé"})
    assert me("POST", SEARCH, {"query": "anaïs"}).json == []
    assert [c["name"] for c in me("POST", SEARCH, {"query": "zoé"}).json] == ["Zoé"]


def test_reset_leaves_every_other_workspace_alone(me, other):
    other.update({"phone": PHONE, "name": "Theirs"})
    other.inject(status=503, times=9)
    reset(me)
    assert [fault["status"] for fault in other.faults()] == [503]
    assert len(other.journal()) == 1
    other("DELETE", "/sandbox/faults")
    assert other.name() == "Theirs"


def test_a_reset_of_36_000_contacts_holds_nobody_up(sandbox):
    """The longest of the others' waits is a small part of the time that the reset takes."""
    me, other = (Developer(sandbox.url, f"sandbox-{name}") for name in ("large", "others"))
    contacts = [{"phone": f"+1415{n:07}"} for n in range(5_000_000, 5_036_000)]
    me.me()
    other.me()
    waits = []
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        resetting = pool.submit(reset, me, *contacts)
        while not resetting.done():
            sent = time.monotonic()
            assert other("GET", "/healthz").status_code == 200
            assert other.me().status_code == 200
            waits.append(time.monotonic() - sent)
        took = time.monotonic() - started
        assert resetting.result().status_code == 204
    assert len(waits) > 10
    assert max(waits) < took / 5
    assert len(me.contacts()) == 50


# Editing


def edit(developer, contact_id, **fields):
    return developer("PUT", f"/sandbox/contacts/{contact_id}", fields)


def test_editing_writes_the_given_fields_and_the_phone_too(me):
    before = me("POST", GET, {"contact_id": ROMAIN}).json
    response = edit(me, ROMAIN.upper(), phone="+1 415 555 0177", name="", metadata={"x": 1})
    assert response.status_code == 200
    after = me("POST", GET, {"contact_id": ROMAIN}).json
    assert response.json == after | {"updated_at": response.json["updated_at"]}
    assert after == before | {
        "phone": "+14155550177",
        "name": None,
        "metadata": before["metadata"] | {"x": 1},
    }
    assert me.update({"phone": "+14155550177"}).json["id"] == ROMAIN
    assert me.update({"phone": PHONE}).status_code == 404


def test_editing_creates_a_contact_that_is_given_a_phone(me):
    assert_refused(edit(me, NEW, name="No phone"), 404, "Contact not found")
    response = edit(me, NEW, phone="+14155550177", name="New", tags="a,b")
    assert response.status_code == 200
    stored = me("POST", GET, {"contact_id": NEW}).json
    assert response.json == stored | {"updated_at": response.json["updated_at"]}
    assert (response.json["name"], response.json["tags"]) == ("New", ["a", "b"])
    assert response.json["source"] == "manual"


def test_a_phone_that_another_contact_has_is_a_422(me):
    before = me.contacts()
    for contact_id in (ROMAIN, NEW):
        response = edit(me, contact_id, phone="+33639980101", name="Taken over")
        assert_refused(response, 422)
        assert list(response.json["errors"]) == ["phone"]
    assert me.contacts() == before


@pytest.mark.parametrize(
    ("contact_id", "fields", "wrong"),
    [
        (ROMAIN, {"phone": "1"}, "phone"),
        (ROMAIN, {"email": "x"}, "email"),
        (ROMAIN, {"nmae": "x"}, "nmae"),
        (ROMAIN, {"id": NEW}, "id"),
        (ROMAIN, {"metadata": {"x": "y" * 70_000}}, "metadata"),
        ("7", {"phone": "+14155550177"}, "id"),
    ],
)
def test_editing_validates_as_the_api_does(me, contact_id, fields, wrong):
    before = me("POST", GET, {"contact_id": ROMAIN}).json
    response = edit(me, contact_id, **fields)
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [wrong]
    assert me("POST", GET, {"contact_id": ROMAIN}).json == before


def test_deleting_deletes_one_contact_of_the_tokens_workspace(me, other):
    other.me()
    assert me("DELETE", f"/sandbox/contacts/{ROMAIN.upper()}").status_code == 204
    assert me.contacts().keys() == SAMPLES.keys() - {ROMAIN}
    assert other.contacts().keys() == SAMPLES.keys()
    for contact_id in (ROMAIN, str(uuid.uuid4())):
        response = me("DELETE", f"/sandbox/contacts/{contact_id}")
        assert_refused(response, 404, "Contact not found")
    for no_id in ("7", PHONE):  # though a contact may have that phone
        assert_refused(me("DELETE", f"/sandbox/contacts/{no_id}"), 422)


def test_editing_changes_the_tokens_workspace_only(me, other):
    other.me()
    edit(me, ROMAIN, name="Mine")
    assert (me.name(), other.name()) == ("Mine", "Romain")


def test_editing_is_outside_of_journal_faults_and_rate_limit(make_app):
    me = Developer(make_app(sandbox=True, CONTACTS_RATE_LIMIT="1"))
    me.inject(status=500)
    for n in range(3):
        response = edit(me, ROMAIN, name=f"{n}")
        assert response.status_code == 200
        assert "X-RateLimit-Limit" not in response.headers
        assert me("DELETE", f"/sandbox/contacts/{list(SAMPLES)[n + 1]}").status_code == 204
    assert me.triggered() == [0]
    assert me.journal() == []
    assert me.me().headers["X-RateLimit-Remaining"] == "0"


@pytest.mark.parametrize("entry", [b"0", b"{}"])
def test_no_more_errors_are_looked_for_than_are_named(me, entry):
    body = b'{"contacts": [' + b",".join([entry] * 300_000) + b"]}"
    response = me("POST", "/sandbox/reset", body)
    assert_refused(response, 422)
    assert len(response.json["errors"]) == 20
