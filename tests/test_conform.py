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
from types import SimpleNamespace

import pytest
from broken_services import (
    BROKEN,
    NEW,
    ONLY_IF_NEW,
    OURS,
    get_shows_tags_as_text,
    not_found_is_400,
    tags_are_appended,
)
from conftest import PHONE, ROOT, SECONDS, TOKEN, Runner, environment, post, serving
from pages import examples
from services import after, only, serve, service
from werkzeug.wrappers import Response

from app import create_app
from conform import command
from sandbox import Sandbox
from settings import read_settings

pytestmark = pytest.mark.slow  # test_sandbox.py has what a change to the service needs

MEXICAN = "+525512345678"
NAMELESS = "+61491570156"  # of a sample contact
GET_CONTACT = "/api/v1/actions/get-contact"
SEARCH_CONTACTS = "/api/v1/actions/search-contacts"
SOURCES = {"vendor's page", "vendor's other pages", "this project"}
READS = ("get-contact", "search-contacts")
# Rules that are not checked unless the service or the contact is of a certain kind
ABOUT_NEW = {"update-unknown-phone", "get-unknown-phone", "create-new"}
ABOUT_MEXICO, ABOUT_RATE = {"phone-mexican"}, {"rate-headers", "rate-retry-after"}
ABOUT_SEVERAL = {"search-messages", "search-updates"}
NOT_RESTORABLE = "get-contact does not show name, email, tags and metadata as documented"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A sandbox, in which each token that continues `sandbox` is a workspace of its own."""
    database = tmp_path_factory.mktemp("conform") / "sandbox.db"
    settings = read_settings({"CONTACTS_DATABASE": str(database)}, sandbox=True)
    return create_app(settings, sandbox=Sandbox())


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


def in_this_process(url, phone=PHONE, token="sandbox"):
    """Run it to its end in this process, which is quicker: its `exit_code` and `stderr`."""
    args = [url, "--phone", phone, "--rate", "1000000", "--yes"]
    return Runner(None).invoke(command, args, env={"QYVO_TOKEN": token})


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


def assert_safe(requests, phone=PHONE):
    """Nothing was sent that a service with whatever rules could have written to somebody else."""
    own = None  # the contact's id
    harmless = set()  # by what get-contact shows nobody, or the contact
    for action, sent, body, response in requests:
        fields = sent if isinstance(sent, dict) else {}
        reference = {k: v for k, v in fields.items() if k in ("contact_id", "phone")}
        shown = response.json.get("id") if isinstance(response.json, dict) else None
        shown = shown if response.status < 300 else None
        if action == "get-contact":
            own = shown if shown and response.json["phone"].endswith(phone[1:]) else own
            if shown in (None, own):
                harmless |= set(map(str, fields.values()))
        elif action not in (*READS, "me", "conform"):
            named = {value for value in reference.values() if value is not None}
            if fields.keys() - reference.keys() or action == "create-contact":
                assert named
                assert named <= {phone, own}, (action, fields)
            assert named - {phone, own} <= harmless, (action, fields)
        assert len(body) < 1000


# Services that are broken


def assert_found(app, home, subtests, services, phone, status):
    """Each service's rule is named first, with that exit status, and the contact restored."""
    names = itertools.count()

    def run(each):
        name, if_known, if_new, alter = each
        folder = home / f"{next(names)}"
        token = f"sandbox-{folder}"
        folder.mkdir()
        before = contacts(app, token)
        # In one thread, which opens the database once: each request is a connection of its own.
        with service(app, alter, threaded=False) as broken:
            done = conform(broken.url, folder, phone=phone, token=token)
        rule = if_new if phone == NEW else if_known
        return name, rule, before, contacts(app, token), broken.requests, done

    kinds = ABOUT_NEW | ABOUT_MEXICO | ABOUT_RATE | ABOUT_SEVERAL
    with ThreadPoolExecutor(8) as pool:
        for name, rule, before, now, requests, done in pool.map(run, services):
            with subtests.test(name):
                if status:
                    assert done.output.startswith(f"different    {rule} "), done.output + done.error
                assert rule in done.different
                assert done.status == status
                for other in done.not_checked - kinds:
                    assert NOT_RESTORABLE in done.rules[other]["reason"]
                assert_safe(requests, phone)
                assert not done.kept
                if phone == NEW:
                    left = now.pop(phone)
                    is_empty = left == left | {"name": None, "email": None, "tags": []}
                    assert is_empty or "can't be cleared" in done.error
                assert now == before


