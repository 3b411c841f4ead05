"""Contact lists as other programs export them, by their headers."""

import json
from pathlib import Path

import pytest
from conftest import PHONE, contacts_in

DATA = Path(__file__).parent / "data"
NOOR = "+14155550199"


@pytest.fixture
def run_import(make_app):
    """Imports a file, or a text from standard input; `contacts` are then there, by phone."""
    app = make_app()

    def run_import(file, *options, status=0, text=None):
        result = app.test_cli_runner().invoke(args=["import", str(file), *options], input=text)
        assert result.exit_code == status, result.output
        rows = contacts_in(app.extensions["store"].path)
        result.contacts = {row["phone"]: row for row in rows if row["phone"] != PHONE}
        return result

    return run_import


@pytest.fixture
def import_text(run_import):
    """Imports a text as CSV."""
    return lambda text, *options, status=0: run_import(
        "-", "--format", "csv", *options, status=status, text=text
    )


def fields(contacts, *names):
    return {phone: tuple(contact[name] for name in names) for phone, contact in contacts.items()}


# Programs


def test_hubspot(run_import):
    contacts = run_import(DATA / "hubspot.csv").contacts
    assert fields(contacts, "name", "email") == {
        "+12025550121": ("Ada Example", "ada@example.com"),
        "+12025550112": ("Bo", "bo@example.com"),
        "+12025550103": ("Sample", None),
    }
    assert contacts["+12025550121"]["metadata"] == {
        "Record ID": "101",
        "Phone Number": "+1 202 555 0101",
        "Mobile Phone Number": "+1 202 555 0111",
        "Contact owner": "Owner One",
        "Lead Status": "NEW",
        "Create Date": "2026-05-01 09:14",
    }


def test_google_contacts(run_import):
    contacts = run_import(DATA / "google.csv").contacts
    assert fields(contacts, "name", "email", "tags") == {
        "+12025550131": ("Chi Q Example", "chi@example.com", ["Lead", "Lyon"]),
        "+12025550132": ("Dee", "dee@example.com", []),
    }
    metadata = contacts["+12025550131"]["metadata"]
    assert metadata["E-mail 2 - Value"] == "home@example.com"
    assert metadata["Organization Name"] == "Example Ltd"


def test_several_values_in_one_cell_of_google_are_all_kept_in_the_metadata(run_import):
    metadata = run_import(DATA / "google.csv").contacts["+12025550131"]["metadata"]
    assert metadata["Phone 1 - Value"] == "+1 202 555 0131 ::: +1 202 555 0141"
    assert metadata["E-mail 1 - Value"] == "chi@example.com ::: chi@example.org"


def test_google_contacts_as_it_was_before_2024(run_import):
    contacts = run_import(DATA / "google-before-2024.csv").contacts
    assert fields(contacts, "name", "email", "tags") == {
        "+12025550151": ("Eve M. Example", "eve@example.com", ["Lead"])
    }


def test_outlook(run_import):
    contacts = run_import(DATA / "outlook.csv").contacts
    assert fields(contacts, "name", "email", "tags") == {
        "+12025550163": ("Fay Ann Example", "fay@example.com", ["Lead", "Lyon"]),
        "+12025550164": ("Gus Example", "gus@example.com", []),
    }
    assert contacts["+12025550163"]["metadata"]["Business Phone"] == "+1 202 555 0161"


def test_a_list_of_whatsapp_contacts(run_import):
    contacts = run_import(DATA / "whatsapp.csv").contacts
    assert fields(contacts, "name", "tags", "metadata") == {
        "+12025550171": ("Hal Example", ["Lead"], {"Push Name": "hal"}),
        "+12025550172": ("ivy", [], {}),
    }


def test_a_list_of_a_phone_s_contacts(run_import):
    contacts = run_import(DATA / "phone.csv").contacts
    assert fields(contacts, "name", "email") == {
        "+12025550181": ("Jo Example", "jo@example.com"),
        "+12025550182": ("Kit Example", None),
    }


# Columns that mean the same field


