"""Every rule that is checked: what is sent, what is expected of the responses, who says so."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

# Who says so
PAGE = "vendor's page"  # on update-contact
OTHER = "vendor's other pages"
OURS = "this project"

JSON = "application/json"
# Authorization headers that are not those of QYVO_TOKEN
BEARERS = {"none": None, "unknown": "Bearer conform-unknown", "malformed": "Bearer"}

# What stands in requests for what only a run knows, and in reports for what is nobody's business.
PHONE, ID = "<PHONE>", "<ID>"
NO_PLUS, LAST_DIGITS = "<PHONE without +>", "<PHONE's last 7 digits>"
SPACES, DOTS, PARENTHESES = "<PHONE with spaces>", "<PHONE with dots>", "<PHONE with (), ->"
SLASH, FULL_WIDTH = "<PHONE with a slash>", "<PHONE with full-width + and ()>"
TEL, ARABIC, APOSTROPHE = "<tel:PHONE>", "<PHONE in Arabic digits>", "<'PHONE>"
MARKED = "<PHONE between direction marks>"
RETIRED_MEXICAN, UPPER_ID = "<PHONE as +521…>", "<ID in upper case>"
NOBODY = "5f0c3a52-9d0e-4b63-8c1f-7d2b6a90e4c1"

NAME, NAME_2 = "Zoë Conform", "Conform Deux"
EMAIL, EMAIL_2 = "conform-check@example.com", "conform-deux@example.com"
A, B, C = "conform-a", "conform-b", "conform-c"
KEY, KEY_2 = METADATA_KEYS = "conform_one", "conform_two"

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
    compressed: bool = False  # by gzip
    base: str = "/api/v1"

    @property
    def path(self) -> str:
        return self.base + (self.action if self.action[0] == "/" else f"/actions/{self.action}")

    def __str__(self) -> str:
        body = self.body
        if body is not None:
            body = body.decode() if isinstance(body, bytes) else as_json(body)
        notes = [f"(token: {self.bearer})" if self.bearer != "own" else ""]
        notes += [f"({self.content_type})" if self.content_type != JSON else ""]
        notes += ["(compressed)" if self.compressed else ""]
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


ME = Request("/me", method="GET")
SAMPLE = update(name=NAME, email=EMAIL, tags=A, metadata={KEY: 1})
NEITHER = Request("update-contact", {})
UNKNOWN = Request("update-contact", {"contact_id": NOBODY})
ANONYMOUS = replace(update(), bearer="none")
TYPES = {"name": 5, "email": 5, "tags": [A], "metadata": "conform"}

# Steps that are no request
PAUSE = "a pause of more than a second"  # times are whole seconds
THROTTLED = "any request, too soon"  # the last 429, which nobody asked for


# What is expected of a response. Response.look() says what stands where.


@dataclass(frozen=True)
class Like:
    """Something that is recognised, not known: `test(value, value in the response before)`."""

    text: str
    test: Callable[[Any, Any], bool]

    def __str__(self) -> str:
        return f"<{self.text}>"


def like(text: str, pattern: str) -> Like:
    return Like(text, lambda v, _: isinstance(v, str) and bool(re.fullmatch(pattern, v)))


def or_null(other: Like) -> Like:
    return Like(f"{other.text}, or null", lambda v, before: v is None or other.test(v, before))


def list_of(other: Like) -> Like:
    return Like(
        f"list of {other.text}s",
        lambda v, _: isinstance(v, list) and v != [] and all(other.test(each, None) for each in v),
    )


ABSENT = Like("absent", lambda value, _: value is ABSENT)
ANY = Like("any", lambda value, _: value is not ABSENT)
OK = Like("2xx", lambda value, _: value is not ABSENT and 200 <= value < 300)
UUID = like("UUID", r"(?i)[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
CANONICAL_UUID = like("UUID in lower case, with hyphens", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[^-A-F]+")
TIME = like("time such as 2026-05-07T08:14:23+00:00", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
NUMERIC = like("number", r"\d{1,9}")
TEXT = like("text", r"(?s).+")
TEXTS = list_of(TEXT)
JSON_TYPE = like("application/json", r"(?i)application/json\s*(;.*)?")
SOURCE = like(
    "manual, csv_import, shopify, woocommerce, widget, zapier or api",
    "manual|csv_import|shopify|woocommerce|widget|zapier|api",
)
INTEGER = Like("integer", lambda value, _: type(value) is int)
OBJECT = Like("object", lambda value, _: isinstance(value, dict))
TAGS = Like("list, empty or of texts", lambda value, _: value == [] or TEXTS.test(value, None))
UNSET = Like('null or ""', lambda value, _: value in (None, ""))
UNCHANGED = Like("unchanged", lambda value, before: value == before)
LATER = Like("later than before", lambda value, before: str(value) > str(before))
UP_TO_50 = Like("up to 50", lambda value, _: type(value) is int and value <= 50)
UNESCAPED = Like("the text in UTF-8", lambda value, _: NAME.encode() in value)
POST_ALLOWED = Like("a list with POST", lambda value, _: "POST" in str(value))
NEWEST_FIRST = Like(
    "newest first, then null",
    lambda value, _: (
        isinstance(value, list) and value == sorted(value, key=lambda v: str(v or ""), reverse=True)
    ),
)
FIELD_TEXTS = Like(
    "texts of each field",
    lambda value, _: (
        isinstance(value, dict)
        and value != {}
        and all(TEXTS.test(each, None) for each in value.values())
    ),
)

FOUND, NOT_FOUND = {"has PHONE": True}, {"status": ANY, "has PHONE": False}

# Conditions of a rule: the reasons why it is not checked if they are not met
MISSING = "PHONE is a contact already"
MEXICAN = "PHONE is not +52 and ten digits"
MESSAGES = "no two of the contacts found differ in their last message"
ANOTHER = "no other contact is found that has PHONE's last message, or none"
LIMITED = "the service announces no rate limit"
MET_LIMIT = "no request was refused with 429, and none is provoked"

Step = Request | tuple[Request, dict[str, Any]] | str


@dataclass(frozen=True)
class Rule:
    """What a service does when it is sent the steps.

    The last response, or each one, is as `expected`; one before it is successful, unless its step
    says what else is expected of it.
    """

    id: str
    source: str
    sentence: str
    steps: list[Step]
    expected: dict[str, Any] = field(default_factory=dict)
    given: str = ""  # one of the conditions
    each: bool = False

    def exchanges(self) -> Iterator[tuple[Request | str, dict[str, Any]]]:
        """Yield each step with what is expected of its response."""
        for number, step in enumerate(self.steps, 1):
            sent, expected = step if isinstance(step, tuple) else (step, {})
            if self.each or number == len(self.steps):
                expected = self.expected
            yield sent, {"status": OK} | expected


# Every rule. One that others need stands before them, so that it is the first that differs; each
# writes what it needs, since those before it may differ.
# fmt: off
RULES = [
    # With a contact that is not there, if it is not
    Rule("update-unknown-phone", PAGE, "A phone that no contact has is a 404",
         [update()], {"status": 404}, given=MISSING),
    Rule("get-unknown-phone", OTHER, "get-contact responds 404 to a phone that no contact has",
         [find()], {"status": 404}, given=MISSING),
    Rule("create-new", OTHER, "create-contact responds 201 when it creates",
         [act("create-contact")], {"status": 201}, given=MISSING),

    # What all others need
    Rule("get-by-phone", OTHER, "get-contact finds by phone", [find()], {"phone": ANY}),

    # update-contact finds
    Rule("update-by-phone", PAGE, "update-contact finds by phone", [update()]),
    Rule("update-status", PAGE, "update-contact responds 200", [SAMPLE], {"status": 200}),
    Rule("update-keys", PAGE, "The response has the documented keys in their order, no metadata",
         [SAMPLE], {"keys": UPDATE_KEYS}),
    Rule("update-by-id", PAGE, "update-contact finds by contact_id",
         [Request("update-contact", {"contact_id": ID})], {"id": ID}),
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
         [update(email=EMAIL_2), update(email=EMAIL), find()], {"email": EMAIL}),
    Rule("name-cleared", PAGE, '"" clears name',
         [update(name=NAME), update(name=""), find()], {"name": UNSET}),
    Rule("email-cleared", PAGE, '"" clears email',
         [update(email=EMAIL), update(email=""), find()], {"email": UNSET}),
    Rule("unset-null", OTHER, "A name or email that is not set is null in responses",
         [update(name="", email=""), find()], {"name": None, "email": None}, each=True),
    Rule("update-shown", PAGE, "The response shows the contact as it was written",
         [update(name=NAME_2, email=EMAIL_2), update(name=NAME, email=EMAIL)],
         {"name": NAME, "email": EMAIL}),
    Rule("absent-unchanged", PAGE, "A field that is absent is left alone",
         [update(name=NAME, email=EMAIL, tags=A),
          (update(metadata={KEY: 1}), {"tags": UNCHANGED}), find()],
         {"name": NAME, "email": EMAIL, "tags": UNCHANGED}),
    Rule("tags-replace", PAGE, "tags replaces the contact's list",
         [update(tags=A), update(tags=B), find()], {"tags": [B]}),
    Rule("tags-csv", PAGE, "tags is comma-separated",
         [update(tags=f"{A},{B}"), find()], {"tags": [A, B]}),
    Rule("tags-shown", PAGE, "The response shows the tags as they were written",
         [update(tags=A), update(tags=f"{B},{A}")], {"tags": [B, A]}),
    Rule("tags-cleared", PAGE, '"" empties tags',
         [update(tags=A), update(tags=""), find()], {"tags": []}),
    Rule("tags-trimmed", OURS, "Blanks around a tag are dropped",
         [update(tags=f" {A} , {B} "), find()], {"tags": [A, B]}),
    Rule("tags-empty-pieces", OURS, "Empty pieces of tags are ignored",
         [update(tags=f"{A},,{B},"), find()], {"tags": [A, B]}),
    Rule("tags-duplicates", OURS, "A tag given twice is kept once, at its first position",
         [update(tags=f"{B},{A},{B}"), find()], {"tags": [B, A]}),
    Rule("metadata-written", PAGE, "metadata is written: a key's new value replaces the old one",
         [update(metadata={KEY: 1}), update(metadata={KEY: 9120.25}), find()],
         {f"metadata.{KEY}": 9120.25}),
    Rule("metadata-merged", PAGE, "metadata is merged: keys not given stay",
         [update(metadata={KEY: 1}), update(metadata={KEY_2: 2}), find()],
         {f"metadata.{KEY}": 1, f"metadata.{KEY_2}": 2}),
    Rule("metadata-shallow", PAGE, "The merge is shallow: an object is replaced as a whole",
         [update(metadata={KEY: {"a": 1}}), update(metadata={KEY: {"b": 2}}), find()],
         {f"metadata.{KEY}": {"b": 2}}),
    Rule("metadata-absent", PAGE, "metadata that is absent is left alone",
         [update(metadata={KEY: 1}), update(name=NAME), find()], {f"metadata.{KEY}": 1}),
    Rule("metadata-json", PAGE, "metadata holds any JSON value",
         [update(metadata={KEY: [True, "é", 1.5, {"a": []}]}), find()],
         {f"metadata.{KEY}": [True, "é", 1.5, {"a": []}]}),
    Rule("metadata-null", OURS, "null in metadata is a value and does not delete",
         [update(metadata={KEY: 1}), update(metadata={KEY: None}), find()],
         {f"metadata.{KEY}": None}),
    Rule("metadata-as-sent", OURS, "Text in metadata is neither trimmed nor, when empty, made null",
         [update(metadata={KEY: [" a ", ""]}), find()], {f"metadata.{KEY}": [" a ", ""]}),
    Rule("metadata-empty-array", OURS, "An empty array as metadata is an empty object",
         [update(metadata={KEY: 1}), update(metadata=[]), find()], {f"metadata.{KEY}": 1}),
    Rule("trimmed", OURS, "White space around a name is trimmed",
         [update(name=f"  {NAME} "), find()], {"name": NAME}),
    Rule("blank-clears", OURS, "A name of blanks clears it",
         [update(name=NAME), update(name="  "), find()], {"name": UNSET}),
    Rule("unchanged-time", OURS, "A request that changes nothing leaves updated_at",
         [update(name=NAME), PAUSE, update(name=NAME)], {"updated_at": UNCHANGED}),
    Rule("changed-time", OURS, "A request that changes something moves updated_at",
         [update(name=NAME), PAUSE, update(name=NAME_2)], {"updated_at": LATER}),

    # update-contact refuses
    Rule("null-field", OURS, "null for a field is a 422",
         [update(**{name: None}) for name in ("contact_id", *TYPES)], {"status": 422}, each=True),
    Rule("wrong-type", OURS, "A field of another type is a 422",
         [update(**{field: value}) for field, value in TYPES.items()], {"status": 422}, each=True),
    Rule("invalid-email", OURS, "An email that is no address is a 422",
         [update(email="conform")], {"status": 422}),
    Rule("unknown-field", OURS, "An unknown field is a 422",
         [update(conform="a")], {"status": 422}),
    Rule("refused-whole", OURS, "A request that is refused writes nothing",
         [update(name=NAME), (update(name=NAME_2, email="conform"), {"status": 422}), find()],
         {"name": NAME}),

    # Phone numbers, ids and times
    Rule("phone-e164", OTHER, "A phone is returned as E.164",
         [update(), find()], {"phone": PHONE}, each=True),
    Rule("phone-spaces", OTHER, "get-contact finds by a phone with spaces",
         [find(phone=SPACES)], {"id": ID}),
    Rule("phone-dots", OTHER, "get-contact finds by a phone with dots",
         [find(phone=DOTS)], {"id": ID}),
    Rule("phone-parentheses", OTHER, "get-contact finds by a phone with parentheses and hyphens",
         [find(phone=PARENTHESES)], {"id": ID}),
    Rule("phone-slash", OURS, "get-contact finds by a phone with a slash",
         [find(phone=SLASH)], {"id": ID}),
    Rule("phone-full-width", OURS, "get-contact finds by a phone with full-width punctuation",
         [find(phone=FULL_WIDTH)], {"id": ID}),
    Rule("phone-tel", OURS, "get-contact finds by a phone that starts with tel:",
         [find(phone=TEL)], {"id": ID}),
    Rule("phone-apostrophe", OURS, "get-contact finds by a phone that starts with an apostrophe",
         [find(phone=APOSTROPHE)], {"id": ID}),
    Rule("phone-marks", OURS, "get-contact finds by a phone between invisible direction marks",
         [find(phone=MARKED)], {"id": ID}),
    Rule("phone-digits", OURS, "get-contact finds by a phone in other scripts' digits",
         [find(phone=ARABIC)], {"id": ID}),
    Rule("phone-mexican", OURS, "+521 and ten digits is the number +52 and those ten digits",
         [Request("update-contact", {"phone": RETIRED_MEXICAN})], {"id": ID}, given=MEXICAN),
    Rule("update-normalises", PAGE, "update-contact finds by a phone that is spelled otherwise",
         [Request("update-contact", {"phone": p}) for p in (SPACES, PARENTHESES)], {"id": ID},
         each=True),
    Rule("phone-no-plus", OURS, "get-contact refuses a phone without + with a 422",
         [find(phone=NO_PLUS)], {"status": 422}),
    Rule("update-no-plus", OURS, "update-contact refuses a phone without + with a 422",
         [Request("update-contact", {"phone": NO_PLUS})], {"status": 422}),
    Rule("phone-impossible", OURS, "A phone that can't exist is a 422",
         [find(phone="+99912345678")], {"status": 422}),
    Rule("id-uuid", PAGE, "The id is a UUID", [update()], {"id": UUID}),
    Rule("id-canonical", OURS, "The id is written in lower case, with hyphens",
         [update()], {"id": CANONICAL_UUID}),
    Rule("id-malformed", OURS, "A contact_id that is no UUID is a 422",
         [find(contact_id="conform")], {"status": 422}),
    Rule("time-updated", PAGE, "updated_at is in UTC, whole seconds, with the offset +00:00",
         [SAMPLE], {"updated_at": TIME}),
    Rule("time-created", OTHER, "created_at is in UTC, whole seconds, with the offset +00:00",
         [find()], {"created_at": TIME}),

    # create-contact
    Rule("create-existing", OTHER, "create-contact responds 201 when it updates",
         [act("create-contact")], {"status": 201}),
    Rule("create-upsert", OTHER, "create-contact updates the contact that has the phone",
         [update(name=NAME), act("create-contact", name=NAME_2), find()],
         {"id": ID, "name": NAME_2}),
    Rule("create-writes", OTHER, "create-contact writes name, email, tags and metadata",
         [update(name="", email="", tags="", metadata={KEY: 1}),
          act("create-contact", name=NAME, email=EMAIL, tags=f"{A},{B}", metadata={KEY: 2}),
          find()],
         {"name": NAME, "email": EMAIL, "tags": [A, B], f"metadata.{KEY}": 2}),
    Rule("create-keys", OURS, "create-contact responds with the keys of update-contact",
         [act("create-contact", name=NAME)], {"keys": UPDATE_KEYS}),
    Rule("create-absent", OURS, "create-contact leaves absent fields alone",
         [update(email=EMAIL, tags=A), act("create-contact", name=NAME), find()],
         {"email": EMAIL, "tags": [A]}),
    Rule("create-merges", OURS, "create-contact merges metadata",
         [update(metadata={KEY: 1}), act("create-contact", metadata={KEY_2: 2}), find()],
         {f"metadata.{KEY}": 1, f"metadata.{KEY_2}": 2}),

    # get-contact
    Rule("get-keys", OTHER, "The response of get-contact has the documented keys in their order",
         [find()], {"keys": GET_KEYS}),
    Rule("get-values", OTHER, "name and email are texts or null, tags a list, metadata an object",
         [find()], {"name": or_null(TEXT), "email": or_null(TEXT), "tags": TAGS,
                    "metadata": OBJECT}),
    Rule("get-by-id", OTHER, "get-contact finds by contact_id", [find(contact_id=ID)], {"id": ID}),
    Rule("id-case", OURS, "An id is found in upper case too",
         [find(contact_id=UPPER_ID)], {"id": ID}),
    Rule("get-by-email", OTHER, "get-contact finds by email",
         [update(email=EMAIL), find(email=EMAIL)], {"email": EMAIL}),
    Rule("get-email-case", OURS, "get-contact finds by an email in either case",
         [update(email=EMAIL), find(email=EMAIL.upper())], {"email": EMAIL}),
    Rule("get-unknown-id", OTHER, "get-contact responds 404 to an id that no contact has",
         [find(contact_id=NOBODY)], {"status": 404}),
    Rule("get-unknown-email", OTHER, "get-contact responds 404 to an email that no contact has",
         [find(email="conform-nobody@example.com")], {"status": 404}),
    Rule("get-none", OTHER, "get-contact without contact_id, phone and email is a 422",
         [Request("get-contact", {})], {"status": 422}),
    Rule("get-two", OTHER, "get-contact with two of contact_id, phone and email is a 422",
         [find(phone=PHONE, contact_id=ID)], {"status": 422}),
    Rule("get-source", OTHER, "source is one of the seven that are documented",
         [find()], {"source": SOURCE}),
    Rule("get-locale", OTHER, "locale is a text or null", [find()], {"locale": or_null(TEXT)}),
    Rule("get-times", OTHER, "opted_in_at, opted_out_at and last_message_at are times or null",
         [find()], dict.fromkeys(["opted_in_at", "opted_out_at", "last_message_at"],
                                 or_null(TIME))),
    Rule("get-messages", OTHER, "total_messages is an integer",
         [find()], {"total_messages": INTEGER}),

    # search-contacts
    Rule("search-array", OTHER, "search-contacts responds with an array, at most 50 long",
         [search()], {"length": UP_TO_50}),
    Rule("search-tag", OTHER, "search-contacts finds by tag",
         [update(tags=B), (search(tag=A), NOT_FOUND), update(tags=A), search(tag=A)], FOUND),
    Rule("search-keys", OTHER, "What is found has the documented keys in their order",
         [update(tags=A), search(tag=A)], {"entry keys": SEARCH_KEYS}),
    Rule("search-values", OTHER, "What is found is shown as get-contact shows it",
         [SAMPLE, search(tag=A)],
         {"entry phone": PHONE, "entry name": NAME, "entry email": EMAIL, "entry tags": [A],
          "entry source": SOURCE, "entry last_message_at": or_null(TIME),
          "entry created_at": TIME}),
    Rule("search-nothing", OTHER, "Nothing found is an empty array",
         [search(tag="conform-none")], {"length": 0}),
    Rule("search-tag-exact", OTHER, "tag is the whole tag",
         [update(tags=A), (search(tag=A), FOUND), search(tag=A[:-2])], NOT_FOUND),
    Rule("search-phone", OTHER, "query finds by a part of the phone",
         [search(query=LAST_DIGITS)], FOUND),
    Rule("search-name", OTHER, "query finds by a part of the name",
         [update(name=NAME_2), (search(query=NAME[2:]), NOT_FOUND),
          update(name=NAME), search(query=NAME[2:])], FOUND),
    Rule("search-case", OTHER, "query finds in either case",
         [update(name=NAME), search(query="ZOË CONF")], FOUND),
    Rule("search-email", OTHER, "query finds by a part of the email",
         [update(email=EMAIL), search(query=EMAIL[:-2])], FOUND),
    Rule("search-by-email", OTHER, "search-contacts finds by email",
         [update(email=EMAIL_2), (search(email=EMAIL), NOT_FOUND),
          update(email=EMAIL), search(email=EMAIL)], FOUND),
    Rule("search-email-exact", OTHER, "email is the whole address",
         [update(email=EMAIL), (search(email=EMAIL), FOUND), search(email=EMAIL[:-2])], NOT_FOUND),
    Rule("search-and", OTHER, "query, tag and email are combined with AND",
         [update(name=NAME, tags=A, email=EMAIL), (search(query=NAME, tag=A, email=EMAIL), FOUND),
          (search(query=NAME, tag=C), NOT_FOUND), search(email=EMAIL, tag=C)], NOT_FOUND),
    Rule("search-empty-filter", OTHER, "A filter that is empty is none",
         [SAMPLE, (search(query="", tag=A, email=""), FOUND), search(query=NAME, tag="")], FOUND),
    Rule("search-phone-spelled", OURS, "query finds by the phone however it is spelled",
         [search(query=spelled) for spelled in (SPACES, DOTS, PARENTHESES, TEL, ARABIC)],
         FOUND, each=True),
    Rule("search-messages", OTHER, "The last message decides the order, the newest first",
         [search()], {"last messages": NEWEST_FIRST}, given=MESSAGES),
    Rule("search-updates", OURS, "Of those with the same last message, the last updated is first",
         [update(name=NAME), update(name=NAME_2), search()],
         {"first of its last message is PHONE": True}, given=ANOTHER),

    # add-tag and remove-tag
    Rule("add-tag", OTHER, "add-tag adds a tag to the others",
         [update(tags=A), act("add-tag", tag=B), find()], {"tags": [A, B]}),
    Rule("add-tag-by-id", OTHER, "add-tag finds by contact_id",
         [update(tags=A), Request("add-tag", {"contact_id": ID, "tag": B}), find()],
         {"tags": [A, B]}),
    Rule("add-tag-keys", OTHER, "The response of add-tag is id, phone, tag_added, tags",
         [update(tags=A), act("add-tag", tag=B)],
         {"keys": ["id", "phone", "tag_added", "tags"], "tag_added": B, "tags": [A, B]}),
    Rule("add-tag-twice", OTHER, "Adding a tag that is there changes nothing",
         [update(tags=A), act("add-tag", tag=A), find()], {"tags": [A]}),
    Rule("add-tag-required", OTHER, "add-tag without a tag is a 422",
         [act("add-tag")], {"status": 422}),
    Rule("add-tag-comma", OURS, "A tag with a comma is a 422",
         [act("add-tag", tag=f"{A},{B}")], {"status": 422}),
    Rule("remove-tag", OTHER, "remove-tag removes a tag and leaves the others",
         [update(tags=f"{A},{B}"), act("remove-tag", tag=A), find()], {"tags": [B]}),
    Rule("remove-tag-by-id", OTHER, "remove-tag finds by contact_id",
         [update(tags=f"{A},{B}"), Request("remove-tag", {"contact_id": ID, "tag": A}), find()],
         {"tags": [B]}),
    Rule("remove-tag-keys", OTHER, "The response of remove-tag is id, phone, tag_removed, tags",
         [update(tags=f"{A},{B}"), act("remove-tag", tag=A)],
         {"keys": ["id", "phone", "tag_removed", "tags"], "tag_removed": A, "tags": [B]}),
    Rule("remove-tag-missing", OTHER, "Removing a tag that is not there is a 200",
         [update(tags=A), act("remove-tag", tag=C)], {"status": 200, "tags": [A]}),
    Rule("remove-tag-required", OTHER, "remove-tag without a tag is a 422",
         [act("remove-tag")], {"status": 422}),

    # Conventions
    Rule("base-paths", PAGE, "Every path is served under /v1 as under /api/v1",
         [replace(request, base="/v1") for request in (
             ME, update(), find(), search(), act("create-contact"), act("add-tag", tag=A),
             act("remove-tag", tag=A))], each=True),
    Rule("me-keys", OTHER, "me responds with id, email, name and tenant",
         [ME], {"keys": ["id", "email", "name", "tenant"]}),
    Rule("me-values", OTHER, "me names whose token it is by an integer, an email, a name or null",
         [ME], {"id": INTEGER, "email": like("address", ".+@.+"), "name": or_null(TEXT)}),
    Rule("me-tenant", OTHER, "me names the workspace by a UUID and a name",
         [ME], {"tenant.id": UUID, "tenant.name": TEXT}),
    Rule("statuses", OTHER, "get-contact, search-contacts, add-tag, remove-tag and me respond 200",
         [find(), search(tag=A), act("add-tag", tag=A), act("remove-tag", tag=A), ME],
         {"status": 200}, each=True),
    Rule("json-type", OTHER, "Responses are application/json",
         [ME, find(), search(tag=A), update(), act("create-contact"), act("add-tag", tag=A),
          act("remove-tag", tag=A), NEITHER, UNKNOWN],
         {"status": ANY, "header Content-Type": JSON_TYPE}, each=True),
    Rule("json-unescaped", OURS, "Text in responses is UTF-8, not escaped",
         [update(name=NAME)], {"text": UNESCAPED}),
    Rule("type-charset", OTHER, "A content type with parameters is accepted",
         [replace(update(), content_type="application/json; charset=utf-8")]),
    Rule("type-suffix", OTHER, "A +json content type is accepted",
         [replace(update(), content_type="application/vnd.conform+json")]),
    Rule("body-empty-array", OURS, "An empty array as the body is an empty object",
         [Request("search-contacts", [])], {"length": UP_TO_50}),

    # Errors
    Rule("auth-missing", OTHER, "A request without a token is a 401", [ANONYMOUS], {"status": 401}),
    Rule("auth-everywhere", OTHER, "Every path needs a token",
         [replace(request, bearer="none") for request in (
             ME, find(), search(), act("add-tag"), act("remove-tag"))], {"status": 401}, each=True),
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
         [UNKNOWN], {"status": 404, "error": "Contact not found"}),
    Rule("error-validation", OTHER, "A failed validation has message, and texts by field in errors",
         [NEITHER], {"status": 422, "message": TEXT, "errors": FIELD_TEXTS}),
    Rule("error-neither", OURS, "Neither contact_id nor phone is an error of both fields",
         [NEITHER], {"status": 422, "errors.contact_id": TEXTS, "errors.phone": TEXTS}),
    Rule("error-unknown-field", OURS, "errors names the unknown field",
         [update(conform="a")], {"status": 422, "errors.conform": TEXTS}),
    Rule("error-invalid", OURS, "The text of a 422 is The given data was invalid.",
         [NEITHER], {"status": 422, "message": "The given data was invalid."}),
    Rule("error-both-keys", OURS, "An error has the same text under error and message",
         [UNKNOWN], {"status": 404, "error is message": True}),
    Rule("error-malformed", OURS, "A body that is not JSON is a 400",
         [Request("update-contact", b'{"phone": ')], {"status": 400}),
    Rule("error-empty", OURS, "An empty body is a 400",
         [Request("update-contact", b"")], {"status": 400}),
    Rule("error-array", OURS, "A body that is an array of something is a 422",
         [Request("update-contact", [A])], {"status": 422}),
    Rule("error-type", OURS, "A body that is not JSON by its content type is a 415",
         [replace(update(), content_type="text/plain")], {"status": 415}),
    Rule("error-compressed", OURS, "A body that is compressed is a 415",
         [replace(update(), compressed=True)], {"status": 415}),
    Rule("error-path", OURS, "A path that does not exist is a 404 in JSON",
         [Request("/conform", method="GET")], {"status": 404, "error": TEXT}),
    Rule("error-method", OURS, "Another method is a 405 with Allow",
         [Request("update-contact", method="GET")], {"status": 405, "header Allow": POST_ALLOWED}),
    Rule("order-401-400", OURS, "The token is looked at before the body",
         [Request("update-contact", b'{"phone": ', bearer="none")], {"status": 401}),
    Rule("order-415-422", OURS, "The content type is looked at before the fields",
         [Request("update-contact", {}, content_type="text/plain")], {"status": 415}),
    Rule("order-422-404", OURS, "The fields are looked at before the contact",
         [find(contact_id=NOBODY, conform="a")], {"status": 422}),

    # The rate limit
    Rule("rate-headers", OTHER, "Responses say the rate limit and what remains of it",
         [ME], {"header X-RateLimit-Limit": NUMERIC, "header X-RateLimit-Remaining": NUMERIC},
         given=LIMITED),
    Rule("rate-retry-after", OTHER, "A 429 says in Retry-After how many seconds to wait",
         [THROTTLED], {"status": 429, "header Retry-After": NUMERIC}, given=MET_LIMIT),
]
# fmt: on


def scalars(value: Any) -> Iterator[Any]:
    """Yield every text and number in a JSON value, and in requests."""
    if isinstance(value, Request):
        value = value.body
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            yield from scalars(item)
    elif isinstance(value, str | int | float):
        yield value


# What requests and rules say themselves, which a report may show
VOCABULARY = {v for rule in RULES for v in scalars([*rule.steps, rule.expected])}
