"""What a request may say and what an answer looks like.

A rule that one body can tell is here; a rule that needs the stored contact is the store's.
"""

import json
import math
import re
import unicodedata
from codecs import BOM_UTF8
from contextvars import ContextVar
from datetime import UTC
from functools import lru_cache
from typing import Any

import phonenumbers
from marshmallow import Schema, ValidationError, fields, missing, validate, validates_schema

NESTING_LIMIT = 512
SOURCES = ["api", "csv_import", "manual"]

# ISO 3166 country that a phone number without a leading + is dialled from (ours); None refuses it.
default_region: ContextVar[str | None] = ContextVar("default_region", default=None)

# Digits of any script, and what people put around and between them. Nothing else: neither letters
# nor an extension may turn into somebody else's number.
_BETWEEN = r"[\s.()\u2010-\u2015\u2212-]"
_PHONE = re.compile(rf"(?:tel:)?[\s(]*([+\uff0b]?){_BETWEEN}*\d(?:\d|{_BETWEEN})*", re.IGNORECASE)
_LIKE_E164 = re.compile(r"\+[0-9]+")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


class BadJSON(Exception):
    """A text is not JSON. Reads on after the text's name: `is not UTF-8: see byte 3`."""


def parse_json(text: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN and no Infinity. Raises BadJSON."""
    try:
        string = text.removeprefix(BOM_UTF8).decode()
        document = _json.decode(string)
    except UnicodeDecodeError as error:
        raise BadJSON(f"is not UTF-8: see byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadJSON(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise BadJSON(_TOO_DEEP) from error
    except ValueError as error:
        raise BadJSON(_TOO_LARGE) from error  # an integer beyond Python's limit of digits
    if string.count("[") + string.count("{") <= NESTING_LIMIT:
        return document
    level = [document]
    for _ in range(NESTING_LIMIT + 1):
        level = [child for value in level for child in _children(value)]
        if not level:
            return document
    raise BadJSON(_TOO_DEEP)


_TOO_DEEP = f"is nested deeper than {NESTING_LIMIT} levels"
_TOO_LARGE = "holds a number that is too large"


def _children(value):
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _refuse_constant(text):
    raise BadJSON(f"is not JSON: {text} is not a JSON number")


def _finite(text):
    number = float(text)
    if math.isinf(number):
        raise BadJSON(_TOO_LARGE)
    return number


_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


class Text(fields.String):
    """A string without the white space around it, of at most 255 characters unless told otherwise.

    Refuses what neither SQLite nor UTF-8 can carry: NUL and lone surrogates (ours).
    """

    default_error_messages = {
        "invalid": "Must be a string.",
        "required": "Is required.",
        "null": 'May not be null: pass "" to clear it, or leave it out.',
        "too_long": "Must be at most {limit} characters long.",
        "unstorable": "Must not contain NUL or a lone surrogate.",
    }

    def __init__(self, *, limit: int | None = 255, **kwargs):
        super().__init__(**kwargs)
        self.limit = limit

    def _deserialize(self, value, attr, data, **kwargs):
        text = super()._deserialize(value, attr, data, **kwargs).strip()
        if not _storable(text):
            raise self.make_error("unstorable")
        if self.limit and len(text) > self.limit:
            raise self.make_error("too_long", limit=self.limit)
        return text


class EmailAddress(Text):
    """An address such as romain@example.com."""

    default_error_messages = {"not_email": "Must be an email address."}
    _valid = validate.Email()

    def _deserialize(self, value, attr, data, **kwargs):
        email = super()._deserialize(value, attr, data, **kwargs)
        if not email.isprintable():  # an invisible character, with which nobody would find it
            raise self.make_error("not_email")
        try:
            return self._valid(email)
        except ValidationError as error:
            raise self.make_error("not_email") from error


class Clearable:
    """The empty string means "no value", and is read as None (documented)."""

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str) and not value.strip():
            return None
        return super()._deserialize(value, attr, data, **kwargs)


class ClearableText(Clearable, Text):
    """Text or nothing."""


class ClearableEmail(Clearable, EmailAddress):
    """An email address or nothing."""


class ContactId(Text):
    """A UUID with hyphens, read in either case, returned in lower case."""

    default_error_messages = {
        "null": "May not be null: leave it out instead.",
        "not_uuid": "Must be a UUID, for example 0197c1de-52ab-7cc3-9f3e-4a8d1f0c2b6e.",
    }

    def _deserialize(self, value, attr, data, **kwargs):
        text = super()._deserialize(value, attr, data, **kwargs)
        if not _UUID.fullmatch(text):
            raise self.make_error("not_uuid")
        return text.lower()


class PhoneNumber(Text):
    """A phone number in any reasonable spelling, returned as E.164.

    Without a leading + it is read as `default_region` dials it. Possible numbers are enough:
    fictional ones such as +1 415 555 0123 must work (ours). Letters and extensions are refused
    rather than read as some other number.
    """

    default_error_messages = {
        "null": "May not be null: leave it out instead.",
        "no_plus": "Must start with + and the country code, for example +14155550123.",
        "not_phone": "Must be a phone number, for example +14155550123.",
        "impossible": "Can't be a phone number: its length or country code does not exist.",
    }

    def _deserialize(self, value, attr, data, **kwargs):
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            return _e164(text, default_region.get())
        except NotAPhoneNumber as error:
            raise self.make_error(error.args[0]) from error


class TagList(Text):
    """Tags as CSV, returned as a list without blanks, empty pieces and duplicates (ours)."""

    default_error_messages = {
        "null": 'May not be null: pass "" to remove all tags, or leave it out.',
        "too_many": "Must be at most {limit} tags.",
        "tag_too_long": "Each tag must be at most {limit} characters long.",
    }
    most_tags = 100
    longest_tag = 64

    def __init__(self, **kwargs):
        super().__init__(limit=None, **kwargs)

    def _deserialize(self, value, attr, data, **kwargs):
        text = super()._deserialize(value, attr, data, **kwargs)
        tags = list(dict.fromkeys(tag for piece in text.split(",") if (tag := piece.strip())))
        if len(tags) > self.most_tags:
            raise self.make_error("too_many", limit=self.most_tags)
        if any(len(tag) > self.longest_tag for tag in tags):
            raise self.make_error("tag_too_long", limit=self.longest_tag)
        return tags


class Metadata(fields.Field):
    """A JSON object. Its size is the store's rule, since only the merged result counts."""

    default_error_messages = {
        "invalid": "Must be a JSON object.",
        "null": "May not be null: leave it out instead.",
        "unstorable": "Must not contain NUL or a lone surrogate, in keys or in values.",
    }

    def _deserialize(self, value, attr, data, **kwargs):
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if not all(_storable(text) for text in _texts(value)):
            raise self.make_error("unstorable")
        return value


class Tag(Text):
    """One tag. Without a comma, which could not be written back through a TagList (ours)."""

    default_error_messages = {
        "null": "May not be null.",
        "empty": "May not be empty.",
        "comma": "Must not contain a comma.",
    }

    def __init__(self, **kwargs):
        super().__init__(limit=TagList.longest_tag, **kwargs)

    def _deserialize(self, value, attr, data, **kwargs):
        tag = super()._deserialize(value, attr, data, **kwargs)
        if not tag:
            raise self.make_error("empty")
        if "," in tag:
            raise self.make_error("comma")
        return tag


class TagsInFile(TagList):
    """Tags as CSV, or as the list that an export holds."""

    _tag = Tag()

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, list):
            value = ",".join(self._tag.deserialize(tag) for tag in value)
        return super()._deserialize(value, attr, data, **kwargs)


