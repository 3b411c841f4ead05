"""The endpoints around update-contact, by the contract's section "The family"."""

import pytest
from conftest import PHONE, TOKEN, assert_refused, caller

NEW = "+14155550199"
UNKNOWN = "+33639980199"
GET_KEYS = (
    "id phone name email source locale metadata tags opted_in_at opted_out_at last_message_at"
    " total_messages created_at"
)


@pytest.fixture
def act(client):
    """Calls an action by its name."""
    return actor(client, TOKEN)


def actor(client, token):
    call = caller(client, token)
    return lambda action, body, base="/api/v1": call(body, path=f"{base}/actions/{action}")


def me(client, token=TOKEN, base="/api/v1"):
    return client.get(f"{base}/me", headers={"Authorization": f"Bearer {token}"})


# me


def test_me_names_the_token_and_its_workspace(app, client):
    secret = app.extensions["store"].create_token("ci", "berlin")
    response = me(client, secret).json
    assert list(response) == ["id", "email", "name", "tenant"]
    assert isinstance(response["id"], int)
    assert "@" in response["email"]
    assert response["name"] == "ci"
    assert list(response["tenant"]) == ["id", "name"]
    assert response["tenant"]["name"] == "berlin"
    assert me(client).json["tenant"]["name"] == "default"
    assert me(client).json["tenant"]["id"] != response["tenant"]["id"]


def test_me_is_served_under_both_base_paths_and_needs_a_token(client):
    assert me(client, base="/v1").json == me(client).json
    assert_refused(me(client, "nobody's"), 401, "Unauthenticated.")
    assert_refused(client.post("/v1/me"), 405, "Method not allowed")


# create-contact


@pytest.mark.parametrize("base", ["/api/v1", "/v1"])
def test_create_contact_responds_with_201_in_the_shape_of_update_contact(act, base):
    body = {"phone": "+1 (415) 555-0199", "name": " Noor ", "tags": "a,b", "metadata": {"k": None}}
    response = act("create-contact", body, base)
    assert response.status_code == 201
    assert list(response.json) == ["id", "phone", "name", "email", "tags", "updated_at"]
    assert (response.json["phone"], response.json["name"]) == (NEW, "Noor")
    assert act("get-contact", {"phone": NEW}).json["metadata"] == {"k": None}


def test_create_contact_responds_with_201_when_it_updated_the_contact_with_that_phone(act, contact):
    response = act("create-contact", {"phone": PHONE, "name": "Renamed", "metadata": {"k": 1}})
    assert response.status_code == 201
    assert response.json["id"] == contact["id"]
    found = act("get-contact", {"phone": PHONE}).json
    assert (found["name"], found["tags"]) == ("Renamed", ["vip"])
    assert found["metadata"]["k"] == 1
    assert found["metadata"]["lifetime_value"] == 8900.5


def test_create_contact_changes_nothing_when_nothing_differs(act, stored):
    before = stored()
    assert act("create-contact", {"phone": PHONE, "name": "Romain"}).status_code == 201
    assert stored() == before


@pytest.mark.parametrize("phone", [{}, {"phone": ""}, {"phone": "4155550199"}, {"phone": None}])
def test_create_contact_requires_a_phone(act, stored, phone):
    before = stored()
    response = act("create-contact", {"name": "Nobody", **phone})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["phone"]
    assert stored() == before


def test_create_contact_accepts_no_contact_id(act, contact):
    response = act("create-contact", {"phone": NEW, "contact_id": contact["id"]})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["contact_id"]


def test_an_empty_name_and_email_create_a_contact_without_them(act):
    response = act("create-contact", {"phone": NEW, "name": "", "email": " "}).json
    assert (response["name"], response["email"], response["tags"]) == (None, None, [])


def test_metadata_of_a_new_contact_is_bound_too(act, stored):
    before = stored()
    response = act("create-contact", {"phone": NEW, "metadata": {"k": "x" * 65_536}})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["metadata"]
    assert stored() == before


def test_created_at_never_moves(act):
    created = act("get-contact", {"phone": PHONE}).json["created_at"]
    act("update-contact", {"phone": PHONE, "name": "Moved"})
    act("create-contact", {"phone": PHONE, "name": "Moved again"})
    act("add-tag", {"phone": PHONE, "tag": "moved"})
    assert act("get-contact", {"phone": PHONE}).json["created_at"] == created


