"""search-contacts: what it finds, in which order, and that the index never lags behind."""

from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from conftest import PHONE, TOKEN, assert_refused, caller

import store as store_module

KEYS = "id phone name email source tags last_message_at created_at"


@pytest.fixture
def act(client):
    call = caller(client, TOKEN)
    return lambda action, body: call(body, path=f"/v1/actions/{action}")


@pytest.fixture
def found(act):
    """The phones that a search returns, in order."""

    def found(**filters):
        answer = act("search-contacts", filters)
        assert answer.status_code == 200
        return [contact["phone"] for contact in answer.json]

    return found


@pytest.fixture(params=["waiting for the index", "indexed"])
def people(request, act, monkeypatch):
    """Four contacts, found one by one or by their trigrams."""
    monkeypatch.setattr(store_module, "_INDEX_AT", 1 if request.param == "indexed" else 10**9)
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


def test_answers_a_flat_array_with_the_documented_keys(act, people):
    answer = act("search-contacts", {"query": "romain"})
    assert [list(contact) for contact in answer.json] == [KEYS.split()]
    assert answer.json[0]["source"] == "api"
    assert answer.json[0]["last_message_at"] is None


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


@pytest.mark.parametrize("window", [4, 50])
def test_of_very_many_matches_the_newest_and_the_latest_updated_are_found(
    app, found, monkeypatch, window
):
    """Of ten matches more than three are too many: the walk goes `window` contacts back then."""
    monkeypatch.setattr(store_module, "_INDEX_AT", 1)
    monkeypatch.setattr(store_module, "_CANDIDATES", 3)
    monkeypatch.setattr(store_module, "_WINDOW", window)
    store = app.extensions["store"]
    phones = [f"+1415556{n:04}" for n in range(10)]
    for phone in phones:
        store.create_contact(
            1, phone=phone, name="One of many", tags=["even"] * (phone[-1] in "02")
        )
    store.update_contact(1, phone=phones[1], metadata={"touched": True})
    latest = [phones[n] for n in (1, 9, 8, 7, 6, 5, 4, 3, 2, 0)]
    assert found(query="of many") == latest[:window]
    assert found(query="of many", tag="even") == [phones[2], phones[0]]


def test_a_contact_is_found_by_what_it_is_called_now_and_not_by_what_it_was(act, found, people):
    act("update-contact", {"phone": PHONE, "name": "Somebody", "email": "", "tags": "old"})
    assert found(query="romain") == found(email="romain@example.com") == []
    assert found(query="somebody", tag="old") == [PHONE]


@pytest.mark.parametrize("body", [{"query": None}, {"tag": 1}, {"email": []}, {"name": "x"}])
def test_a_filter_that_is_no_string_or_no_filter_is_a_422(act, body):
    answer = act("search-contacts", body)
    assert_refused(answer, 422)
    assert list(answer.json["errors"]) == list(body)


def test_a_change_is_found_though_the_clock_stands_still(act, found, monkeypatch):
    monkeypatch.setattr(store_module, "_INDEX_AT", 1)
    monkeypatch.setattr(store_module, "_now", lambda: 1_800_000_000_000_000)
    act("create-contact", {"phone": "+14155550199", "name": "Alice"})
    act("update-contact", {"phone": "+14155550199", "name": "Bertrand"})
    assert found(query="bertrand") == ["+14155550199"]
    assert found(query="alice") == []


@pytest.mark.parametrize("query", ["", "c", "contact"])
def test_contacts_that_wait_for_the_index_are_in_nobodys_way(app, found, monkeypatch, query):
    """They came with an update of the future, and so are the most recent ones in the index."""
    monkeypatch.setattr(store_module, "_INDEX_AT", 1)
    monkeypatch.setattr(store_module, "_CANDIDATES", 3)
    monkeypatch.setattr(store_module, "SEARCH_LIMIT", 3)
    store = app.extensions["store"]
    phones = [f"+1415556{n:04}" for n in range(4)]
    store.import_contacts(
        1,
        [
            {"phone": phone, "name": "Contact", "updated_at": datetime(year, 1, 1, tzinfo=UTC)}
            for phone, year in zip(phones, [2090, 2099, 2099, 2099], strict=True)
        ],
    )
    monkeypatch.setattr(store_module, "_INDEX_AT", 10**9)
    for phone in phones[1:]:
        store.update_contact(1, phone=phone, metadata={"touched": True})
    assert found(query=query) == [phones[n] for n in (0, 3, 2)]


@pytest.mark.parametrize("index_at", [1, 4, 10**9])
def test_after_any_updates_the_most_recent_come_first(app, monkeypatch, index_at):
    """Model-based, with more contacts than a search may find and fewer than wait for the index."""
    hypothesis = pytest.importorskip("hypothesis", reason="a property test needs hypothesis")
    st = hypothesis.strategies
    monkeypatch.setattr(store_module, "_INDEX_AT", index_at)
    monkeypatch.setattr(store_module, "SEARCH_LIMIT", 3)
    store = app.extensions["store"]
    phones = [f"+1415556{n:04}" for n in range(8)]
    fresh = iter(range(10**9))

    @hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.lists(st.tuples(st.sampled_from(phones), st.sampled_from("nm"))))
    def check(updates):
        workspace = store.open_workspace(f"{index_at}-{next(fresh)}")
        for phone in phones:
            store.create_contact(workspace, phone=phone, name=f"Contact {phone}")
        recent = phones.copy()  # the last is the most recently updated
        for phone, field in updates:
            value = str(next(fresh))
            changes = {"name": f"Contact {value}"} if field == "n" else {"metadata": {"n": value}}
            store.update_contact(workspace, phone=phone, **changes)
            recent.remove(phone)
            recent.append(phone)
            for query in ("", "c", "contact"):
                found = [c["phone"] for c in store.search_contacts(workspace, query=query)]
                assert found == recent[:-4:-1]

    check()


def test_trigrams_and_a_walk_agree_on_any_text(app, monkeypatch):
    """Model-based: a search finds what `in` finds, whether or not the index is up to date."""
    hypothesis = pytest.importorskip("hypothesis", reason="a property test needs hypothesis")
    st = hypothesis.strategies
    store = app.extensions["store"]
    text = st.text(st.sampled_from("abAÉé%_\"'* +1ßs"), max_size=6)
    names = st.lists(text, min_size=1, max_size=8)
    fresh = iter(range(10**9))

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(names, text, st.sampled_from([1, 3, 10**9]))
    def check(names, query, index_at):
        monkeypatch.setattr(store_module, "_INDEX_AT", index_at)
        workspace = store.open_workspace(f"w{next(fresh)}")
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


@pytest.mark.parametrize("call", [("search-contacts", {}), ("update-contact", {"name": "New"})])
def test_others_are_served_while_a_search_reads_and_while_the_index_is_written(
    app, act, monkeypatch, call
):
    monkeypatch.setattr(store_module, "_INDEX_AT", 1)
    act("create-contact", {"phone": "+14155550199"})
    waits = []

    @contextmanager
    def while_waiting():
        waits.append("began")
        yield
        waits.append("ended")

    app.extensions["store"].while_waiting = while_waiting
    path, body = call
    assert act(path, {"phone": PHONE, **body} if body else body).status_code == 200
    assert waits == ["began", "ended"]
