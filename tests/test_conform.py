"""The conformance check against services that follow every rule, break one, or are none at all."""

import itertools
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from conftest import PHONE, ROOT, SECONDS, TOKEN, environment, post, serving
from pages import examples
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Request, Response

from app import create_app
from conform import command

NEW = "+14155550177"  # no sample contact has it
MEXICAN = "+525512345678"
GET_CONTACT = "/api/v1/actions/get-contact"
SOURCES = {"vendor's page", "vendor's other pages", "this project"}
READS = ("get-contact", "search-contacts")
# Rules that are not checked unless the service or the contact is of a certain kind
ABOUT_NEW, ABOUT_MEXICO = {"update-unknown-phone", "create-new"}, {"phone-mexican"}
ABOUT_RATE = {"rate-headers", "rate-retry-after"}


# Services that each break one rule: a function of the request and of what responds to it


class Call:
    """A request to the service under test, which the variant may change before it calls it."""

    def __init__(self, app, environ):
        self.app, self.environ = app, environ
        request = Request(environ)
        self.path, self.action = request.path, request.path.rpartition("/")[2]
        self.authorization = request.headers.get("Authorization")
        # A body may be announced and never come.
        self.body = request.get_data() if self.authorization else b""
        try:
            self.json = json.loads(self.body)
        except ValueError:
            self.json = None
        self.fields = dict(self.json) if isinstance(self.json, dict) else {}

    def __call__(self, action=None, **fields):
        """The service's response to the request as it is now, or to another action."""
        path, body = self.path, self.body
        if isinstance(self.json, dict):
            body = json.dumps(self.fields).encode()
        if action:
            path, body = f"/api/v1/actions/{action}", json.dumps(fields).encode()
        environ = self.environ | {"PATH_INFO": path, "wsgi.input": BytesIO(body)}
        environ["CONTENT_LENGTH"] = str(len(body))
        data, status, headers = run_wsgi_app(self.app, environ, buffered=True)
        data = b"".join(data)
        return SimpleNamespace(
            status=int(status[:3]), headers=headers, json=json.loads(data), escaped=False
        )

    @property
    def reference(self):
        return {key: self.fields[key] for key in ("contact_id", "phone") if key in self.fields}


VARIANTS = []  # name, the rule that it breaks, and it


def variant(rule, decorator=lambda alter: alter):
    def decorate(alter):
        VARIANTS.append((f"{rule}: {alter.__name__}", rule, decorator(alter)))
        return alter

    return decorate


def updates(alter):
    """The variant is of update-contact alone."""
    return lambda call: alter(call) if call.action == "update-contact" else call()


def after(*actions, status=None):
    """The variant changes responses of these actions, or all, with that status."""

    def decorate(alter):
        def variant(call):
            response = call()
            if (not actions or call.action in actions) and status in (None, response.status):
                alter(call, response)
            return response

        return variant

    return decorate


@variant("update-status", after("update-contact", status=200))
def created_instead_of_ok(call, response):
    response.status = 201


@variant("update-keys", after("update-contact", status=200))
def keys_out_of_order(call, response):
    response.json = dict(reversed(response.json.items()))


@variant("update-neither", after("update-contact", status=422))
def neither_is_400(call, response):
    if not call.reference:
        response.status = 400


@variant("update-unknown-id", after("update-contact", status=404))
def ok_for_an_unknown_id(call, response):
    if call.fields.keys() == {"contact_id"}:
        response.status, response.json = 200, {"id": call.fields["contact_id"], "tags": []}


@variant("update-unknown-phone", updates)
def update_creates(call):
    if "phone" in call.fields and call("get-contact", phone=call.fields["phone"]).status == 404:
        call("create-contact", **call.fields)
    return call()


@variant("name-cleared", updates)
def an_empty_name_is_ignored(call):
    if call.fields.get("name") in ("", "  "):
        del call.fields["name"]
    return call()


@variant("unset-null", after("update-contact", status=200))
def unset_is_empty_text(call, response):
    response.json["name"] = response.json["name"] or ""


@variant("absent-unchanged", updates)
def an_absent_name_is_cleared(call):
    if call.reference and call.fields.keys() - call.reference.keys():
        call.fields.setdefault("name", "")
    return call()


