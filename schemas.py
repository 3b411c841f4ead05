"""What a request may say and what a response looks like.

A rule that one body can tell is here; a rule that needs the stored contact is the store's.
"""

import json
import math
import re
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import phonenumbers
from marshmallow import (
    Schema,
    ValidationError,
    fields,
    post_load,
    pre_load,
    validate,
    validates_schema,
)
from marshmallow.exceptions import SCHEMA

NESTING_LIMIT = 512
METADATA_LIMIT = 64 * 1024  # of what is sent; the store has the same limit for what is merged
MAX_ERRORS = 20  # that a response names
MAX_TAGS = 100  # of what is sent; the store has the same limit for a tag that is added
SOURCES = ["manual", "csv_import", "shopify", "woocommerce", "widget", "zapier", "api"]


class PhoneReading(NamedTuple):
    """How a phone number without a leading + is read: as that ISO 3166 country dials it.

    An import may say what all such numbers of a file are; with neither they are refused.
    """

    region: str | None = None
    kind: Literal["national", "international"] | None = None


_AS_SENT = PhoneReading()
phone_reading: ContextVar[PhoneReading] = ContextVar("phone_reading", default=_AS_SENT)

# Digits of any script, and what people put around and between them. Nothing else: neither letters
# nor an extension may turn into somebody else's number.
_BETWEEN = r"[\s.()/\u2010-\u2015\u2212-]"
_PHONE = re.compile(rf"(?:tel:)?[\s(]*(\+?){_BETWEEN}*\d(?:\d|{_BETWEEN})*", re.IGNORECASE)
_QUOTED_BY_EXCEL = re.compile(r'="([^"]*)"')
# 4930231250.0 and 4.93023E+11, which lost digits or got some; and 030 123456/57, which is two.
_ROUNDED = re.compile(r".*[.,]0|[^.,]*\d{7}[.,]\d\d?|[\s\d.,+-]*\de[+-]?\d+", re.IGNORECASE)
_ALTERNATIVES = re.compile(r"[^/]*/\s*\d\d?")
_SEPARATOR = re.compile(r"[/\r\n](?=.*\d)", re.DOTALL)  # of two numbers, or within one: 089/12345
_DATE = re.compile(
    r"([0-3]?\d[./-][0-3]?\d[./-](19|20)\d\d|(19|20)\d\d[./-][0-3]?\d[./-][0-3]?\d)([T ][\d:]+)?"
)
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # by the ASCII characters
_MOBILE = (
    phonenumbers.PhoneNumberType.MOBILE,
    phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE,
)
IMPOSSIBLE = "Can't be a phone number: its length or country code does not exist."
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # by SQLite or in UTF-8
LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,3}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


class BadJSON(Exception):
    """A text is not JSON. Reads on after the text's name: `is not UTF-8: see byte 3`."""


def parse_json(text: bytes) -> Any:
    """Return the value of a JSON text as RFC 8259 has it: no NaN, no Infinity. Raises BadJSON."""
    try:
        string = text.removeprefix(BOM_UTF8).decode()
        if not string.strip():
            raise BadJSON("is empty: send a JSON object")
        document = _json.decode(string)
        brackets = string.count("[") + string.count("{")  # rarely enough to look at the levels
        if brackets > NESTING_LIMIT and sum(1 for _ in _levels(document)) > NESTING_LIMIT + 1:
            raise RecursionError
    except UnicodeDecodeError as error:
        raise BadJSON(f"is not UTF-8: see byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadJSON(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise BadJSON(f"is nested deeper than {NESTING_LIMIT} levels") from error
    except ValueError as error:  # Python's own for an integer of more than 4,300 digits
        raise BadJSON("holds a number that is too large") from error
    return document


def _levels(document: Any) -> Iterator[list[Any]]:
    """Yield the values of each level of nesting, keys included, from the outermost to the last."""
    level = [document]
    while level:
        yield level
        objects = [value for value in level if isinstance(value, dict)]
        arrays = [value for value in level if isinstance(value, list)]
        level = list(chain(*arrays, *objects, *(each.values() for each in objects)))


def _refuse_constant(text):
    raise BadJSON(f"is not JSON: {text} is not a JSON number")


def _finite(text):
    number = float(text)
    if math.isinf(number):
        raise ValueError
    return number


_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


compact_json = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat
).encode


