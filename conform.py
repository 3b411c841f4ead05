"""Check whether a service follows the rules that this project follows.

Uses nothing of the service that is built here. It writes to one contact only, and restores it.
"""

import hashlib
import http.client
import ipaddress
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click
import phonenumbers

# Who says so
PAGE = "vendor's page"  # on update-contact
OTHER = "vendor's other pages"
OURS = "this project"

RESULTS = DIFFERENT, NOT_CHECKED, SAME = "different", "not checked", "same"

DOCUMENTED_RATE = 120  # requests a minute for each token
TRIES = 3
WITHHELD_SECONDS = 5  # to wait for a response before the body is there
LONGEST_WAIT = 300  # seconds that a Retry-After may ask for
BODY_LIMIT = 8 * 1024 * 1024
JSON = "application/json"
READS = ("get-contact", "search-contacts")
# Authorization headers that are not those of QYVO_TOKEN
BEARERS = {"none": None, "unknown": "Bearer conform-unknown", "malformed": "Bearer"}

# What stands in requests for what only a run knows, and in reports for what is nobody's business.
PHONE, ID = "<PHONE>", "<ID>"
SPACES, DOTS, PARENTHESES = "<PHONE with spaces>", "<PHONE with dots>", "<PHONE with (), ->"
TEL, ARABIC, NO_PLUS = "<tel:PHONE>", "<PHONE in Arabic digits>", "<PHONE without +>"
RETIRED_MEXICAN, UPPER_ID = "<PHONE as +521…>", "<ID in upper case>"
NOBODY = "5f0c3a52-9d0e-4b63-8c1f-7d2b6a90e4c1"

NAME, NAME_2, EMAIL = "Zoë Conform", "Conform Deux", "conform-check@example.com"
A, B, C = "conform-a", "conform-b", "conform-c"
KEY, KEY_2 = METADATA_KEYS = "conform_one", "conform_two"
TEXT_FIELDS = ["name", "email", "tags"]

UPDATE_KEYS = ["id", "phone", "name", "email", "tags", "updated_at"]
GET_KEYS = [
    *("id", "phone", "name", "email", "source", "locale", "metadata", "tags", "opted_in_at"),
    *("opted_out_at", "last_message_at", "total_messages", "created_at"),
]
SEARCH_KEYS = ["id", "phone", "name", "email", "source", "tags", "last_message_at", "created_at"]


# What is sent


@dataclass(frozen=True)
class Request:
    """A request to an action, or to any other path when `action` starts with a slash."""

    action: str
    body: Any = None  # bytes are sent as they are, None is no body, anything else as JSON
    method: str = "POST"
    bearer: str = "own"  # or one of BEARERS
    content_type: str = JSON
    base: str = "/api/v1"
    withheld: bool = False  # a body is announced and never sent
    once: bool = False  # one response serves every rule that looks at it

    @property
    def path(self) -> str:
        return self.base + (self.action if self.action[0] == "/" else f"/actions/{self.action}")

    def __str__(self) -> str:
        body = self.body
        if body is not None:
            body = body.decode() if isinstance(body, bytes) else as_json(body)
        notes = [f"(token: {self.bearer})" if self.bearer != "own" else ""]
        notes += ["(body announced, not sent)" if self.withheld else ""]
        notes += [f"({self.content_type})" if self.content_type != JSON else ""]
        return " ".join(filter(None, [self.method, self.path, body, *notes]))


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def act(action: str, **fields: Any) -> Request:
    return Request(action, {"phone": PHONE, **fields})


def update(**fields: Any) -> Request:
    return act("update-contact", **fields)


def find(**reference: Any) -> Request:
    return Request("get-contact", reference or {"phone": PHONE})


def search(**filters: Any) -> Request:
    return Request("search-contacts", filters)


def once(request: Request) -> Request:
    return replace(request, once=True)


ME = Request("/me", method="GET")
PAUSE = "a pause of more than a second"  # times are whole seconds
THROTTLED = "any request, too soon"  # the last 429, which nobody asked for
SAMPLE = once(update(name=NAME, email=EMAIL, tags=A, metadata={KEY: 1}))
GOT, FOUND = once(find()), once(search(tag=A))
NEITHER = once(Request("update-contact", {}))
UNKNOWN = once(Request("update-contact", {"contact_id": NOBODY}))
ANONYMOUS = once(replace(update(), bearer="none"))
TYPES = {"name": 5, "email": 5, "tags": [A], "metadata": "conform"}


# What is expected


@dataclass(frozen=True)
class Like:
    """Something that is recognised, not known: `test(value, value in the response before)`."""

    text: str
    test: Callable[[Any, Any], bool]

    def __str__(self) -> str:
        return f"<{self.text}>"


def like(text: str, pattern: str) -> Like:
    return Like(text, lambda v, _: isinstance(v, str) and bool(re.fullmatch(pattern, v)))


