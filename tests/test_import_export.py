"""Contacts in and out of files."""

import csv
import json
import re
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from conftest import (
    PHONE,
    ROMAIN,
    ROOT,
    SECONDS,
    TOKEN,
    Runner,
    contacts_in,
    environment,
    execute,
    post,
    write_lock,
)

import commands
from app import create_app
from settings import read_settings

OTHER_ID = "0197c1de-52ab-7cc3-9f3e-4a8d1f0c2b6e"
NOOR = "+14155550199"
LEAVE_OUT = "Leave the id out to find the contact by its phone, or to make a new one."


@pytest.fixture
def import_text(run, tmp_path):
    """Imports a file that holds that text."""

    def import_text(text, *options, name="contacts.csv", status=0):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return run("import", file, *options, status=status)

    return import_text


def runner_on(database):
    """Runs `flask …` on a database that may not be there yet."""
    app = create_app(read_settings({"CONTACTS_DATABASE": str(database)}))
    commands.init_app(app)
    app.test_cli_runner_class = Runner
    return app.test_cli_runner()


def said(result):
    """What an import says, without the columns, the database and the counts."""
    about = ("  ", "CSV in ", "JSON Lines in ", "Database: ", "Created: ", "Correct the ")
    return [line for line in result.stderr.splitlines() if not line.startswith(about)]


def an_export(*rows):
    """The text of an export in CSV of version 0.2, which has the fewest columns."""
    columns = "id,phone,name,email,tags,metadata,source,created_at,updated_at"
    cells = [[row.get(column, "") for column in columns.split(",")] for row in rows]
    return "".join(f"{line}\n" for line in (columns, *map(",".join, cells)))


def by_phone(rows):
    return {row["phone"]: row for row in rows}


def rejected(tmp_path, name="contacts.csv.rejected.csv"):
    with (tmp_path / name).open(newline="") as file:
        return list(csv.DictReader(file))


# What an import accepts


def test_rows_become_contacts_by_the_rules_of_create_contact(import_text, stored):
    import_text(
        "phone,name,email,tags,metadata\n"
        '+1 (415) 555-0199, Noor ,noor@example.com,"lead, vip,lead","{""a"": {""b"": [1, null]}}"\n'
    )
    noor = by_phone(stored())[NOOR]
    assert noor["name"] == "Noor"
    assert noor["email"] == "noor@example.com"
    assert noor["tags"] == ["lead", "vip"]
    assert noor["metadata"] == {"a": {"b": [1, None]}}
    assert noor["source"] == "csv_import"


def test_json_lines_become_contacts(import_text, stored):
    import_text(
        json.dumps({"phone": NOOR, "tags": "lead,vip", "metadata": {"a": 1}})
        + "\n\n"
        + json.dumps({"phone": "+14155550198", "tags": ["lead", "vip"]}),
        name="contacts.jsonl",
    )
    contacts = by_phone(stored())
    assert contacts[NOOR]["metadata"] == {"a": 1}
    assert contacts[NOOR]["tags"] == contacts["+14155550198"]["tags"] == ["lead", "vip"]
    assert contacts[NOOR]["source"] == "csv_import"


def test_a_phone_that_exists_is_updated(import_text, stored):
    import_text(f'phone,name,metadata\n{PHONE},Romy,"{{""plan"": ""pro""}}"\n')
    [romain] = stored()
    assert romain["name"] == "Romy"
    assert romain["metadata"] == ROMAIN["metadata"] | {"plan": "pro"}
    assert romain["source"] == "api"


@pytest.mark.parametrize("cells", [",,,,", ", ,  ,\t, ", ""])
def test_an_empty_cell_leaves_the_field_alone(import_text, stored, cells):
    before = stored()
    import_text(f"phone,name,email,tags,metadata\n{PHONE}{cells}\n")
    assert stored() == before


