"""The examples of docs/import.md, and its tables."""

import re
import shutil
import subprocess

import pytest
from conftest import ROOT, SECONDS, environment
from pages import clone, examples, prose

PLACES = {
    "steps": "docs/import.md#three-steps",
    "database": "docs/import.md#which-database",
    "other ways": "docs/import.md#other-ways-in",
    "export": "docs/import.md#export",
}


@pytest.fixture
def project(tmp_path):
    return clone(tmp_path)


@pytest.fixture
def shell(project):
    """Runs a command in the project; returns what it prints on either output."""

    def shell(command, status=0):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=project,
            env=environment("", PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    return shell


def test_the_three_steps_and_the_other_ways_in_and_out(project, shell):
    file, dry_run, said, import_, again = examples(PLACES["steps"])
    (project / "clients.csv").write_text(file.text)
    shown = shell(dry_run.text, status=1).replace(str(project), "/home/me/qyvo-standin")
    assert shown == said.text
    assert not (project / "instance" / "contacts.db").exists()
    assert "Imported: 1. Refused: 1.\n" in shell(import_.text, status=1)
    rejected = project / "clients.csv.rejected.csv"
    rejected.write_text(rejected.read_text().replace(";639980122;", ";06 39 98 01 22;"))
    assert "Imported: 1. Refused: 0.\n" in shell(again.text)

    [others] = examples(PLACES["other ways"])
    assert "Imported: 2. Refused: 0.\n" in shell(others.text)
    [export] = examples(PLACES["export"])
    assert shell(export.text).splitlines()[-1] == "1"
    shell(export.text)  # which replaces the first


def test_the_database_of_the_systemd_unit_is_the_one_that_the_page_names(project, shell, tmp_path):
    [example] = examples(PLACES["database"])
    unit = (ROOT / "deploy" / "qyvo-standin.service").read_text()
    [setting] = re.findall(r"CONTACTS_DATABASE=\S+", example.text)
    assert f"Environment={setting}\n" in unit
    assert f"User={example.text.split()[2]}\n" in unit
    shutil.copy(ROOT / "tests" / "data" / "hubspot.csv", project / "clients.csv")
    command = example.text.replace("sudo -u qyvo-standin ", "")
    command = command.replace(setting, f"CONTACTS_DATABASE={tmp_path}/new.db")
    assert f"Created {tmp_path}/new.db, which no server uses yet.\n" in shell(command)


def test_every_file_of_another_program_is_in_the_table_of_files():
    data = ROOT / "tests" / "data"
    listed = set(re.findall(r"\S+\.csv", (data / "README.md").read_text()))
    assert {path.name for path in data.glob("*.csv")} == {name.strip("|,") for name in listed}


NOOR, ADA = "+14155550199", "+14155550198"
# A file, and options, about which an import says what the page explains.
SAYS = {
    "No column has a title": ("+14155550199,Noor\n", []),
    "is not UTF-8": ("phone,name\n+14155550199,Noël\n", []),
    "No column is named phone": ("Kontakt\n+14155550199\n", []),
    "Must start with +": ("phone\n415\n", []),
    "Without a + it may be": ("phone\n639980121\n", ["--region", "FR"]),
    "looks like a number that a spreadsheet rounded": ("phone\n+33639980121.0\n", []),
    "Line 2 of … has … too": ("phone\n+14155550199\n+14155550199\n", []),
    "is not CSV": ('phone\n"+14155550199\n', []),
    "goes over several lines": (f'phone\tname\n{NOOR}\t"a\n{ADA}\t"\n', []),
    "Is the day or the month first": (f"phone,Consent date\n{NOOR},07/05/2024\n", []),
    "There is no workspace named": ("phone\n+14155550199\n", ["--workspace", "shop"]),
}


def test_what_the_page_explains_is_what_an_import_says(run, tmp_path):
    explained = re.findall(r"^\| `([A-Za-z][^`]+ [^`]+)` \|", prose("docs/import.md"), re.M)
    assert explained == list(SAYS)
    for text, (content, options) in SAYS.items():
        file = tmp_path / "contacts.csv"
        file.write_bytes(content.encode("cp1252"))
        status = 1 if re.match("Must|Without|looks|Line|Is the", text) else 2
        status = 0 if text.startswith("goes") else status
        stderr = run("import", file, "--dry-run", *options, status=status).stderr
        assert re.search(re.escape(text).replace("…", r"\S+"), stderr), text
