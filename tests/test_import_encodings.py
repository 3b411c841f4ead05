"""Encodings of imported files: recognised, or shown for a person to choose."""

import codecs
import csv
import io
import itertools
import json
import re
import shlex
import unicodedata
from pathlib import Path

import pytest
from conftest import PHONE, contacts_in
from test_import_formats import TITLES

DATA = Path(__file__).parent / "data"
NOOR = "+14155550199"
FRENCH = f"phone;name;city\n{NOOR};Noël;Besançon\n+14155550198;Œdipe;Lyon\n"


@pytest.fixture
def run_import(make_app, tmp_path):
    """Imports bytes as a file of that name; `names` are then there, by phone."""
    app = make_app()

    def run_import(content, *options, status=0, name="contacts.csv"):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        result = app.test_cli_runner().invoke(args=["import", str(file), *options])
        assert result.exit_code == status, result.output
        rows = contacts_in(app.extensions["store"].path)
        result.names = {row["phone"]: row["name"] for row in rows if row["phone"] != PHONE}
        return result

    return run_import


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("name", ["Noël Œuvre", "Łukasz Żak", "Иван Петров", "山田太郎"])
def test_utf_8_and_utf_16_are_recognised_with_and_without_a_mark(
    run_import, encoding, mark, ending, name
):
    text = f"phone,name\n{NOOR},{name}\n"
    if ending == "jsonl":
        text = json.dumps({"phone": NOOR, "name": name}, ensure_ascii=False) + "\n"
    result = run_import(mark + text.encode(encoding), name=f"contacts.{ending}")
    assert result.names == {NOOR: name}


def test_of_anything_else_nothing_is_written_and_likely_readings_are_shown(run_import):
    result = run_import(FRENCH.encode("cp1252"), status=2)
    assert result.names == {}
    shown = re.findall(r"--encoding (\S+)\n((?: +line .*\n)+)", result.stderr)
    readings = {name: re.findall(r"line (\d+): (.*)", lines) for name, lines in shown}
    assert readings["cp1252"] == [
        ("2", f"{NOOR};Noël;Besançon"),
        ("3", "+14155550198;Œdipe;Lyon"),
    ]
    assert readings["cp1250"][1] == ("3", "+14155550198;Śdipe;Lyon")
    assert set(readings) <= {"cp1252", "cp1250", "cp1251", "mac-roman", "shift-jis"}
    assert all(1 <= len(lines) <= 3 for lines in readings.values())


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp1252", "Noël £"),
        ("cp1250", "Łukasz Żółć"),
        ("cp1251", "Иван Петров"),
        ("mac-roman", "Noël Ÿ"),
        ("shift-jis", "山田太郎 ①"),
    ],
)
def test_each_reading_has_the_command_to_type(run_import, encoding, name):
    codec = {"shift-jis": "cp932"}.get(encoding, encoding)
    content = f"phone,name\n{NOOR},{name}\n".encode(codec)
    result = run_import(content, "--workspace", "default", status=2)
    [command] = [
        command
        for command, _, text in re.findall(r"^  (.*)\n      (line 2: )(.*)", result.stderr, re.M)
        if name in text
    ]
    _, word, file, *options = shlex.split(command)
    assert (word, Path(file).name, options[-2:]) == (
        "import",
        "contacts.csv",
        ["--encoding", encoding],
    )
    assert run_import(None, *options).names == {NOOR: name}


def test_an_encoding_that_cannot_read_the_file_is_not_shown(run_import):
    content = f"phone,name\n{NOOR},No\x81\n".encode("latin-1")  # which cp1252 does not have
    result = run_import(content, status=2)
    assert "--encoding cp1252" not in result.stderr
    assert "--encoding mac-roman" in result.stderr
    result = run_import(content, "--encoding", "cp1252", status=2)
    assert "is not CP1252" in result.stderr
    assert run_import(content, "--encoding", "latin-1").names == {NOOR: "No\x81"}


def test_a_mark_that_contradicts_the_option_is_refused(run_import):
    content = codecs.BOM_UTF8 + FRENCH.encode()
    result = run_import(content, "--encoding", "cp1252", status=2)
    assert "says that it is UTF-8: leave --encoding out" in result.stderr
    assert result.names == {}
    assert run_import(content, "--encoding", "utf-8").names[NOOR] == "Noël"