def test_a_whatsapp_number_comes_before_a_mobile_and_that_before_any_other(import_text):
    result = import_text(
        "Home phone,Phone,Mobile,WhatsApp\n"
        "+12025550101,+12025550102,+12025550103,+12025550104\n"
        "+12025550105,+12025550106,+12025550107,\n"
        "+12025550108,+12025550109, ,\n"
        "+12025550110,,,\n"
    )
    assert list(result.contacts) == [f"+12025550{n}" for n in (104, 107, 109, 110)]
    assert result.contacts["+12025550109"]["metadata"] == {"Home phone": "+12025550108"}


def test_a_notice_says_in_which_order_such_columns_count(import_text):
    result = import_text(f"First Name,Phone,Name,Mobile,Last Name\nN,,,{NOOR},O\n")
    assert result.stderr.splitlines() == [
        "The name is the first of these that is not empty, and the metadata keeps the others:"
        " Name, First Name + Last Name.",
        "The phone is the first of these that is not empty, and the metadata keeps the others:"
        " Mobile, Phone.",
    ]


def test_a_row_with_no_value_in_any_of_them_is_refused(import_text):
    result = import_text("Phone,Mobile,Name\n,,Noor\n", status=1)
    assert result.stderr.splitlines()[-1] == "line 2: phone: Is required."


def test_a_full_name_comes_before_its_parts_which_the_metadata_keeps(import_text):
    text = f"Phone,Last Name,First Name,Name\n{NOOR},Example,Noor,Noor E.\n"
    noor = import_text(text).contacts[NOOR]
    assert noor["name"] == "Noor E."
    assert noor["metadata"] == {"Last Name": "Example", "First Name": "Noor"}


def test_a_joined_name_follows_the_rules_of_a_name(import_text):
    result = import_text(f"Phone,First Name,Last Name\n{NOOR},{'x' * 200},{'y' * 200}\n", status=1)
    assert "name: Must be at most 255 characters long." in result.stderr


# --map


def test_map_reads_a_field_from_a_column_of_any_name(import_text):
    text = f"Numéro;Vorname;Nachname;Gruppe\n{NOOR};Noor;Example;Lead\n"
    options = ["Numéro=phone", "Vorname=first_name", "Nachname=last_name", "Gruppe=tags"]
    result = import_text(text, *(f"--map={option}" for option in options))
    assert fields(result.contacts, "name", "tags") == {NOOR: ("Noor Example", ["Lead"])}
    assert result.stderr == ""


def test_mapped_columns_come_before_all_others_in_the_order_given(import_text):
    result = import_text(
        "Mobile,Work,Desk\n"
        "+12025550101,+12025550102,+12025550103\n"
        "+12025550104,+12025550105,\n"
        "+12025550106,,\n",
        "--map=Desk=phone",
        "--map",
        "Work=phone",
    )
    assert list(result.contacts) == ["+12025550103", "+12025550105", "+12025550106"]


def test_a_mapped_column_is_read_as_that_field_alone(import_text):
    text = f"Phone,Name,Nickname\n{NOOR},Example,Noor\n"
    noor = import_text(text, "--map=Nickname=name", "--map=Name=last_name").contacts[NOOR]
    assert (noor["name"], noor["metadata"]) == ("Noor", {"Name": "Example"})


def test_a_title_may_have_an_equals_sign(import_text):
    assert NOOR in import_text(f"a=b\n{NOOR}\n", "--map=a=b=phone").contacts


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("Phone=phnoe", "write COLUMN=FIELD, with one of these fields: id, phone, name"),
        ("Phone", "write COLUMN=FIELD"),
        ("=phone", "write COLUMN=FIELD"),
        ("Telefon=phone", "--map: no column is named Telefon."),
    ],
)
def test_a_wrong_map_is_said_before_anything_is_written(import_text, option, says):
    result = import_text(f"Phone\n{NOOR}\n", "--map", option, status=2)
    assert says in result.stderr
    assert result.contacts == {}


