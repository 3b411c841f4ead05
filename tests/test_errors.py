"""The contract's table of errors, each row as a test, and what nobody should send."""

import gzip
import json
import logging
import sqlite3
from contextlib import contextmanager

import pytest
from conftest import PHONE, TOKEN, UPDATE, assert_refused, caller, contacts_in, write_lock

INVALID = "The given data was invalid."
MIB = 1024 * 1024


def body_of(size):
    """A valid body of that many bytes: JSON ends in as many blanks as one likes."""
    return json.dumps({"phone": PHONE}).encode().ljust(size)


def nested(levels):
    """A valid body whose deepest value is that many levels below it."""
    lists = levels - 1  # metadata is the first level
    return b'{"phone": "+14155550123", "metadata": {"a": %s%s}}' % (b"[" * lists, b"]" * lists)


BAD_BODIES = {
    "malformed": (400, b'{"phone": '),
    "empty": (400, b""),
    "blank": (400, b"  \n"),
    "single_quotes": (400, b"{'phone': '+14155550123'}"),
    "form": (400, b"phone=%2B14155550123"),
    "trailing_comma": (400, b'{"phone": "+14155550123",}'),
    "two_documents": (400, b"{}{}"),
    "not_utf8": (400, b'{"phone": "+14155550123", "name": "\xe9lodie"}'),
    "utf16": (400, '{"phone": "+14155550123"}'.encode("utf-16")),
    "surrogate_in_utf8": (400, b'{"phone": "+14155550123", "name": "\xed\xa0\x80"}'),
    "nan": (400, b'{"phone": "+14155550123", "metadata": {"a": NaN}}'),
    "infinity": (400, b'{"phone": "+14155550123", "metadata": {"a": Infinity}}'),
    "minus_infinity": (400, b'{"phone": "+14155550123", "metadata": {"a": -Infinity}}'),
    "float_too_large": (400, b'{"phone": "+14155550123", "metadata": {"a": 1e999}}'),
    "5000_digits": (400, b'{"phone": "+14155550123", "metadata": {"a": %s}}' % (b"9" * 5000)),
    "100000_open_brackets": (400, b"[" * 100_000),
    "100000_open_braces": (400, b'{"a":' * 100_000),
    "nested_too_deep": (400, nested(513)),
    "closed_but_nested_too_deep": (400, nested(100_000)),
    "raw_control_character": (400, b'{"phone": "+14155550123", "name": "a\nb"}'),
    "a_list": (422, b"[]"),
    "a_list_of_contacts": (422, b'[{"phone": "+14155550123"}]'),
    "a_string": (422, b'"+14155550123"'),
    "a_number": (422, b"42"),
    "a_boolean": (422, b"true"),
    "null": (422, b"null"),
    "empty_object": (422, b"{}"),
    "number_for_a_phone": (422, b'{"phone": 14155550123}'),
    "phone_of_10000_characters": (422, b'{"phone": "+%s"}' % (b"1" * 10_000)),
    "id_of_10000_characters": (422, b'{"contact_id": "%s"}' % (b"a" * 10_000)),
    "metadata_of_65_kib": (
        422,
        b'{"phone": "+14155550123", "metadata": {"a": "%s"}}' % (b"a" * 65 * 1024),
    ),
    "ten_thousand_tags": (
        422,
        b'{"phone": "+14155550123", "tags": "%s"}' % b",".join(b"%d" % n for n in range(10_000)),
    ),
    "thousands_of_unknown_fields": (
        422,
        json.dumps({"phone": PHONE} | {f"field{n}": n for n in range(5000)}).encode(),
    ),
    "over_1_mib": (413, body_of(MIB + 1)),
}