def test_a_file_that_reads_as_utf_8_too_is_read_as_the_option_says_with_a_warning(run_import):
    result = run_import(FRENCH.encode(), "--encoding", "cp1252")
    assert "can be read as UTF-8, which is likelier" in result.stderr
    assert result.names[NOOR] == "NoÃ«l"


@pytest.mark.parametrize("name", ["hex", "nonsense", "cp125"])
def test_an_encoding_that_does_not_exist_is_refused(run_import, name):
    result = run_import(FRENCH.encode(), "--encoding", name, status=2)
    assert "no encoding has this name. Usual ones: utf-8, utf-16, cp1252" in result.stderr


def test_a_wrong_encoding_at_the_end_keeps_the_whole_file_out(run_import):
    content = f"phone,name\n{NOOR},Noor\n".encode() * 5000 + b"+14155550198,Zo\xeb\n"
    assert run_import(content, status=2).names == {}


def test_standard_input_is_recognised_too(make_app):
    runner = make_app().test_cli_runner()
    command = ["import", "-", "--format", "csv"]
    result = runner.invoke(args=command, input=FRENCH.encode("cp1252"))
    assert (result.exit_code, "Standard input is not UTF-8." in result.stderr) == (2, True)
    for content, options in (
        (FRENCH.encode("utf-16"), []),
        (FRENCH.encode("cp1252"), ["--encoding", "cp1252"]),
    ):
        assert runner.invoke(args=[*command, *options], input=content).exit_code == 0


# The file of refused rows

ENCODED = {
    "utf-8": "utf-8",
    "utf-8 with a mark": "utf-8-sig",
    "utf-16": "utf-16",
    "cp1252": "cp1252",
    "shift-jis": "cp932",
}


@pytest.mark.parametrize("named", ENCODED)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("above", ["", "sep"])
def test_the_file_of_refused_rows_is_written_as_the_source_is(
    run_import, tmp_path, named, separator, above
):
    codec = ENCODED[named]
    city = "東京" if codec == "cp932" else "Besançon"
    lines = [["Phone", "Name", "City", "City"], ["415", "Noor", city, "b"], [PHONE, "Romain"]]
    first = f"sep={separator}\r\n" if above else ""
    text = first + "".join(f"{separator.join(line)}\r\n" for line in lines)
    options = ["--encoding", named] if named in ("cp1252", "shift-jis") else []
    run_import(text.encode(codec), *options, status=1)
    file = tmp_path / "contacts.csv.rejected.csv"
    refused = file.read_bytes()
    marks = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE)
    assert [refused.startswith(mark) for mark in marks] == [
        text.encode(codec).startswith(mark) for mark in marks
    ]
    written = refused.decode(codec)
    assert written.startswith(first)
    header, row = csv.reader(io.StringIO(written.removeprefix(first)), delimiter=separator)
    assert header == ["refused_because", *lines[0]]
    assert row[1:] == lines[1]
    corrected = written.replace("415" + separator, NOOR + separator).encode(codec)
    result = run_import(corrected, *options, name="contacts.csv.rejected.csv")
    assert result.names[NOOR] == "Noor"


def test_a_reason_that_the_encoding_does_not_have_is_written_with_question_marks(
    run_import, tmp_path
):
    text = json.dumps({"phone": NOOR, "日本": "x"}) + "\n"
    run_import(text.encode(), "--encoding", "cp1252", status=1, name="c.jsonl")
    assert b"??: Unknown field" in (tmp_path / "c.jsonl.rejected.jsonl").read_bytes()


