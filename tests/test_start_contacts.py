"""`serve --sandbox --contacts FILE`: the contacts that every workspace starts with."""

import json

import pytest
from conftest import PHONE, environment, flask, post, serving
from developer import Developer

NOOR, ADA = "+14155550199", "+14155550198"
ID = "0197c1de-52ab-7cc3-9f3e-4a8d1f0c2b6e"
CSV = f"Phone,First Name,Last Name,Tags,City,id\n{NOOR},Noor,Example,vip,Oslo,{ID}\n{ADA},Ada,,,,\n"


def started(tmp_path, text, name="start.csv", **settings):
    """A sandbox that starts with the contacts of that text."""
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return serving(tmp_path, "--sandbox", "--contacts", str(file), **settings)


def test_every_workspace_starts_with_the_contacts_of_the_file(tmp_path):
    with started(tmp_path, CSV) as server:
        for token in ("sandbox", "sandbox-mine"):
            developer = Developer(server.url, token)
            assert developer.phones() == {NOOR, ADA}
            noor = developer("POST", "/v1/actions/get-contact", {"contact_id": ID}).json
            assert (noor["name"], noor["tags"]) == ("Noor Example", ["vip"])
            assert noor["metadata"] == {"City": "Oslo"}


def test_our_own_columns_count_though_others_of_an_export_are_missing(tmp_path):
    text = (
        "phone,source,created_at,locale,opted_in_at,opted_out_at,total_messages\n"
        f"{NOOR},shopify,2026-01-01T00:00:00+00:00,fr,2026-04-15T10:32:00+00:00,2026-05-02,27\n"
    )
    with started(tmp_path, text) as server:
        noor = Developer(server.url)("POST", "/v1/actions/get-contact", {"phone": NOOR}).json
    assert (noor["source"], noor["created_at"]) == ("shopify", "2026-01-01T00:00:00+00:00")
    assert (noor["locale"], noor["total_messages"], noor["metadata"]) == ("fr", 27, {})
    assert noor["opted_in_at"] == "2026-04-15T10:32:00+00:00"
    assert noor["opted_out_at"] == "2026-05-02T00:00:00+00:00"


def test_a_reset_without_a_body_restores_them(tmp_path):
    with started(tmp_path, CSV) as server:
        mine = Developer(server.url)
        assert mine.update({"phone": NOOR, "name": "Changed"}).status_code == 200
        mine("POST", "/sandbox/reset", {"contacts": [{"phone": PHONE}]})
        assert mine.phones() == {PHONE}
        assert mine("POST", "/sandbox/reset").status_code == 204
        assert mine.update({"phone": NOOR}).json["name"] == "Noor Example"
        assert mine.phones() == {NOOR, ADA}


def test_json_lines_are_read_too(tmp_path):
    lines = [
        {"phone": NOOR, "name": "Noor", "metadata": {"a": [1]}, "tags": ["b", "a"]},
        {"phone": ADA, "name": ""},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    with started(tmp_path, text, "start.jsonl") as server:
        noor, ada = (
            Developer(server.url)("POST", "/v1/actions/get-contact", {"phone": phone}).json
            for phone in (NOOR, ADA)
        )
    assert (noor["name"], noor["tags"], noor["metadata"]) == ("Noor", ["b", "a"], {"a": [1]})
    assert ada["name"] is None


def test_an_export_of_a_sandbox_is_a_start_for_another(tmp_path):
    with started(tmp_path, CSV) as server:
        assert Developer(server.url, "sandbox").phones() == {NOOR, ADA}
        exported = flask("export", "--sandbox", env=environment(server.database)).stdout
    (tmp_path / "other").mkdir()
    with started(tmp_path / "other", exported, "start.jsonl") as server:
        assert Developer(server.url).phones() == {NOOR, ADA}


def test_phones_are_read_as_the_default_region_dials_them(tmp_path):
    text = "phone\n06 39 98 01 01\n"
    with started(tmp_path, text, CONTACTS_DEFAULT_REGION="FR") as server:
        assert Developer(server.url).phones() == {"+33639980101"}


def test_the_terminal_says_whose_contacts_they_are_and_shows_a_command_that_works(tmp_path):
    with started(tmp_path, CSV) as server:
        assert server.process.stdout.readline().strip() == (
            f"Sandbox: the contacts of {tmp_path / 'start.csv'}. Try it:"
        )
        shown = "".join(iter(server.process.stdout.readline, "\n"))
        shown += "".join(server.process.stdout.readline() for _ in range(4))
        assert NOOR in shown
        assert "Kept in the metadata: City." in server.log()
        assert post(server.url, {"phone": NOOR}, "sandbox").status_code == 200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"phone,email\n{NOOR},\n{ADA},ada\n", "line 3: email: Must be an email address."),
        (f"phone\n{NOOR}\n\n+1 (415) 555-0199\n", "line 4: phone: Line 2 has it."),
        (f"phone,id\n{NOOR},{ID}\n{ADA},{ID.upper()}\n", "line 3: id: Line 2 has it."),
        (f"phone,note\n{NOOR},{'x' * 65536}\n", "line 2: metadata: It exceeds 65536 bytes"),
        ("phone\n", "there are no contacts in it."),
        (f"phone,name\n{NOOR},Zoë\n".encode("cp1252"), "is not UTF-8"),
    ],
)
def test_a_file_with_a_refused_row_stops_the_start_and_the_line_is_named(tmp_path, text, says):
    file = tmp_path / "start.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    env = environment(tmp_path / "sandbox.db")
    result = flask("serve", "--sandbox", "--port", "0", "--contacts", str(file), env=env)
    assert result.returncode in (1, 2)
    assert result.stdout == ""
    assert says in result.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["start.csv"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--contacts", "start.csv"], "need --sandbox"),
        (["--sandbox", "--contacts", "missing.csv"], "does not exist"),
        (["--sandbox", "--contacts", "start.txt"], "must end in .csv or .jsonl"),
    ],
)
def test_what_cannot_be_such_a_file_stops_the_start(tmp_path, options, says):
    for name in ("start.csv", "start.txt"):
        (tmp_path / name).write_text(CSV)
    options = [str(tmp_path / o) if o.startswith(("start", "missing")) else o for o in options]
    result = flask("serve", "--port", "0", *options, env=environment(tmp_path / "sandbox.db"))
    assert result.returncode == 2
    assert says in result.stderr
    assert not (tmp_path / "sandbox.db").exists()
