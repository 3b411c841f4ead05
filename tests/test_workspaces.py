"""A token's workspace is all that its calls see and change."""

import uuid

import pytest
from conftest import PHONE, assert_refused, caller, contacts_in

from store import ContactNotFound, MetadataTooLarge, Store

PHONES = ["+14155550101", "+14155550102", "+14155550103"]


@pytest.fixture
def app(make_app):
    """A sandbox: any token that continues `sandbox` opens a workspace of its own."""
    return make_app(sandbox=True)


@pytest.fixture
def mine(app):
    return caller(app.test_client(), "sandbox-mine")


@pytest.fixture
def theirs(app):
    return caller(app.test_client(), "sandbox-theirs")


def test_the_same_phone_may_live_in_several_workspaces(mine, theirs, stored):
    assert mine({"phone": PHONE}).json["id"] != theirs({"phone": PHONE}).json["id"]
    assert [row["phone"] for row in stored()].count(PHONE) == 2


def test_a_call_by_phone_changes_only_its_tokens_workspace(mine, theirs, stored):
    before = theirs({"phone": PHONE}).json
    mine({"phone": PHONE, "name": "Mine", "tags": "mine", "metadata": {"mine": True}})
    assert theirs({"phone": PHONE}).json == before
    assert [("mine" in row["metadata"]) for row in stored() if row["phone"] == PHONE] == [
        False,
        True,
    ]


def test_a_contact_of_another_workspace_is_a_404_by_id(mine, theirs, stored):
    contact = theirs({"phone": PHONE}).json
    mine({"phone": PHONE})
    before = stored()
    for body in (
        {"contact_id": contact["id"]},
        {"contact_id": contact["id"], "name": "Taken over"},
        {"contact_id": contact["id"], "phone": PHONE, "name": "Taken over"},
    ):
        answer = mine(body)
        assert_refused(answer, 404, "Contact not found")
        assert answer.data == mine({"contact_id": str(uuid.uuid4())}).data
    assert stored() == before


def test_a_contact_of_another_workspace_is_a_404_by_phone(make_app):
    app = make_app()
    store = app.extensions["store"]
    store.open_workspace("theirs", [{"phone": "+33639980101"}])
    theirs = caller(app.test_client(), store.create_token("theirs", "theirs"))
    mine = caller(app.test_client(), store.create_token("mine", "mine"))
    assert theirs({"phone": "+33639980101"}).status_code == 200
    assert_refused(mine({"phone": "+33639980101", "name": "Taken"}), 404, "Contact not found")
    assert_refused(theirs({"phone": PHONE}), 404, "Contact not found")


def test_two_tokens_of_one_workspace_share_its_contacts(make_app):
    store = make_app().extensions["store"]
    client = make_app().test_client()
    first, second = (caller(client, store.create_token(name)) for name in ("first", "second"))
    assert first({"phone": PHONE, "name": "Shared"}).json == second({"phone": PHONE}).json


def test_a_sandbox_token_continues_sandbox_after_a_hyphen(app):
    for token in ("sandbox", "sandbox-gw0", "sandbox-checkout-test", "sandbox--", "sandbox-é"):
        status = caller(app.test_client(), token)({"phone": PHONE}).status_code
        assert status == (401 if token == "sandbox-é" else 200)
    for token in (
        "sandbox2",
        "sandbox_a",
        "sandbox-",
        "Sandbox",
        "a-sandbox",
        "sandbox-" + "a" * 300,
    ):
        assert_refused(caller(app.test_client(), token)({"phone": PHONE}), 401)


def test_in_a_sandbox_qyvo_token_takes_the_place_of_sandbox(make_app):
    app = make_app(sandbox=True, QYVO_TOKEN="s3.cret")
    for token, status in {
        "s3.cret": 200,
        "s3.cret-a": 200,
        "s3xcret": 401,
        "s3xcret-a": 401,
        "sandbox": 401,
        "sandbox-a": 401,
    }.items():
        assert caller(app.test_client(), token)({"phone": PHONE}).status_code == status
    path = app.extensions["store"].path
    assert all(b"s3.cret" not in file.read_bytes() for file in path.parent.glob(path.name + "*"))


def test_every_sandbox_workspace_starts_with_the_sample_contacts_and_keeps_what_it_wrote(
    mine, theirs, make_app
):
    sample = mine({"phone": PHONE}).json
    assert (sample["name"], sample["tags"]) == ("Romain", ["vip"])
    mine({"phone": PHONE, "name": "Kept"})
    assert theirs({"phone": PHONE}).json["name"] == "Romain"
    restarted = caller(make_app(sandbox=True).test_client(), "sandbox-mine")
    assert restarted({"phone": PHONE}).json["name"] == "Kept"


def test_random_operations_in_two_workspaces_never_meet(tmp_path):
    """Model-based: each workspace holds what was written to it, and nothing else."""
    hypothesis = pytest.importorskip("hypothesis", reason="a property test needs hypothesis")
    st = hypothesis.strategies
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
    changes = st.fixed_dictionaries(
        {},
        optional={
            "name": st.none() | text,
            "email": st.none() | text,
            "tags": st.lists(text, max_size=3),
            "metadata": st.dictionaries(
                st.sampled_from("abc"), text | st.none() | st.just("x" * 40_000), max_size=2
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
    store = Store(tmp_path / "contacts.db", synchronous="NORMAL")
    fresh = iter(range(10**9))

    def seed(name):
        workspace = store.open_workspace(f"{name}{next(fresh)}", [{"phone": p} for p in PHONES])
        contacts = {p: store.get_contact(workspace, phone=p) for p in PHONES}
        return workspace, contacts

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.lists(operation, max_size=12))
    def check(operations):
        workspaces = seed("a"), seed("b")
        for caller_, owner, phone, lookup, fields in operations:
            workspace, model = workspaces[caller_]
            named = workspaces[owner][1][phone]
            reference = {"contact_id": named["id"], "phone": phone}
            if lookup != "both":
                reference = {k: v for k, v in reference.items() if lookup in k}
            metadata = model[phone]["metadata"] | fields.get("metadata", {})
            try:
                answer = store.update_contact(workspace, **reference, **fields)
            except ContactNotFound:
                assert lookup != "phone"
                assert caller_ != owner
            except MetadataTooLarge:
                assert (
                    sum(value is not None and len(value) == 40_000 for value in metadata.values())
                    > 1
                )
            else:
                assert lookup == "phone" or caller_ == owner
                model[phone] = model[phone] | fields | {"metadata": metadata}
                model[phone]["updated_at"] = answer["updated_at"]
                assert answer == {k: v for k, v in model[phone].items() if k != "metadata"}
        for workspace, model in workspaces:
            for phone, contact in model.items():
                assert store.get_contact(workspace, contact_id=contact["id"]) == contact
                assert store.get_contact(workspace, phone=phone) == contact

    check()
    assert len(contacts_in(store.path)) >= 150 * 2 * len(PHONES)
    store.close()
