"""search-contacts: what it finds, and in which order."""

import random
import time

import pytest
from conftest import PHONE, TOKEN, assert_refused, caller

KEYS = "id phone name email source tags last_message_at created_at"


@pytest.fixture
def act(client):
    call = caller(client, TOKEN)
    return lambda action, body: call(body, path=f"/v1/actions/{action}")


@pytest.fixture
def found(act):
    """The phones that a search returns, in order."""

    def found(**filters):
        response = act("search-contacts", filters)
        assert response.status_code == 200
        return [contact["phone"] for contact in response.json]

    return found


@pytest.fixture
def people(act):
    """Four contacts."""
    phones = [PHONE, "+33639980101", "+447700900123", "+12025550147"]
    for phone, name, email, tags in zip(
        phones,
        [
            "Romain",
            "Élodie Martin",
            "100% Müller_Straße",
            "Ivan \N{CYRILLIC CAPITAL LETTER IO}lkin",
        ],
        ["romain@example.com", "elodie@example.com", "m@example.org", "ivan@example.com"],
        ["vip", "vip,new", "a vip", ""],
        strict=True,
    ):
        fields = {"name": name, "email": email, "tags": tags}
        assert act("create-contact", {"phone": phone, **fields}).status_code == 201
    act("update-contact", {"phone": PHONE, "name": "Romain B"})
    return phones


def test_the_response_is_a_flat_array_with_the_documented_keys(act, people):
    response = act("search-contacts", {"query": "romain"})
    assert [list(contact) for contact in response.json] == [KEYS.split()]
    assert response.json[0]["source"] == "api"
    assert response.json[0]["last_message_at"] is None


@pytest.mark.parametrize(
    ("query", "positions"),
    [
        ("romain", [0]),
        ("OMAI", [0]),
        ("Romain B", [0]),
        ("ÉLODIE", [1]),
        ("e\N{COMBINING ACUTE ACCENT}lodie", [1]),
        ("müller", [2]),
        ("STRASSE", [2]),
        ("\N{CYRILLIC SMALL LETTER IO}lkin", [3]),
        ("example.org", [2]),
        ("%", [2]),
        ("_", [2]),
        ("00%", [2]),
        ("r_s", [2]),
        ("é", [1]),
        ("415 555", [0]),
        ("(415) 555-01", [0]),
        ("+1 415", [0]),
        ("415\u2011555", [0]),
        ("tel:+1", [0, 3]),
        ("TEL:(415) 555", [0]),
        ("+1", [0, 3]),
        ("+", [0, 3, 2, 1]),
        ("0123", [0, 2]),
        ("555", [0, 3]),
        ("5-5", [0, 3]),
        ("99", [1]),
        ("tin\x1felodie", []),
        ("'", []),
        ('"', []),
        ('"rom', []),
        ("rom*", []),
        ("rom OR ivan", []),
        ("nobody", []),
    ],
)
def test_query_is_a_substring_of_name_phone_or_email_in_any_case(found, people, query, positions):
    assert sorted(found(query=query)) == sorted(people[p] for p in positions)


@pytest.mark.parametrize(
    ("region", "query"),
    [
        ("", "+33 (0)6 39 98 01 01"),
        ("", "\u202a+33 6\u00a039 98 01 01\u202c"),
        ("", "'+33639980101"),
        ("", '="+33639980101"'),
        ("", "+33/6/39/98/01/01"),
        ("", "\uff0b33\uff086\uff0939\uff0d98\uff0d01\uff0d01"),
        ("", "tel:+33-6-39-98-01-01"),
        ("FR", "06 39 98 01 01"),
        ("FR", "0033639980101"),
        ("ES", "00 33 639 98 01 01"),
    ],
    ids=ascii,
)
def test_a_query_that_reads_as_a_phone_finds_what_update_contact_would_find(
    make_app, region, query
):
    phone = "+33639980101"
    contacts = [{"phone": phone}, {"phone": PHONE}]
    client = make_app(contacts, CONTACTS_DEFAULT_REGION=region).test_client()
    act = caller(client)
    assert act({"phone": query}).json["phone"] == phone
    response = act({"phone": query}, path="/v1/actions/get-contact")
    assert response.json["phone"] == phone
    response = act({"query": query}, path="/v1/actions/search-contacts")
    assert [contact["phone"] for contact in response.json] == [phone]