ABSENT = Like("absent", lambda value, _: value is ABSENT)
OK = Like("2xx", lambda value, _: 200 <= value < 300)
UUID = like("UUID", r"(?i)[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
CANONICAL_UUID = like("UUID in lower case, with hyphens", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[^-A-F]+")
TIME = like("time such as 2026-05-07T08:14:23+00:00", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
NUMERIC = like("number", r"\d+")
TEXT = like("text", r"(?s).+")
JSON_TYPE = like("application/json", r"(?i)application/json\s*(;.*)?")
SOURCE = like("api, csv_import or manual", "api|csv_import|manual")
INTEGER = Like("integer", lambda value, _: type(value) is int)
UNSET = Like('null or ""', lambda value, _: value in (None, ""))
UNCHANGED = Like("unchanged", lambda value, before: value == before)
LATER = Like("later than before", lambda value, before: str(value) > str(before))
UP_TO_50 = Like("up to 50", lambda value, _: type(value) is int and value <= 50)
UNESCAPED = Like("the text in UTF-8", lambda value, _: NAME.encode() in value)
POST_ALLOWED = Like("a list with POST", lambda value, _: "POST" in str(value))
TEXTS = Like(
    "list of texts",
    lambda value, _: isinstance(value, list) and all(TEXT.test(v, None) for v in value or [0]),
)
FIELD_TEXTS = Like(
    "texts of each field",
    lambda value, _: (
        isinstance(value, dict) and all(TEXTS.test(v, None) for v in value.values() or [0])
    ),
)

# Conditions of a rule, with the reason when they are not met
MISSING = "PHONE was a contact already"
MEXICAN = "PHONE is not +52 and ten digits"
LIMITED = "the service announces no rate limit"
MET_LIMIT = "no request was refused with 429, and none is provoked"

# A rule whose responses should have this status is not checked when that one's have another.
FIRST_OF_STATUS = {401: "auth-missing", 404: "update-unknown-id", 422: "update-neither"}


@dataclass
class Rule:
    """What a service does when it is sent the steps: the last response, or each, is as expected."""

    id: str
    source: str
    sentence: str
    steps: list[Request | str]
    expected: dict[str, Any]
    needs: str = ""  # the rules without which this one can't be seen
    given: str = ""  # the reason why it is not checked when that condition is not met
    each: bool = False

    def __post_init__(self):
        self.expected = {"status": OK} | self.expected
        self.needs += " " + FIRST_OF_STATUS.get(self.expected["status"], "")


# Every rule: where it is from, its sentence, what is sent, what is expected of the response. Each
# writes what it needs, since those before it may not have been checked.
# fmt: off
RULES = [
    # With a contact that is not there, if it is not
    Rule("update-unknown-phone", PAGE, "A phone that no contact has is a 404",
         [update()], {"status": 404}, given=MISSING),
    Rule("create-new", OTHER, "create-contact responds 201 when it creates",
         [act("create-contact")], {"status": 201}, "update-unknown-phone", given=MISSING),

    # update-contact finds
    Rule("update-by-phone", PAGE, "update-contact finds by phone", [update()], {"id": ID}),
    Rule("update-by-id", PAGE, "update-contact finds by contact_id",
         [Request("update-contact", {"contact_id": ID})], {"id": ID}),
    Rule("update-status", PAGE, "update-contact responds 200", [SAMPLE], {"status": 200}),
    Rule("update-keys", PAGE, "The response has the documented keys in their order, no metadata",
         [SAMPLE], {"keys": UPDATE_KEYS}),
    Rule("update-neither", PAGE, "Neither contact_id nor phone is a 422",
         [NEITHER], {"status": 422}),
    Rule("update-unknown-id", PAGE, "An id that no contact has is a 404",
         [UNKNOWN], {"status": 404}),
    Rule("update-both", OURS, "contact_id and phone of the same contact find it",
         [update(contact_id=ID)], {"id": ID}),
    Rule("update-disagree", OURS, "contact_id and phone that are not of one contact are a 404",
         [update(contact_id=NOBODY)], {"status": 404}),

    # update-contact writes
    Rule("name-written", PAGE, "name is written",
         [update(name=NAME_2), update(name=NAME), find()], {"name": NAME}),
    Rule("email-written", PAGE, "email is written",
         [update(email=EMAIL), find()], {"email": EMAIL}),
    Rule("name-cleared", PAGE, '"" clears name',
         [update(name=NAME), update(name=""), find()], {"name": UNSET}),
    Rule("email-cleared", PAGE, '"" clears email',
         [update(email=EMAIL), update(email=""), find()], {"email": UNSET}),
    Rule("unset-null", OTHER, "A name or email that is not set is null in responses",
         [update(name="", email="")], {"name": None, "email": None}, "name-cleared email-cleared"),
    Rule("absent-unchanged", PAGE, "A field that is absent is left alone",
         [update(name=NAME, email=EMAIL, tags=A), update(metadata={KEY: 1})],
         {"name": NAME, "email": EMAIL, "tags": UNCHANGED}),
    Rule("tags-replace", PAGE, "tags replaces the contact's list",
         [update(tags=A), update(tags=B), find()], {"tags": [B]}),
    Rule("tags-csv", PAGE, "tags is comma-separated",
         [update(tags=f"{A},{B}")], {"tags": [A, B]}, "tags-replace"),
    Rule("tags-cleared", PAGE, '"" empties tags',
         [update(tags=A), update(tags="")], {"tags": []}, "tags-replace"),
    Rule("tags-trimmed", OURS, "Blanks around a tag are dropped",
         [update(tags=f" {A} , {B} ")], {"tags": [A, B]}, "tags-csv"),
    Rule("tags-empty-pieces", OURS, "Empty pieces of tags are ignored",
         [update(tags=f"{A},,{B},")], {"tags": [A, B]}, "tags-csv"),
    Rule("tags-duplicates", OURS, "A tag given twice is kept once, at its first position",
         [update(tags=f"{B},{A},{B}")], {"tags": [B, A]}, "tags-csv"),
    Rule("metadata-written", PAGE, "metadata is written: a key's new value replaces the old one",
         [update(metadata={KEY: 1}), update(metadata={KEY: 9120.25}), find()],
         {f"metadata.{KEY}": 9120.25}),
    Rule("metadata-merged", PAGE, "metadata is merged: keys not given stay",
         [update(metadata={KEY: 1}), update(metadata={KEY_2: 2}), find()],
         {f"metadata.{KEY}": 1}, "metadata-written"),
    Rule("metadata-shallow", PAGE, "The merge is shallow: an object is replaced as a whole",
         [update(metadata={KEY: {"a": 1}}), update(metadata={KEY: {"b": 2}}), find()],
         {f"metadata.{KEY}": {"b": 2}}, "metadata-written"),
    Rule("metadata-absent", PAGE, "metadata that is absent is left alone",
         [update(metadata={KEY: 1}), update(name=NAME), find()],
         {f"metadata.{KEY}": 1}, "metadata-written"),
    Rule("metadata-json", PAGE, "metadata holds any JSON value",
         [update(metadata={KEY: [True, "é", 1.5, {"a": []}]}), find()],
         {f"metadata.{KEY}": [True, "é", 1.5, {"a": []}]}, "metadata-written"),
    Rule("metadata-null", OURS, "null in metadata is a value and does not delete",
         [update(metadata={KEY: 1}), update(metadata={KEY: None}), find()],
         {f"metadata.{KEY}": None}, "metadata-written"),
    Rule("metadata-as-sent", OURS, "Text in metadata is neither trimmed nor, when empty, made null",
         [update(metadata={KEY: [" a ", ""]}), find()],
         {f"metadata.{KEY}": [" a ", ""]}, "metadata-written"),
    Rule("trimmed", OURS, "White space around a name is trimmed",
         [update(name=f"  {NAME} ")], {"name": NAME}, "name-written"),
    Rule("blank-clears", OURS, "A name of blanks clears it",
         [update(name=NAME), update(name="  ")], {"name": UNSET}, "name-cleared"),
    Rule("unchanged-time", OURS, "A request that changes nothing leaves updated_at",
         [update(name=NAME), PAUSE, update(name=NAME)], {"updated_at": UNCHANGED},
         "absent-unchanged name-written"),
    Rule("changed-time", OURS, "A request that changes something moves updated_at",
         [update(name=NAME), update(name=NAME_2)], {"updated_at": LATER},
         "unchanged-time"),  # right before, so that there was a pause

    # update-contact refuses
    Rule("null-field", OURS, "null for a field is a 422",
         [update(**{name: None}) for name in ("contact_id", *TYPES)], {"status": 422}, each=True),
    Rule("wrong-type", OURS, "A field of another type is a 422",
         [update(**{field: value}) for field, value in TYPES.items()], {"status": 422}, each=True),
    Rule("invalid-email", OURS, "An email that is no address is a 422",
         [update(email="conform")], {"status": 422}),
    Rule("unknown-field", OURS, "An unknown field is a 422",
         [update(conform="a")], {"status": 422}),
    Rule("unknown-field-named", OURS, "errors names the unknown field",
         [update(conform="a")], {"status": 422, "errors.conform": TEXTS},
         "unknown-field error-validation"),
    Rule("refused-whole", OURS, "A request that is refused writes nothing",
         [update(name=NAME), update(name=NAME_2, email="conform"), find()], {"name": NAME},
         "invalid-email name-written"),

    # Phone numbers, ids and times
    Rule("phone-e164", OTHER, "A phone is returned as E.164",
         [update(), find()], {"phone": PHONE}, each=True),
    Rule("phone-spaces", OTHER, "get-contact finds by a phone with spaces",
         [find(phone=SPACES)], {"id": ID}),
    Rule("phone-dots", OTHER, "get-contact finds by a phone with dots",
         [find(phone=DOTS)], {"id": ID}, "phone-spaces"),
    Rule("phone-parentheses", OTHER, "get-contact finds by a phone with parentheses and hyphens",
         [find(phone=PARENTHESES)], {"id": ID}, "phone-spaces"),
    Rule("phone-tel", OURS, "get-contact finds by a phone that starts with tel:",
         [find(phone=TEL)], {"id": ID}, "phone-spaces"),
    Rule("phone-digits", OURS, "get-contact finds by a phone in other scripts' digits",
         [find(phone=ARABIC)], {"id": ID}, "phone-spaces"),
    Rule("phone-mexican", OURS, "+521 and ten digits is the number +52 and those ten digits",
         [Request("update-contact", {"phone": RETIRED_MEXICAN})], {"id": ID}, "phone-spaces",
         given=MEXICAN),
    Rule("update-normalises", PAGE, "update-contact finds by a phone that is spelled otherwise",
         [Request("update-contact", {"phone": p}) for p in (SPACES, PARENTHESES)], {"id": ID},
         "phone-parentheses", each=True),
    Rule("phone-no-plus", OURS, "get-contact refuses a phone without + with a 422",
         [find(phone=NO_PLUS)], {"status": 422}, "phone-spaces"),
    Rule("update-no-plus", OURS, "update-contact refuses a phone without + with a 422",
         [Request("update-contact", {"phone": NO_PLUS})], {"status": 422},
         "phone-no-plus update-normalises"),
    Rule("phone-impossible", OURS, "A phone that can't exist is a 422",
         [find(phone="+99912345678")], {"status": 422}),
    Rule("id-uuid", PAGE, "The id is a UUID", [SAMPLE], {"id": UUID}),
    Rule("id-canonical", OURS, "The id is written in lower case, with hyphens",
         [SAMPLE], {"id": CANONICAL_UUID}, "id-uuid"),
    Rule("id-case", OURS, "An id is found in upper case too",
         [find(contact_id=UPPER_ID)], {"id": ID}, "get-by-id"),
    Rule("id-malformed", OURS, "A contact_id that is no UUID is a 422",
         [find(contact_id="conform")], {"status": 422}),
    Rule("time-updated", PAGE, "updated_at is in UTC, whole seconds, with the offset +00:00",
         [SAMPLE], {"updated_at": TIME}),
    Rule("time-created", OTHER, "created_at is in UTC, whole seconds, with the offset +00:00",
         [GOT], {"created_at": TIME}),

    # create-contact
    Rule("create-existing", OTHER, "create-contact responds 201 when it updates",
         [act("create-contact")], {"status": 201}, "create-new"),
    Rule("create-upsert", OTHER, "create-contact updates the contact that has the phone",
         [update(name=NAME), act("create-contact", name=NAME_2)], {"id": ID, "name": NAME_2}),
    Rule("create-keys", OURS, "create-contact responds with the keys of update-contact",
         [act("create-contact", name=NAME)], {"keys": UPDATE_KEYS}, "update-keys"),
    Rule("create-absent", OURS, "create-contact leaves absent fields alone",
         [update(email=EMAIL, tags=A), act("create-contact", name=NAME)],
         {"email": EMAIL, "tags": UNCHANGED}, "absent-unchanged"),
    Rule("create-merges", OURS, "create-contact merges metadata",
         [update(metadata={KEY: 1}), act("create-contact", metadata={KEY_2: 2}), find()],
         {f"metadata.{KEY}": 1, f"metadata.{KEY_2}": 2}, "metadata-merged create-upsert"),

    # get-contact
    Rule("get-keys", OTHER, "The response of get-contact has the documented keys in their order",
         [GOT], {"keys": GET_KEYS}),
    Rule("get-by-id", OTHER, "get-contact finds by contact_id", [find(contact_id=ID)], {"id": ID}),
    Rule("get-by-email", OTHER, "get-contact finds by email",
         [update(email=EMAIL), find(email=EMAIL)], {"email": EMAIL}, "email-written"),
    Rule("get-unknown-id", OTHER, "get-contact responds 404 to an id that no contact has",
         [find(contact_id=NOBODY)], {"status": 404}),
    Rule("get-unknown-email", OTHER, "get-contact responds 404 to an email that no contact has",
         [find(email="conform-nobody@example.com")], {"status": 404}),
    Rule("get-none", OTHER, "get-contact without contact_id, phone and email is a 422",
         [Request("get-contact", {})], {"status": 422}),
    Rule("get-two", OURS, "get-contact with two of contact_id, phone and email is a 422",
         [find(phone=PHONE, contact_id=ID)], {"status": 422}),
    Rule("get-source", OTHER, "source is api, csv_import or manual", [GOT], {"source": SOURCE}),

    # search-contacts
    Rule("search-array", OTHER, "search-contacts responds with an array, at most 50 long",
         [search()], {"length": UP_TO_50}),
    Rule("search-tag", OTHER, "search-contacts finds by tag",
         [update(tags=A), search(tag=A)], {"has PHONE": True}, "search-array"),
    Rule("search-keys", OTHER, "What is found has the documented keys in their order",
         [update(tags=A), search(tag=A)], {"entry keys": SEARCH_KEYS}, "search-tag"),
    Rule("search-tag-exact", OTHER, "tag is the whole tag",
         [update(tags=A), search(tag=A[:-2])], {"has PHONE": False}, "search-tag"),
    Rule("search-phone", OTHER, "query finds by a part of the phone",
         [search(query=NO_PLUS)], {"has PHONE": True}, "search-array"),
    Rule("search-name", OTHER, "query finds by a part of the name",
         [update(name=NAME), search(query=NAME[2:])], {"has PHONE": True}, "search-array"),
    Rule("search-case", OTHER, "query finds in either case",
         [update(name=NAME), search(query="ZOË CONF")], {"has PHONE": True}, "search-name"),
    Rule("search-email", OTHER, "query finds by a part of the email",
         [update(email=EMAIL), search(query=EMAIL[:-2])], {"has PHONE": True}, "search-array"),
    Rule("search-email-exact", OTHER, "email is the whole address",
         [update(email=EMAIL), search(email=EMAIL[:-2])], {"has PHONE": False}, "search-array"),
    Rule("search-and", OTHER, "query and tag are combined with AND",
         [update(tags=A), search(query=NO_PLUS, tag=C)], {"has PHONE": False},
         "search-phone search-tag tags-replace"),
    Rule("search-empty-filter", OTHER, "A filter that is empty is none",
         [update(tags=A), search(query="", tag=A, email="")], {"has PHONE": True}, "search-tag"),
    Rule("search-nothing", OTHER, "Nothing found is an empty array",
         [search(tag="conform-none")], {"length": 0}, "search-array"),
    Rule("search-order", OURS, "What was updated last is found first",
         [update(name=NAME), update(name=NAME_2), search()], {"first is PHONE": True},
         "search-array"),

    # add-tag and remove-tag
    Rule("add-tag", OTHER, "add-tag adds a tag to the others",
         [update(tags=A), act("add-tag", tag=B)], {"tags": [A, B]}, "tags-replace"),
    Rule("add-tag-by-id", OTHER, "add-tag finds by contact_id",
         [Request("add-tag", {"contact_id": ID, "tag": A})], {"id": ID}),
    Rule("add-tag-keys", OTHER, "The response of add-tag is id, phone, tag_added, tags",
         [act("add-tag", tag=A)], {"keys": ["id", "phone", "tag_added", "tags"], "tag_added": A}),
    Rule("add-tag-twice", OTHER, "Adding a tag that is there changes nothing",
         [update(tags=A), act("add-tag", tag=A)], {"tags": [A]}, "add-tag"),
    Rule("add-tag-required", OTHER, "add-tag without a tag is a 422",
         [act("add-tag")], {"status": 422}),
    Rule("add-tag-comma", OURS, "A tag with a comma is a 422",
         [act("add-tag", tag=f"{A},{B}")], {"status": 422}),
    Rule("remove-tag", OTHER, "remove-tag removes a tag and leaves the others",
         [update(tags=f"{A},{B}"), act("remove-tag", tag=A)], {"tags": [B]}, "tags-csv"),
    Rule("remove-tag-keys", OTHER, "The response of remove-tag is id, phone, tag_removed, tags",
         [act("remove-tag", tag=A)],
         {"keys": ["id", "phone", "tag_removed", "tags"], "tag_removed": A}, "remove-tag-missing"),
    Rule("remove-tag-missing", OTHER, "Removing a tag that is not there is a 200",
         [act("remove-tag", tag=C)], {"status": 200}),

    # Conventions
    Rule("base-paths", PAGE, "Every path is served under /v1 as under /api/v1",
         [replace(ME, base="/v1"), replace(update(), base="/v1")], {}, each=True),
    Rule("me-keys", OTHER, "me responds with id, email, name and tenant",
         [ME], {"keys": ["id", "email", "name", "tenant"]}),
    Rule("me-tenant", OTHER, "me names the workspace by a UUID and a name",
         [ME], {"tenant.id": UUID, "tenant.name": TEXT}, "me-keys"),
    Rule("statuses", OTHER, "get-contact, search-contacts, add-tag and me respond 200",
         [GOT, FOUND, act("add-tag", tag=A), ME], {"status": 200}, each=True),
    Rule("json-type", OTHER, "Responses are application/json",
         [ME, GOT, NEITHER], {"status": Like("any", lambda *_: True),
                              "header Content-Type": JSON_TYPE}, each=True),
    Rule("json-unescaped", OURS, "Text in responses is UTF-8, not escaped",
         [update(name=NAME)], {"text": UNESCAPED}, "name-written"),
    Rule("type-charset", OTHER, "A content type with parameters is accepted",
         [replace(update(), content_type="application/json; charset=utf-8")], {"id": ID}),
    Rule("type-suffix", OURS, "A +json content type is accepted",
         [replace(update(), content_type="application/vnd.conform+json")], {"id": ID}),

    # Errors
    Rule("auth-missing", OTHER, "A request without a token is a 401", [ANONYMOUS], {"status": 401}),
    Rule("auth-everywhere", OTHER, "Every path needs a token",
         [replace(find(), bearer="none"), replace(search(), bearer="none"),
          replace(ME, bearer="none")], {"status": 401}, each=True),
    Rule("auth-unknown", OTHER, "An unknown token is a 401",
         [replace(ME, bearer="unknown")], {"status": 401}),
    Rule("auth-malformed", OURS, "A malformed Authorization header is a 401",
         [replace(ME, bearer="malformed")], {"status": 401}),
    Rule("auth-challenge", OURS, "A 401 has WWW-Authenticate: Bearer",
         [ANONYMOUS], {"status": 401, "header WWW-Authenticate": "Bearer"}),
    Rule("auth-text", OTHER, "A 401 says Unauthenticated.",
         [ANONYMOUS], {"status": 401, "message": "Unauthenticated."}),
    Rule("error-key", OTHER, "An error has its text under error",
         [UNKNOWN], {"status": 404, "error": TEXT}),
    Rule("error-not-found", OURS, "The text of a 404 is Contact not found",
         [UNKNOWN], {"status": 404, "error": "Contact not found"}, "error-key"),
    Rule("error-validation", OTHER, "A failed validation has message, and texts by field in errors",
         [NEITHER], {"status": 422, "message": TEXT, "errors": FIELD_TEXTS}),
    Rule("error-neither", OURS, "Neither contact_id nor phone is an error of both fields",
         [NEITHER], {"status": 422, "errors.contact_id": TEXTS, "errors.phone": TEXTS},
         "error-validation"),
    Rule("error-invalid", OURS, "The text of a 422 is The given data was invalid.",
         [NEITHER], {"status": 422, "message": "The given data was invalid."}, "error-validation"),
    Rule("error-both-keys", OURS, "An error has the same text under error and message",
         [UNKNOWN], {"status": 404, "error is message": True}, "error-key"),
    Rule("error-malformed", OURS, "A body that is not JSON is a 400",
         [Request("update-contact", b'{"phone": ')], {"status": 400}),
    Rule("error-empty", OURS, "An empty body is a 400",
         [Request("update-contact", b"")], {"status": 400}, "error-malformed"),
    Rule("error-array", OURS, "A body that is an array is a 422",
         [Request("update-contact", [])], {"status": 422}),
    Rule("error-type", OURS, "A body that is not JSON by its content type is a 415",
         [replace(update(), content_type="text/plain")], {"status": 415}),
    Rule("error-path", OURS, "A path that does not exist is a 404 in JSON",
         [Request("/conform", method="GET")], {"status": 404, "error": TEXT}, "error-key"),
    Rule("error-method", OURS, "Another method is a 405 with Allow",
         [Request("update-contact", method="GET")], {"status": 405, "header Allow": POST_ALLOWED}),
    Rule("order-401-body", OURS, "The token is looked at before a byte of the body is there",
         [replace(update(), bearer="none", withheld=True)], {"status": 401}),
    Rule("order-415-422", OURS, "The content type is looked at before the fields",
         [Request("update-contact", {}, content_type="text/plain")], {"status": 415}, "error-type"),
    Rule("order-422-404", OURS, "The fields are looked at before the contact",
         [find(contact_id=NOBODY, conform="a")], {"status": 422}, "unknown-field get-unknown-id"),

    # The rate limit
    Rule("rate-headers", OTHER, "Responses say the rate limit and what remains of it",
         [ME], {"header X-RateLimit-Limit": NUMERIC, "header X-RateLimit-Remaining": NUMERIC},
         given=LIMITED),
    Rule("rate-retry-after", OTHER, "A 429 says in Retry-After how many seconds to wait",
         [THROTTLED], {"status": 429, "header Retry-After": NUMERIC}, given=MET_LIMIT), ]
# fmt: on


# The service


class Stop(Exception):
    """The check can't go on; the text says why."""


class NotChecked(Exception):
    """A rule can't be checked; the text says why."""


@dataclass
class Response:
    status: int | None = None  # None when there was no response
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    failure: str = ""

    def __post_init__(self):
        try:
            self.body = json.loads(self.data)
        except (ValueError, RecursionError):
            self.body = ABSENT

    @property
    def ok(self) -> bool:
        return self.status is not None and OK.test(self.status, None)

    def look(self, path: str, contact_id: str | None = None) -> Any:
        """What the response has at `path`: `tags`, `tenant.id`, `header Allow`, `keys`, …"""
        body = self.body
        kind, _, rest = path.partition(" ")
        items = body if isinstance(body, list) else []
        mine = [item for item in items if isinstance(item, dict) and item.get("id") == contact_id]
        match kind, rest:
            case "status", _:
                return ABSENT if self.status is None else self.status
            case "header", name:
                return self.headers.get(name, ABSENT)
            case "text", _:
                return self.data
            case "keys", _:
                return list(body) if isinstance(body, dict) else ABSENT
            case "length", _:
                return len(body) if isinstance(body, list) else ABSENT
            case "has", _:
                return bool(mine) if isinstance(body, list) else ABSENT
            case "first", _:
                return bool(mine) and items[0] is mine[0]
            case "entry", _:
                return list(mine[0]) if mine else ABSENT
            case "error", "is message":
                return self.look("error") == self.look("message")
        for key in path.split("."):
            body = body.get(key, ABSENT) if isinstance(body, dict) else ABSENT
        return body


NO_RESPONSE = Response()


class Client:
    """Sends one request after another, at most `rate` a minute, and follows no redirect."""

    def __init__(self, address: SplitResult, token: str, rate: float, timeout: float):
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        self._connection = kinds[address.scheme](address.hostname, address.port)
        self._token, self._interval, self._timeout = token, 60 / rate, timeout
        self._next = time.monotonic()
        self.interrupted, self.interruptible = False, True
        self.throttled: Response | None = None  # the last 429

    def send(self, request: Request) -> Response:
        """Return the response, after more tries if it was 429, 5xx or none. Raises Stop."""
        for attempt in range(TRIES):
            response = self._admitted(request)
            if request.withheld or (response.status and response.status < 500):
                return response
            if attempt + 1 < TRIES:
                self.wait(retry_after(response, self._interval))
        # Is it that request alone? Then that is how the service responds to it.
        if response.status and request != ME and self.send(ME).ok:
            return response
        what = response.status or f"no response ({response.failure})"
        raise Stop(f"{request.method} {request.path} got {what}, {TRIES} times.")

    def _admitted(self, request: Request) -> Response:
        """Return the response that is no 429, after the time that the service asks for."""
        for _ in range(3 * TRIES):
            self.wait(self._next - time.monotonic())
            self._next = time.monotonic() + self._interval
            response = self._exchange(request)
            if response.status != 429:
                return response
            self.throttled = response
            self.wait(retry_after(response, 60))
        raise Stop("The service responds with 429, again and again.")

    def _exchange(self, request: Request) -> Response:
        bearer = BEARERS.get(request.bearer, f"Bearer {self._token}")
        headers = {"Accept": JSON, "User-Agent": "qyvo-standin conform"}
        headers |= {"Authorization": bearer} if bearer else {}
        body = request.body
        if body is not None:
            body = body if isinstance(body, bytes) else as_json(body).encode()
            headers |= {"Content-Type": request.content_type, "Content-Length": str(len(body))}
        connection, keep = self._connection, not request.withheld
        if request.withheld:
            connection.close()
            body = None
        connection.timeout = self._timeout if keep else min(WITHHELD_SECONDS, self._timeout)
        try:
            connection.request(request.method, request.path, body, headers)
            response = connection.getresponse()
            return Response(response.status, response.headers, response.read(BODY_LIMIT))
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) and keep:
                # It may still take effect: nothing is sent after it but what restores.
                text = f"No response within {self._timeout:g} seconds: {request.path}."
                raise Stop(text) from error
            keep = False
            return Response(failure=str(error) or type(error).__name__)
        finally:
            if not keep:
                connection.close()

    def wait(self, seconds: float):
        """Sleep. Raises Stop when the user has interrupted, at once."""
        until = time.monotonic() + seconds
        while not (self.interrupted and self.interruptible):
            if (rest := until - time.monotonic()) <= 0:
                return
            time.sleep(min(rest, 0.1))
        raise Stop("Interrupted.")


def retry_after(response: Response, default: float) -> float:
    text = response.look("header Retry-After")
    if not NUMERIC.test(text, None):
        return default
    if int(text) > LONGEST_WAIT:
        raise Stop(f"The service asks to wait {int(text)} seconds: try again later.")
    return int(text)


# The run


@dataclass
class Finding:
    rule: Rule
    result: str
    observed: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def public(self) -> dict[str, Any]:
        return {
            "id": self.rule.id,
            "rule": self.rule.sentence,
            "source": self.rule.source,
            "result": self.result,
            "reason": self.reason,
            "sent": [str(step) for step in self.rule.steps],
            "expected": self.rule.expected,
            "observed": self.observed,
        }


class Run:
    """Checks the rules on one contact, PHONE, and puts it back as it was."""

    def __init__(self, client: Client, phone: str):
        self.client = client
        self.values = spellings(phone)  # and the id, once it is known
        self.findings: dict[str, Finding] = {}
        self.is_prepared = False
        self._responses: dict[str, Response] = {}
        self._probed: dict[str, bool] = {}
        me = self.send(ME)
        if me.status == 401:
            raise Stop("The service does not accept the token in QYVO_TOKEN.")
        if not me.ok or not isinstance(me.body, dict):
            what = f"{me.status}, {me.look('header Content-Type')}"
            raise Stop(
                f"This is no such service: GET {ME.path} responded {what}."
                + " Redirects are not followed." * (me.status in range(300, 400))
            )
        self.tenant = {key: me.look(f"tenant.{key}") for key in ("id", "name")}
        self.found = self.read()
        tags = restorable(self.found)["tags"]
        if tags != [tag.strip() for tag in ",".join(tags).split(",") if tag.strip()]:
            raise Stop(
                "PHONE has a tag that can't be written back: with a comma, or blanks around."
            )
        self.private = [*scalars(me.body), *scalars(list(restorable(self.found).values()))]

    def read(self) -> dict[str, Any] | None:
        """Return what get-contact says of PHONE, None for a 404. Raises Stop if it isn't PHONE."""
        response = self.send(find())
        if response.status == 404:
            return None
        phone, contact_id = response.look("phone"), response.look("id")
        if not response.ok or not isinstance(contact_id, str) or not contact_id:
            raise Stop(f"get-contact with PHONE responded {response.status}, and shows no id.")
        if re.sub(r"\D", "", str(phone)) != self.values[NO_PLUS]:
            raise Stop("get-contact with PHONE responded with a contact that has another number.")
        if self.values.setdefault(ID, contact_id) != contact_id:
            raise Stop("get-contact with PHONE responded with another id than before.")
        self.values[UPPER_ID] = contact_id.upper()
        restorable(response.body)
        return response.body | {"metadata": response.body.get("metadata") or {}}

    def send(self, request: Request) -> Response:
        """Raises NotChecked for what could be applied to another contact."""
        if request.once and str(request) in self._responses:
            return self._responses[str(request)]
        writes = self._guard(request)
        response = self.client.send(self._filled(request))
        applied_to = response.look("id")
        if writes and response.ok and applied_to != self.values.get(ID, applied_to):
            raise Stop(f"{request.action} with PHONE was applied to another contact: look at it.")
        self._responses[str(request)] = response
        return response

    def _guard(self, request: Request) -> bool:
        """Return whether the request carries fields to write, which it may to PHONE alone.

        Anything else that a service with other rules could apply to somebody carries none, and
        get-contact must find nobody, or PHONE, by what it names.
        """
        if request.method == "GET" or request.action in READS:
            return False
        body = request.body if isinstance(request.body, dict) else {}
        named = {key: body[key] for key in ("contact_id", "phone") if body.get(key)}
        others = {key: value for key, value in named.items() if value not in (PHONE, ID)}
        writes = bool(body.keys() - {"contact_id", "phone"}) or request.action == "create-contact"
        if writes and (others or not named or request.bearer != "own"):
            raise AssertionError(f"{request} may write to others")
        for key, value in others.items():
            if value not in self._probed:
                response = self.client.send(self._filled(find(**{key: value})))
                mine = response.ok and response.look("id") == self.values.get(ID)
                self._probed[value] = mine or response.status in (404, 422)
            if not self._probed[value]:
                raise NotChecked(f"{value} may be another contact")
        return writes

    def _filled(self, value: Any) -> Any:
        """The value, or request, with what stands for the placeholders."""
        if isinstance(value, Request):
            return replace(value, body=self._filled(value.body))
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        return self.values.get(value, value) if isinstance(value, str) else value

    def check(self, rule: Rule) -> Finding:
        if rule.id in self.findings:
            return self.findings[rule.id]
        needed = [
            self.check(RULES_BY_ID[other]) for other in rule.needs.split() if other != rule.id
        ]
        unmet = {
            MISSING: self.found is not None,
            MEXICAN: RETIRED_MEXICAN not in self.values,
            LIMITED: self.send(once(ME)).look("header X-RateLimit-Limit") is ABSENT,
            MET_LIMIT: self.client.throttled is None,
        }
        reasons = [rule.given] if unmet.get(rule.given) else []
        reasons += [
            f"depends on {other.rule.id}"
            for other in needed
            if other.result != SAME and other.reason != MISSING
        ]
        try:
            if reasons:
                raise NotChecked(reasons[0])
            finding = self._judged(rule, [self._step(step) for step in rule.steps])
        except NotChecked as reason:
            finding = Finding(rule, NOT_CHECKED, reason=str(reason))
        self.findings[rule.id] = finding
        return finding

    def _step(self, step: Request | str) -> Response:
        if step == PAUSE:
            self.client.wait(1.1)
            return NO_RESPONSE
        return self.client.throttled if step == THROTTLED else self.send(step)

    def _judged(self, rule: Rule, responses: list[Response]) -> Finding:
        *earlier, _ = responses
        before = next((r for r in reversed(earlier) if r is not NO_RESPONSE), NO_RESPONSE)
        for response in responses if rule.each else responses[-1:]:
            seen = {path: response.look(path, self.values.get(ID)) for path in rule.expected}
            same = all(
                expected.test(seen[path], before.look(path))
                if isinstance(expected, Like)
                else seen[path] == self._filled(expected)
                for path, expected in rule.expected.items()
            )
            if not same:
                break
        if not same and not response.ok:
            seen |= {key: response.look(key) for key in ("error", "message")}
        observed = {path: self._public(value, path) for path, value in seen.items()}
        return Finding(rule, SAME if same else DIFFERENT, observed)

    def _public(self, value: Any, path: str) -> Any:
        """The value as a report may show it: without what only this workspace knows."""
        if isinstance(value, dict):
            return {self._public(key, "keys"): self._public(v, path) for key, v in value.items()}
        if isinstance(value, list):
            return [self._public(item, path) for item in value]
        if value is None or isinstance(value, bool | Like) or path in ("status", "length"):
            return value
        for placeholder, secret in self.values.items():
            if value == secret:
                return placeholder
        if value in VOCABULARY or ("keys" in path and re.fullmatch(r"[a-z_]{1,30}", value)):
            return value
        if not isinstance(value, str) or not path.startswith(("header ", "error", "message")):
            return str(TIME) if TIME.test(value, None) else f"<{type(value).__name__}>"
        secrets = {str(secret) for secret in [*self.values.values(), *self.private]}
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, "<…>") if len(secret) > 2 else value
        return re.sub(r"\S+@\S+|\+?\d{6,}", "<…>", value)[:200]

    # Putting the contact back

    def prepare(self, wanted: dict[str, Any]):
        """Create the contact if it is missing, and see that it can be restored. Raises Stop."""
        if self.read() is None:
            self.send(act("create-contact"))
            if self.read() is None:
                raise Stop("create-contact did not create PHONE.")
        written = self.send(update(**in_request(wanted)))
        if left := self.restore(wanted) or ([] if written.ok else TEXT_FIELDS):
            raise Stop(
                f"The service does not write back PHONE's {', '.join(left)}: nothing checked."
            )
        self.is_prepared = True

    def restore(self, wanted: dict[str, Any]) -> list[str]:
        """Write what was found; return the names of what differs all the same."""
        metadata = (self.read() or {"metadata": {}})["metadata"]
        if keys := [key for key in METADATA_KEYS if metadata.get(key) is not None]:
            self.send(update(metadata=dict.fromkeys(keys)))  # where null deletes, nothing stays
        for write in (self._write_at_once, self._write_one_by_one, self._write_tag_by_tag):
            if left := self._differences(wanted):
                write(wanted, left)
        return self._differences(wanted)

    def _differences(self, wanted: dict[str, Any]) -> list[str]:
        now = restorable(self.read())
        now["metadata"] = {key: now["metadata"].get(key, ABSENT) for key in wanted["metadata"]}
        return [name for name in wanted if now[name] != wanted[name]]

    def _write_at_once(self, wanted: dict[str, Any], left: list[str]):
        self.send(update(**in_request(wanted, {*TEXT_FIELDS, *left})))

    def _write_one_by_one(self, wanted: dict[str, Any], left: list[str]):
        for name in left:
            self.send(update(**in_request(wanted, [name])))

    def _write_tag_by_tag(self, wanted: dict[str, Any], left: list[str]):
        for tag in restorable(self.read())["tags"]:
            self.send(act("remove-tag", tag=tag))
        for tag in wanted["tags"]:
            self.send(act("add-tag", tag=tag))

    def left_keys(self) -> list[str]:
        contact = self.read() or {"metadata": {}}
        return [key for key in METADATA_KEYS if key in contact["metadata"]]


def spellings(phone: str) -> dict[str, str]:
    """What stands for the placeholders. Raises click.BadParameter unless it is in E.164."""
    try:
        number = phonenumbers.parse(phone)
    except phonenumbers.NumberParseException as error:
        raise NOT_E164 from error
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if phone != e164 or not phonenumbers.is_possible_number(number):
        raise NOT_E164
    country = f"+{number.country_code}"
    national = phone.removeprefix(country)
    a, b, c = national[:3], national[3:6], national[6:]
    spelled = {
        PHONE: phone,
        NO_PLUS: phone[1:],
        SPACES: f"{country} {a} {b} {c}",
        DOTS: f"{country}.{a}.{b}.{c}",
        PARENTHESES: f"{country} ({a}) {b}-{c}",
        TEL: f"tel:{phone}",
        ARABIC: phone.translate({ord("0") + n: chr(0x660 + n) for n in range(10)}),
    }
    if country == "+52" and len(national) == 10:
        spelled[RETIRED_MEXICAN] = f"+521{national}"
    return spelled


NOT_E164 = click.BadParameter("must be in E.164, for example +14155550123.", param_hint="'--phone'")


def restorable(contact: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a run may change of the contact. Raises Stop if it is not as documented."""
    contact = contact or {"name": None, "email": None, "tags": []}
    name, email, tags = (contact.get(key, ABSENT) for key in TEXT_FIELDS)
    metadata = contact.get("metadata") or {}
    texts = [name or "", email or "", *(tags if isinstance(tags, list) else [ABSENT])]
    if not all(isinstance(text, str) for text in texts) or not isinstance(metadata, dict):
        raise Stop("get-contact does not show name, email, tags and metadata as documented.")
    metadata = {key: value for key, value in metadata.items() if key not in METADATA_KEYS}
    return {"name": name or "", "email": email or "", "tags": tags, "metadata": metadata}


def in_request(contact: dict[str, Any], names: Iterable[str] = TEXT_FIELDS) -> dict[str, Any]:
    """The fields as update-contact reads them."""
    return {
        name: ",".join(contact[name]) if name == "tags" else contact[name]
        for name in (*TEXT_FIELDS, "metadata")
        if name in names
    }


def scalars(value: Any) -> Iterator[Any]:
    """Every text and number in a JSON value, and in requests."""
    if isinstance(value, Request):
        value = value.body
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from scalars(item)
    elif isinstance(value, str | int | float):
        yield value


RULES_BY_ID = {rule.id: rule for rule in RULES}
VOCABULARY = {v for rule in RULES for v in scalars([*rule.steps, *rule.expected.values()])}


class Kept:
    """The file that holds what was found, until that is restored."""

    def __init__(self, *of_what: Any):
        digest = hashlib.sha256(as_json(of_what).encode()).hexdigest()[:16]
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self.path = Path(home) / "qyvo-standin" / f"conform-{digest}.json"

    def read(self) -> dict[str, Any] | None:
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def write(self, contact: dict[str, Any]):
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(json.dumps(contact))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)


def check_and_restore(run: Run, wanted: dict[str, Any], kept: Kept) -> list[str]:
    """Check every rule; return what kept the run from its end, or the contact from its state."""
    problems, left = [], []
    again = f"What was found is kept in {kept.path}: run this again to restore it."
    try:
        with interruptible(run.client), progress_bar() as rules:
            try:
                for rule in rules:
                    if rule.given != MISSING and not run.is_prepared:
                        run.prepare(wanted)
                    run.check(rule)
            except (Stop, KeyboardInterrupt) as error:
                problems.append(str(error) or "Interrupted.")
            finally:
                run.client.interruptible = False
                left = run.restore(wanted)
            keys = ", ".join(run.left_keys()) or "none"
    except (Stop, KeyboardInterrupt) as error:
        return [*problems, f"PHONE is not restored. {error or 'Interrupted.'} {again}"]
    if left:
        return [*problems, f"PHONE's {', '.join(left)} can't be restored. {again}"]
    kept.path.unlink()
    click.echo(f"PHONE is restored. What stays in its metadata: {keys}.", err=True)
    return problems


@contextmanager
def interruptible(client: Client):
    """Let Ctrl-C, SIGTERM and SIGHUP end the run after the request under way, twice at once."""

    def interrupt(number, frame):
        signal.signal(number, before[number])
        client.interrupted = True

    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress_bar():
    """On a terminal only."""
    hidden = not sys.stderr.isatty()
    return click.progressbar(
        RULES, file=sys.stderr, hidden=hidden, item_show_func=lambda rule: rule and rule.id
    )


# The command


def address_of(url: str) -> SplitResult:
    """Raises click.BadParameter for what no token should be sent to."""
    wrong = partial(click.BadParameter, param_hint="'URL'")
    try:
        address = urlsplit(url)
        host, _ = address.hostname, address.port
    except ValueError as error:
        raise wrong(f"{error}.") from error
    if address.scheme not in ("http", "https") or not host:
        raise wrong("must start with https:// and a host, for example https://www.qyvo.io.")
    if "@" in address.netloc or address.path.strip("/") or address.query or address.fragment:
        raise wrong("must be the scheme and the host alone, for example https://www.qyvo.io.")
    if address.scheme == "http" and not is_loopback(host):
        raise wrong("must be https://, so that nobody reads the token on the way.")
    return address


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


NOTICE = """\
Host:       {host}
Workspace:  {workspace}
Contact:    {phone}, which {state}
Requests:   about {count}, at most {rate:g} a minute

This writes that contact's name, email, tags and metadata, many times, and then restores them. Its
number must be your own or fictional. Automations of the workspace may react to the changes. The
keys {keys} stay in its metadata."""


def confirmed() -> bool:
    try:
        return click.confirm("Go on?", err=True)
    except click.Abort:
        return False


def table(report: list[dict[str, Any]]) -> str:
    """What differs first, then what was not checked, then the rest."""
    lines = []
    for result in RESULTS:
        for row in (row for row in report if row["result"] == result):
            lines.append(f"{result:<11}  {row['id']:<20}  {row['source']:<20}  {row['rule']}")
            details = {"reason": row["reason"]}
            if result == DIFFERENT:
                details = {"sent": "\n".join(row["sent"])}
                details |= {key: as_json(row[key]) for key in ("expected", "observed")}
            for name, text in details.items():
                for line in filter(None, text.split("\n")):
                    lines.append(f"{'':<11}  {name:<9} {line}")
                    name = ""
    counts = [f"{sum(row['result'] == r for row in report)} {r}" for r in RESULTS]
    return "\n".join([*lines, "", f"{len(report)} rules: {', '.join(counts)}."])


@click.command("conform")
@click.argument("url")
@click.option("--phone", required=True, help="The one contact to write to, in E.164.")
@click.option(
    "--rate",
    type=click.FloatRange(1),
    default=DOCUMENTED_RATE / 2,
    show_default=True,
    help="Requests a minute.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=30,
    show_default=True,
    help="Seconds to wait for a response.",
)
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write what was found to this file, without personal data.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
def command(url: str, phone: str, rate: float, timeout: float, file: Path | None, yes: bool):
    """Check which of our rules the service at URL follows, with the token in QYVO_TOKEN.

    Writes to the contact PHONE alone, and restores it. Exits with 0 when every rule of the vendor's
    that was checked holds, 1 when one differs, 2 when the check could not be run or the contact not
    be restored.
    """
    address, token = address_of(url), os.environ.get("QYVO_TOKEN", "")
    spellings(phone)
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise click.UsageError("Set QYVO_TOKEN to the token, in ASCII and without spaces.")

    def say(text: str, err: bool = False):
        """Print it, without the token and what a terminal would obey."""
        text = text.replace(token, "<token>")
        click.echo("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text), err=err)

    try:
        run = Run(Client(address, token, rate, timeout), phone)
        run.private.append(token)
        kept = Kept(address.netloc, run.tenant["id"], phone)
        earlier = kept.read() if run.found else None
        state = "exists" if run.found else "will be created, and stays"
        notice = NOTICE.format(
            host=address.netloc,
            workspace=run.tenant["name"],
            phone=phone,
            state="is restored first, since an earlier run did not end" if earlier else state,
            count=sum(len(rule.steps) for rule in RULES),
            rate=rate,
            keys=" and ".join(METADATA_KEYS),
        )
        say(notice, err=True)
        if not yes and not confirmed():
            raise Stop("Not started.")
        wanted = earlier or restorable(run.found)
        kept.write(wanted)
        problems = check_and_restore(run, wanted, kept)
        report = [run.findings[name].public() for name in RULES_BY_ID if name in run.findings]
        say(table(report))
        if file:
            document = {"service": address.hostname, "rules": report}
            text = json.dumps(document, ensure_ascii=False, indent=2, default=str)
            file.write_text(text + "\n", encoding="utf-8")
    except (Stop, OSError, KeyboardInterrupt) as error:
        problems = [str(error) or "Interrupted."]
    if problems:
        say(f"Error: {' '.join(problems)}", err=True)
        click.get_current_context().exit(2)
    if any(f.result == DIFFERENT and f.rule.source != OURS for f in run.findings.values()):
        click.get_current_context().exit(1)


if __name__ == "__main__":
    command()
