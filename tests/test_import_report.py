"""What an import reports, and the options that it names."""

import json
import os
import pty
import subprocess
import sys

import pytest
from conftest import PHONE, ROOT, SECONDS, contacts_in, environment
from test_import_export import said

import commands

NOOR, ADA = "+14155550199", "+14155550198"
TEXT = f"""\
phone,First name,City,Empty
{NOOR},Noor,Oslo,
{PHONE},Romain,,
{ADA},Ada,Rome,
+1 415 555 0199,Nora,,
415,Bo,,
"""


@pytest.fixture
def run_import(make_app, tmp_path):
    """Imports a text; `contacts` are then there, by phone."""
    app = make_app()

    def run_import(text, *options, status=0, name="contacts.csv"):
        (tmp_path / name).write_text(text)
        args = ["import", str(tmp_path / name), *options]
        result = app.test_cli_runner().invoke(args=args)
        assert result.exit_code == status, result.output
        result.contacts = {row["phone"]: row for row in contacts_in(app.extensions["store"].path)}
        return result

    return run_import


def test_before_anything_is_written_it_shows_what_each_column_becomes_with_a_sample(run_import):
    lines = run_import(TEXT, status=1).stderr.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["CSV", "in", "UTF-8,", "separated", "by", "commas:"],
        ["phone", "→", "phone", NOOR],
        ["First", "name", "→", "name", "Noor"],
        ["City", "→", "metadata", "Oslo"],
    ]
    assert not any("Empty" in line for line in lines)
    [database] = [number for number, line in enumerate(lines) if line.startswith("Database: ")]
    assert database > 3


def test_it_counts_created_updated_changed_repeated_and_refused(run_import):
    result = run_import(TEXT, status=1)
    assert "Created: 2. Updated: 1, of which 0 changed. Repeated: 1." in result.stderr
    assert result.stdout == "Imported: 3. Refused: 2.\n"
    result = run_import(TEXT.replace("Romain,", "Romy,"), status=1)
    assert "Created: 0. Updated: 3, of which 1 changed. Repeated: 1." in result.stderr


def test_the_same_as_json(run_import, make_app, tmp_path):
    report = json.loads(run_import(TEXT, "--json", status=1).stdout)
    assert report["columns"] == [
        {"title": "phone", "becomes": "phone", "sample": NOOR},
        {"title": "First name", "becomes": "name", "sample": "Noor"},
        {"title": "City", "becomes": "metadata", "sample": "Oslo"},
    ]
    counts = ["imported", "created", "updated", "changed", "refused"]
    assert [report[name] for name in counts] == [3, 2, 1, 0, 2]
    assert report["repeated"] == [{"line": 5, "repeats": 2}]
    assert [refusal["line"] for refusal in report["refusals"]] == [5, 6]
    assert report["refused_file"] == str(tmp_path / "contacts.csv.rejected.csv")
    assert report["description"] == "CSV in UTF-8, separated by commas"
    assert report["notices"] == ["Kept in the metadata: City."]
    assert (report["dry_run"], report["workspace"]) == (False, "default")
    assert report["database"].endswith("contacts.db")


def test_of_many_refused_rows_twenty_are_shown_and_all_are_in_the_file(run_import, tmp_path):
    result = run_import("phone\n" + "1\n" * 600, status=1)
    lines = said(result)
    assert [line.split(":")[0] for line in lines[:20]] == [f"line {n}" for n in range(2, 22)]
    assert lines[20] == "… and 580 more."
    assert len((tmp_path / "contacts.csv.rejected.csv").read_text().splitlines()) == 601


def test_progress_is_shown_on_a_terminal_while_it_runs(tmp_path):
    (tmp_path / "c.csv").write_text(f"phone\n{NOOR}\n")
    command = [sys.executable, "-m", "flask", "import", tmp_path / "c.csv"]
    env = environment(tmp_path / "contacts.db", TERM="xterm")
    terminal, its_end = pty.openpty()
    try:
        subprocess.run(command, cwd=ROOT, env=env, stderr=its_end, check=True, timeout=SECONDS)
        shown = os.read(terminal, 100_000).decode()
    finally:
        os.close(its_end)
        os.close(terminal)
    assert "100%" in shown


# Numbers without a plus


@pytest.mark.parametrize(
    ("number", "options", "phone"),
    [
        ("06 39 98 01 01", ["--region", "FR"], "+33639980101"),
        ("06 39 98 01 01", ["--region", "fr"], "+33639980101"),
        ("639980101", ["--region", "FR", "--national"], "+33639980101"),
        ("0639980101", ["--region", "FR", "--national"], "+33639980101"),
        ("447700900123", ["--region", "DE", "--national"], "+49447700900123"),
        ("33639980101", ["--international"], "+33639980101"),
        ("33612345678", ["--region", "DE", "--international"], "+33612345678"),
        ("687751234", ["--region", "FR", "--international"], "+687751234"),
        ("687751234", ["--region", "FR", "--national"], "+33687751234"),
        ("0033639980101", ["--international"], "+33639980101"),
        ("+33639980101", ["--region", "DE", "--national"], "+33639980101"),
    ],
)
def test_region_national_and_international_decide_for_the_whole_file(
    run_import, number, options, phone
):
    assert phone in run_import(f"phone\n{number}\n", *options).contacts