@pytest.mark.parametrize(
    ("tag", "positions"), [("vip", [0, 1]), ("new", [1]), ("VIP", []), ("vi", []), ("a vip", [2])]
)
def test_tag_is_exact(found, people, tag, positions):
    assert sorted(found(tag=tag)) == sorted(people[p] for p in positions)


@pytest.mark.parametrize("tag", ['"', "\\", '"]', "a", "é", "vip\\", "✓"])
def test_tags_with_special_characters_are_found(act, found, people, tag):
    act("update-contact", {"phone": PHONE, "tags": f"x,{tag},y"})
    assert found(tag=tag) == [PHONE]


@pytest.mark.parametrize("tag", ["x", "a", ",", '"x'])
def test_no_part_of_a_tag_and_nothing_between_two_is_a_tag(act, found, people, tag):
    act("update-contact", {"phone": PHONE, "tags": 'a"x,b'})
    assert found(tag=tag) == []
    assert found(tag='a"x') == [PHONE]


@pytest.mark.parametrize(
    ("email", "positions"),
    [
        ("romain@example.com", [0]),
        ("Romain@Example.COM", [0]),
        ("omain@example.com", []),
        ("m", []),
    ],
)
def test_email_is_the_whole_address(found, people, email, positions):
    assert found(email=email) == [people[p] for p in positions]


def test_a_name_that_is_an_email_address_is_not_the_contacts_email(act, found, people):
    act("update-contact", {"phone": PHONE, "name": "elodie@example.com"})
    assert found(email="elodie@example.com") == [people[1]]
    act("update-contact", {"phone": people[1], "email": ""})
    assert found(email="elodie@example.com") == []


def test_filters_are_combined_with_and_and_an_empty_string_is_no_filter(found, people):
    assert found(query="example.com", tag="vip", email="elodie@example.com") == [people[1]]
    assert found(query="romain", tag="new") == []
    assert found(query="", tag=" ", email="") == found() == [people[i] for i in (0, 3, 2, 1)]


def test_most_recently_updated_first(act, found, people):
    act("update-contact", {"phone": people[2], "metadata": {"touched": 1}})
    assert found() == [people[i] for i in (2, 0, 3, 1)]
    assert found(query="example.") == [people[i] for i in (2, 0, 3, 1)]


def test_at_most_50(app, found):
    store = app.extensions["store"]
    phones = [f"+1415556{n:04}" for n in range(60)]
    for phone in phones:
        store.create_contact(1, phone=phone, name="One of many")
    assert found(query="of many") == found(query="m") == phones[:9:-1]


def test_a_contact_is_found_by_what_it_is_called_now_and_not_by_what_it_was(act, found, people):
    act("update-contact", {"phone": PHONE, "name": "Somebody", "email": "", "tags": "old"})
    assert found(query="romain") == found(email="romain@example.com") == []
    assert found(query="somebody", tag="old") == [PHONE]


@pytest.mark.parametrize("body", [{"query": None}, {"tag": 1}, {"email": []}, {"name": "x"}])
def test_a_filter_that_is_no_string_or_no_filter_is_a_422(act, body):
    response = act("search-contacts", body)
    assert_refused(response, 422)
    assert list(response.json["errors"]) == list(body)