@pytest.mark.parametrize("phone", [PHONE, NEW], ids=["known", "unknown"])
def test_each_broken_service_is_found_and_its_rule_is_named_first(app, tmp_path, subtests, phone):
    services = [each for each in BROKEN if phone == NEW or each[1] is not ONLY_IF_NEW]
    assert len({rule for _, rule, *_ in services}) >= 40
    assert_found(app, tmp_path, subtests, services, phone, status=1)


@pytest.mark.parametrize("phone", [PHONE, NEW], ids=["known", "unknown"])
def test_a_rule_of_this_project_that_a_service_does_not_share_is_no_failure(
    app, tmp_path, subtests, phone
):
    assert_found(app, tmp_path, subtests, OURS, phone, status=0)


@pytest.mark.parametrize("phone", [PHONE, NEW], ids=["known", "unknown"])
def test_each_rule_on_404_differs_where_the_service_responds_400(app, tmp_path, phone):
    altered = after(status=404)(not_found_is_400)
    with service(app, altered) as server:
        done = conform(server.url, tmp_path, phone=phone, token=f"sandbox-400-{phone}")
    on_404 = {name for name, rule in done.rules.items() if rule["expected"].get("status") == 404}
    about_404 = {"update-unknown-id", "update-disagree", "get-unknown-id", "get-unknown-email"}
    assert about_404 <= on_404 <= set(done.different) | {"error-path"}
    assert ({"update-unknown-phone", "get-unknown-phone"} <= on_404) == (phone == NEW)
    assert done.status == 1


def test_a_sandbox_follows_every_rule_and_the_report_names_nobody(tmp_path):
    with serving(tmp_path / "served", "--sandbox") as sandbox:
        done = conform(sandbox.url, tmp_path, module=("flask", "conform"))
        contact = post(sandbox.url, {"phone": PHONE}, "sandbox").json
    assert done.status == 0, done.output + done.error
    assert done.different == []
    assert done.not_checked == ABOUT_NEW | ABOUT_MEXICO | ABOUT_RATE
    assert done.output.splitlines()[-1].endswith(" Of the vendor's 90, 5 were not checked.")
    assert len(done.rules) >= 100
    assert {rule["source"] for rule in done.rules.values()} == SOURCES
    for rule in done.rules.values():
        assert rule["rule"]
        for key in ("sent", "expected", "observed"):
            assert bool(rule[key]) == (rule["result"] == "same")
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
        others = post(server.url, {}, path=SEARCH_CONTACTS).json
    assert done.status == 0, done.output + done.error
    assert done.different == []
    # What only a 429 would show, and another contact
    assert done.not_checked == {"rate-retry-after"} | ABOUT_SEVERAL
    assert (contact["name"], contact["email"], contact["tags"]) == (None, None, [])
    assert contact["metadata"] == {"conform_one": None, "conform_two": None}
    assert [other["phone"] for other in others] == [MEXICAN]
    assert "What stays in its metadata: conform_one, conform_two." in done.error


@only("update-contact", "create-contact")
def nothing_is_cleared(request):
    request.fields = {k: v for k, v in request.fields.items() if v != ""}
    return request.respond()


def test_what_a_service_does_not_clear_stays_in_a_contact_that_was_made_for_the_check(
    app, tmp_path
):
    with service(app, nothing_is_cleared) as stubborn:
        done = conform(stubborn.url, tmp_path, phone=NEW, token="sandbox-stubborn")
    assert done.status == 1
    assert {"name-cleared", "email-cleared", "tags-cleared"} <= set(done.different)
    assert "PHONE's name, email can't be cleared." in done.error
    assert not done.kept


def test_a_contact_that_can_not_be_restored_is_exit_status_2_and_what_was_found_is_kept(
    app, tmp_path
):
    @only("update-contact", "create-contact")
    def only_a_set_name_can_be_changed(request):
        if request.contact().get("name") and request.fields.get("name") == "":
            del request.fields["name"]
        return request.respond()

    with service(app, only_a_set_name_can_be_changed) as stubborn:
        done = conform(stubborn.url, tmp_path, phone=NAMELESS, token="sandbox-nameless")
    assert done.status == 2
    assert "name-cleared" in done.different
    assert "Error: PHONE's name can't be restored." in done.error
    assert str(done.kept[0]) in done.error


def test_a_contact_that_get_contact_can_not_show_is_not_written_to(app, tmp_path):
    @after("get-contact")
    def bad_request(request, response):
        response.status, response.json = 400, {"error": "Bad request"}

    with service(app, bad_request) as server:
        done = conform(server.url, tmp_path, token="sandbox-not-shown")
        assert {action for action, *_ in server.requests} == {"me", *READS}
    assert done.status == 2
    assert "get-contact with PHONE responded 400, and shows no id." in done.error


