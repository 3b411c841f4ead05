"""A database made by an earlier version is brought along."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import PHONE, caller, execute

DATA = Path(__file__).parent / "data"


@pytest.fixture(params=[1, 2])
def version(request):
    return request.param


@pytest.fixture
def token(version):
    return f"made-by-version-{version}"


@pytest.fixture
def path(version, tmp_path):
    return shutil.copy(DATA / f"contacts-version-{version}.db", tmp_path / "contacts.db")


@pytest.fixture
def client(path, make_app):
    return make_app().test_client()


def test_a_database_of_an_earlier_version_keeps_its_contacts_tokens_and_workspaces(
    path, client, token
):
    before = execute(path, "SELECT id, phone, name, email, tags, metadata FROM contact ORDER BY id")
    created = dict(execute(path, "SELECT id, created_at FROM contact"))
    act = caller(client, token)
    answer = act({"phone": PHONE}, path="/v1/actions/get-contact")
    assert answer.status_code == 200
    assert (answer.json["name"], answer.json["source"]) == ("Romain", "api")
    assert answer.json["metadata"] == {"lifetime_value": 8900.5}
    assert (
        execute(path, "SELECT id, phone, name, email, tags, metadata FROM contact ORDER BY id")
        == before
    )
    assert dict(execute(path, "SELECT id, created_at FROM contact")) == created
    assert len(before) == 3


def test_a_contact_from_an_earlier_version_is_found_and_updated(client, token):
    act = caller(client, token)
    for query in ("ÉLODIE", "él"):
        [found] = act({"query": query}, path="/v1/actions/search-contacts").json
        assert found["phone"] == "+33639980101"
    assert act({"phone": PHONE, "name": "Renamed"}).json["name"] == "Renamed"
    assert len(act({}, path="/v1/actions/search-contacts").json) == 2
    created = act({"phone": "+14155550199"}, path="/v1/actions/create-contact")
    assert created.status_code == 201


def test_no_trace_of_a_contact_of_an_earlier_version_is_left_when_it_is_deleted(
    forgetful_sqlite, path, make_app
):
    note = json.dumps({"note": "jabberwocky" * 5000})
    execute(path, "UPDATE contact SET metadata = ? WHERE phone = '+33639980101'", note)
    app = make_app()
    app.extensions["store"].open()
    assert b"jabberwocky" in Path(path).read_bytes()
    result = app.test_cli_runner().invoke(args=["delete", "+33639980101", "--yes"])
    assert result.exit_code == 0, result.output
    assert b"jabberwocky" not in Path(path).read_bytes()


def test_the_migrated_database_passes_its_own_checks(path, client, token):
    caller(client, token)({"phone": PHONE})
    assert execute(path, "PRAGMA integrity_check") == [("ok",)]
    assert execute(path, "PRAGMA foreign_key_check") == []