class Text(fields.String):
    """A string without the white space around it, of at most 255 characters by default.

    `clearable` reads the empty string, which clears a field, as None. Subclasses say in `parse`
    what else the text must be.
    """

    default_error_messages = {
        "invalid": "Must be a string.",
        "required": "Is required.",
        "null": "May not be null: leave it out instead.",
    }
    limit: int | None = 255

    def __init__(self, *, clearable: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.clearable = clearable
        if clearable:
            self.error_messages["null"] = 'May not be null: pass "" to clear it, or leave it out.'

    def _deserialize(self, value, attr, data, **kwargs):
        text = super()._deserialize(value, attr, data, **kwargs).strip()
        if self.clearable and not text:
            return None
        if _UNSTORABLE.search(text):
            raise ValidationError("Must not contain NUL or a lone surrogate.")
        if self.limit and len(text) > self.limit:
            raise ValidationError(f"Must be at most {self.limit} characters long.")
        return self.parse(text)

    def parse(self, text: str) -> Any:
        """Return the value that the text stands for. Raises ValidationError."""
        return text


class EmailAddress(Text):
    """An address such as romain@example.com."""

    _check = validate.Email(error="Must be an email address.")

    def parse(self, text):
        # An address with an invisible character in it would be found by nobody.
        return self._check(text if text.isprintable() else "")


class ContactId(Text):
    """A UUID with hyphens, read in either case, returned in lower case."""

    def parse(self, text):
        if not _UUID.fullmatch(text):
            raise ValidationError(
                "Must be a UUID, for example 0197c1de-52ab-7cc3-9f3e-4a8d1f0c2b6e."
            )
        return text.lower()


class PhoneNumber(Text):
    """A phone number in any reasonable spelling, returned as E.164.

    Without a leading + it is read by `phone_reading`. A number need only be possible, so that
    fictional ones such as +1 415 555 0123 work.
    """

    def parse(self, text):
        return _e164(text, phone_reading.get())


class TagList(Text):
    """Tags as CSV, returned as a list without blanks, empty pieces and duplicates."""

    default_error_messages = {
        "null": 'May not be null: pass "" to remove all tags, or leave it out.',
    }
    limit = None

    def parse(self, text):
        tags = list(dict.fromkeys(tag for piece in text.split(",") if (tag := piece.strip())))
        if len(tags) > MAX_TAGS:
            raise ValidationError(f"Must be at most {MAX_TAGS} tags.")
        if any(len(tag) > Tag.limit for tag in tags):
            raise ValidationError(f"Each tag must be at most {Tag.limit} characters long.")
        return tags


class Tag(Text):
    """One tag, without a comma, which could not be written back through a TagList."""

    default_error_messages = {"null": "May not be null."}
    limit = 64

    def parse(self, text):
        if not text:
            raise ValidationError("May not be empty.")
        if "," in text:
            raise ValidationError("Must not contain a comma.")
        return text


class Metadata(fields.Field):
    """A JSON object of at most METADATA_LIMIT bytes, as compact JSON in UTF-8.

    An empty array is an empty object, since PHP can't tell them apart.
    """

    default_error_messages = {"null": "May not be null: leave it out instead."}

    def _deserialize(self, value, attr, data, **kwargs):
        if value == []:
            return {}
        if not isinstance(value, dict):
            raise ValidationError("Must be a JSON object.")
        if len(compact_json(value).encode(errors="surrogatepass")) > METADATA_LIMIT:
            raise ValidationError(f"It exceeds {METADATA_LIMIT} bytes (64 KiB).")
        for level in _levels(value):
            if any(isinstance(each, str) and _UNSTORABLE.search(each) for each in level):
                raise ValidationError(
                    "Must not contain NUL or a lone surrogate, in keys or in values."
                )
        return value


class TagsInFile(TagList):
    """Tags as CSV, or as the list that an export holds."""

    _tag = Tag()

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, list):
            value = ",".join(self._tag.deserialize(tag) for tag in value)
        return super()._deserialize(value, attr, data, **kwargs)


class Locale(Text):
    """A language and, where it matters, its country."""

    def parse(self, text):
        if not LOCALE.fullmatch(text):
            raise ValidationError("Must be a locale such as fr or pt-BR.")
        return text