class MetadataInCell(Metadata):
    """A JSON object, as text."""

    def _deserialize(self, value, attr, data, **kwargs):
        try:
            document = parse_json(value.encode())
        except BadJSON as error:
            raise ValidationError(f"The text {error}.") from error
        return super()._deserialize(document, attr, data, **kwargs)


class Moment(fields.AwareDateTime):
    """A time with its offset from UTC, to the microsecond."""

    default_error_messages = {
        "invalid": "Must be a time such as 2026-05-07T08:14:23.123456+00:00.",
        "invalid_awareness": "Must have an offset from UTC, such as +00:00.",
        "null": "May not be null: leave it out instead.",
    }

    def _deserialize(self, value, attr, data, **kwargs):
        try:
            return super()._deserialize(value, attr, data, **kwargs).astimezone(UTC)
        except OverflowError as error:
            raise self.make_error("invalid", input=value, obj_type="datetime") from error


class Body(Schema):
    """A JSON object without unknown fields: a typo must not be ignored in silence (ours)."""

    error_messages = {
        "unknown": "Unknown field: check its spelling.",
        "type": "Must be a JSON object.",
    }

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._not_left_out = {
            name
            for name, field in self.load_fields.items()
            if field.required or field.load_default is not missing
        }

    def read(self, document: dict[str, Any]) -> dict[str, Any]:
        """What load() does, in half the time for a sound document: it looks at no absent field."""
        try:
            values = {
                name: self.load_fields[name].deserialize(value) for name, value in document.items()
            }
            self.check(values)
        except (KeyError, ValidationError):
            return self.load(document)  # tells of all that is wrong
        return values if values.keys() >= self._not_left_out else self.load(document)

    def check(self, values: dict[str, Any]):
        """Raises ValidationError where fields that are each sound don't go together."""

    @validates_schema
    def _check(self, data, **kwargs):
        self.check(data)

    def handle_error(self, error, data, **kwargs):
        """Unknown fields, which marshmallow keeps in a set, come last and as they were sent."""
        if isinstance(data, dict):
            unknown = [name for name in data if name in error.messages and name not in self.fields]
            error.messages |= {name: error.messages.pop(name) for name in unknown}