def test_an_empty_string_in_json_lines_clears_the_field(import_text, stored):
    import_text(json.dumps({"phone": PHONE, "name": "", "tags": ""}), name="c.jsonl")
    [romain] = stored()
    assert romain["name"] is None
    assert romain["tags"] == []


TWICE = f"phone,name,email\n{NOOR},First,a@example.com\n+1 415 555 0199,Second,\n"


def test_a_row_that_repeats_a_phone_is_refused_and_names_the_line(import_text, stored):
    result = import_text(TWICE, status=1)
    assert said(result) == [f"line 3: phone: Line 2 of contacts.csv has {NOOR} too."]
    assert "Repeated: 1." in result.stderr
    assert result.stdout == "Imported: 1. Refused: 1.\n"
    assert by_phone(stored())[NOOR]["name"] == "First"


def test_a_repeated_row_that_nobody_corrected_is_refused_again(import_text, run, tmp_path, stored):
    import_text(TWICE, status=1)
    result = run("import", tmp_path / "contacts.csv.rejected.csv", status=1)
    assert said(result) == [f"line 2: phone: Line 2 of contacts.csv has {NOOR} too."]
    assert by_phone(stored())[NOOR]["name"] == "First"
    lines = [{"phone": NOOR, "name": "First"}, {"phone": NOOR, "name": "Second"}]
    import_text("".join(f"{json.dumps(line)}\n" for line in lines), name="c.jsonl", status=1)
    result = run("import", tmp_path / "c.jsonl.rejected.jsonl", status=1)
    assert said(result) == [f"line 1: phone: Line 1 of c.jsonl has {NOOR} too."]


def test_with_last_wins_the_later_of_two_rows_with_one_phone_counts(import_text, stored):
    result = import_text(TWICE, "--last-wins")
    assert said(result) == ["line 3 repeats line 2."]
    assert "Created: 1. Updated: 1, of which 1 changed. Repeated: 1." in result.stderr
    noor = by_phone(stored())[NOOR]
    assert (noor["name"], noor["email"]) == ("Second", "a@example.com")


def test_a_second_import_changes_nothing(import_text, stored):
    text = f'phone,name,tags,metadata\n{NOOR},Noor,lead,"{{""a"": 1.50}}"\n'
    import_text(text)
    before = stored()
    import_text(text)
    assert stored() == before


