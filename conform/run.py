"""A run: each rule is carried out and judged, on one contact, which is then restored."""

import hashlib
import json
import os
import re
import signal
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import phonenumbers

from conform import rules
from conform.client import Client, Response, Stop
from conform.rules import (
    ABSENT,
    ID,
    ME,
    METADATA_KEYS,
    NO_PLUS,
    PHONE,
    TIME,
    VOCABULARY,
    Like,
    Request,
    Rule,
    act,
    as_json,
    find,
    scalars,
    search,
)

RESULTS = DIFFERENT, NOT_CHECKED, SAME = "different", "not checked", "same"

READS = ("get-contact", "search-contacts")
TEXT_FIELDS = ["name", "email", "tags"]
PAUSE_SECONDS = 1.1


class NotChecked(Exception):
    """A rule can't be checked; the text says why."""


@dataclass
class Finding:
    rule: Rule
    result: str
    reason: str = ""
    sent: list[str] = field(default_factory=list)
    expected: dict[str, Any] = field(default_factory=dict)
    observed: dict[str, Any] = field(default_factory=dict)

    @property
    def is_the_vendors(self) -> bool:
        return self.rule.source != rules.OURS

    def public(self) -> dict[str, Any]:
        """Return it as the JSON file has it, without anything personal."""
        return {
            "id": self.rule.id,
            "rule": self.rule.sentence,
            "source": self.rule.source,
            "result": self.result,
            "reason": self.reason,
            "sent": self.sent,
            "expected": self.expected,
            "observed": self.observed,
        }