@pytest.mark.parametrize(("status", "body"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_gets_its_status_as_json_and_nothing_is_written(call, stored, status, body):
    before = stored()
    response = call(body)
    assert_refused(response, status, INVALID if status == 422 else None)
    assert len(response.json["error"]) < 200
    assert stored() == before


def test_400_says_what_is_wrong_in_one_sentence(call):
    texts = {name: call(body).json["error"] for name, (s, body) in BAD_BODIES.items() if s == 400}
    for name, said in {
        "malformed": "not JSON",
        "not_utf8": "byte 35",
        "nan": "NaN",
        "minus_infinity": "-Infinity",
        "5000_digits": "too large",
        "nested_too_deep": "deeper than 512",
    }.items():
        assert said in texts[name]
    assert all(text.endswith(".") and "\n" not in text for text in texts.values())


def test_a_body_of_exactly_1_mib_and_512_levels_is_accepted(call, stored):
    assert call(body_of(MIB)).status_code == 200
    assert call(nested(512)).status_code == 200
    value, level = stored()[0]["metadata"]["a"], 2
    while value:
        [value], level = value, level + 1
    assert level == 512


MALFORMED_HEADERS = [
    None, "", "Bearer", "Bearer ", "Bearer   ", f"Bearer  {TOKEN}", TOKEN, f"Basic {TOKEN}",
    f"Token {TOKEN}", f"Bearer {TOKEN} {TOKEN}", f"Bearer {TOKEN},", f"Bearer: {TOKEN}",
    f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}", "Bearer \xe9",
    'Bearer "' + TOKEN + '"', "Bearer " + "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("header", MALFORMED_HEADERS)
def test_401_without_a_token_that_is_known_in_a_well_formed_header(client, stored, header):
    before = stored()
    headers = {} if header is None else {"Authorization": header}
    response = client.post(UPDATE, json={"phone": PHONE, "name": "Intruder"}, headers=headers)
    assert_refused(response, 401, "Unauthenticated.")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert stored() == before


def test_404_contact_not_found(call):
    assert_refused(call({"phone": "+14155550199"}), 404, "Contact not found")


@pytest.mark.parametrize(
    "path",
    ["/", "/api/v1", "/api/v1/", "/api/v2/actions/update-contact", UPDATE + "/", UPDATE.upper(),
     "/api//v1/actions/update-contact", "/static/app.py", "/api/v1/actions/%00", "/é", "/%ff"],
)  # fmt: skip
def test_404_no_such_path(call, path):
    assert_refused(call({"phone": PHONE}, path), 404, "Not found")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_405_wrong_method_with_allow(client, method):
    response = client.open(UPDATE, method=method, headers={"Authorization": f"Bearer {TOKEN}"})
    assert_refused(response, 405, "Method not allowed")
    assert response.headers["Allow"] == "POST"


def test_413_says_the_limit_whatever_the_content_type(call):
    for content_type in ("application/json", "text/plain"):
        response = call(body_of(MIB + 1), content_type=content_type)
        assert_refused(response, 413)
        assert "1 MiB" in response.json["error"]


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "text/json", "application/x-www-form-urlencoded",
     "multipart/form-data; boundary=x", "application/jsonp", "json", "application/xml"],
)  # fmt: skip
def test_415_not_json_by_its_content_type_says_what_is_accepted(call, stored, content_type):
    before = stored()
    response = call({"phone": PHONE, "name": "Typed"}, content_type=content_type)
    assert_refused(response, 415)
    assert "application/json" in response.json["error"]
    assert stored() == before


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_a_compressed_body_is_a_415_that_says_to_send_it_uncompressed(call, stored, encoding):
    before = stored()
    body = gzip.compress(b'{"phone": "+14155550123", "name": "Compressed"}')
    response = call(body, environ_overrides={"HTTP_CONTENT_ENCODING": encoding})
    assert_refused(response, 415)
    assert "uncompressed" in response.json["error"]
    assert response.headers["Accept-Encoding"] == "identity"
    assert stored() == before


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_the_content_encoding_identity_is_none(call, encoding):
    response = call({"phone": PHONE}, environ_overrides={"HTTP_CONTENT_ENCODING": encoding})
    assert response.status_code == 200


def test_an_empty_array_as_the_whole_body_is_an_empty_object_as_php_writes_it(call):
    search = "/v1/actions/search-contacts"
    assert call(b"[]", path=search).json == call(b"{}", path=search).json != []
    assert call(b"[]").json["errors"] == call(b"{}").json["errors"]