def test_an_import_is_found_by_search_at_once(import_text, client):
    rows = "".join(f"+1415555{i:04},Person {i}\n" for i in range(1500))
    import_text(f"phone,name\n{rows}")
    response = client.post(
        "/v1/actions/search-contacts",
        json={"query": "person 1499"},
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    assert [contact["phone"] for contact in response.json] == ["+14155551499"]


def test_the_default_region_applies(make_app, tmp_path, stored):
    (tmp_path / "fr.csv").write_text("phone\n06 39 98 01 01\n")
    runner = make_app(CONTACTS_DEFAULT_REGION="FR").test_cli_runner()
    assert runner.invoke(args=["import", str(tmp_path / "fr.csv")]).exit_code == 0
    assert "+33639980101" in by_phone(stored())


def test_a_workspace_is_made_and_kept_apart(import_text, run, stored):
    import_text(f"phone,name\n{PHONE},Other\n", "--workspace", "shop", "--create")
    assert [contact["name"] for contact in stored()] == ["Romain", "Other"]
    [line] = run("export", "--workspace", "shop").stdout.splitlines()
    assert json.loads(line)["name"] == "Other"


# Columns and encodings


@pytest.mark.parametrize(
    "header",
    [
        "phone,name,email",
        "Phone number,Full name,E-mail",
        "PHONE_NUMBER,NAME,EMAIL ADDRESS",
        "Téléphone,Nom,e_mail",
        "Mobile,display-name,Mail",
        '"Phone ","Name","Email"',
    ],
)
def test_columns_are_known_by_their_usual_names(import_text, stored, header):
    result = import_text(f"{header}\n{NOOR},Noor,noor@example.com\n")
    noor = by_phone(stored())[NOOR]
    assert (noor["name"], noor["email"]) == ("Noor", "noor@example.com")
    assert said(result) == []


def test_the_order_of_columns_does_not_count(import_text, stored):
    import_text(f"name,phone\nNoor,{NOOR}\n")
    assert by_phone(stored())[NOOR]["name"] == "Noor"


def test_unknown_columns_go_into_the_metadata_with_a_notice(import_text, stored):
    result = import_text(
        f'phone,City,Plan,metadata\n{NOOR},Oslo,,\n+14155550198,Paris,pro,"{{""City"": 1}}"\n'
    )
    contacts = by_phone(stored())
    assert contacts[NOOR]["metadata"] == {"City": "Oslo"}
    assert contacts["+14155550198"]["metadata"] == {"City": 1, "Plan": "pro"}
    assert said(result) == ["Kept in the metadata: City, Plan."]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfphone,name\n+14155550199,Zo\xc3\xab\n",
        b"phone,name\r\n+14155550199,Zo\xc3\xab\r\n",
        b"phone,name\r+14155550199,Zo\xc3\xab\r",
        b"phone;name\n+14155550199;Zo\xc3\xab\n",
        b"phone\tname\n+14155550199\tZo\xc3\xab\n",
        b"phone,name\n\n+14155550199,Zo\xc3\xab\n,\n",
        b"phone,name,email\n+14155550199,Zo\xc3\xab",
    ],
)
def test_files_as_spreadsheets_write_them_are_read(import_text, stored, text):
    import_text(text)
    assert by_phone(stored())[NOOR]["name"] == "Zoë"