class Moment(fields.AwareDateTime):
    """A time with its offset from UTC, to the microsecond. `clearable` reads "" as None."""

    default_error_messages = {
        "invalid": "Must be a time such as 2026-05-07T08:14:23+00:00.",
        "invalid_awareness": "Must have an offset from UTC, such as +00:00.",
        "null": "May not be null: leave it out instead.",
    }

    def __init__(self, *, clearable: bool = False, **kwargs):
        super().__init__(format="iso", **kwargs)
        self.clearable = clearable

    def _deserialize(self, value, attr, data, **kwargs):
        if self.clearable and value == "":
            return None
        try:
            return super()._deserialize(value, attr, data, **kwargs).astimezone(UTC)
        except OverflowError as error:
            raise self.make_error("invalid", input=value, obj_type="datetime") from error


class Body(Schema):
    """A JSON object without unknown fields: a typo must not be ignored in silence.

    An empty array is an empty object, since PHP can't tell them apart.
    """

    error_messages = {
        "unknown": "Unknown field: check its spelling.",
        "type": "The body must be a JSON object.",
    }
    at_least_one_of: tuple[str, ...] = ()
    exactly_one_of: tuple[str, ...] = ()

    @pre_load
    def prepare(self, data, **kwargs):
        """Refuse more unknown fields than are named before each of them is looked at."""
        if data == []:
            return {}
        if isinstance(data, dict) and len(data) > len(self.fields) + MAX_ERRORS:
            unknown = (name for name in data if name not in self.fields)
            text = self.error_messages["unknown"]
            raise ValidationError({name: [text] for name in islice(unknown, MAX_ERRORS)})
        return data

    @validates_schema
    def check_one_of(self, data, **kwargs):
        if (names := self.at_least_one_of) and data.keys().isdisjoint(names):
            text = f"Pass {' or '.join(names)}: at least one of them is required."
            raise ValidationError({name: [text] for name in names})
        if (names := self.exactly_one_of) and len(data.keys() & names) != 1:
            text = f"Pass exactly one of {', '.join(names)}."
            raise ValidationError({name: [text] for name in names})

    def handle_error(self, error, data, **kwargs):
        """Put unknown fields, which marshmallow keeps in a set, last and in the order sent."""
        if isinstance(data, dict):
            unknown = [name for name in data if name in error.messages and name not in self.fields]
            error.messages |= {name: error.messages.pop(name) for name in unknown}
        elif SCHEMA in error.messages:  # which is the name of a field, too, if a client says so
            error.messages, error.field_name = error.messages[SCHEMA], "body"


class ContactReference(Body):
    """Which contact: by id, by phone, or by both, which must then agree."""

    at_least_one_of = ("contact_id", "phone")

    contact_id = ContactId()
    phone = PhoneNumber()


class ContactFields(Body):
    """What can be written to a contact."""

    name = Text(clearable=True)
    email = EmailAddress(clearable=True)
    tags = TagList()
    metadata = Metadata()


class UpdateContact(ContactFields, ContactReference):
    """The body of update-contact."""


class CreateContact(ContactFields):
    """The body of create-contact."""

    phone = PhoneNumber(required=True)


class FurtherFields(Body):
    """What get-contact returns and no request of the API writes. `""` and null clear."""

    source = fields.String(
        validate=validate.OneOf(SOURCES, error=f"Must be one of {', '.join(SOURCES)}.")
    )
    locale = Locale(clearable=True, allow_none=True)
    opted_in_at = Moment(clearable=True, allow_none=True)
    opted_out_at = Moment(clearable=True, allow_none=True)
    last_message_at = Moment(clearable=True, allow_none=True)
    total_messages = fields.Integer(strict=True, validate=validate.Range(0, 10**9))


class StoredContact(FurtherFields, CreateContact):
    """A contact as a sandbox starts with it: create-contact's body, an id, the further fields."""

    id = ContactId()


def find_repeated(contacts: Iterable[dict[str, Any]]) -> Iterator[tuple[int, str, int]]:
    """Yield position, field and the earlier position of each phone and id that is there again."""
    positions = {}
    for position, contact in enumerate(contacts):
        for field in ("phone", "id"):
            earlier = positions.setdefault(contact.get(field), position)
            if contact.get(field) and earlier != position:
                yield position, field, earlier