def test_422_validation_failed_with_errors_for_each_field(call):
    response = call({"phone": PHONE, "name": 7, "tgas": "vip"})
    assert_refused(response, 422, INVALID)
    assert response.json["errors"].keys() == {"name", "tgas"}
    for texts in response.json["errors"].values():
        assert isinstance(texts, list)
        assert all(isinstance(text, str) and text for text in texts)


@pytest.mark.parametrize("character", ["x", "é", "\x01", "\ud800"], ids=ascii)
def test_errors_name_at_most_20_fields_by_their_first_100_characters(call, character):
    names = [f"{n:03}{character * 400}" for n in range(300)]
    response = call({"phone": PHONE, **dict.fromkeys(names, 1)})
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [name[:100] for name in names[:20]]
    assert len(response.data) <= 16 * 1024


def test_95_000_unknown_fields_are_refused_by_their_number_before_any_field_is_read(call):
    fields = {"phone": "nonsense", "metadata": 1, **{f"k{n:05}": 1 for n in range(95_000)}}
    response = call(json.dumps(fields, separators=(",", ":")).encode())
    assert_refused(response, 422)
    assert list(response.json["errors"]) == [f"k{n:05}" for n in range(20)]


def test_a_reset_in_which_everything_is_wrong_names_20_fields_too(make_app):
    reset = caller(make_app(sandbox=True).test_client(), "sandbox")
    contacts = [{"phone": f"{n}", "nam": "", "email": "x"} for n in range(5000)]
    response = reset({"contacts": contacts}, path="/sandbox/reset")
    assert_refused(response, 422)
    assert len(response.json["errors"]) == 20
    assert len(response.data) <= 16 * 1024


def test_metadata_is_refused_by_its_length_before_its_levels_are_looked_at(call):
    response = call({"phone": PHONE, "metadata": {"a": "\0", "b": "x" * 70_000}})
    assert response.json["errors"] == {"metadata": ["It exceeds 65536 bytes (64 KiB)."]}


def test_metadata_that_grows_past_64_kib_only_by_merging_is_a_422(call, stored):
    assert call({"phone": PHONE, "metadata": {"a": "x" * 40_000}}).status_code == 200
    before = stored()
    response = call({"phone": PHONE, "name": "Grown", "metadata": {"b": "x" * 40_000}})
    assert_refused(response, 422, INVALID)
    assert "64 KiB" in response.json["errors"]["metadata"][0]
    assert stored() == before


def test_500_tells_the_log_and_never_the_client(app, call, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("a detail of our own")

    monkeypatch.setattr(app.extensions["store"], "update_contact", fail)
    with caplog.at_level(logging.ERROR):
        response = call({"phone": PHONE})
    assert_refused(response, 500, "Server error")
    assert "a detail of our own" in caplog.text
    assert PHONE not in caplog.text


@contextmanager
def disk_full(app):
    """No page can be added to the database: SQLite refuses as it does on a full disk."""
    connect = sqlite3.connect

    def connected(*args, **options):
        db = connect(*args, **options)
        db.execute("PRAGMA max_page_count = 1")  # or as many as there are
        return db

    app.extensions["store"].close()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite3, "connect", connected)
        yield
        app.extensions["store"].close()


@contextmanager
def busy(app):
    with write_lock(app.extensions["store"].path):
        yield


@pytest.mark.parametrize(("trouble", "said"), [(busy, "busy"), (disk_full, "disk is full")])
def test_503_says_which_and_nothing_was_written(make_app, monkeypatch, trouble, said):
    monkeypatch.setattr("store.BUSY_SECONDS", 0.2)
    app = make_app()
    call = caller(app.test_client())
    before = contacts_in(app.extensions["store"].path)
    large = {"phone": PHONE, "name": "Unwritten", "metadata": {"a": "x" * 60_000}}
    with trouble(app):
        response = call(large)
        assert_refused(response, 503)
        assert said in response.json["error"]
        assert int(response.headers["Retry-After"]) >= 1
        assert contacts_in(app.extensions["store"].path) == before
    assert call(large).status_code == 200