def test_a_wrong_encoding_at_the_end_keeps_the_whole_file_out(import_text, stored):
    before = stored()
    import_text(f"phone,name\n{NOOR},Noor\n".encode() * 5000 + b"+14155550198,Zo\xeb\n", status=2)
    assert stored() == before


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("", "contacts.csv", "No column is named phone"),
        ("name,email\nNoor,a@example.com\n", "contacts.csv", "No column is named phone"),
        (f'phone,name\n{NOOR},"No\nor\n', "contacts.csv", "Line 2 is not CSV"),
        (
            f'phone\n{NOOR}\n"{"x" * (1024 * 1024 + 1)}"',
            "contacts.csv",
            "Line 3 is not CSV: it has",
        ),
        (f"phone\n{NOOR}\n", "contacts.txt", "must end in .csv or .jsonl"),
        (f"phone\n{NOOR}\n", "contacts.txt", "--format csv"),
        (f"{NOOR},Noor\n+14155550198,Ada\n", "contacts.csv", "Add a first line with titles"),
        ("Noor;noor@example.com\n", "contacts.csv", "Add a first line with titles"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(import_text, stored, text, name, says):
    before = stored()
    result = import_text(text, name=name, status=2)
    assert says in result.stderr.splitlines()[-1]
    assert stored() == before


def test_a_file_that_is_broken_at_its_end_is_kept_out_whole(import_text, stored):
    many = "".join(f"+4477{n:08}\n" for n in range(600))
    result = import_text(f'phone\n{many}"never closed\n', status=2)
    assert "Line 602 is not CSV" in result.stderr
    assert "quotation mark" in result.stderr
    assert len(stored()) == 1


def test_an_import_that_can_not_keep_what_it_refuses_ends_with_2(import_text, run, tmp_path):
    name = f"{'x' * 245}.csv"  # with .rejected.csv it is longer than a name may be
    result = import_text(f"phone\n{NOOR}\n1\n", name=name, status=2)
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_a_file_that_is_not_there_is_refused(run, tmp_path):
    assert "does not exist" in run("import", tmp_path / "missing.csv", status=2).stderr


# Rows that are refused


REFUSED_ROWS = [
    ("4155550199", "", "", "", "phone: Must start with + and the country code"),
    ("", "Nobody", "", "", "phone: Is required."),
    (NOOR, "x" * 256, "", "", "name: Must be at most 255 characters long."),
    (NOOR, "No\0or", "", "", "name: Must not contain NUL"),
    (NOOR, "", "noor", "", "email: Must be an email address."),
    (NOOR, "", "", "{", "metadata: The text is not JSON"),
    (NOOR, "", "", '{"a": NaN}', "metadata: The text is not JSON: NaN is not a JSON number."),
    (NOOR, "", "", "[1]", "metadata: Must be a JSON object."),
    (NOOR, "", "", json.dumps({"a": "x" * 65536}), "metadata: It exceeds 65536 bytes"),
]


@pytest.mark.parametrize(("phone", "name", "email", "metadata", "reason"), REFUSED_ROWS)
def test_a_refused_row_keeps_no_other_out(
    import_text, tmp_path, stored, phone, name, email, metadata, reason
):
    with (tmp_path / "contacts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["phone", "name", "email", "metadata"])
        writer.writerow(["+14155550198", "Be\nfore", "", ""])
        writer.writerow([phone, name, email, metadata])
        writer.writerow(["+14155550197", "After", "", ""])
    result = import_text((tmp_path / "contacts.csv").read_bytes(), status=1)
    assert by_phone(stored()).keys() == {PHONE, "+14155550198", "+14155550197"}
    [line] = said(result)
    assert line.startswith("line 4: ")
    assert reason in line
    [row] = rejected(tmp_path)
    assert reason in row.pop("refused_because")
    assert row == {"phone": phone, "name": name, "email": email, "metadata": metadata}
    assert result.stdout == "Imported: 2. Refused: 1.\n"


def test_every_reason_is_reported(import_text):
    result = import_text("phone,email\nx,y\n", status=1)
    assert "phone: " in result.stderr
    assert "email: " in result.stderr


def test_a_row_longer_than_the_header_is_refused(import_text, tmp_path):
    result = import_text(f"phone,name\n{NOOR},Noor,oops\n", status=1)
    assert "more cells than there are titles" in result.stderr


def test_refused_rows_can_be_mended_and_imported(import_text, run, tmp_path, stored):
    import_text("phone,name,City\n4155550199,Noor,Oslo\n+14155550198,Ada,Rome\n", status=1)
    file = tmp_path / "contacts.csv.rejected.csv"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = run("import", file, status=1)
    assert "Kept in the metadata: City." in again.stderr
    assert len(rejected(tmp_path, f"{file.name}.rejected.csv")) == 1
    file.write_text(file.read_text().replace("4155550199", NOOR))
    run("import", file)
    noor = by_phone(stored())[NOOR]
    assert (noor["name"], noor["metadata"]) == ("Noor", {"City": "Oslo"})
    assert len(list(tmp_path.glob("*.rejected*"))) == 2


def test_refused_json_lines_can_be_mended_and_imported(import_text, run, tmp_path, stored):
    lines = [
        {"phone": "4155550199", "name": "Noor"},
        {"phone": "+14155550198", "nmae": "Ada"},
        {"phone": "+14155550197", "tags": ["a,b"]},
        {"phone": "+14155550196", "name": None},
        {"phone": "+14155550195", "name": "\ud800"},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines) + "[1]\nnonsense\n"
    result = import_text(text, name="c.jsonl", status=1)
    assert [line.split(": ")[:2] for line in said(result)] == [
        ["line 1", "phone"],
        ["line 2", "nmae"],
        ["line 3", "tags"],
        ["line 4", "name"],
        ["line 5", "name"],
        ["line 6", "The line must be a JSON object."],
        ["line 7", "The line is not JSON"],
    ]
    file = tmp_path / "c.jsonl.rejected.jsonl"
    mended = file.read_text().splitlines()
    assert "Must start with +" in json.loads(mended[0])["refused_because"]
    file.write_text(mended[0].replace("4155550199", NOOR))
    run("import", file)
    assert by_phone(stored())[NOOR]["name"] == "Noor"


def test_a_file_of_refused_rows_is_made_only_for_a_refused_row(import_text, tmp_path):
    import_text(f"phone\n{NOOR}\n")
    assert not list(tmp_path.glob("*.rejected*"))


def test_no_file_is_overwritten_or_deleted_for_refused_rows(import_text, tmp_path):
    mine = tmp_path / "contacts.csv.rejected.csv"
    mine.write_text("corrections of an hour")
    (tmp_path / "contacts.csv.rejected-2.csv").symlink_to(tmp_path / "nowhere")
    import_text(f"phone\n{NOOR}\n")
    third = tmp_path / "contacts.csv.rejected-3.csv"
    result = import_text("phone\nx\n", status=1)
    assert f"Correct the refused rows in {third}, and import it" in result.stderr
    report = json.loads(import_text("phone\ny\n", "--json", status=1).stdout)
    assert report["refused_file"] == str(tmp_path / "contacts.csv.rejected-4.csv")
    assert [row["phone"] for row in rejected(tmp_path, third.name)] == ["x"]
    assert stat.S_IMODE(third.stat().st_mode) == 0o600
    assert mine.read_text() == "corrections of an hour"
    assert not (tmp_path / "nowhere").exists()


def test_who_corrects_csv_in_a_spreadsheet_is_told_to_format_phones_as_text(import_text):
    advice = "format the phone column as text first"
    assert advice in import_text("phone\nx\n", status=1).stderr
    assert advice not in import_text('{"phone": "x"}\n', name="c.jsonl", status=1).stderr


@pytest.mark.parametrize("options", [[], ["--json"], ["--last-wins"]])
def test_a_dry_run_says_the_same_and_writes_nothing(import_text, tmp_path, stored, options):
    before = stored()
    large = json.dumps({"a": "x" * 40_000}).replace('"', '""')
    text = (
        "phone,name,City,metadata\nx,,Oslo,\n"
        f'{NOOR},Noor,Rome,\n{NOOR},Again,,\n{PHONE},Romy,,"{large}"\n{PHONE},Romain,,\n'
    )
    dry = import_text(text, "--dry-run", *options, status=1)
    assert stored() == before
    assert not (tmp_path / "contacts.csv.rejected.csv").exists()
    real = import_text(text, *options, status=1)
    if options == ["--json"]:
        dry, real = json.loads(dry.stdout), json.loads(real.stdout)
        differ = {"dry_run", "refused_file"}
        assert {name for name in real if dry[name] != real[name]} == differ
    else:
        assert dry.stdout == real.stdout
        assert said(dry) == [*said(real), "A dry run: nothing was written."]


def test_a_dry_run_knows_what_the_store_refuses(import_text, stored):
    [romain] = stored()
    rows = [{"phone": NOOR, "id": romain["id"]}, {"phone": "+14155550198"}]
    result = import_text(an_export(*rows), "--dry-run", status=1)
    assert f"line 2: id: Another contact of the workspace has it. {LEAVE_OUT}" in said(result)
    assert result.stdout == "Imported: 1. Refused: 1.\n"


def test_a_dry_run_makes_no_database(tmp_path):
    runner = runner_on(tmp_path / "new" / "contacts.db")
    (tmp_path / "contacts.csv").write_text(f"phone\n{NOOR}\n")
    result = runner.invoke(args=["import", str(tmp_path / "contacts.csv"), "--dry-run"])
    assert result.exit_code == 0
    assert not (tmp_path / "new").exists()


def test_what_a_file_holds_gives_the_terminal_no_orders(import_text):
    result = import_text(f"phone,\x1b[31mred\n{NOOR},x\n")
    assert "\x1b" not in result.stderr
    result = import_text('{"phone": "+14155550199", "\\u001b[31m": 1}', name="c.jsonl", status=1)
    assert "\x1b" not in result.stderr


# Ids, times and sources, which only an export has


def test_a_new_contact_keeps_the_id_source_and_times_of_an_export(import_text, stored):
    row = {
        "phone": NOOR,
        "id": OTHER_ID.upper(),
        "source": "shopify",
        "created_at": "2020-01-02T03:04:05.000006+00:00",
        "updated_at": "2021-01-01T00:00:00Z",
    }
    import_text(an_export(row))
    noor = by_phone(stored())[NOOR]
    assert (noor["id"], noor["source"]) == (OTHER_ID, "shopify")
    assert (noor["created_at"], noor["updated_at"]) == (1577934245000006, 1609459200000000)


def test_a_contact_that_exists_keeps_its_own(import_text, stored):
    [before] = stored()
    moment = "2020-01-02T03:04:05+00:00"
    row = {"phone": PHONE, "id": OTHER_ID, "source": "manual"}
    import_text(an_export(row | {"created_at": moment, "updated_at": moment}))
    assert stored() == [before]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("id", "42", "id: Must be a UUID"),
        ("source", "facebook", "source: Must be one of manual, csv_import, shopify"),
        ("created_at", "yesterday", "created_at: Must be a time such as"),
        ("created_at", "2020-01-02T03:04:05", "created_at: Must have an offset from UTC"),
        ("updated_at", "0001-01-01T00:00:00+14:00", "updated_at: Must be a time such as"),
    ],
)
def test_a_bad_id_source_or_time_is_refused(import_text, column, value, says):
    text = an_export({"phone": NOOR, column: value})
    assert says in import_text(text, status=1).stderr


