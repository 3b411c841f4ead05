"""Contact lists as other programs export them, by their headers."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import PHONE, contacts_in
from test_import_export import said

DATA = Path(__file__).parent / "data"
NOOR = "+14155550199"


@pytest.fixture
def run_import(make_app, tmp_path):
    """Imports a copy of a file, or a text from standard input; returns `contacts` by phone too."""
    app = make_app()

    def run_import(file, *options, status=0, text=None):
        if text is None:
            # Refused rows are kept beside the file.
            file = shutil.copy(file, tmp_path / f"copy{file.suffix}")
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


def test_thunderbird(run_import):
    contacts = run_import(DATA / "thunderbird.csv").contacts
    assert fields(contacts, "name", "email") == {
        "+12025550192": ("Lea Example", "lea@example.com"),
        "+12025550193": ("Max Example", None),
    }
    assert contacts["+12025550192"]["metadata"]["Fax Number"] == "+1 202 555 0199"


def test_brevo_needs_international(run_import):
    result = run_import(DATA / "brevo.csv", status=1)
    assert "add --international" in result.stderr
    contacts = run_import(DATA / "brevo.csv", "--international").contacts
    assert fields(contacts, "name", "email") == {
        "+33639980112": ("Nadia Exemple", "nadia@example.com"),
        "+33639980113": ("Omar", "omar@example.com"),
    }
    assert contacts["+33639980112"]["metadata"]["CONTACT ID"] == "11"


def test_mailchimp_needs_a_region_for_numbers_without_a_plus(run_import):
    assert run_import(DATA / "mailchimp.csv", status=1).contacts.keys() == {"+12025550101"}
    contacts = run_import(DATA / "mailchimp.csv", "--region", "US").contacts
    assert fields(contacts, "name", "email", "tags", "opted_in_at") == {
        "+12025550101": ("Pia Example", "pia@example.com", ["VIP", "Lead 2024"], None),
        "+12025550102": ("Quin", "quin@example.com", ["Newsletter"], None),
    }
    assert contacts["+12025550101"]["metadata"]["CONFIRM_TIME"] == "2026-05-01 09:14:33"


def test_pipedrive(run_import):
    contacts = run_import(DATA / "pipedrive.csv").contacts
    assert fields(contacts, "name", "email", "tags") == {
        "+12025550104": ("Rosa Example", "rosa@example.com", ["Customer", "Hot lead"]),
        "+12025550105": ("Sam Example", "sam@example.com", []),
    }


def test_zoho(run_import):
    contacts = run_import(DATA / "zoho.csv").contacts
    assert fields(contacts, "name", "email", "tags") == {
        "+12025550107": ("Tess Example", "tess@example.com", ["Lead", "VIP"]),
        "+12025550108": ("Umar", None, []),
    }


def test_salesforce_needs_a_region(run_import):
    assert "add --international" in run_import(DATA / "salesforce.csv", status=1).stderr
    contacts = run_import(DATA / "salesforce.csv", "--region", "US").contacts
    assert fields(contacts, "name", "email", "source") == {
        "+12025550110": ("Vera Example", "vera@example.com", "csv_import"),
        "+12025550111": ("Wim", None, "csv_import"),
    }
    assert contacts["+12025550110"]["metadata"]["ID"] == "003000000000001AAA"


def test_odoo(run_import):
    contacts = run_import(DATA / "odoo.csv").contacts
    assert fields(contacts, "name", "locale", "tags") == {
        "+12025550113": ("Example Ltd, Xenia", "fr_FR", ["VIP"]),
        "+12025550114": ("Yan", None, []),
    }
    assert contacts["+12025550114"]["metadata"] == {"id": "__export__.res_partner_8_d4e5f6"}


def test_woocommerce(run_import):
    contacts = run_import(DATA / "woocommerce.csv").contacts
    assert fields(contacts, "name", "email", "locale") == {
        "+12025550115": ("Zara Example", "zara@example.com", "it_IT"),
        "+12025550116": ("Abe", "abe@example.com", None),
    }


def test_shopify(run_import):
    contacts = run_import(DATA / "shopify.csv").contacts
    assert fields(contacts, "name", "email", "tags", "opted_in_at") == {
        "+12025550117": ("Bea Example", "bea@example.com", ["vip", "newsletter"], None),
        "+12025550118": ("Cem", None, [], None),
    }
    assert contacts["+12025550117"]["metadata"]["Accepts SMS Marketing"] == "yes"


def test_airtable(run_import):
    contacts = run_import(DATA / "airtable.csv", "--region", "US").contacts
    may_first = 1777593600 * 10**6
    assert fields(contacts, "name", "tags", "locale", "opted_in_at") == {
        "+12025550119": ("Dora Example", ["VIP", "Lead 2024"], "fr", may_first),
        "+12025550120": ("Eli Example", [], None, None),
    }
    assert contacts["+12025550120"]["metadata"]["Language"] == "French"


# The line of titles

TITLES = {
    "English": "First name,Last name,Mobile phone,E-mail address,Tags,Language,Consent date",
    "French": "Prénom,Nom,Tél. portable,Adresse e-mail,Étiquettes,Langue,Date de consentement",
    "German": "Vorname,Name,Handynummer,E-Mail-Adresse,Schlagwörter,Sprache,Einwilligungsdatum",
    "Spanish": "Nombre,Apellidos,Móvil,Correo electrónico,Etiquetas,Idioma,Fecha de consentimiento",
}


@pytest.mark.parametrize("language", TITLES)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_titles_are_known_in_english_french_german_and_spanish(import_text, language, separator):
    cells = [
        "Noor",
        "Example",
        NOOR,
        "noor@example.com",
        "vip",
        "pt-BR",
        "2026-05-01 10:00:00+02:00",
    ]
    lines = [TITLES[language].split(","), cells]
    result = import_text("".join(f"{separator.join(line)}\n" for line in lines))
    assert said(result) == []
    columns = ["name", "email", "tags", "locale", "opted_in_at", "metadata"]
    may_first = (1777593600 + 8 * 3600) * 10**6
    assert fields(result.contacts, *columns) == {
        NOOR: ("Noor Example", "noor@example.com", ["vip"], "pt-BR", may_first, {})
    }


@pytest.mark.parametrize(
    ("titles", "cells", "name"),
    [
        ("Prénom;Nom", "Noor;Example", "Noor Example"),
        ("Nom;Prénom", "Example;Noor", "Noor Example"),
        ("First Name;Name", "Noor;Example", "Noor Example"),
        ("Vorname;Name", "Noor;Example", "Noor Example"),
        ("Nombre;Apellidos", "Noor;Example", "Noor Example"),
        ("Nom;Prénom;Nom de famille", "N. E.;Noor;Example", "N. E."),
        ("Nom", "Noor Example", "Noor Example"),
        ("Nombre", "Noor Example", "Noor Example"),
    ],
)
def test_a_name_beside_a_first_name_is_the_last_name(import_text, titles, cells, name):
    result = import_text(f"Phone;{titles}\n{NOOR};{cells}\n")
    assert result.contacts[NOOR]["name"] == name


@pytest.mark.parametrize(
    ("above", "skipped"),
    [
        ("sep=;\n", "sep=;"),
        ('"sep=;"\r\n', '"sep=;"'),
        ("\n", "an empty line"),
        ("Kunden 2026;;\n;;\n", "Kunden 2026, an empty line"),
        ("sep=;\n\nContacts\n", "sep=;, an empty line, Contacts"),
        ("\n" * 9, ", ".join(["an empty line"] * 9)),
    ],
)
def test_what_is_above_the_titles_is_skipped_and_said(import_text, above, skipped):
    result = import_text(f"{above}Phone;Name;City\n{NOOR};Noor;Oslo\n415;Ada;Rome\n", status=1)
    line = above.count("\n") + 3
    assert said(result)[0] == f"Skipped above the titles: {skipped}."
    assert said(result)[-1].startswith(f"line {line}: phone: ")
    assert fields(result.contacts, "name", "metadata") == {NOOR: ("Noor", {"City": "Oslo"})}


def test_the_titles_are_among_the_first_ten_lines(import_text):
    result = import_text("\n" * 10 + f"Phone\n{NOOR}\n", status=2)
    assert "No column is named phone" in result.stderr


def test_without_a_phone_the_message_writes_out_the_map(import_text):
    result = import_text(f"Kontakt;Nummer;Ort\nNoor;{NOOR};Oslo\n", status=2)
    assert "The columns are: Kontakt, Nummer, Ort." in result.stderr
    assert '--map "Nummer=phone"' in result.stderr
    assert import_text(f"Kontakt;Nummer\nNoor;{NOOR}\n", "--map=Nummer=phone").contacts


def test_a_row_that_says_mobile_is_not_taken_for_the_titles(import_text):
    result = import_text(f"Name;Type;Number\nNoor;Mobile;{NOOR}\n", status=2)
    assert "The columns are: Name, Type, Number." in result.stderr


def test_two_columns_of_one_name_are_numbered(import_text):
    result = import_text(f"Phone,City,City,,\n{NOOR},Oslo,Rome,a,b\n")
    metadata = {"City": "Oslo", "City 2": "Rome", "column 4": "a", "column 5": "b"}
    assert result.contacts[NOOR]["metadata"] == metadata
    result = import_text(f"Phone,Phone\n,{NOOR}\n", "--last-wins")
    assert NOOR in result.contacts


def test_a_row_of_blanks_is_none(import_text):
    result = import_text(f"Phone,Name\n , \n{NOOR},Noor\n\t,\n")
    assert result.stdout == "Imported: 1. Refused: 0.\n"


@pytest.mark.parametrize(
    "option", ["Tele\u0301fono 2=phone", "TELÉFONO 2=phone", "telefono-2=phone"]
)
def test_map_ignores_case_accents_composition_and_punctuation(import_text, option):
    text = f"Tel\u00e9fono 2,Name\n{NOOR},Noor\n"
    assert NOOR in import_text(text, f"--map={option}").contacts


@pytest.mark.parametrize(
    ("column", "read"),
    [
        (["07/05/2024", "31/12/2024"], "2024-05-07T00:00:00"),
        (["05/07/2024", "12/31/2024"], "2024-05-07T00:00:00"),
        (["7/5/2024 09:30", "13/5/2024"], "2024-05-07T09:30:00"),
        (["07.05.2024", "01.02.2024"], "2024-05-07T00:00:00"),
        (["07.05.2024 9:30:15", "12/31/2024"], "2024-05-07T09:30:15"),
        (["2024-05-07"], "2024-05-07T00:00:00"),
    ],
)
def test_dates_of_consent_are_read_where_the_column_shows_what_is_first(import_text, column, read):
    rows = "".join(f"+1415555019{n},{date}\n" for n, date in enumerate(column))
    contacts = import_text(f"phone,Consent date\n{rows}").contacts
    stored = datetime.fromtimestamp(contacts["+14155550190"]["opted_in_at"] / 10**6, UTC)
    assert stored.isoformat() == f"{read}+00:00"


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (["07/05/2024"], "Write 2024-05-07"),
        (["07/05/2024", "31/12/2024", "12/31/2024"], "Write 2024-05-07"),
        (["31/13/2024"], "such as 2026-05-07."),
        (["31.02.2024"], "such as 2026-05-07."),
        (["05.31.2024"], "such as 2026-05-07."),
        (["oui"], "such as 2026-05-07."),
    ],
)
def test_other_dates_are_refused_with_what_to_write(import_text, column, says):
    rows = "".join(f"+1415555019{n},{date}\n" for n, date in enumerate(column))
    assert says in import_text(f"phone,Consent date\n{rows}", status=1).stderr


@pytest.mark.parametrize(
    ("title", "value"),
    [
        ("Désinscrit", "oui"),
        ("Désabonné", "1"),
        ("Consentement", "non"),
        ("Unsubscribed", "true"),
        ("Opt-out", "x"),
        ("Abgemeldet", "ja"),
        ("Einwilligung", "nein"),
        ("Baja", "sí"),
        ("Consentimiento", "no"),
        ("Accepts SMS Marketing", "no"),
        ("Statut", "Désabonné"),
        ("Status", "Unsubscribed"),
    ],
)
def test_a_column_that_may_say_who_wants_no_messages_is_pointed_out(import_text, title, value):
    text = f"phone,City,{title}\n{NOOR},Oslo,\n+14155550198,Rome,{value}\n"
    result = import_text(text)
    assert f"opted_out_at is not set from them: {title}." in result.stderr
    assert result.contacts["+14155550198"]["metadata"][title] == value
    assert "opted_out_at" not in import_text(f"phone,City\n{NOOR},Oslo\n").stderr


def test_a_quotation_mark_that_may_not_be_closed_is_pointed_out(import_text):
    text = f'phone,name\n{NOOR},Noor\n+14155550198,"Ada\n+14155550197,"\n+14155550196,Bo\n'
    assert "Line 3 has a cell that goes over several lines" in import_text(text).stderr
    text = f'phone,Notes\n{NOOR},"two\nlines"\n'
    assert "several lines" not in import_text(text).stderr


def test_map_other_keeps_a_column_in_the_metadata(import_text):
    text = f"phone,Consent date\n{NOOR},01/05/2026\n"
    result = import_text(text, status=1)
    assert "opted_in_at: Is the day or the month first? Write 2024-05-07." in result.stderr
    assert '--map "Consent date=other"' in result.stderr
    noor = import_text(text, "--map=Consent date=other").contacts[NOOR]
    assert noor["metadata"] == {"Consent date": "01/05/2026"}


# Tags


@pytest.mark.parametrize(
    ("cells", "tags"),
    [
        (['"VIP","Lead 2024"', "a"], ["VIP", "Lead 2024"]),
        (["VIP, Lead 2024", "a"], ["VIP", "Lead 2024"]),
        (['VIP, "Lead 2024"', "a"], ["VIP", "Lead 2024"]),
        (["VIP;Lead 2024", "a"], ["VIP", "Lead 2024"]),
        (["VIP;Lead 2024", "a,b"], ["VIP;Lead 2024"]),
        (["VIP ::: Lead 2024", "a"], ["VIP", "Lead 2024"]),
        (['12" vinyl, VIP', "a"], ['12" vinyl', "VIP"]),
    ],
)
def test_tags_are_separated_as_in_the_whole_column(import_text, cells, tags):
    rows = [f"{NOOR}|{cells[0]}", f"+14155550198|{cells[1]}"]
    text = "".join(f"{row}\n" for row in ["phone\ttags", *rows]).replace("|", "\t")
    quoted = "".join(
        f'{phone}\t"{cell.replace(chr(34), chr(34) * 2)}"\n'
        for phone, _, cell in (row.partition("|") for row in rows)
    )
    text = f"phone\ttags\n{quoted}"
    assert import_text(text).contacts[NOOR]["tags"] == tags


@pytest.mark.parametrize("title", ["Labels", "Group Membership"])
def test_labels_that_are_google_s_own_are_no_tags_in_any_spelling(import_text, title):
    labels = "* My Contacts ::: * myContacts ::: Lead ::: * starred ::: * friends"
    result = import_text(f"phone,{title}\n{NOOR},{labels}\n+14155550198,* starred\n")
    assert fields(result.contacts, "tags", "metadata") == {
        NOOR: (["Lead"], {}),
        "+14155550198": ([], {}),
    }
    dropped = "* My Contacts, * friends, * myContacts, * starred"
    assert said(result) == [f"Not read as tags, being Google's own labels: {dropped}."]


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
    assert said(result) == [
        "The name is the first of these that is not empty, and the metadata keeps the others:"
        " Name, First Name + Last Name.",
        "The phone is the first of these that is not empty, and the metadata keeps the others:"
        " Mobile, Phone.",
    ]


def test_a_row_with_no_value_in_any_of_them_is_refused(import_text):
    result = import_text("Phone,Mobile,Name\n,,Noor\n", status=1)
    assert said(result)[-1] == "line 2: phone: Is required."


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
    assert said(result) == []


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
        ("Phone=phnoe", "write COLUMN=FIELD, with one of these fields: phone, name"),
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
    result = import_text(f"phone,Nome completo\n{NOOR},Noor\n415,Ada\n", status=1)
    assert said(result)[:2] == [
        "Kept in the metadata: Nome completo.",
        'No column is read as the name. Is it one of these? --map "Nome completo=name"',
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


def test_rows_refused_from_standard_input_are_reported_and_leave_no_file(
    run_import, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    result = run_import("-", "--format", "csv", status=1, text=f"phone\n415\n{NOOR}\n")
    assert said(result)[0].startswith("line 2: phone: ")
    assert list(result.contacts) == [NOOR]
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {
        "contacts.db-wal",
        "contacts.db-shm",
    }


def test_a_named_format_counts_more_than_the_ending(run_import, tmp_path):
    (tmp_path / "export.txt").write_text(f"phone\n{NOOR}\n")
    assert NOOR in run_import(tmp_path / "export.txt", "--format", "csv").contacts
