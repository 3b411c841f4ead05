"""Property tests of import and export: whatever a contact holds comes back as it was."""

import tempfile
from types import SimpleNamespace

import pytest
from conftest import execute

import commands
from app import create_app
from commands.csv_files import neutralised, restored
from schemas import CreateContact
from settings import read_settings
from store import DEFAULT_WORKSPACE

hypothesis = pytest.importorskip("hypothesis", reason="property tests need hypothesis")
st = hypothesis.strategies

storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(storable, inner, max_size=3),
    max_leaves=5,
)
contacts = st.fixed_dictionaries(
    {},
    optional={
        "name": storable,
        "email": st.sampled_from(["=a@example.com", "-a@example.com", "'b@example.com"]),
        "tags": st.lists(storable, max_size=4).map(",".join),
        "metadata": st.dictionaries(storable, json_values, max_size=3),
    },
)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    given_contacts=st.lists(contacts, max_size=6), ending=st.sampled_from(["csv", "jsonl"])
)
def test_any_contacts_come_back_as_they_were(given_contacts, ending):
    with tempfile.TemporaryDirectory() as folder:
        apps = []
        for name in ("old", "new"):
            app = create_app(read_settings({"CONTACTS_DATABASE": f"{folder}/{name}.db"}))
            commands.init_app(app)
            apps.append(SimpleNamespace(store=app.extensions["store"], run=app.test_cli_runner()))
        old, new = apps
        old.store.get_or_create_workspace(
            DEFAULT_WORKSPACE,
            [
                CreateContact().load({"phone": f"+1415555{i:04}", **contact})
                for i, contact in enumerate(given_contacts)
            ],
        )
        file = f"{folder}/contacts.{ending}"
        assert old.run.invoke(args=["export", file]).exit_code == 0
        result = new.run.invoke(args=["import", file])
        assert result.exit_code == 0, result.output
        rows = "SELECT * FROM contact ORDER BY number"
        assert execute(new.store.path, rows) == execute(old.store.path, rows)
        old.store.close()
        new.store.close()


@hypothesis.given(st.text("'=+-@\t\ra") | st.text())
def test_a_cell_is_restored_to_what_it_was_and_is_never_a_formula(cell):
    assert restored(neutralised(cell)) == cell
    assert not neutralised(cell).startswith(("=", "+", "-", "@", "\t", "\r"))