def test_an_id_that_another_contact_has_is_refused(import_text, stored):
    [romain] = stored()
    rows = [
        {"phone": NOOR, "id": romain["id"]},
        {"phone": "+14155550198", "id": OTHER_ID},
        {"phone": "+14155550197", "id": OTHER_ID},
    ]
    result = import_text(an_export(*rows), status=1)
    assert said(result) == [
        f"line 2: id: Another contact of the workspace has it. {LEAVE_OUT}",
        f"line 4: id: Another contact of the workspace has it. {LEAVE_OUT}",
    ]


@pytest.mark.parametrize("column", ["id", "source", "created_at", "updated_at", "Created At"])
def test_such_a_column_of_another_program_goes_to_the_metadata(import_text, stored, column):
    result = import_text(f"phone,{column}\n{NOOR},Facebook\n")
    assert said(result) == [f"Kept in the metadata: {column}."]
    noor = by_phone(stored())[NOOR]
    assert (noor["metadata"], noor["source"]) == ({column: "Facebook"}, "csv_import")


def test_such_a_key_of_another_program_s_json_lines_goes_to_the_metadata(import_text, stored):
    lines = [{"phone": NOOR, "id": 42, "metadata": {"a": 1}}, {"phone": PHONE, "source": "crm"}]
    result = import_text("".join(f"{json.dumps(line)}\n" for line in lines), name="c.jsonl")
    assert said(result) == ["Kept in the metadata: id."]
    contacts = by_phone(stored())
    assert contacts[NOOR]["metadata"] == {"id": 42, "a": 1}
    assert contacts[PHONE]["metadata"] == ROMAIN["metadata"] | {"source": "crm"}