def test_a_contact_that_get_contact_denies_is_restored_all_the_same(app, tmp_path):
    """Also if a search does not find it: what create-contact then shows is what is restored."""
    before = contacts(app, "sandbox-denied")
    created = []

    def denied(request):
        created.append(request.action == "create-contact")
        response = request.respond()
        if request.action == "get-contact" and not any(created):
            response.status, response.json = 404, {"error": "Contact not found"}
        if request.action == "search-contacts" and not any(created):
            response.json = []
        return response

    with service(app, denied) as server:
        done = conform(server.url, tmp_path, token="sandbox-denied")
        assert_safe(server.requests)
    assert done.status == 1, done.output + done.error
    assert "which will be created" in done.error
    assert contacts(app, "sandbox-denied") == before


def test_all_seven_sources_and_what_only_the_vendor_knows_of_a_contact_are_the_same(app, tmp_path):
    known = {
        "locale": "pt-BR",
        "opted_in_at": "2026-04-15T10:32:00+00:00",
        "opted_out_at": "2026-05-02T18:30:00+00:00",
        "last_message_at": "2026-05-07T08:14:23+00:00",
        "total_messages": 27,
    }

    def run(source):
        token, folder = f"sandbox-{source}", tmp_path / source
        folder.mkdir()
        app.test_client().post(
            "/sandbox/reset",
            headers={"Authorization": f"Bearer {token}"},
            json={"contacts": [{"phone": PHONE, "source": source, **known}]},
        )
        assert contacts(app, token)[PHONE]["source"] == source
        with service(app) as server:
            return conform(server.url, folder, token=token)

    sources = ["manual", "csv_import", "shopify", "woocommerce", "widget", "zapier", "api"]
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(run, sources):
            assert (done.status, done.different) == (0, []), done.output + done.error
            assert {"get-source", "get-locale", "get-times", "get-messages"} <= done.rules.keys()
            assert done.not_checked == ABOUT_NEW | ABOUT_MEXICO | ABOUT_RATE | ABOUT_SEVERAL


def test_it_waits_when_the_service_limits_the_rate(app, tmp_path):
    times = []

    def limited(request):
        times.append(time.monotonic())
        response = request.respond()
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

    def timed(request):
        times.append(time.monotonic())
        if len(times) == 12:  # it has begun to write
            process.send_signal(signal.SIGINT)
        return request.respond()

    with service(app, timed) as server:
        process = start(server.url, tmp_path, "--yes", "--rate", "300", token="sandbox-timed")
        process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert len(times) > 13
    assert times[-1] - times[0] > 0.8 * 0.2 * (len(times) - 1)


def test_it_tries_again_after_a_500_now_and_then_and_waits_for_the_slow(app, tmp_path):
    count = itertools.count(1)

    def moody(request):
        time.sleep(0.002)
        response = request.respond()
        if next(count) % 7 == 0:
            response.status, response.json = 500, {"error": "Server error"}
        return response

    with service(app, moody) as server:
        done = conform(server.url, tmp_path, token="sandbox-moody")
        assert_safe(server.requests)
    assert (done.status, done.different) == (0, []), done.output + done.error


def altered_by(at, alter):
    """A service that calls `alter` once, at the first request to that action."""
    done = []

    def altered(request):
        if request.action == at and not done:
            done.append(True)
            alter()
        return request.respond()

    return altered


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
        assert_safe(server.requests)
    assert process.returncode == 2
    assert b"PHONE is restored." in error
    assert error.endswith(b"Error: Interrupted.\n")
    assert any("Conform" in str(each) for each in server.requests)
    assert contacts(app, token) == before
    assert not list((tmp_path / "qyvo-standin").iterdir())


def test_it_runs_on_windows_which_has_no_sighup(app, monkeypatch, tmp_path):
    monkeypatch.delattr(signal, "SIGHUP")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with service(app) as server:
        done = in_this_process(server.url, token="sandbox-windows")
    assert done.exit_code == 0, done.output


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

    def failing(request):
        response = request.respond()
        state.down |= request.action == "search-contacts"
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
        assert [action for action, *_ in server.requests] == ["me", "get-contact"]
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
    def echo(request, response):
        response.headers["WWW-Authenticate"] = f"{request.authorization}; Bearer {token}"
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

    def alter(request):
        if request.fields.get("phone") == PHONE[1:]:
            request.fields["phone"] = "+33639980101"
        return request.respond()

    with service(app, alter) as server:
        done = conform(server.url, tmp_path, token="sandbox-else")
        updates = [sent for action, sent, *_ in server.requests if action == "update-contact"]
        assert_safe(server.requests)
    assert "phone-no-plus" in done.different
    assert "update-no-plus" in done.not_checked
    assert {"phone": PHONE[1:]} not in updates