class Run:
    """Checks rules on one contact, PHONE, and puts it back as it was: as `wanted` says.

    Reads it when it is made, and writes nothing before carry_out(). Raises Stop if there is no such
    service. A report shows nothing that is `private`.
    """

    def __init__(self, client: Client, host: str, phone: str, private: list[str]):
        self.client = client
        self.findings: list[Finding] = []
        self.wanted: dict[str, Any] | None = None  # until it is prepared
        self._values = spellings(phone)  # of the placeholders; that of the id, once it is known
        self._is_prepared = False
        self._read_only = ""  # the reason why nothing may be written
        self._is_harmless: dict[str, bool] = {}  # to name that id or phone
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
        self.kept = Kept(host, self.tenant["id"], phone)
        self.earlier = self.kept.read() if self.found else None  # of a run that did not end
        self._private = [*private, *scalars(me.body)]

    def carry_out(self, checked: Iterable[Rule]) -> tuple[list[str], str]:
        """Check the rules and restore PHONE.

        Return what kept the run from its end or the contact from its state, and what is to be said
        if nothing did.
        """
        problems = []
        again = f"What was found is kept in {self.kept.path}: run this again to restore it."
        try:
            with interruptible(self.client):
                try:
                    for rule in checked:
                        if rule.given != rules.MISSING and not self._is_prepared:
                            self._prepare()
                        self.findings.append(self._check(rule))
                except (Stop, KeyboardInterrupt) as error:
                    problems.append(str(error) or "Interrupted.")
                finally:
                    self.client.interruptible = False
                    left = self._restore() if self.wanted else []
                if not self.wanted:
                    return problems, f"No field of PHONE was written. {self._read_only}".strip()
                metadata = (self.read() or {"metadata": {}})["metadata"]
        except (Stop, KeyboardInterrupt) as error:
            return [*problems, f"PHONE is not restored. {error or 'Interrupted.'} {again}"], ""
        if left and not self._is_new:
            return [*problems, f"PHONE's {', '.join(left)} can't be restored. {again}"], ""
        self.kept.delete()
        said = f"PHONE's {', '.join(left)} can't be cleared." if left else "PHONE is restored."
        keys = ", ".join(key for key in METADATA_KEYS if key in metadata) or "none"
        return problems, f"{said} What stays in its metadata: {keys}."

    # Reading and writing safely

    @property
    def _is_new(self) -> bool:
        """Whether the contact is one of this run's making, with nothing to restore."""
        return self.found is None and self.wanted == restorable(None)

    def read(self) -> dict[str, Any] | None:
        """Return PHONE's contact, None if neither get-contact nor search-contacts finds one.

        Raises Stop if they contradict each other.
        """
        response = self.send(find())
        if not shows_contact(response):
            found = self.send(search(query=NO_PLUS)).body
            entries = found if isinstance(found, list) else []
            mine = [each for each in entries if isinstance(each, dict) and self._has_phone(each)]
            if not mine and (response.status == 404 or isinstance(found, list)):
                return None
            response = self.send(find(contact_id=mine[0].get("id"))) if mine else response
            if not shows_contact(response):
                raise Stop(f"get-contact with PHONE responded {response.status}, and shows no id.")
        if not self._has_phone(response.body):
            raise Stop("get-contact with PHONE responded with a contact that has another number.")
        contact_id = response.look("id")
        if self._values.setdefault(ID, contact_id) != contact_id:
            raise Stop("get-contact with PHONE responded with another id than before.")
        self._values[rules.UPPER_ID] = str(contact_id).upper()
        return response.body | {"metadata": response.body.get("metadata") or {}}

    def _has_phone(self, contact: dict[str, Any]) -> bool:
        return re.sub(r"\D", "", str(contact.get("phone"))) == self._values[NO_PLUS]

    def send(self, request: Request) -> Response:
        """Raises NotChecked for what could be applied to another contact, Stop if that was."""
        writes = self._guard(request)
        response = self.client.send(self._filled(request))
        if writes and shows_contact(response):
            contact_id = str(response.look("id"))
            if contact_id.lower() != str(self._values.get(ID, contact_id)).lower():
                raise Stop(
                    f"{request.action} with PHONE was applied to another contact: look at it."
                )
        return response

    def _guard(self, request: Request) -> bool:
        """Return whether the request carries fields to write, which it may to PHONE alone.

        Anything else that a service with other rules could apply to somebody carries none, and
        get-contact must show nobody, or PHONE, by what it names.
        """
        if request.method == "GET" or request.action in READS:
            return False
        body = request.body if isinstance(request.body, dict) else {}
        named = {key: body[key] for key in ("contact_id", "phone") if body.get(key)}
        others = {key: value for key, value in named.items() if value not in (PHONE, ID)}
        writes = bool(body.keys() - {"contact_id", "phone"}) or request.action == "create-contact"
        if writes and (others or not named or request.bearer != "own"):
            raise AssertionError(f"{request} may write to others")
        if writes and self._read_only:
            raise NotChecked(self._read_only)
        for key, value in others.items():
            if value not in self._is_harmless:
                response = self.client.send(self._filled(find(**{key: value})))
                is_phone = response.look("id") == self._values.get(ID)
                self._is_harmless[value] = is_phone or not shows_contact(response)
            if not self._is_harmless[value]:
                raise NotChecked(f"{value} is another contact")
        return writes

    def _filled(self, value: Any) -> Any:
        """Return the value, or request, with what stands for the placeholders."""
        if isinstance(value, Request):
            return replace(value, body=self._filled(value.body))
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        return self._values.get(value, value) if isinstance(value, str) else value

    # Judging

    def _check(self, rule: Rule) -> Finding:
        try:
            if rule.given and not self._is_met(rule.given):
                raise NotChecked(rule.given)
            return self._judge(rule)
        except NotChecked as reason:
            return Finding(rule, NOT_CHECKED, str(reason))

    def _is_met(self, condition: str) -> bool:
        match condition:
            case rules.MISSING:
                return self.read() is None
            case rules.MEXICAN:
                return rules.RETIRED_MEXICAN in self._values
            case rules.MESSAGES:
                times = self.send(search()).look("last messages")
                return any(time != times[0] for time in times)
            case rules.ANOTHER:
                found = self.send(search())
                mine = found.look("entry last_message_at", self._values[ID])
                return found.look("last messages").count(mine) > 1
            case rules.LIMITED:
                me = self.send(ME)
                limits = [me.look(f"header X-RateLimit-{of}") for of in ("Limit", "Remaining")]
                return bool(self.client.throttled) or limits != [ABSENT, ABSENT]
            case rules.MET_LIMIT:
                return self.client.throttled is not None
        raise AssertionError(condition)

    def _judge(self, rule: Rule) -> Finding:
        """Send the steps, up to the first whose response is not as expected."""
        sent, before = [], Response()
        for step, expected in rule.exchanges():
            sent.append(str(step))
            if step == rules.PAUSE:
                self.client.wait(PAUSE_SECONDS)
                continue
            response = self.client.throttled if step == rules.THROTTLED else self.send(step)
            seen = {path: response.look(path, self._values.get(ID)) for path in expected}
            same = all(
                wanted.test(seen[path], before.look(path))
                if isinstance(wanted, Like)
                else seen[path] == self._filled(wanted)
                for path, wanted in expected.items()
            )
            if not same:
                break
            before = response
        if not same and not response.ok:
            seen |= {key: response.look(key) for key in ("error", "message")}
            seen |= {"failure": response.failure} if response.failure else {}
        observed = {path: self._public(value, path) for path, value in seen.items()}
        return Finding(rule, SAME if same else DIFFERENT, "", sent, expected, observed)

    def _public(self, value: Any, path: str) -> Any:
        """Return the value as a report may show it: without what only this workspace knows."""
        if isinstance(value, dict):
            return {self._public(key, "keys"): self._public(v, path) for key, v in value.items()}
        if isinstance(value, list):
            return [self._public(item, path) for item in value]
        if value is None or isinstance(value, bool | Like) or path in ("status", "length"):
            return value
        for placeholder, secret in self._values.items():
            if value == secret:
                return placeholder
        if value in VOCABULARY or ("keys" in path and re.fullmatch(r"[a-z_]{1,30}", value)):
            return value
        shown = ("header ", "error", "message", "failure")
        if not isinstance(value, str) or not path.startswith(shown):
            return str(TIME) if TIME.test(value, None) else f"<{type(value).__name__}>"
        secrets = {str(secret) for secret in [*self._values.values(), *self._private]}
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, "<…>") if len(secret) > 2 else value
        return re.sub(r"\S+@\S+|\+?\d{6,}", "<…>", value)[:200]

    # Restoring

    def _prepare(self):
        """Create the contact if it is missing, and see that it can be restored. Raises Stop."""
        self._is_prepared = True
        contact = self.read()
        if contact is None:
            self.send(act("create-contact"))
            contact = self.read()
            if contact is None:
                raise Stop("create-contact did not create PHONE.")
        wanted = self.earlier or restorable(contact)
        if wanted is None:
            self._read_only = (
                "get-contact does not show name, email, tags and metadata as documented, so that"
                " they could not be restored."
            )
            return
        tags = wanted["tags"]
        if tags != [tag.strip() for tag in ",".join(tags).split(",") if tag.strip()]:
            raise Stop(
                "PHONE has a tag that can't be written back: with a comma, or blanks around."
            )
        self._private += scalars(list(wanted.values()))
        self.kept.write(wanted)
        self.wanted = wanted
        names = [name for name in TEXT_FIELDS if self.wanted[name] or not self._is_new]
        written = self._write(**in_request(self.wanted, names))
        if left := self._restore() or ([] if written.ok else names):
            raise Stop(
                f"The service does not write back PHONE's {', '.join(left)}: nothing checked."
            )

    def _restore(self) -> list[str]:
        """Write what is wanted; return the names of what differs all the same."""
        metadata = (self.read() or {"metadata": {}})["metadata"]
        if keys := [key for key in METADATA_KEYS if metadata.get(key) is not None]:
            self._write(metadata=dict.fromkeys(keys))  # where null deletes, nothing stays
        for write in (
            self._write_at_once,
            self._write_one_by_one,
            self._write_by_create_contact,
            self._write_tag_by_tag,
        ):
            if left := self._differences():
                write(left)
        return self._differences()

    def _differences(self) -> list[str]:
        now = self._shown()
        now["metadata"] = {key: now["metadata"].get(key, ABSENT) for key in self.wanted["metadata"]}
        return [name for name in self.wanted if now[name] != self.wanted[name]]

    def _shown(self) -> dict[str, Any]:
        """Return what is restorable of PHONE now. Raises Stop if it is not as documented."""
        shown = restorable(self.read())
        if shown is None:
            raise Stop("get-contact does not show PHONE as documented any more.")
        return shown

    def _write_at_once(self, left: list[str]):
        self._write(**in_request(self.wanted, {*TEXT_FIELDS, *left}))

    def _write_one_by_one(self, left: list[str]):
        for name in left:
            self._write(**in_request(self.wanted, [name]))

    def _write_by_create_contact(self, left: list[str]):
        self.send(act("create-contact", **in_request(self.wanted, left)))

    def _write_tag_by_tag(self, left: list[str]):
        for tag in self._shown()["tags"]:
            self._write("remove-tag", tag=tag)
        for tag in self.wanted["tags"]:
            self._write("add-tag", tag=tag)

    def _write(self, action: str = "update-contact", **fields: Any) -> Response:
        """Write to PHONE, found by its number or, where that fails, by its id."""
        response = self.send(act(action, **fields))
        if response.ok or ID not in self._values:
            return response
        return self.send(Request(action, {"contact_id": ID, **fields}))