@variant("tags-replace", updates)
def tags_are_appended(call):
    if isinstance(call.fields.get("tags"), str):
        now = call("get-contact", **call.reference).json
        call.fields["tags"] = ",".join([*now["tags"], call.fields["tags"]])
    return call()


def of_metadata(merged):
    """A variant by which `merged(stored, sent)` is what an update stores."""

    def make():
        stored = {}  # by id, once it was written

        def variant(call):
            if call.action == "update-contact" and isinstance(call.fields.get("metadata"), dict):
                now = call("get-contact", **call.reference).json
                response = call()
                if response.status == 200:
                    old = stored.get(now["id"], now["metadata"])
                    stored[now["id"]] = merged(old, call.fields["metadata"])
                return response
            response = call()
            if call.action == "get-contact" and response.json.get("id") in stored:
                response.json["metadata"] = stored[response.json["id"]]
            return response

        return variant

    return make()


@variant("metadata-merged", of_metadata)
def metadata_is_replaced(stored, sent):
    return sent


@variant("metadata-shallow", of_metadata)
def metadata_is_merged_deeply(stored, sent):
    deep = {
        key: {**stored[key], **value}
        for key, value in sent.items()
        if isinstance(value, dict) and isinstance(stored.get(key), dict)
    }
    return {**stored, **sent, **deep}


@variant("metadata-null", of_metadata)
def null_deletes(stored, sent):
    return {key: value for key, value in {**stored, **sent}.items() if value is not None}


@variant("unchanged-time", after("update-contact", status=200))
def every_request_moves_updated_at(call, response):
    response.json["updated_at"] = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


@variant("changed-time", after("update-contact", status=200))
def updated_at_never_moves(call, response):
    response.json["updated_at"] = "2026-05-07T08:14:23+00:00"


@variant("null-field", updates)
def null_is_ignored(call):
    for key in [key for key in call.fields if call.fields[key] is None and key != "contact_id"]:
        del call.fields[key]
    return call()


@variant("unknown-field", updates)
def unknown_fields_are_ignored(call):
    call.fields.pop("conform", None)
    return call()


@variant("refused-whole", after("update-contact", status=422))
def what_is_valid_is_written_all_the_same(call, response):
    if call.fields.get("email") == "conform" and "name" in call.fields:
        call("update-contact", **call.reference, name=call.fields["name"])


@variant("phone-spaces")
def phones_are_not_normalised(call):
    phone = call.fields.get("phone")
    if isinstance(phone, str) and not (phone[:1] == "+" and phone[1:].isdecimal()):
        call.fields["phone"] = NEW
    return call()


@variant("time-updated", after("update-contact", status=200))
def z_for_utc(call, response):
    response.json["updated_at"] = response.json["updated_at"].replace("+00:00", "Z")


@variant("create-existing", after("create-contact", status=201))
def ok_when_it_updates(call, response):
    response.status = 200


@variant("search-array", after("search-contacts", status=200))
def search_has_an_envelope(call, response):
    response.json = {"data": response.json}


@variant("add-tag")
def add_tag_replaces(call):
    if call.action == "add-tag" and "tag" in call.fields:
        call("update-contact", **call.reference, tags="")
    return call()


@variant("remove-tag-missing")
def a_tag_that_is_not_there_is_not_found(call):
    before = call("get-contact", **call.reference).json if call.action == "remove-tag" else {}
    response = call()
    if call.action == "remove-tag" and call.fields["tag"] not in before["tags"]:
        response.status, response.json = 404, {"error": "Tag not found", "message": "Tag not found"}
    return response


@variant("auth-missing", after(status=401))
def forbidden_without_a_token(call, response):
    if not call.authorization:
        response.status = 403


@variant("error-key", after(status=404))
def errors_have_a_message_alone(call, response):
    response.json.pop("error") if response.json["error"] != "Not found" else None


@variant("error-validation", after(status=422))
def no_errors(call, response):
    del response.json["errors"]


@variant("error-malformed", after(status=400))
def malformed_is_422(call, response):
    response.status = 422


@variant("error-array", after("update-contact"))
def an_array_is_too_much(call, response):
    if call.json == []:
        response.status = 500