def test_a_service_that_applies_a_write_to_another_contact_is_stopped_at_once(app, tmp_path):
    @after("update-contact", status=200)
    def another(request, response):
        response.json["id"] = "0197a1c0-5e00-7000-8000-000000000002"

    with service(app, another) as server:
        done = conform(server.url, tmp_path, token="sandbox-another")
        writes = [sent for action, sent, *_ in server.requests if len(sent or ()) > 1]
    assert done.status == 2
    assert "was applied to another contact" in done.error
    assert len(writes) <= 2


@pytest.mark.parametrize("found", [{"tags": ["a,b"]}, {"phone": "+33639980101"}, {"id": None}])
def test_a_contact_that_could_not_be_restored_is_not_written_to(app, tmp_path, found):
    @after("get-contact", status=200)
    def strange(request, response):
        response.json |= found

    with service(app, strange) as server:
        done = conform(server.url, tmp_path, token="sandbox-strange")
        assert {action for action, *_ in server.requests} <= {"me", *READS}
    assert done.status == 2
    assert done.error.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("phone", [PHONE, NEW], ids=["known", "unknown"])
def test_nothing_is_written_to_a_contact_that_is_not_shown_as_documented(app, tmp_path, phone):
    token = f"sandbox-not-as-documented{phone}"
    before = contacts(app, token)
    with service(app, after("get-contact", status=200)(get_shows_tags_as_text)) as server:
        done = conform(server.url, tmp_path, phone=phone, token=token)
        written = [fields for _, fields, *_ in server.requests if "name" in (fields or ())]
    assert done.status == 1
    assert done.different == ["get-values"]
    assert f"No field of PHONE was written. {NOT_RESTORABLE}" in done.error
    assert written == []
    assert contacts(app, token).items() >= before.items()
    assert not done.kept


def test_no_redirect_is_followed(app, tmp_path):
    with service(app) as other:

        def moved(environ, start_response):
            return Response(status=307, headers={"Location": other.url})(environ, start_response)

        with serve(moved) as url:
            done = conform(url, tmp_path)
        assert other.requests == []
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
        (Response("{}", 502), "GET /api/v1/me got 502, 4 times."),
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
        done = in_this_process(url)
    assert done.exit_code == 2
    assert said in done.stderr
    assert set(paths) <= {"/api/v1/me", GET_CONTACT, SEARCH_CONTACTS}


def test_nobody_there_is_said():
    with serve(None) as url:
        pass
    done = in_this_process(url)
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
    done = in_this_process(url, **how)
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
    # click 8.1 writes the blank after a question to standard output.
    return (done.stdout + done.stderr).lstrip(" ")


def test_the_documented_run_against_the_vendor_asks_first(app, tmp_path):
    command, printed, *_ = documented("docs/conformance.md#run-it")

    @after("me")
    def at_the_vendor(request, response):
        response.json["tenant"]["name"] = "Example Ltd"

    with service(app, at_the_vendor) as server:
        command = command.replace("https://www.qyvo.io", server.url)
        output = shell(command.replace("YOUR_TOKEN_HERE", "sandbox-docs"), tmp_path, "n\n")
        assert len(server.requests) == 2
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
    with service(app, only("update-contact")(tags_are_appended)) as server:
        done = conform(server.url, tmp_path, token="sandbox-appends")
    assert done.output.startswith(printed), done.output


def run_against_the_document(server, sandbox, home):
    """Run the documented lines, with the document of that server, on the sandbox."""
    [lines] = documented("docs/conformance.md#hold-the-stand-in-to-the-vendors-openapi-document")
    (home / ".venv").symlink_to(sys.prefix)
    lines = lines.replace("https://www.qyvo.io", server).replace(
        "http://127.0.0.1:8000", sandbox.url
    )
    return subprocess.run(["bash", "-ec", lines], cwd=home, capture_output=True, text=True)


def test_the_documented_lines_hold_the_sandbox_to_an_openapi_document(tmp_path, sandbox):
    pytest.importorskip("schemathesis", reason="holds the service to the document")
    done = run_against_the_document(sandbox.url, sandbox, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout


def test_the_documented_lines_name_what_is_not_as_the_document_says(app, tmp_path, sandbox):
    pytest.importorskip("schemathesis", reason="holds the service to the document")

    @after("openapi.yaml")
    def me_is_a_list(request, response):
        me = response.json["paths"]["/me"]["get"]["responses"]["200"]
        me["content"]["application/json"]["schema"] = {"type": "array"}
        response.json["paths"] = {"/me": response.json["paths"]["/me"]}

    with service(app, me_is_a_list) as vendor:
        done = run_against_the_document(vendor.url, sandbox, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Response violates schema" in done.stdout