# get-contact


def test_get_contact_returns_the_documented_keys_in_the_documented_order(act, contact):
    response = act("get-contact", {"phone": PHONE})
    assert response.status_code == 200
    assert list(response.json) == GET_KEYS.split()
    assert response.json == {
        "id": contact["id"],
        "phone": PHONE,
        "name": "Romain",
        "email": "romain@example.com",
        "source": "api",
        "locale": None,
        "metadata": {"lifetime_value": 8900.5, "address": {"city": "Lyon", "zip": "69001"}},
        "tags": ["vip"],
        "opted_in_at": None,
        "opted_out_at": None,
        "last_message_at": None,
        "total_messages": 0,
        "created_at": response.json["created_at"],
    }


def test_get_contact_finds_by_each_of_id_phone_and_email(act, contact):
    for reference in (
        {"contact_id": contact["id"].upper()},
        {"phone": "tel:+1-415-555-0123"},
        {"email": "Romain@Example.com"},
    ):
        assert act("get-contact", reference).json["id"] == contact["id"]


def test_get_contact_accepts_exactly_one_of_them(act, contact):
    both = {"contact_id": contact["id"], "phone": PHONE}
    for reference in ({}, both, {"phone": PHONE, "email": "romain@example.com"}):
        response = act("get-contact", reference)
        assert_refused(response, 422)
        assert list(response.json["errors"]) == ["contact_id", "phone", "email"]


@pytest.mark.parametrize(
    ("action", "body", "says"),
    [
        ("get-contact", {"email": None}, "May not be null: leave it out instead."),
        ("search-contacts", {"query": None}, "May not be null: leave it out instead."),
        (
            "create-contact",
            {"phone": NEW, "email": None},
            'May not be null: pass "" to clear it, or leave it out.',
        ),
    ],
)
def test_null_is_refused_with_what_to_send_instead(act, action, body, says):
    response = act(action, body)
    assert_refused(response, 422)
    assert list(response.json["errors"].values()) == [[says]]


def test_get_contact_responds_with_404_for_a_contact_that_is_not_there(act):
    for reference in ({"phone": UNKNOWN}, {"email": "omain@example.com"}):
        assert_refused(act("get-contact", reference), 404, "Contact not found")


def test_a_contact_is_not_found_by_an_email_address_that_is_its_name(act):
    act("update-contact", {"phone": PHONE, "name": "noor@example.com"})
    assert_refused(act("get-contact", {"email": "noor@example.com"}), 404, "Contact not found")


def test_get_contact_compares_an_email_in_any_case(act):
    act("create-contact", {"phone": NEW, "email": "Noor.B@Example.COM"})
    for email in ("Noor.B@Example.COM", "noor.b@example.com", "NOOR.B@EXAMPLE.COM"):
        found = act("get-contact", {"email": email}).json
        assert (found["phone"], found["email"]) == (NEW, "Noor.B@Example.COM")


def test_of_contacts_that_share_an_email_the_most_recently_updated_is_returned(act):
    """In whatever case each has it, and however many others were updated since."""
    sharing = [f"+1415555{n:04}" for n in range(200, 260)]
    for phone in sharing:
        email = "Romain@Example.com" if phone[-1] in "02468" else "romain@example.com"
        act("create-contact", {"phone": phone, "email": email})
    for latest in (sharing[-1], sharing[30], PHONE, sharing[7]):
        act("update-contact", {"phone": latest, "metadata": {"touched": latest}})
        act("create-contact", {"phone": UNKNOWN, "metadata": {"after": latest}})
        assert act("get-contact", {"email": "ROMAIN@example.com"}).json["phone"] == latest


# add-tag and remove-tag


def test_add_tag_puts_the_tag_last_and_says_so(act, contact):
    response = act("add-tag", {"contact_id": contact["id"], "tag": " gold "})
    assert response.status_code == 200
    assert list(response.json.items()) == [
        ("id", contact["id"]),
        ("phone", PHONE),
        ("tag_added", "gold"),
        ("tags", ["vip", "gold"]),
    ]


def test_remove_tag_leaves_the_others_in_their_order(act, contact):
    act("update-contact", {"phone": PHONE, "tags": "a,b,c"})
    response = act("remove-tag", {"phone": PHONE, "tag": "b"})
    assert response.status_code == 200
    assert list(response.json.items()) == [
        ("id", contact["id"]),
        ("phone", PHONE),
        ("tag_removed", "b"),
        ("tags", ["a", "c"]),
    ]