def spellings(phone: str) -> dict[str, str]:
    """Return what stands for the placeholders. Raises ValueError unless it is in E.164."""
    try:
        number = phonenumbers.parse(phone)
    except phonenumbers.NumberParseException as error:
        raise ValueError(phone) from error
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if phone != e164 or not phonenumbers.is_possible_number(number):
        raise ValueError(phone)
    country = f"+{number.country_code}"
    national = phone.removeprefix(country)
    a, b, c = national[:3], national[3:6], national[6:]
    spelled = {
        PHONE: phone,
        NO_PLUS: phone[1:],
        rules.LAST_DIGITS: phone[-7:],
        rules.SPACES: f"{country} {a} {b} {c}",
        rules.DOTS: f"{country}.{a}.{b}.{c}",
        rules.PARENTHESES: f"{country} ({a}) {b}-{c}",
        rules.SLASH: f"{country} {a}/{b}{c}",
        rules.FULL_WIDTH: f"\uff0b{phone[1 : len(country)]} \uff08{a}\uff09{b}\uff0d{c}",
        rules.TEL: f"tel:{phone}",
        rules.APOSTROPHE: f"'{phone}",
        rules.MARKED: f"\u202a{phone}\u202c",
        rules.ARABIC: phone.translate({ord("0") + n: chr(0x660 + n) for n in range(10)}),
    }
    if country == "+52" and len(national) == 10:
        spelled[rules.RETIRED_MEXICAN] = f"+521{national}"
    return spelled