# Export, and the way back

HARD_CONTACTS = [
    {"phone": "+14155550101"},
    {
        "phone": "+14155550102",
        "name": '=HYPERLINK("https://example.com";"x")',
        "email": "+plus@example.com",
        "tags": ["@home", "'quoted", '"q"', "; drop", "zwölf"],
        "metadata": {"z": 1.0, "a": [1e300, -0.0, 10**30, "=1+1", None, True], "": {"é\n": "\t"}},
    },
    {"phone": "+14155550103", "name": "'=already", "tags": ["-1", "=2"]},
    {"phone": "+14155550104", "name": 'Line\r\nbreak, "quote" \u2028 😀'},
    {
        "phone": "+14155550105",
        "source": "woocommerce",
        "locale": "pt-BR",
        "opted_in_at": datetime(2026, 4, 15, 10, 32, 0, 123456, UTC),
        "opted_out_at": datetime(2026, 5, 2, tzinfo=UTC),
        "last_message_at": datetime(2026, 5, 7, 8, 14, 23, 1, UTC),
        "total_messages": 27,
    },
]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_export_then_import_gives_the_same_contacts_byte_for_byte(make_app, tmp_path, run, ending):
    app = make_app(HARD_CONTACTS, CONTACTS_DATABASE=str(tmp_path / "old.db"))
    file = tmp_path / f"contacts.{ending}"
    assert app.test_cli_runner().invoke(args=["export", str(file)]).exit_code == 0
    new = make_app([], CONTACTS_DATABASE=str(tmp_path / "new.db"))
    result = new.test_cli_runner().invoke(args=["import", str(file)])
    assert (result.exit_code, said(result)) == (0, [])
    rows = "SELECT * FROM contact ORDER BY number"
    assert execute(tmp_path / "new.db", rows) == execute(tmp_path / "old.db", rows)
    assert len(execute(tmp_path / "new.db", rows)) == len(HARD_CONTACTS)