@pytest.mark.parametrize(
    ("number", "options"),
    [
        ("33639980101", ["--region", "FR", "--national"]),
        ("0639980101", ["--international"]),
        ("33639980101.0", ["--international"]),
        ("6,39980101E+08", ["--region", "FR", "--national"]),
    ],
)
def test_what_they_do_not_fit_is_refused(run_import, number, options):
    assert len(run_import(f"phone\n{number}\n", *options, status=1).contacts) == 1


@pytest.mark.parametrize(
    ("number", "options", "readings"),
    [
        ("491713920003", ["--region=DE", "--national"], ["+491713920003", "+49491713920003"]),
        ("687000003", ["--region=FR", "--international"], ["+33687000003"]),
        ("33639980101", ["--region=DE", "--international"], ["+33639980101", "+4933639980101"]),
    ],
)
def test_a_number_for_which_the_option_is_unlikely_to_be_true_is_refused_with_its_readings(
    run_import, number, options, readings
):
    result = run_import(f"phone\n{number}\n", *options, status=1)
    assert len(result.contacts) == 1
    assert f"it may be {' or '.join(readings)}:" in result.stderr


def test_a_column_with_both_kinds_is_in_after_two_imports(run_import, tmp_path):
    first = run_import("phone\n639980101\n447911123456\n", "--region=FR", "--national", status=1)
    assert "+33639980101" in first.contacts
    rejected = (tmp_path / "contacts.csv.rejected.csv").read_text()
    second = run_import(rejected, "--international", name="again.csv")
    assert "+447911123456" in second.contacts


def test_region_counts_more_than_the_setting(make_app, tmp_path):
    (tmp_path / "c.csv").write_text("phone\n06 39 98 01 01\n")
    app = make_app([], CONTACTS_DEFAULT_REGION="DE")
    args = ["import", str(tmp_path / "c.csv"), "--region", "FR"]
    assert app.test_cli_runner().invoke(args=args).exit_code == 0
    [contact] = contacts_in(app.extensions["store"].path)
    assert contact["phone"] == "+33639980101"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--national"], "--national needs --region, or CONTACTS_DEFAULT_REGION."),
        (["--region", "France"], "Must be an ISO 3166 country such as FR."),
        (["--region=FR", "--national", "--international"], "exclude each other"),
    ],
)
def test_options_that_cannot_be_followed_are_a_usage_error(run_import, options, says):
    [line] = [
        line
        for line in run_import(f"phone\n{NOOR}\n", *options, status=2).stderr.splitlines()
        if line.startswith("Error: ")
    ]
    assert says in line


@pytest.mark.parametrize(
    ("header", "row", "options", "advice"),
    [
        ("phone", "06 39 98 01 0{}", [], "--region FR"),
        ("phone", "3363998010{}", [], "--international"),
        ("phone", "63998010{}", ["--region", "FR"], "--national or --international"),
        ("phone", "3363998010{}", ["--region=FR", "--national"], "--national is not true of them"),
        ("phone,Notes", ",+1 415 555 019{}", [], '--map "Notes=phone"'),
        ("phone,Consent date", "+1415555019{},01/02/2026", [], '--map "Consent date=other"'),
    ],
)
def test_when_most_rows_fail_for_one_reason_it_names_the_option_that_helps(
    run_import, header, row, options, advice
):
    rows = [row.format(number) for number in range(5)]
    few = f"{NOOR}{',' * header.count(',')}"
    text = "".join(f"{line}\n" for line in [header, *rows, few])
    result = run_import(text, *options, status=1)
    assert advice in result.stderr.splitlines()[-1]
    report = json.loads(run_import(text, *options, "--json", status=1).stdout)
    assert advice in report["advice"]
    text = "".join(f"{line}\n" for line in [header, rows[0], few])
    assert json.loads(run_import(text, *options, "--json", status=1).stdout)["advice"] == ""


def test_every_line_of_help_is_whole(make_app):
    runner = make_app().test_cli_runner()
    for command in ("import", "export", "delete", "backup", "token", "token create", "workspace"):
        output = runner.invoke(args=[*command.split(), "--help"]).output
        assert "..." not in output.replace("[ARGS]...", "")
    shown = runner.invoke(cli=commands.main, args=["--help"]).output
    for name in ("import", "export", "delete", "backup", "serve"):
        [words] = [line.split()[1:] for line in shown.splitlines() if line.split()[:1] == [name]]
        assert "..." not in words[-1]