def test_a_change_is_found_though_the_clock_stands_still(act, found, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    act("create-contact", {"phone": "+14155550199", "name": "Alice"})
    act("update-contact", {"phone": "+14155550199", "name": "Bertrand"})
    assert found(query="bertrand") == ["+14155550199"]
    assert found(query="alice") == []


def test_of_thousands_of_matches_the_50_most_recently_updated_come_first(app, act, found):
    """Model-based: whatever is updated, and by whichever filters one searches."""
    hypothesis = pytest.importorskip("hypothesis", reason="a property test needs hypothesis")
    st = hypothesis.strategies
    store = app.extensions["store"]
    phones = [f"+1415556{n:04}" for n in range(3000)]
    random.Random(1).shuffle(phones)
    store.import_contacts(
        1,
        [
            {"phone": phone, "name": f"Contact {n}", "tags": ["even"] * (n % 2 == 0)}
            for n, phone in enumerate(phones)
        ],
    )
    even = set(phones[::2])
    model = phones.copy()  # the last is the most recently updated
    fresh = iter(range(10_000, 10**9))  # no change gives what is there already
    changes = st.sampled_from(["name", "metadata", "email", "tag"])

    @hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.lists(st.tuples(st.sampled_from(phones), changes), max_size=60))
    def check(updates):
        for phone, change in updates:
            value = str(next(fresh))
            if change == "name":
                act("update-contact", {"phone": phone, "name": f"Contact {value}"})
            elif change == "metadata":
                act("update-contact", {"phone": phone, "metadata": {"n": value}})
            elif change == "email":
                act("create-contact", {"phone": phone, "email": f"contact{value}@example.com"})
            else:
                act("add-tag", {"phone": phone, "tag": value})
                act("remove-tag", {"phone": phone, "tag": value})
            model.remove(phone)
            model.append(phone)
        newest = model[::-1]
        for filters in ({}, {"query": "c"}, {"query": "contact"}, {"query": "+1415556"}):
            assert found(**filters) == newest[:50]
        assert found(query="contact", tag="even") == [p for p in newest if p in even][:50]
        assert found(query="6555") == [p for p in newest if "6555" in p][:50]

    check()


def test_a_search_finds_the_contacts_whose_text_holds_the_query(app):
    """Model-based: it finds what `in` finds."""
    hypothesis = pytest.importorskip("hypothesis", reason="a property test needs hypothesis")
    st = hypothesis.strategies
    store = app.extensions["store"]
    text = st.text(st.sampled_from("abAÉé%_\"'* +1ßs"), max_size=6)
    names = st.lists(text, min_size=1, max_size=8)
    fresh = iter(range(10**9))

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(names, text)
    def check(names, query):
        workspace = store.get_or_create_workspace(f"w{next(fresh)}")
        contacts = {f"+1415556{n:04}": name for n, name in enumerate(names)}
        for phone, name in contacts.items():
            store.create_contact(workspace, phone=phone, name=name or None)
        typed = set(query) <= set("+1 ") and query.strip()
        part = typed and "+" * query.lstrip().startswith("+") + "1" * query.count("1")
        expected = {
            phone
            for phone, name in contacts.items()
            if query.casefold() in name.casefold() or (part and part in phone)
        }
        assert {c["phone"] for c in store.search_contacts(workspace, query=query)} == expected

    check()


def test_a_search_reads_no_metadata(make_app):
    """Nobody can read these contacts' metadata, since its pages are damaged: searches do not."""
    contacts = [
        {"phone": f"+1415556{n:04}", "name": f"Person {n}", "metadata": {"note": "m" * 60_000}}
        for n in range(60)
    ]
    store = make_app(contacts).extensions["store"]
    assert store.empty_log()
    store.close()
    pages = [
        store.path.read_bytes()[i : i + 4096] for i in range(0, store.path.stat().st_size, 4096)
    ]
    damaged = [page if page[4:] != b"m" * 4092 else b"\xff" * 4096 for page in pages]
    assert sum(a != b for a, b in zip(pages, damaged, strict=True)) > 60 * 10
    store.path.write_bytes(b"".join(damaged))

    call = caller(make_app().test_client())
    newest = [contact["phone"] for contact in contacts[:-51:-1]]
    for filters in ({}, {"query": "person"}, {"query": "415556"}):
        response = call(filters, path="/v1/actions/search-contacts")
        assert response.status_code == 200
        assert [contact["phone"] for contact in response.json] == newest
    assert call({"query": "nobody"}, path="/v1/actions/search-contacts").json == []
    assert call({"phone": newest[0]}, path="/v1/actions/get-contact").status_code == 503