class ContactReference(Body):
    """Which contact: by id, by phone, or by both, which must then agree."""

    at_least_one_of = ("contact_id", "phone")

    contact_id = ContactId()
    phone = PhoneNumber()

    def check(self, values):
        if values.keys().isdisjoint(self.at_least_one_of):
            text = "Pass contact_id or phone: at least one of them is required."
            raise ValidationError({field: [text] for field in self.at_least_one_of})


class ContactFields(Body):
    """What can be written to a contact."""

    name = ClearableText()
    email = ClearableEmail()
    tags = TagList()
    metadata = Metadata()


class UpdateContact(ContactFields, ContactReference):
    """The body of update-contact."""


class CreateContact(ContactFields):
    """The body of create-contact."""

    phone = PhoneNumber(required=True)


class ImportedContact(CreateContact):
    """A line of a JSON Lines file: what create-contact takes, and what an export knows besides."""

    tags = TagsInFile()
    id = ContactId()
    source = fields.String(validate=validate.OneOf(SOURCES))
    created_at = Moment(format="iso")
    updated_at = Moment(format="iso")


class ImportedCells(ImportedContact):
    """A row of a CSV file, whose cells are text."""

    tags = TagList()
    metadata = MetadataInCell()


class GetContact(Body):
    """The body of get-contact: one of three ways to name a contact."""

    exactly_one_of = ("contact_id", "phone", "email")

    contact_id = ContactId()
    phone = PhoneNumber()
    email = EmailAddress()

    def check(self, values):
        if len(values) != 1:
            text = "Pass exactly one of contact_id, phone and email."
            raise ValidationError({field: [text] for field in self.exactly_one_of})


class SearchContacts(Body):
    """The body of search-contacts. An empty string is no filter."""

    query = Text()
    tag = Text()
    email = Text()


class TagContact(ContactReference):
    """The body of add-tag and remove-tag."""

    tag = Tag(required=True)