def test_no_cell_of_an_export_is_a_formula_but_the_phone(make_app, tmp_path):
    runner = make_app(HARD_CONTACTS).test_cli_runner()
    assert runner.invoke(args=["export", str(tmp_path / "out.csv")]).exit_code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phone"] for row in rows] == [contact["phone"] for contact in HARD_CONTACTS]
    cells = [cell for row in rows for name, cell in row.items() if name != "phone"]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    assert rows[1]["name"].startswith("'=HYPERLINK")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_an_export_is_private_and_replaces_an_earlier_one(run, tmp_path, ending):
    file = tmp_path / f"contacts.{ending}"
    run("export", file)
    before = file.read_bytes()
    file.chmod(0o644)
    run("delete", PHONE, "--yes")
    run("export", file)
    assert file.read_bytes() != before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    run("export", file)


EARLIER = f"id,phone,name,email,tags,metadata,source,created_at,updated_at\n{OTHER_ID},{NOOR}\n"


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        (EARLIER, True),
        ("", True),
        ("phone,name\n", False),
        ("refused_because,id,phone,name\n", False),
        (f"{EARLIER.splitlines()[0]},mine\n", False),
        (f'{{"phone": "{NOOR}"}}\n', False),
        (b"\xff\xfe\x00", False),
    ],
)
def test_an_export_replaces_nothing_else_unless_it_is_forced(run, tmp_path, text, replaced):
    file = tmp_path / "contacts.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = file.read_bytes()
    result = run("export", file, status=0 if replaced else 1)
    if not replaced:
        assert result.stderr.endswith(
            "is no earlier export: choose another name, or replace it with --force.\n"
        )
        assert file.read_bytes() == before
    run("export", file, "--force")
    assert file.read_text().startswith("id,phone,name,email,tags,metadata,source,locale,")


@pytest.mark.parametrize("command", ["export", "backup"])
def test_a_folder_that_is_missing_is_named(run, tmp_path, command):
    result = run(command, tmp_path / "missing" / "contacts.csv", status=1)
    assert result.stderr.splitlines()[-1] == (
        f"Error: {tmp_path / 'missing'}: no file can be made in this folder: No such file or"
        " directory."
    )


def test_without_a_file_the_export_is_json_lines(run, contact):
    [line] = run("export").stdout.splitlines()
    exported = json.loads(line)
    assert exported["id"] == contact["id"]
    assert exported["metadata"] == ROMAIN["metadata"]
    assert exported["updated_at"][:19] == contact["updated_at"][:19]