@pytest.mark.parametrize(("action", "tag"), [("add-tag", "vip"), ("remove-tag", "not there")])
def test_a_tag_request_that_changes_nothing_is_200_and_writes_nothing(act, stored, action, tag):
    before = stored()
    response = act(action, {"phone": PHONE, "tag": tag})
    assert response.status_code == 200
    assert response.json["tags"] == ["vip"]
    assert stored() == before


@pytest.mark.parametrize("action", ["add-tag", "remove-tag"])
@pytest.mark.parametrize("tag", [None, "", "  ", "a,b", ",", "x" * 65, 7, ["a"], "\0", "\ud800"])
def test_a_tag_that_could_not_be_written_through_the_csv_field_is_a_422(act, stored, action, tag):
    before = stored()
    response = act(action, {"phone": PHONE, "tag": tag})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["tag"]
    assert stored() == before


@pytest.mark.parametrize("action", ["add-tag", "remove-tag"])
def test_tag_requests_need_a_tag_and_identify_the_contact_as_update_contact_does(
    act, contact, action
):
    assert list(act(action, {"phone": PHONE}).json["errors"]) == ["tag"]
    assert list(act(action, {"tag": "t"}).json["errors"]) == ["contact_id", "phone"]
    assert_refused(act(action, {"phone": UNKNOWN, "tag": "t"}), 404, "Contact not found")
    disagreeing = {"contact_id": contact["id"], "phone": UNKNOWN, "tag": "t"}
    assert_refused(act(action, disagreeing), 404, "Contact not found")
    assert act(action, {**disagreeing, "phone": PHONE}).status_code == 200


def test_add_tag_keeps_the_limit_of_100_tags(act):
    act("update-contact", {"phone": PHONE, "tags": ",".join(f"t{n}" for n in range(100))})
    assert act("add-tag", {"phone": PHONE, "tag": "t7"}).status_code == 200
    response = act("add-tag", {"phone": PHONE, "tag": "one more"})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["tag"]


# All of them


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("create-contact", {"phone": PHONE, "name": "Mine"}),
        ("get-contact", {"phone": PHONE}),
        ("search-contacts", {}),
        ("add-tag", {"phone": PHONE, "tag": "mine"}),
        ("remove-tag", {"phone": PHONE, "tag": "vip"}),
    ],
)
def test_every_request_stays_in_its_workspace(app, client, act, stored, action, body):
    """Another workspace that holds the same phone neither shows nor changes."""
    store = app.extensions["store"]
    theirs = actor(client, store.create_token("theirs", "theirs"))
    theirs("create-contact", {"phone": PHONE, "name": "Theirs", "email": "romain@example.com"})
    before = [row for row in stored() if row["name"] == "Theirs"]
    response = act(action, body)
    assert response.status_code in (200, 201)
    assert "Theirs" not in response.text
    assert before[0]["id"] not in response.text
    assert [row for row in stored() if row["name"] == "Theirs"] == before


@pytest.mark.parametrize(
    "action", ["create-contact", "get-contact", "search-contacts", "add-tag", "remove-tag"]
)
def test_every_endpoint_has_update_contacts_errors(client, act, action):
    path = f"/v1/actions/{action}"
    assert_refused(client.post(path, json={}), 401, "Unauthenticated.")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert_refused(client.post(path, data="{}", headers=headers), 415)
    assert_refused(act(action, b"{"), 400)
    assert_refused(act(action, b" " * (1024 * 1024 + 1)), 413)
    assert_refused(act(action, {"misspelt": 1}), 422)
    assert_refused(act(action, [[]]), 422)
    assert_refused(client.get(path), 405, "Method not allowed")


def test_healthz_says_ok_while_the_database_can_be_read(app, client):
    response = client.get("/healthz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_healthz_is_503_when_the_database_can_not_be_read(app, client):
    store = app.extensions["store"]
    store.check_writable()
    store.close()
    store.path.write_bytes(b"no database at all" * 100)
    for suffix in ("-wal", "-shm"):
        store.path.with_name(store.path.name + suffix).unlink(missing_ok=True)
    assert_refused(client.get("/healthz"), 503)