class Answer(Schema):
    """An answer's keys in their order. The store's values are what JSON can say, times included."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._defaults = {name: field.dump_default for name, field in self.dump_fields.items()}

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """Picks the values: to serialize again what is ready would cost more than all the rest."""
        if self.many if many is None else many:
            return [self.dump(each, many=False) for each in obj]
        return {name: obj.get(name, default) for name, default in self._defaults.items()}


class UpdatedContact(Answer):
    """The documented answer of update-contact, keys in the documented order."""

    id = fields.UUID()
    phone = fields.String()
    name = fields.String(allow_none=True)
    email = fields.String(allow_none=True)
    tags = fields.List(fields.String())
    updated_at = fields.AwareDateTime(format="iso")


class FoundContact(Answer):
    """An entry in the answer of search-contacts."""

    id = fields.UUID()
    phone = fields.String()
    name = fields.String(allow_none=True)
    email = fields.String(allow_none=True)
    source = fields.String(validate=validate.OneOf(SOURCES))
    tags = fields.List(fields.String())
    last_message_at = fields.AwareDateTime(format="iso", allow_none=True, dump_default=None)
    created_at = fields.AwareDateTime(format="iso")


class Contact(FoundContact):
    """The answer of get-contact. This service sends no messages: what tells of them is empty."""

    locale = fields.String(allow_none=True, dump_default=None)
    metadata = fields.Dict()
    opted_in_at = fields.AwareDateTime(format="iso", allow_none=True, dump_default=None)
    opted_out_at = fields.AwareDateTime(format="iso", allow_none=True, dump_default=None)
    total_messages = fields.Integer(dump_default=0)

    class Meta:
        fields = (
            *("id", "phone", "name", "email", "source", "locale", "metadata", "tags"),
            *("opted_in_at", "opted_out_at", "last_message_at", "total_messages", "created_at"),
        )


class TagAdded(Answer):
    """The answer of add-tag."""

    id = fields.UUID()
    phone = fields.String()
    tag_added = fields.String()
    tags = fields.List(fields.String())


class TagRemoved(Answer):
    """The answer of remove-tag."""

    id = fields.UUID()
    phone = fields.String()
    tag_removed = fields.String()
    tags = fields.List(fields.String())


class Tenant(Answer):
    """A workspace, under the vendor's name for it."""

    id = fields.UUID()
    name = fields.String()


class Me(Answer):
    """The answer of me: whose token it is."""

    id = fields.Integer()
    email = fields.Email()
    name = fields.String(allow_none=True)
    tenant = fields.Nested(Tenant)


def _storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _texts(value):
    """Every key and every string in a JSON value, however deeply nested."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending.extend(value)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


class NotAPhoneNumber(ValueError):
    """The argument is the key of PhoneNumber's message that says why."""


# Clients name the same contacts again and again, and reading a phone costs as much as all else that
# a schema does.
@lru_cache(maxsize=10_000)
def _e164(text: str, region: str | None) -> str:
    dialled = text if _LIKE_E164.fullmatch(text) else _dialled(text, region)
    e164 = _parsed(dialled, region)
    # A phone must find itself: "+49 00 30 1234567" is read as +49030…, and that as +4930….
    if e164 != dialled and _parsed(e164, None) != e164:
        raise NotAPhoneNumber("impossible")
    return e164


def _dialled(text: str, region: str | None) -> str:
    # Invisible direction marks come along when a number is copied from a contacts app.
    match = _PHONE.fullmatch("".join(c for c in text if unicodedata.category(c) != "Cf"))
    if not match:
        raise NotAPhoneNumber("not_phone")
    plus = match[1]
    if not plus and region is None:
        raise NotAPhoneNumber("no_plus")
    return plus + "".join(filter(str.isdecimal, text))


def _parsed(dialled: str, region: str | None) -> str:
    try:
        number = phonenumbers.parse(dialled, region)
    except phonenumbers.NumberParseException as error:
        raise NotAPhoneNumber("impossible") from error
    _drop_retired_mexican_prefix(number)
    possible = phonenumbers.is_possible_number_with_reason(number)
    if possible != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise NotAPhoneNumber("impossible")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _drop_retired_mexican_prefix(number: phonenumbers.PhoneNumber):
    """WhatsApp still writes Mexican mobiles as +52 1 and ten digits; the 1 is gone since 2019."""
    if number.country_code == 52 and 10**10 <= number.national_number < 2 * 10**10:
        number.national_number -= 10**10