def shows_contact(response: Response) -> bool:
    return response.ok and response.look("id") not in (ABSENT, None, "")


def restorable(contact: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what a run may change of the contact, None if it is not as documented."""
    contact = contact or {"name": None, "email": None, "tags": []}
    name, email, tags = (contact.get(key, ABSENT) for key in TEXT_FIELDS)
    metadata = contact.get("metadata") or {}
    texts = [name or "", email or "", *(tags if isinstance(tags, list) else [ABSENT])]
    if not all(isinstance(text, str) for text in texts) or not isinstance(metadata, dict):
        return None
    metadata = {key: value for key, value in metadata.items() if key not in METADATA_KEYS}
    return {"name": name or "", "email": email or "", "tags": tags, "metadata": metadata}


def in_request(contact: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return these fields as update-contact reads them."""
    return {
        name: ",".join(contact[name]) if name == "tags" else contact[name]
        for name in (*TEXT_FIELDS, "metadata")
        if name in names
    }


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

    def delete(self):
        self.path.unlink()


@contextmanager
def interruptible(client: Client):
    """Let Ctrl-C, SIGTERM and SIGHUP end the run after the request under way, twice at once."""

    def interrupt(number, frame):
        signal.signal(number, before[number])
        client.interrupted = True

    names = "SIGINT", "SIGTERM", "SIGHUP"  # which Windows does not have
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