# Running them


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *args):
        pass


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A sandbox, in which each token that continues `sandbox` is a workspace of its own."""
    database = tmp_path_factory.mktemp("conform") / "sandbox.db"
    settings = {"CONTACTS_DATABASE": str(database), "CONTACTS_SYNCHRONOUS": "NORMAL"}
    return create_app(settings, sandbox=True)


@contextmanager
def serve(app, *, threaded=True):
    server = make_server("127.0.0.1", 0, app, threaded=threaded, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def service(app, variant=lambda call: call(), **options):
    """The service as the variant changes it: its `url`, and `calls` with their responses."""
    calls = []

    def altered(environ, start_response):
        call = Call(app, environ)
        calls.append((call.action, call.json, call.body, response := variant(call)))
        body = json.dumps(response.json, ensure_ascii=response.escaped)
        headers = {k: v for k, v in response.headers.items() if k != "Content-Length"}
        return Response(body, response.status, headers)(environ, start_response)

    with serve(altered, **options) as url:
        yield SimpleNamespace(url=url, calls=calls)


def start(url, home, *options, phone=PHONE, token="sandbox", module=("conform",), **popen):
    """Start the command, without its pauses."""
    args = [sys.executable, "-m", *module, url, "--phone", phone, "--rate", "1000000", *options]
    env = environment(home / "unused.db", QYVO_TOKEN=token, XDG_STATE_HOME=str(home))
    return subprocess.Popen(
        args, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen
    )


def conform(url, home, *options, **how):
    """Run it to its end: its `status`, `output`, `error`, and the rules by their result."""
    report = home / "report.json"
    process = start(url, home, "--yes", "--json", str(report), *options, **how)
    output, error = (text.decode() for text in process.communicate(timeout=60))
    document = json.loads(report.read_text()) if report.exists() else {"rules": []}
    rules = document["rules"]
    return SimpleNamespace(
        status=process.returncode,
        output=output,
        error=error,
        rules={rule["id"]: rule for rule in rules},
        different=[rule["id"] for rule in rules if rule["result"] == "different"],
        not_checked={rule["id"] for rule in rules if rule["result"] == "not checked"},
        kept=list((home / "qyvo-standin").glob("*")),
    )


def refused(url, phone=PHONE, token="sandbox"):
    """Run it to its end in this process, which is quicker: its `exit_code` and `stderr`."""
    args = [url, "--phone", phone, "--rate", "1000000", "--yes"]
    return CliRunner().invoke(command, args, env={"QYVO_TOKEN": token})


def contacts(app, token="sandbox"):
    """Every contact of the workspace, by phone, without the keys that are said to stay."""
    client, headers = app.test_client(), {"Authorization": f"Bearer {token}"}
    found = {}
    for each in client.post("/v1/actions/search-contacts", json={}, headers=headers).json:
        body = {"contact_id": each["id"]}
        contact = client.post("/v1/actions/get-contact", json=body, headers=headers).json
        for key in ("conform_one", "conform_two"):
            contact["metadata"].pop(key, None)
        found[contact["phone"]] = contact
    return found


def assert_safe(calls, phone=PHONE):
    """Nothing was sent that a service with whatever rules could have written to somebody else."""
    own = None  # the contact's id
    harmless = set()  # what get-contact does not know, or knows as the contact
    for action, sent, body, response in calls:
        fields = sent if isinstance(sent, dict) else {}
        reference = {k: v for k, v in fields.items() if k in ("contact_id", "phone")}
        if action == "get-contact" and response.status == 200 and fields == {"phone": phone}:
            own = response.json["id"]
        if action == "get-contact":
            if response.status in (404, 422) or response.json.get("id") == own:
                harmless |= set(map(str, fields.values()))
        elif action not in (*READS, "me", "conform"):
            named = {value for value in reference.values() if value is not None}
            if fields.keys() - reference.keys() or action == "create-contact":
                assert named
                assert named <= {phone, own}, (action, fields)
            assert named - {phone, own} <= harmless, (action, fields)
        assert len(body) < 1000


@pytest.mark.slow
def test_each_rule_that_a_service_breaks_is_named_first_and_no_other(app, tmp_path, subtests):
    names = itertools.count()

    def run(variant):
        name, rule, alter = variant
        token, home = f"sandbox-{next(names)}", tmp_path / f"home{next(names)}"
        home.mkdir()
        phone = NEW if rule in ABOUT_NEW else PHONE
        before = contacts(app, token)
        # In one thread, which opens the database once: each request is a connection of its own.
        with service(app, alter, threaded=False) as broken:
            done = conform(broken.url, home, phone=phone, token=token)
        return name, rule, phone, before, contacts(app, token), broken.calls, done

    with ThreadPoolExecutor(5) as pool:
        for name, rule, phone, before, now, calls, done in pool.map(run, VARIANTS):
            with subtests.test(name):
                assert done.different == [rule], done.output + done.error
                assert done.output.startswith(f"different    {rule} "), done.output
                vendors = done.rules[rule]["source"] != "this project"
                assert done.status == (1 if vendors else 0)
                for other in done.not_checked - ABOUT_NEW - ABOUT_MEXICO - ABOUT_RATE:
                    assert done.rules[other]["reason"].startswith("depends on "), other
                assert len(done.not_checked) < 25
                assert now.keys() - before.keys() <= {phone}
                before.setdefault(phone, now[phone] | {"name": None, "email": None, "tags": []})
                assert now == before
                assert not done.kept
                assert_safe(calls, phone)


def test_a_sandbox_follows_every_rule_and_the_report_names_nobody(tmp_path):
    with serving(tmp_path / "served", "--sandbox") as sandbox:
        done = conform(sandbox.url, tmp_path, module=("flask", "conform"))
        contact = post(sandbox.url, {"phone": PHONE}, "sandbox").json
    assert done.status == 0, done.output + done.error
    assert done.different == []
    assert done.not_checked == ABOUT_NEW | ABOUT_MEXICO | ABOUT_RATE
    assert len(done.rules) >= 60
    assert {rule["source"] for rule in done.rules.values()} == SOURCES
    for rule in done.rules.values():
        assert rule["rule"]
        assert rule["expected"]
        assert rule["sent"]
        assert bool(rule["observed"]) == (rule["result"] == "same")
        assert bool(rule["reason"]) == (rule["result"] == "not checked")
    report = (tmp_path / "report.json").read_text()
    for personal in [
        contact["id"],
        contact["updated_at"],
        "Romain",
        "romain",
        PHONE[1:],
        "vip",
        "Lyon",
    ]:
        assert str(personal) not in report


def test_a_deployment_follows_every_rule_and_a_new_contact_is_left_empty(tmp_path):
    settings = {"QYVO_TOKEN": TOKEN, "CONTACTS_RATE_LIMIT": "100000"}
    with serving(tmp_path / "served", **settings) as server:
        done = conform(server.url, tmp_path, phone=MEXICAN, token=TOKEN)
        contact = post(server.url, {"phone": MEXICAN}, path=GET_CONTACT).json
        others = post(server.url, {}, path="/v1/actions/search-contacts").json
    assert done.status == 0, done.output + done.error
    assert done.different == []
    assert done.not_checked == {"rate-retry-after"}  # which only a 429 would show
    assert (contact["name"], contact["email"], contact["tags"]) == (None, None, [])
    assert contact["metadata"] == {"conform_one": None, "conform_two": None}
    assert [other["phone"] for other in others] == [MEXICAN]
    assert "What stays in its metadata: conform_one, conform_two." in done.error


def test_a_service_that_does_not_clear_is_named_with_what_cannot_be_restored(app, tmp_path):
    @updates
    def nothing_is_cleared(call):
        call.fields = {k: v for k, v in call.fields.items() if v != ""}
        return call()

    with service(app, nothing_is_cleared) as stubborn:
        done = conform(stubborn.url, tmp_path, phone=NEW, token="sandbox-stubborn")
    assert done.status == 2
    assert {"name-cleared", "email-cleared", "tags-cleared"} <= set(done.different)
    assert "Error: PHONE's name, email can't be restored." in done.error
    assert str(done.kept[0]) in done.error


def test_it_waits_when_the_service_limits_the_rate(app, tmp_path):
    times = []

    def limited(call):
        times.append(time.monotonic())
        response = call()
        response.headers.update({"X-RateLimit-Limit": "120", "X-RateLimit-Remaining": "60"})
        if len(times) == 40:
            response.status, response.json = 429, {"error": "Too many requests"}
            response.headers["Retry-After"] = "1"
        return response

    with service(app, limited) as busy:
        done = conform(busy.url, tmp_path, phone=MEXICAN, token="sandbox-busy")
    assert done.status == 0, done.output + done.error
    assert len(done.rules) > 100
    assert done.not_checked == set()
    assert times[40] - times[39] >= 1


def test_it_keeps_to_the_rate(app, tmp_path):
    times = []

    def timed(call):
        times.append(time.monotonic())
        if len(times) == 4:
            process.send_signal(signal.SIGINT)
        return call()

    with service(app, timed) as server:
        process = start(server.url, tmp_path, "--yes", "--rate", "300", token="sandbox-timed")
        process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert len(times) > 5
    assert times[-1] - times[0] > 0.8 * 0.2 * (len(times) - 1)


def test_it_tries_again_after_a_500_now_and_then_and_waits_for_the_slow(app, tmp_path):
    count = itertools.count(1)

    def moody(call):
        time.sleep(0.002)
        response = call()
        if next(count) % 7 == 0:
            response.status, response.json = 500, {"error": "Server error"}
        return response

    with service(app, moody) as server:
        done = conform(server.url, tmp_path, token="sandbox-moody")
        assert_safe(server.calls)
    assert (done.status, done.different) == (0, []), done.output + done.error


def altered_by(at, alter):
    """A variant that calls `alter` once, at the first request to that action."""
    done = []

    def variant(call):
        if call.action == at and not done:
            done.append(True)
            alter()
        return call()

    return variant


def test_a_response_that_does_not_come_in_time_ends_it_and_restores(app, tmp_path):
    before, ended = contacts(app, "sandbox-late"), threading.Event()
    late = altered_by("search-contacts", lambda: ended.wait(SECONDS))
    with service(app, late) as server:
        done = conform(server.url, tmp_path, "--timeout", "1", token="sandbox-late")
        ended.set()
    assert done.status == 2
    assert "Error: No response within 1 seconds: /api/v1/actions/search-contacts." in done.error
    assert contacts(app, "sandbox-late") == before
    assert not done.kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_it_after_the_request_under_way_and_restore(app, tmp_path, number):
    token = f"sandbox-{number.name}"
    before = contacts(app, token)
    interrupt = altered_by("search-contacts", lambda: process.send_signal(number))
    with service(app, interrupt) as server:
        process = start(server.url, tmp_path, "--yes", token=token)
        _, error = process.communicate(timeout=SECONDS)
        assert_safe(server.calls)
    assert process.returncode == 2
    assert b"PHONE is restored." in error
    assert error.endswith(b"Error: Interrupted.\n")
    assert any("Conform" in str(call) for call in server.calls)
    assert contacts(app, token) == before
    assert not list((tmp_path / "qyvo-standin").iterdir())


def test_ctrl_c_twice_leaves_the_request_under_way_and_restores(app, tmp_path):
    token, released = "sandbox-twice", threading.Event()
    before = contacts(app, token)

    def hang():
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        released.wait(SECONDS)

    with service(app, altered_by("search-contacts", hang)) as server:
        process = start(server.url, tmp_path, "--yes", token=token)
        _, error = process.communicate(timeout=SECONDS)
        released.set()
    assert process.returncode == 2
    assert b"PHONE is restored." in error
    assert contacts(app, token) == before


def test_what_was_found_outlives_a_kill_and_the_next_run_restores_it(app, tmp_path):
    token = "sandbox-killed"
    before = contacts(app, token)
    reached, released = threading.Event(), threading.Event()

    def hang():
        reached.set()
        released.wait(SECONDS)

    with service(app, altered_by("search-contacts", hang)) as server:
        process = start(server.url, tmp_path, "--yes", token=token)
        assert reached.wait(SECONDS)
        process.kill()
        process.communicate()
        released.set()
        assert contacts(app, token)[PHONE]["tags"] != before[PHONE]["tags"]
        [kept] = (tmp_path / "qyvo-standin").iterdir()
        assert kept.stat().st_mode & 0o777 == 0o600
        assert kept.parent.stat().st_mode & 0o777 == 0o700
        assert token not in kept.read_text()
        done = conform(server.url, tmp_path, token=token)
    assert done.status == 0, done.output + done.error
    assert "is restored first" in done.error
    assert contacts(app, token) == before
    assert not done.kept


def test_a_contact_that_could_not_be_restored_is_restored_by_the_next_run(app, tmp_path):
    token, state = "sandbox-down", SimpleNamespace(down=False, repaired=False)
    before = contacts(app, token)

    def failing(call):
        response = call()
        state.down |= call.action == "search-contacts"
        if state.down and not state.repaired:
            response.status = 503
        return response

    with service(app, failing) as server:
        done = conform(server.url, tmp_path, token=token)
        assert done.status == 2
        assert "PHONE is not restored." in done.error
        assert str(done.kept[0]) in done.error
        assert contacts(app, token) != before
        state.repaired = True
        again = conform(server.url, tmp_path, token=token)
    assert again.status == 0, again.output + again.error
    assert contacts(app, token) == before
    assert not again.kept


# What it does not do


def test_it_asks_before_it_writes_and_names_host_workspace_and_contact(app, tmp_path):
    before = contacts(app, "sandbox-asked")
    with service(app) as server:
        process = start(server.url, tmp_path, token="sandbox-asked", stdin=subprocess.PIPE)
        _, error = process.communicate(b"n\n", timeout=SECONDS)
        assert [action for action, *_ in server.calls] == ["me", "get-contact"]
    assert process.returncode == 2
    assert f"Host:       {server.url.removeprefix('http://')}\n" in error.decode()
    for said in (
        "Workspace:  ",
        f"Contact:    {PHONE}, which exists",
        "Automations",
        "conform_one",
    ):
        assert said in error.decode()
    assert error.endswith(b"Error: Not started.\n")
    assert contacts(app, "sandbox-asked") == before
    assert not (tmp_path / "qyvo-standin").exists()


def test_the_token_is_in_no_output_and_no_file(app, tmp_path):
    token = "sandbox-indiscreet-7f3a"

    @after()
    def echo(call, response):
        response.headers["WWW-Authenticate"] = f"{call.authorization}; Bearer {token}"
        if isinstance(response.json, dict):
            response.json = {token: 1, **response.json}
            for key in response.json.keys() & {"error", "message", "tenant"}:
                response.json[key] = f"{key} {token}"

    with service(app, echo) as server:
        done = conform(server.url, tmp_path, token=token)
    assert done.status == 1
    assert {"auth-challenge", "error-not-found", "update-keys"} <= set(done.different)
    for text in (done.output, done.error, (tmp_path / "report.json").read_text()):
        assert "indiscreet" not in text


def test_somebody_else_whom_a_spelling_finds_is_not_written_to(app, tmp_path):
    """A service for which a number without + is another's."""

    def variant(call):
        if call.fields.get("phone") == PHONE[1:]:
            call.fields["phone"] = "+33639980101"
        return call()

    with service(app, variant) as server:
        done = conform(server.url, tmp_path, token="sandbox-else")
        updates = [sent for action, sent, *_ in server.calls if action == "update-contact"]
        assert_safe(server.calls)
    assert "phone-no-plus" in done.different
    assert "update-no-plus" in done.not_checked
    assert {"phone": PHONE[1:]} not in updates