def test_an_export_has_a_known_ending(run, tmp_path):
    assert "must end in" in run("export", tmp_path / "contacts.xlsx", status=2).stderr


def test_an_unknown_workspace_is_not_exported(run):
    assert "no workspace named shop" in run("export", "--workspace", "shop", status=1).stderr


# Which database


def test_commands_say_which_database_they_work_on(app, run, tmp_path):
    line = f"Database: {app.extensions['store'].path}"
    (tmp_path / "c.csv").write_text(f"phone\n{NOOR}\n")
    for command in (
        ["import", tmp_path / "c.csv"],
        ["import", tmp_path / "c.csv", "--dry-run"],
        ["export"],
        ["export", tmp_path / "out.csv"],
        ["backup", tmp_path / "copy.db"],
        ["delete", NOOR, "--yes"],
    ):
        assert line in run(*command).stderr.splitlines()


def test_import_and_token_create_say_so_when_they_make_a_database(tmp_path):
    (tmp_path / "c.csv").write_text(f"phone\n{NOOR}\n")
    for name, command in (
        ("one.db", ["import", str(tmp_path / "c.csv")]),
        ("two.db", ["token", "create", "ci"]),
    ):
        runner = runner_on(tmp_path / name)
        created = f"Created {tmp_path / name}, which no server uses yet."
        assert created in runner.invoke(args=command).stderr.splitlines()
        again = [*command[:-1], "other"] if command[0] == "token" else command
        assert "Created /" not in runner.invoke(args=again).stderr


@pytest.mark.parametrize(
    "command", [["export"], ["delete", PHONE, "--yes"], ["backup", "copy.db"]], ids=lambda c: c[0]
)
def test_a_missing_database_is_reported_and_not_made(tmp_path, command):
    database = tmp_path / "folder" / "contacts.db"
    result = runner_on(database).invoke(args=command)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {database}: there is no database.\n"
    assert list(tmp_path.iterdir()) == []


# While others work


def write_rows(file, count):
    rows = "".join(f"+4477{i:08},Person {i}\n" for i in range(count))
    file.write_text(f"phone,name\n{rows}")


def importing(file, database):
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "import", file],
        cwd=ROOT,
        env=environment(database),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupted_import_keeps_what_is_in_and_can_be_run_again(make_app, tmp_path):
    write_rows(tmp_path / "many.csv", 10_000)
    database = make_app([]).extensions["store"].path
    with importing(tmp_path / "many.csv", database) as process:
        while not execute(database, "SELECT 1 FROM contact LIMIT 1"):
            assert process.poll() is None
        with write_lock(database):  # it can't come to its end now
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert stderr.endswith("Error: Interrupted.\n")
    assert "Traceback" not in stderr
    [(count,)] = execute(database, "SELECT count(*) FROM contact")
    assert 0 < count < 10_000
    assert int(re.search(r"Stopped after (\d+) contacts", stderr)[1]) <= count
    with importing(tmp_path / "many.csv", database) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert execute(database, "SELECT count(*) FROM contact") == [(10_000,)]


def test_clients_update_while_an_import_runs(server, tmp_path):
    write_rows(tmp_path / "many.csv", 8_000)
    responses = []

    def update(process):
        while process.poll() is None:
            body = {"phone": PHONE, "metadata": {"count": len(responses)}}
            responses.append(post(server.url, body).status_code)

    with importing(tmp_path / "many.csv", server.database) as process:
        clients = [threading.Thread(target=update, args=[process]) for _ in range(3)]
        for client in clients:
            client.start()
        stdout, _ = process.communicate(timeout=120)
        for client in clients:
            client.join()
    assert stdout == "Imported: 8000. Refused: 0.\n"
    assert set(responses) == {200}
    assert len(contacts_in(server.database)) == 8_001