class ImportedContact(StoredContact):
    """A contact of a file: that, and what else an export holds."""

    tags = TagsInFile()
    created_at = Moment()
    updated_at = Moment()


class GetContact(Body):
    """The body of get-contact: one of three ways to name a contact."""

    exactly_one_of = ("contact_id", "phone", "email")

    contact_id = ContactId()
    phone = PhoneNumber()
    email = EmailAddress()


class SearchContacts(Body):
    """The body of search-contacts. An empty string is no filter."""

    query = Text()
    tag = Text()
    email = Text()

    @post_load
    def add_phone(self, filters, **kwargs):
        """Add the phone that update-contact would read the query as, if there is one."""
        with suppress(ValidationError):
            filters["phone"] = PhoneNumber().deserialize(filters.get("query", ""))
        return filters


class TagContact(ContactReference):
    """The body of add-tag and remove-tag."""

    tag = Tag(required=True)


class ResponseSchema(Schema):
    """A response, with its keys in their order."""

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """Pick the values, which are ready for JSON, instead of serializing each by its field."""
        if self.many if many is None else many:
            return [self.dump(each, many=False) for each in obj]
        return {name: obj[name] for name in self.dump_fields}


# What responses show of a contact.
_CONTACT_FIELDS = {
    "id": fields.UUID(),
    "phone": fields.String(),
    "name": fields.String(allow_none=True),
    "email": fields.String(allow_none=True),
    "source": fields.String(validate=validate.OneOf(SOURCES)),
    "locale": fields.String(allow_none=True),
    "metadata": fields.Dict(),
    "tags": fields.List(fields.String()),
    "tag_added": fields.String(),
    "tag_removed": fields.String(),
    "opted_in_at": fields.AwareDateTime(format="iso", allow_none=True),
    "opted_out_at": fields.AwareDateTime(format="iso", allow_none=True),
    "last_message_at": fields.AwareDateTime(format="iso", allow_none=True),
    "total_messages": fields.Integer(),
    "created_at": fields.AwareDateTime(format="iso"),
    "updated_at": fields.AwareDateTime(format="iso"),
}


def _contact(name: str, keys: str) -> type[ResponseSchema]:
    return ResponseSchema.from_dict({key: _CONTACT_FIELDS[key] for key in keys.split()}, name=name)


UpdatedContact = _contact("UpdatedContact", "id phone name email tags updated_at")
FoundContact = _contact(
    "FoundContact", "id phone name email source tags last_message_at created_at"
)
Contact = _contact(
    "Contact",
    "id phone name email source locale metadata tags opted_in_at opted_out_at last_message_at"
    " total_messages created_at",
)
TagAdded = _contact("TagAdded", "id phone tag_added tags")
TagRemoved = _contact("TagRemoved", "id phone tag_removed tags")


class Tenant(ResponseSchema):
    """A workspace, under the vendor's name for it."""

    id = fields.UUID()
    name = fields.String()


class Me(ResponseSchema):
    """The response of me: whose token it is."""

    id = fields.Integer()
    email = fields.Email()
    name = fields.String(allow_none=True)
    tenant = fields.Nested(Tenant)


# Clients name the same contacts again and again, and to read a phone costs as much as all else that
# a schema does.
@lru_cache(maxsize=10_000)
def _e164(text: str, reading: PhoneReading) -> str:
    if not text.isascii():
        # Invisible direction marks come along when a number is copied from a contacts app.
        text = "".join(c for c in text if unicodedata.category(c) != "Cf").translate(_FULL_WIDTH)
        text = "".join(str(int(c)) if c.isdecimal() else c for c in text)
    quoted = _QUOTED_BY_EXCEL.fullmatch(text)
    text = quoted[1].strip() if quoted else text.removeprefix("'")
    if _ROUNDED.fullmatch(text):
        raise ValidationError(
            "It looks like a number that a spreadsheet rounded: write it with all of its digits,"
            " and with + and the country code."
        )
    if _DATE.fullmatch(text):
        raise ValidationError("It looks like a date: is the phone somewhere else?")
    match = _PHONE.fullmatch(text)
    if match and any(_is_valid(text[: m.start()], reading) for m in _SEPARATOR.finditer(text)):
        raise ValidationError("It looks like two numbers: write one.")
    if not match or _ALTERNATIVES.fullmatch(text):
        raise ValidationError("Must be a phone number, for example +14155550123.")
    return _read(text, reading)