def test_a_service_that_applies_a_write_to_another_contact_is_stopped_at_once(app, tmp_path):
    @after("update-contact", status=200)
    def another(call, response):
        response.json["id"] = "0197a1c0-5e00-7000-8000-000000000002"

    with service(app, another) as server:
        done = conform(server.url, tmp_path, token="sandbox-another")
        writes = [sent for action, sent, *_ in server.calls if len(sent or ()) > 1]
    assert done.status == 2
    assert "was applied to another contact" in done.error
    assert len(writes) <= 2


@pytest.mark.parametrize(
    "found", [{"tags": ["a,b"]}, {"tags": None}, {"phone": "+33639980101"}, {"id": None}]
)
def test_a_contact_that_could_not_be_restored_is_not_written_to(app, tmp_path, found):
    @after("get-contact", status=200)
    def strange(call, response):
        response.json |= found

    with service(app, strange) as server:
        done = conform(server.url, tmp_path, token="sandbox-strange")
        assert {action for action, *_ in server.calls} == {"me", "get-contact"}
    assert done.status == 2
    assert done.error.splitlines()[-1].startswith("Error: ")


def test_no_redirect_is_followed(app, tmp_path):
    with service(app) as other:

        def moved(environ, start_response):
            return Response(status=307, headers={"Location": other.url})(environ, start_response)

        with serve(moved) as url:
            done = conform(url, tmp_path)
        assert other.calls == []
    assert done.status == 2
    assert "responded 307" in done.error
    assert "Redirects are not followed." in done.error


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (Response("<p>Welcome", content_type="text/html"), "responded 200, text/html"),
        (Response("Not found", 404), "This is no such service: GET /api/v1/me responded 404"),
        (Response("[]", content_type="application/json"), "This is no such service"),
        (Response("{}", 401), "does not accept the token"),
        (Response("{}", 502), "GET /api/v1/me got 502, 3 times."),
        (Response("{}", content_type="application/json"), "get-contact with PHONE responded 200"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_what_is_no_such_service_is_said_and_nothing_is_written(response, said):
    paths = []

    def other(environ, start_response):
        paths.append(environ["PATH_INFO"])
        return response(environ, start_response)

    with serve(other) as url:
        done = refused(url)
    assert done.exit_code == 2
    assert said in done.stderr
    assert set(paths) <= {"/api/v1/me", GET_CONTACT}


def test_nobody_there_is_said():
    with serve(None) as url:
        pass
    done = refused(url)
    assert done.exit_code == 2
    assert "no response" in done.stderr
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    ("url", "how", "said"),
    [
        ("http://www.qyvo.invalid", {}, "must be https://"),
        ("http://192.0.2.1", {}, "must be https://"),
        ("http://127.0.0.1.qyvo.invalid", {}, "must be https://"),
        ("ftp://localhost", {}, "must start with https://"),
        ("localhost:8000", {}, "must start with https://"),
        ("https://localhost/api/v1", {}, "the scheme and the host alone"),
        ("https://user:secret@localhost", {}, "the scheme and the host alone"),
        ("https://localhost:port", {}, "URL"),
        ("http://localhost:1", {"phone": "+1 415 555 0123"}, "must be in E.164"),
        ("http://localhost:1", {"phone": "4155550123"}, "must be in E.164"),
        ("http://localhost:1", {"phone": "+1415555012"}, "must be in E.164"),
        ("http://localhost:1", {"token": ""}, "Set QYVO_TOKEN"),
        ("http://localhost:1", {"token": "two words"}, "Set QYVO_TOKEN"),
    ],
)
def test_nothing_is_sent_where_the_token_would_not_be_safe_or_the_contact_not_clear(url, how, said):
    done = refused(url, **how)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert isinstance(done.exception, SystemExit)