def test_a_column_that_looks_like_a_name_and_is_not_read_is_named_first(import_text):
    result = import_text(f"phone,Nombre completo\n{NOOR},Noor\n415,Ada\n", status=1)
    assert result.stderr.splitlines()[:2] == [
        "Kept in the metadata: Nombre completo.",
        'No column is read as the name. Is it one of these? --map "Nombre completo=name"',
    ]
    assert "name" not in import_text(f"phone,City\n{NOOR},Oslo\n").stderr
    assert "--map" not in import_text(f"phone,Name,Nickname\n{NOOR},Noor,N\n").stderr


# --clear-empty

CLEARED = "phone,name,email,tags,metadata,City\n+14155550123,, ,,,\n"


def test_clear_empty_lets_an_empty_cell_clear_name_email_and_tags_but_no_metadata(
    make_app, tmp_path
):
    app = make_app()
    path, run = app.extensions["store"].path, app.test_cli_runner().invoke
    (tmp_path / "empty.csv").write_text(CLEARED)
    [before] = contacts_in(path)
    assert run(args=["import", str(tmp_path / "empty.csv")]).exit_code == 0
    assert contacts_in(path) == [before]
    assert run(args=["import", str(tmp_path / "empty.csv"), "--clear-empty"]).exit_code == 0
    [after] = contacts_in(path)
    assert (after["name"], after["email"], after["tags"]) == (None, None, [])
    assert after["metadata"] == before["metadata"]


def test_clear_empty_leaves_a_field_alone_that_has_no_column(make_app, tmp_path):
    app = make_app()
    (tmp_path / "empty.csv").write_text(f"phone,name\n{PHONE},\n")
    args = ["import", str(tmp_path / "empty.csv"), "--clear-empty"]
    assert app.test_cli_runner().invoke(args=args).exit_code == 0
    [after] = contacts_in(app.extensions["store"].path)
    assert (after["name"], after["email"]) == (None, "romain@example.com")


def test_clear_empty_clears_nothing_that_another_column_fills(import_text):
    text = f"Mobile,Name,First Name\n{NOOR},,Noor\n"
    assert import_text(text, "--clear-empty").contacts[NOOR]["name"] == "Noor"


@pytest.mark.parametrize("option", ["--clear-empty", "--map=a=phone"])
def test_options_for_csv_are_refused_with_json_lines(run_import, option):
    text = json.dumps({"phone": NOOR})
    result = run_import("-", "--format", "jsonl", option, status=2, text=text)
    assert "are for CSV" in result.stderr
    assert result.contacts == {}


# Standard input and formats


@pytest.mark.parametrize(
    ("named", "text"), [("csv", f"phone\n{NOOR}\n"), ("jsonl", json.dumps({"phone": NOOR}))]
)
def test_standard_input_is_read_in_the_format_named(run_import, named, text):
    result = run_import("-", "--format", named, text=text)
    assert (list(result.contacts), result.stdout) == ([NOOR], "Imported: 1. Refused: 0.\n")


def test_standard_input_without_a_format_is_refused(run_import):
    assert "--format csv or --format jsonl" in run_import("-", status=2, text="").stderr


def test_another_encoding_of_standard_input_is_read_when_it_is_named(run_import):
    text = f"phone,name\n{NOOR},Zoë\n".encode("cp1252")
    result = run_import("-", "--format", "csv", status=2, text=text)
    assert "Standard input is not UTF-8" in result.stderr
    result = run_import("-", "--format", "csv", "--encoding", "cp1252", text=text)
    assert result.contacts[NOOR]["name"] == "Zoë"


def test_rows_refused_from_standard_input_are_reported_and_leave_no_file(
    run_import, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    result = run_import("-", "--format", "csv", status=1, text=f"phone\n415\n{NOOR}\n")
    assert result.stderr.startswith("line 2: phone: ")
    assert list(result.contacts) == [NOOR]
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {
        "contacts.db-wal",
        "contacts.db-shm",
    }


def test_a_named_format_counts_more_than_the_ending(run_import, tmp_path):
    (tmp_path / "export.txt").write_text(f"phone\n{NOOR}\n")
    assert NOOR in run_import(tmp_path / "export.txt", "--format", "csv").contacts