def test_a_french_excel_file_with_ten_broken_rows_is_corrected_and_imported(run_import, tmp_path):
    options = ["--encoding", "cp1252", "--region", "FR"]
    content = (DATA / "excel-french.csv").read_bytes()
    result = run_import(content, status=2)
    assert "--encoding cp1252" in result.stderr
    result = run_import(content, *options, status=1)
    assert result.stdout == "Imported: 3. Refused: 10.\n"
    assert result.names == {
        "+33639980121": "Élodie Martin",
        "+33639980122": "Noël Durand",
        "+33639980123": "Zoé Lefèvre",
    }
    file = tmp_path / "contacts.csv.rejected.csv"
    text = file.read_bytes().decode("cp1252")
    for wrong, right in {
        "639980124;": "06 39 98 01 24;",
        "6,39980125E+08": "06 39 98 01 25",
        "helene(at)": "helene@",
        "06 39 98 01;loic": "06 39 98 01 27;loic",
        ";;maelle": ";06 39 98 01 28;maelle",
        "06 39 98 01 21;anais": "06 39 98 01 29;anais",
        ";447700900124;": ";+44 7700 900124;",
        "05/01/2026": "2026-01-05",
        "33639980131,0": "+33639980131",
        ";;;trop": ";;",
    }.items():
        assert text.count(wrong) == 1, wrong
        text = text.replace(wrong, right)
    result = run_import(text.encode("cp1252"), *options, name="contacts.csv.rejected.csv")
    assert result.stdout == "Imported: 10. Refused: 0.\n"
    assert result.names["+33639980125"] == "François Petit"
    assert result.names["+447700900124"] == "Cédric Dupont"
    assert len(result.names) == 13


# Any contacts, in every encoding, by every separator, with titles of every language

hypothesis = pytest.importorskip("hypothesis", reason="property tests need hypothesis")
st = hypothesis.strategies

ALPHABETS = {
    "utf-8": "aZ é,;\"'ŁżИп山😀",
    "utf-8-sig": "aZ é,;\"'ŁżИп山😀",
    "utf-16": "aZ é,;\"'ŁżИп山😀",
    "utf-16-le": "aZ é,;\"'ŁżИп山",
    "utf-16-be": "aZ é,;\"'ŁżИп山",
    "cp1252": "aZ éŒŸ£,;\"'",
    "cp1250": "aZ éŁżř,;\"'",
    "cp1251": "aZ Ипщ№,;\"'",
    "mac-roman": "aZ éŸœ,;\"'",
    "shift-jis": "aZ 山田ｱ表,;\"'",
}
RECOGNISED = [encoding for encoding in ALPHABETS if encoding.startswith("utf")]


@st.composite
def files(draw):
    encoding = draw(st.sampled_from(list(ALPHABETS)))
    texts = st.text(ALPHABETS[encoding], max_size=8)
    row = st.tuples(texts, texts, texts.map(lambda text: re.sub('[,;"]', "", text)))
    return encoding, draw(st.lists(row, max_size=5))


def writable(title, encoding):
    """The title, without accents that people who use that encoding can't type."""
    try:
        title.encode(encoding)
    except UnicodeEncodeError:
        return unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return title


def test_random_contacts_come_back_from_every_encoding_separator_and_language(make_app, tmp_path):
    runner = make_app([], CONTACTS_SYNCHRONOUS="NORMAL").test_cli_runner()
    workspaces = (f"w{number}" for number in itertools.count())
    file = tmp_path / "contacts.csv"

    def run(*args):
        result = runner.invoke(args=args)
        assert result.exit_code == 0, result.output
        return result.stdout

    @hypothesis.settings(max_examples=150, deadline=None)
    @hypothesis.given(
        files(),
        st.sampled_from(",;\t"),
        st.sampled_from(list(TITLES)),
        st.sampled_from(["\n", "\r\n"]),
    )
    def check(encoded, separator, language, line_end):
        encoding, rows = encoded
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=separator, lineterminator=line_end)
        writer.writerow(writable(title, encoding) for title in TITLES[language].split(",")[:5])
        for number, (first, last, tag) in enumerate(rows):
            writer.writerow([first, last, f"+1415555{number:04}", f"p{number}@example.com", tag])
        file.write_bytes(text.getvalue().encode(encoding))
        workspace = next(workspaces)
        options = [] if encoding in RECOGNISED else ["--encoding", encoding]
        run("import", str(file), "--workspace", workspace, "--create", *options)
        contacts = map(json.loads, run("export", "--workspace", workspace).splitlines())
        for contact, (first, last, tag) in zip(contacts, rows, strict=True):
            assert contact["name"] == " ".join(filter(None, [first.strip(), last.strip()]))
            assert contact["tags"] == ([tag.strip()] if tag.strip() else [])

    check()
