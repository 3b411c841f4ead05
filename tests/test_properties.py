"""Whatever is sent: never a 5xx, never a response that is not JSON, never a refusal that wrote."""

import json
import sqlite3
from contextlib import closing
from string import ascii_letters

import phonenumbers
import pytest
from conftest import PHONE, ROMAIN, TOKEN, UPDATE, assert_refused, caller, contacts_through
from marshmallow import ValidationError

from app import create_app
from schemas import PhoneNumber, PhoneReading, UpdateContact, phone_reading
from settings import read_settings
from store import DEFAULT_WORKSPACE, TOO_LARGE

hypothesis = pytest.importorskip("hypothesis", reason="property tests need hypothesis")
st = hypothesis.strategies
given = hypothesis.given


def examples(number):
    return hypothesis.settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@pytest.fixture
def app(tmp_path):
    database = tmp_path / "contacts.db"
    settings = {
        "CONTACTS_DATABASE": str(database),
        "QYVO_TOKEN": TOKEN,
        "CONTACTS_SYNCHRONOUS": "NORMAL",
    }
    app = create_app(read_settings(settings))
    store = app.extensions["store"]
    store.get_or_create_workspace(DEFAULT_WORKSPACE, [ROMAIN, {"phone": "+33639980101"}])
    yield app
    store.close()


@pytest.fixture
def stored(app):
    """Reads what the database holds of every contact; opening it each time would be slow."""
    with closing(sqlite3.connect(app.extensions["store"].path)) as db:
        yield lambda: contacts_through(db)


@pytest.fixture
def send(app, stored):
    """Sends a body, and holds the response against what every response must be."""
    call = caller(app.test_client())

    def send(body, **request):
        before = stored()
        response = call(body, **request)
        assert response.content_type == "application/json"
        if response.status_code == 200:
            assert list(response.json) == ["id", "phone", "name", "email", "tags", "updated_at"]
            response.data.decode()
        else:
            assert response.status_code in (400, 404, 413, 415, 422)
            assert_refused(response, response.status_code)
            assert stored() == before
        return response

    send.id = call({"phone": PHONE}).json["id"]
    return send


# Text as Python's JSON takes it: NUL, lone surrogates and all.
texts = st.text(max_size=20) | st.text(st.characters(categories=None), max_size=5)
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(2**63), 2**64, 1e308])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
phones = st.one_of(
    st.sampled_from([PHONE, "+1 (415) 555-0123", "+33639980101", "+14155550199"]),
    st.text("+0123456789 ()-.", max_size=20),
    st.from_regex(r"\+\d{1,15}", fullmatch=True),
    texts,
)
emails = st.emails() | st.just("") | st.text(ascii_letters + "@. ", max_size=20) | texts
tags = st.lists(texts, max_size=5).map(",".join)
metadata = st.dictionaries(texts, values, max_size=4)
junk_fields = st.dictionaries(texts | st.sampled_from(["id", "tag", "_schema"]), values, max_size=1)


def near_valid(contact_id):
    """A body of known fields with mostly fitting values, and now and then something else."""
    fields = {
        "contact_id": st.just(contact_id) | st.uuids().map(str) | texts,
        "phone": phones,
        "name": texts,
        "email": emails,
        "tags": tags,
        "metadata": metadata,
    }
    rarely = st.integers(0, 15).map(lambda n: n == 0)
    known = st.fixed_dictionaries(
        {},
        optional={
            name: rarely.flatmap(lambda junk, fits=fits: values if junk else fits)
            for name, fits in fields.items()
        },
    )
    return st.tuples(known, rarely, junk_fields).map(
        lambda parts: parts[0] | (parts[2] if parts[1] else {})
    )


def test_raw_bytes(send):
    @examples(1000)
    @given(st.binary(max_size=200))
    def check(body):
        assert send(body).status_code in (400, 422)

    check()