def _read(text: str, reading: PhoneReading) -> str:
    """Return the digits of the text, which may begin with +, as E.164. Raises ValidationError."""
    digits = "".join(filter(str.isdecimal, text))
    number = f"+{digits}" if "+" in text else _with_plus(digits, reading)
    e164 = _if_possible(number)
    # A phone must find itself: "+49 00 30 1234567" is read as +49030…, and that as +4930….
    if e164 is None or (e164 != number and _if_possible(e164) != e164):
        raise ValidationError(IMPOSSIBLE)
    return e164


def _is_valid(text: str, reading: PhoneReading) -> bool:
    try:
        return _likelihood(_read(text, reading)) > 0
    except ValidationError:
        return False


def _likelihood(number: str, region: str | None = None) -> int:
    """Return 2 for a valid number that can be a mobile, 1 for another valid one, else 0."""
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return 0
    kind = phonenumbers.number_type(parsed)
    return 2 if kind in _MOBILE else int(kind != phonenumbers.PhoneNumberType.UNKNOWN)


def _with_plus(digits: str, reading: PhoneReading) -> str:
    """Return the one number that the digits can mean. Raises ValidationError if others can be.

    `kind` decides unless only the other reading is valid, or a mobile.
    """
    region, kind = reading
    international = f"+{digits.removeprefix('00')}"
    if kind == "international" and (
        region is None or _likelihood(international) >= _likelihood(digits, region)
    ):
        return international
    if region is None:
        raise ValidationError("Must start with + and the country code, for example +14155550123.")
    try:
        number = phonenumbers.parse(digits, region, keep_raw_input=True)
    except phonenumbers.NumberParseException as error:
        raise ValidationError(IMPOSSIBLE) from error
    significant = phonenumbers.national_significant_number(number)
    as_dialled = f"+{number.country_code}{significant}"
    trunk = phonenumbers.ndd_prefix_for_region(region, True) or ""
    if number.country_code_source == phonenumbers.CountryCodeSource.FROM_NUMBER_WITH_IDD:
        # 003 is one of Singapore's such prefixes, so 0033… is doubtful there.
        readings = [as_dialled, international]
        meant = set(filter(None, map(_if_possible, readings)))
        accepted = digits.startswith("0") and len(meant) == 1
    else:
        is_national = as_dialled != f"+{digits}" or trunk == str(number.country_code)
        if kind == "national":
            accepted = is_national and _likelihood(as_dialled) >= _likelihood(f"+{digits}")
        elif kind == "international":
            accepted = False
        elif trunk.startswith("0"):
            accepted = digits.startswith(trunk)
        else:
            accepted = significant == digits and phonenumbers.number_type(number) not in (
                phonenumbers.PhoneNumberType.UNKNOWN,  # which is not valid
                phonenumbers.PhoneNumberType.VOICEMAIL,  # Italy's look like French mobiles
            )
        country_code = phonenumbers.country_code_for_region(region)
        readings = [f"+{digits}", f"+{country_code}{digits}", as_dialled]
    if not accepted:
        possible = dict.fromkeys(filter(None, map(_if_possible, readings)))
        raise ValidationError(
            f"Without a + it may be {' or '.join(possible)}: start with + and the country code."
            if possible
            else IMPOSSIBLE
        )
    return as_dialled


def _if_possible(number: str) -> str | None:
    """Return the number, which has a +, as E.164, or None if it can't exist."""
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return None
    # WhatsApp still writes Mexican mobiles as +52 1 and ten digits; the 1 was retired in 2019.
    if parsed.country_code == 52 and 10**10 <= parsed.national_number < 2 * 10**10:
        parsed.national_number -= 10**10
    # A number with a digit missing is just long enough if its 0 counts, which it does in Italy.
    if parsed.italian_leading_zero and not phonenumbers.is_valid_number(parsed):
        return None
    possible = phonenumbers.is_possible_number_with_reason(parsed)
    if possible != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