# docs/conformance.md


def documented(heading):
    """Every command and output below that heading, in order."""
    return [example.text for example in examples(heading)]


def shell(command, home, stdin=""):
    """Run it as it is printed: what it writes to standard output and standard error."""
    command = command.replace("qyvo-standin ", shlex.join([sys.executable, f"{ROOT}/app.py"]) + " ")
    env = environment(home / "unused.db", XDG_STATE_HOME=str(home), PYTHONPATH=str(ROOT))
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=home,
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return done.stdout + done.stderr


def test_the_documented_run_against_the_vendor_asks_first(app, tmp_path):
    command, printed, *_ = documented("docs/conformance.md#run-it")

    @after("me")
    def at_the_vendor(call, response):
        response.json["tenant"]["name"] = "Example Ltd"

    with service(app, at_the_vendor) as server:
        command = command.replace("https://www.qyvo.io", server.url)
        output = shell(command.replace("YOUR_TOKEN_HERE", "sandbox-docs"), tmp_path, "n\n")
        assert len(server.calls) == 2
    host = server.url.removeprefix("http://")
    assert output.replace(host, "www.qyvo.io").startswith(printed.rstrip("\n")), output


def test_the_documented_run_against_a_sandbox(tmp_path):
    _, _, command, printed = documented("docs/conformance.md#run-it")
    *reading, _ = documented("docs/conformance.md#read-it")
    with serving(tmp_path / "served", "--sandbox") as sandbox:
        output = shell(command.replace("http://127.0.0.1:8000", sandbox.url), tmp_path)
    assert output.replace(sandbox.url.removeprefix("http://"), "127.0.0.1:8000") == printed
    assert len(reading) == 4
    for command, printed in zip(reading[::2], reading[1::2], strict=True):
        assert shell(command, tmp_path) == printed


def test_the_documented_difference(app, tmp_path):
    *_, printed = documented("docs/conformance.md#read-it")
    with service(app, updates(tags_are_appended)) as server:
        done = conform(server.url, tmp_path, token="sandbox-appends")
    assert done.output.startswith(printed), done.output