def test_any_json_value(send):
    @examples(1000)
    @given(values)
    def check(value):
        assert send(json.dumps(value).encode()).status_code in (400, 422)

    check()


def test_near_valid_bodies(send):
    seen = set()

    @examples(2000)
    @given(near_valid(send.id), st.booleans())
    def check(body, escaped):
        text = json.dumps(body, ensure_ascii=escaped)
        response = send(text.encode(errors="surrogatepass"))
        seen.add(response.status_code)
        if response.status_code != 400:
            errors = UpdateContact().validate(json.loads(text))
            too_large = TOO_LARGE in response.text  # which the store alone can tell
            assert response.json.get("errors", {}) == errors or (too_large and not errors)

    check()
    assert seen == {200, 400, 404, 422}  # so that all of the ways through were tried


def test_damaged_json(send):
    @examples(1000)
    @given(near_valid(send.id), st.integers(0, 500), st.binary(max_size=3), st.integers(0, 3))
    def check(body, position, inserted, removed):
        text = json.dumps(body).encode()
        position %= len(text)
        send(text[:position] + inserted + text[position + removed :])

    check()


def test_valid_bodies_are_written_as_they_were_sent(stored, send):
    """A field in the request is what the contact then holds; every other field is as before."""
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
    storable = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=8,
    )
    optional = {"name": text, "tags": text, "metadata": st.dictionaries(text, storable, max_size=3)}

    @examples(1000)
    @given(st.fixed_dictionaries({}, optional=optional))
    def check(body):
        [before, other] = stored()
        response = send({"contact_id": send.id, **body})
        if response.status_code == 422:
            assert set(response.json["errors"]) <= {"metadata", "tags"}
            return
        expected = before | {"updated_at": 0}
        if "name" in body:
            expected["name"] = body["name"].strip() or None
        if "tags" in body:
            tags = [tag.strip() for tag in body["tags"].split(",")]
            expected["tags"] = sorted({tag for tag in tags if tag}, key=tags.index)
        if "metadata" in body:
            expected["metadata"] = before["metadata"] | body["metadata"]
        [after, other_after] = stored()
        assert after | {"updated_at": 0} == expected
        assert other_after == other
        assert (response.json["name"], response.json["tags"]) == (after["name"], after["tags"])

    check()


def test_the_same_request_twice_changes_nothing_the_second_time(stored, send):
    @examples(500)
    @given(near_valid(send.id))
    def check(body):
        first = send(body)
        before = stored()
        second = send(body)
        assert (second.status_code, second.data) == (first.status_code, first.data)
        assert stored() == before

    check()


def test_any_header_gets_a_401_or_is_the_token(app):
    client = app.test_client()
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)

    @examples(500)
    @given(printable | printable.map("Bearer {}".format) | st.just(f"Bearer {TOKEN}"))
    def check(header):
        response = client.post(UPDATE, json={"phone": PHONE}, headers={"Authorization": header})
        if header == f"Bearer {TOKEN}":
            assert response.status_code == 200
        else:
            assert_refused(response, 401, "Unauthenticated.")

    check()


@pytest.mark.parametrize("region", [None, "FR", "US", "DE", "MX", "BR", "AR", "IT"])
def test_normalising_a_phone_twice_equals_once(region):
    phone = PhoneNumber()
    codes = st.sampled_from(sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE))
    numbers = st.builds("+{}{}".format, codes, st.text("0123456789", min_size=6, max_size=13))
    national = st.text("0123456789", min_size=6, max_size=14)
    normalised = 0

    @examples(300)
    @given(numbers | national | phones)
    def check(spelling):
        nonlocal normalised
        try:
            once = phone.deserialize(spelling)
        except ValidationError:
            return
        normalised += 1
        assert once.isascii()
        assert phone.deserialize(once) == once

    before = phone_reading.set(PhoneReading(region))
    try:
        check()
    finally:
        phone_reading.reset(before)
    assert normalised > 20
