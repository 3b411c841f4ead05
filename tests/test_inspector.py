"""The page at /, as its HTML and in a real browser."""

import html
import json
import re
import shlex
import shutil
import subprocess
import threading
from contextlib import contextmanager
from http.client import RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from conftest import (
    PHONE,
    TOKEN,
    UPDATE,
    assert_refused,
    caller,
    connection,
    environment,
    flask,
    post,
    serving,
)
from developer import CREATE, GET, SAMPLES, Developer

SCRIPT = "<script>alert(1)</script>"
ROMAIN, ÉLODIE, GRACE, KENJI, NAMELESS = SAMPLES
ISO_8601 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3})?\+00:00"
NAME = "standin.example"
DEADLINE = 3000  # milliseconds; what is promised is one second, on a machine that is not busy


@pytest.fixture
def app(make_app):
    return make_app(sandbox=True)


@pytest.fixture
def call(client):
    return caller(client, "sandbox")


def test_the_page_shows_contacts_requests_and_how_to_connect(client, call):
    call({"phone": PHONE})
    page = client.get("/")
    assert page.mimetype == "text/html"
    for text in ("Romain", "romain@example.com", UPDATE, "QYVO_TOKEN=sandbox"):
        assert text in page.text
    assert "QYVO_BASE_URL=http://localhost\n" in page.text


def test_the_page_links_to_the_openapi_document(client):
    [link] = re.findall(r'<a href="([^"]*)">OpenAPI document</a>', client.get("/").text)
    assert client.get(link).json["openapi"].startswith("3.1")


def test_the_page_shows_one_workspace(client, call):
    caller(client, "sandbox-a")({"phone": PHONE, "name": "Only here"})
    assert "Only here" not in client.get("/").text
    page = client.get("/?workspace=sandbox-a").text
    assert "Only here" in page
    assert "QYVO_TOKEN=sandbox-a" in page


NAMED = re.compile(r'<option value="(sandbox[^"]*)"')


def test_looking_at_a_workspace_that_does_not_exist_makes_none_and_says_so(client, call):
    call({"phone": PHONE, "name": "Of sandbox"})
    page = client.get("/?workspace=sandbox-nope").text
    assert "There is no workspace sandbox-nope yet" in page
    assert re.findall(r"<button[^>]*>([^<]*)<", page) == ["Create it"]
    assert "Of sandbox" not in page
    assert NAMED.findall(client.get("/").text) == ["sandbox"]


@pytest.mark.parametrize("name", ["default", "nonsense", "sandbox-", "sandbox-é", "sandbox-a b"])
def test_what_can_be_no_workspaces_name_is_said_with_nothing_to_press(client, app, name):
    app.extensions["store"].get_or_create_workspace("default")  # as `token create` makes it
    page = client.get("/", query_string={"workspace": name})
    assert page.status_code == 200
    assert "There can be no such workspace" in page.text
    assert "<button" not in page.text
    assert "data-token" not in page.text
    assert NAMED.findall(page.text) == ["sandbox"]


def test_the_value_of_qyvo_token_is_no_workspaces_name_and_never_shown(make_app):
    client = make_app(sandbox=True, QYVO_TOKEN="s3.cret").test_client()
    caller(client, "s3.cret")({"phone": PHONE})
    page = client.get("/?workspace=s3.cret").text
    assert "There can be no such workspace" in page
    assert "s3.cret" not in page


def test_workspaces_are_listed_by_last_use_and_looking_at_one_is_none(client, app):
    for name in "abca":
        Developer(app, f"sandbox-{name}").me()
    for name in ("sandbox", "sandbox-b"):
        client.get(f"/?workspace={name}")
    assert NAMED.findall(client.get("/").text) == [
        "sandbox-a", "sandbox-c", "sandbox-b", "sandbox",
    ]  # fmt: skip
    Developer(app, "sandbox-b").me()
    assert NAMED.findall(client.get("/").text)[0] == "sandbox-b"


def test_a_workspace_of_an_earlier_run_is_shown_and_still_the_longest_unused(make_app):
    Developer(make_app(sandbox=True), "sandbox-old").update({"phone": PHONE, "name": "Kept"})
    app = make_app(sandbox=True)
    Developer(app, "sandbox-new").me()
    page = app.test_client().get("/?workspace=sandbox-old").text
    assert "Kept" in page
    assert NAMED.findall(page) == ["sandbox-new", "sandbox", "sandbox-old"]


def test_without_javascript_the_page_does_not_say_live(client):
    page = client.get("/").text
    assert "Live" not in page
    assert "<noscript>Reload to see news</noscript>" in page


@pytest.mark.parametrize("query", ["status=abc", "request=x", "status=9999999999", "q=a%00b"])
def test_a_query_that_cannot_be_is_left_out_of_a_page_for_a_person(client, call, query):
    call({"phone": PHONE, "name": "Romain"})
    page = client.get("/?" + query)
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert "Romain" in page.text


def test_the_example_on_the_page_changes_something(sandbox):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    token = "sandbox-example"
    me = Developer(sandbox.url, token)
    for _ in range(2):  # before the workspace is there, and when it is empty
        with connection(sandbox.url) as http:
            http.request("GET", f"/?workspace={token}")
            page = http.getresponse().read().decode()
        example = r'<pre[^>]* aria-label="An example request">(.*?)</pre>'
        command = html.unescape(re.search(example, page, re.S)[1])
        run = ["sh", "-c", command]
        subprocess.run(run, env=environment("x"), capture_output=True, check=True, timeout=20)
        [entry] = me.journal()
        assert entry["response_body"]["tags"] == ["vip", "paris"]
        assert me("POST", "/sandbox/reset").status_code == 204


def test_looking_at_the_page_is_not_an_api_request(client, caplog):
    caplog.set_level("INFO")
    for _ in range(3):
        client.get("/")
    assert "Nothing has arrived yet." in client.get("/").text
    assert not caplog.records


def test_what_a_client_sends_is_text(client, call):
    call({"phone": PHONE, "name": SCRIPT, "tags": SCRIPT, "metadata": {SCRIPT: SCRIPT}})
    contact_id = call({"phone": PHONE}).json["id"]
    call(SCRIPT.encode())
    for query in ("", f"?contact={contact_id}", "?request=1", "?request=3", f"?q={SCRIPT}"):
        page = client.get("/" + query).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_what_utf_8_cannot_carry_is_escaped(client, call):
    call(b'{"\\ud800": "\\ud801"}')
    for query in ("", "?request=1"):
        assert "\\ud800: Unknown field" in client.get("/" + query).text
    assert '"\\ud801"' in html.unescape(client.get("/?request=1").text)


def test_the_browser_is_told_to_run_nothing_but_the_pages_own_files(client):
    policy = client.get("/").headers["Content-Security-Policy"]
    directives = dict(d.strip().split(" ", 1) for d in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert directives["script-src"] == "'self'"
    assert "unsafe" not in policy
    assert client.get("/").headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_without_news_is_a_304(client, call):
    def look():
        headers = {"If-None-Match": client.get("/").headers["ETag"]}
        return lambda: client.get("/", headers=headers).status_code

    assert look()() == 304
    headers = {"Authorization": "Bearer sandbox"}
    for news in (
        lambda: call({"phone": PHONE}),
        lambda: caller(client, "sandbox-new")({"phone": PHONE}),
        lambda: client.put("/sandbox/faults", json={"status": 500}, headers=headers),
        lambda: client.delete("/sandbox/faults", headers=headers),
        lambda: client.post("/sandbox/reset", headers=headers),
        lambda: client.delete("/sandbox/requests", headers=headers),
    ):
        look_again = look()
        news()
        assert look_again() == 200


# What is shown


@pytest.fixture
def me(app):
    return Developer(app, "sandbox")


@pytest.fixture
def found(client):
    """Returns the ids of the contacts that a search on the page finds, in order."""

    def found(text):
        page = client.get("/", query_string={"q": text}).text
        return re.findall('id="contact-([^"]*)"', page)

    return found


@pytest.mark.parametrize("text", ["vip", " vip ", "newsletter"])
def test_the_search_finds_a_tag(me, found, text):
    me.me()
    tag = text.strip()
    assert set(found(text)) == {i for i, (_, _, tags) in SAMPLES.items() if tag in tags}
    assert me("POST", "/v1/actions/search-contacts", {"query": text}).json == []


def test_the_search_finds_an_id_in_either_case(me, found):
    me.me()
    for contact_id in SAMPLES:
        assert found(contact_id) == found(contact_id.upper()) == [contact_id]
    assert found("0197a1c0-5e00-7000-8000-0000000000ff") == []


def test_the_search_still_finds_parts_of_name_phone_and_email(me, found):
    me.me()
    assert found("OKAFOR") == found("7946") == found("grace@") == [GRACE]
    assert set(found("")) == set(SAMPLES)
    assert found("nobody at all") == []


def test_who_is_found_in_several_ways_is_shown_once_and_the_last_message_first(me, found):
    ids = [f"0197a1c0-5e00-7000-8000-00000000001{n}" for n in range(6)]
    ways = [
        {"name": "vip", "tags": "vip"},
        {"name": "A VIP"},
        {"tags": "lead, vip"},
        {"email": "vip@example.com"},
        {"name": "Víp"},
        {"name": "Nobody"},
    ]
    contacts = [
        {"id": i, "phone": f"+1415555012{n}", "last_message_at": f"2026-01-0{n + 1}T09:00:00Z"}
        | way
        for n, (i, way) in enumerate(zip(ids, ways, strict=True))
    ]
    assert me("POST", "/sandbox/reset", {"contacts": contacts}).status_code == 204
    assert found("vip") == [ids[n] for n in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("text", ["elodie m", "ELODIE", "Élodie", "e\u0301lodie"])
def test_the_search_ignores_accents(me, found, text):
    me.me()
    assert found(text) == [ÉLODIE]


def test_the_search_ignores_accents_in_the_names_of_the_5000_oldest_contacts(app, client, me):
    me.me()
    names = [f"Zoé {n}" for n in range(5001)]
    contacts = [{"phone": f"+1415555{n:04}", "name": name} for n, name in enumerate(names)]
    store = app.extensions["store"]
    store.replace_contacts(store.find_workspace("sandbox"), contacts)
    assert "<strong>Zoé 4999</strong>" in client.get("/?q=zoe 4999").text
    assert "No contact matches." in client.get("/?q=zoe 5000").text


def test_the_search_shows_50_contacts_at_most_of_its_own_workspace(me, found, app):
    contacts = [
        {"phone": f"+1415555{n:04}", "name": "crowd" if n % 2 else "x", "tags": "crowd"}
        for n in range(120)
    ]
    assert me("POST", "/sandbox/reset", {"contacts": contacts}).status_code == 204
    assert len(found("crowd")) == len(set(found("crowd"))) == 50
    other = {"phone": PHONE, "name": "crowd", "tags": "elsewhere"}
    elsewhere = Developer(app, "sandbox-other")("POST", CREATE, other).json["id"]
    assert found("elsewhere") == found(elsewhere) == []


def shown_requests(client, **query):
    page = client.get("/", query_string=query).text
    return re.findall(r'class="method">(\S+)</span> (\S+)</span>', page)


def test_requests_are_filtered_by_path_and_status(client, me):
    me.update({"phone": PHONE})
    me.update({"phone": "nonsense"})
    me.me()
    me("GET", "/v1/nowhere")
    update, who = ("POST", UPDATE), ("GET", "/v1/me")
    assert shown_requests(client) == [("GET", "/v1/nowhere"), who, update, update]
    assert shown_requests(client, path="/actions/update-contact") == [update, update]
    assert shown_requests(client, path="/me", status="") == [who]
    assert shown_requests(client, status=200) == [who, update]
    assert shown_requests(client, status=200, path=UPDATE) == [update]
    assert shown_requests(client, status=500) == []
    assert "No request matches." in client.get("/?status=500").text


def test_a_filter_offers_what_has_arrived_and_keeps_what_is_chosen(client, me):
    me.update({"phone": "nonsense"})
    me("GET", "/v1/me")
    page = client.get("/?path=/elsewhere&status=201&q=Romain").text
    assert re.findall(r'<option value="(/[^"]*)"( selected)?', page.partition('id="path"')[2]) == [
        ("/actions/update-contact", ""),
        ("/elsewhere", " selected"),
        ("/me", ""),
    ]
    assert re.findall(r'<option value="(\d+)"( selected)?', page.partition('id="status"')[2]) == [
        ("200", ""),
        ("201", " selected"),
        ("422", ""),
    ]
    [link] = set(re.findall(r'class="row contact" href="([^"]*)"', page))
    for chosen in ("path=/elsewhere", "status=201", "q=Romain"):
        assert chosen in html.unescape(link)


def test_every_time_on_the_page_is_in_one_format_with_its_zone(client, me):
    contact = me.update({"phone": PHONE, "name": "Changed"}).json
    for query, count in {"": 1, f"?contact={contact['id']}": 4, "?request=1": 3}.items():
        text = re.sub(r"<[^>]*>", "", client.get(f"/{query}").text)
        text = re.sub(r"localhost:\d+", "", text)
        assert len(re.findall(ISO_8601, text)) == count
        assert not re.search(r"\d:\d\d", re.sub(ISO_8601, "", text))
    assert f"<dd>{contact['updated_at']}</dd>" in client.get(f"/?contact={contact['id']}").text


# What is changed

WRITES = [
    ("PUT", f"/sandbox/contacts/{ROMAIN}", {"name": "Changed"}),
    ("PUT", "/sandbox/contacts/0197a1c0-5e00-7000-8000-0000000000ff", {"phone": "+14155550199"}),
    ("DELETE", f"/sandbox/contacts/{ROMAIN}", None),
    ("PUT", "/sandbox/faults", [{"status": 500}]),
    ("DELETE", "/sandbox/faults", None),
    ("DELETE", "/sandbox/requests", None),
    ("POST", "/sandbox/reset", None),
]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {"Authorization": ""}),
        (401, {"Authorization": "Bearer something-else"}),
        (403, {"Origin": "http://other.example"}),
        (403, {"Origin": "null"}),
        (403, {"Sec-Fetch-Site": "cross-site"}),
        (403, {"Host": "rebound.example", "Origin": "http://rebound.example"}),
    ],
)
def test_without_token_from_another_site_or_by_another_name_nothing_is_written(me, status, headers):
    me.update({"phone": PHONE, "name": "As it was"})
    me.inject(status=503, path="/me")
    before = me.contacts(), me.faults(), len(me.journal())
    for method, path, body in WRITES:
        assert_refused(me(method, path, body, headers=headers), status)
    contacts, faults, requests = me.contacts(), me.faults(), len(me.journal())
    assert (contacts, faults, requests - 1) == before  # the look before is a request, too


def test_by_a_name_that_is_not_allowed_the_page_is_not_shown(client):
    page = client.get("/", headers={"Host": "rebound.example"})
    assert_refused(page, 403)
    assert "data-token" not in page.text


# The files and the query


@pytest.mark.parametrize("path", ["/", "/inspector/inspector.js", "/inspector/inspector.css"])
def test_the_page_and_its_files_have_one_cache_control(sandbox, path):
    with connection(sandbox.url) as http_connection:
        http_connection.request("GET", path)
        response = http_connection.getresponse()
        assert response.status == 200
        assert response.headers.get_all("Cache-Control") == ["no-store"]


@pytest.mark.parametrize("name", ["nothing.js", "../page.py", "..%2fpage.py", "%2fetc%2fpasswd"])
def test_the_page_has_no_other_files(client, name):
    assert client.get(f"/inspector/{name}").status_code == 404


@pytest.mark.parametrize("query", ["contact=x", "contact=' OR 1", "request=9", "nonsense=1"])
def test_the_page_says_what_is_no_longer_there(client, query):
    page = client.get("/?" + query)
    assert page.status_code == 200
    assert ("no longer" in page.text) == ("nonsense" not in query)


def copied_command(page):
    return html.unescape(re.search(r'<pre id="curl"[^>]*>(.*?)</pre>', page, re.S)[1])


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"phone": PHONE, "name": 'O\'Brien \\ "é" $HOME `id`\n'}),
        "no 'json",
        "@/etc/passwd",
    ],
)
def test_copied_as_curl_a_request_can_be_sent_again(client, call, body):
    call(body.encode())
    page = client.get("/?request=1").text
    command = copied_command(page)
    words = shlex.split(command)
    assert words[:4] == ["curl", "-X", "POST", f"http://localhost{UPDATE}"]
    assert "Authorization: Bearer sandbox" in words
    assert words[-2:] == ["--data-raw", body]  # --data would send the file of that @name


def test_curl_runs_what_was_copied(sandbox):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    token = "sandbox-curl"
    post(sandbox.url, {"phone": PHONE, "name": 'O\'Brien "é" $HOME'}, token)
    with connection(sandbox.url) as http:
        http.request("GET", f"/?workspace={token}&request=1")
        page = http.getresponse().read().decode()
    command = copied_command(page)
    done = subprocess.run(
        ["sh", "-c", command], env=environment("x"), capture_output=True, check=True, timeout=20
    )
    assert json.loads(done.stdout)["name"] == 'O\'Brien "é" $HOME'


# In a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs chromium: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    flags += [f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


class Screen:
    """The page of one workspace in the browser, and a developer's requests beside it."""

    def __init__(self, browser, url, token, host="127.0.0.1", **context):
        self.url, self.token, self.trouble, self.hosts = url, token, [], set()
        address = url.replace("127.0.0.1", host)
        self.host = urlsplit(address).netloc
        self.me({})  # the workspace is made
        self._context = browser.new_context(**context)
        self.page = self._context.new_page()
        self.page.set_default_timeout(DEADLINE)
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.goto(f"{address}/?workspace={token}", timeout=20_000)

    def me(self, body):
        return post(self.url, body, self.token)

    def open(self, name):
        """Open the contact of that name."""
        self.page.locator("#contacts .row", has_text=name).click()
        self.see("#detail h2", name)

    def form(self, opener):
        """Open the form of a contact by the button of that name."""
        self.page.get_by_role("button", name=opener, exact=True).click()
        return self.page.locator("dialog[open]")

    def save(self):
        self.page.get_by_role("button", name="Save").click()

    def stored(self, contact_id):
        return Developer(self.url, self.token)("POST", GET, {"contact_id": contact_id}).json

    def expect(self, *statuses):
        """The browser reports these responses to the script, and nothing else."""
        assert [re.search(r"\d{3}", text)[0] for text in self.trouble] == list(statuses)
        self.trouble.clear()

    def see(self, selector, text):
        self.page.locator(selector, has_text=text).first.wait_for()

    def miss(self, selector, text):
        self.page.locator(selector, has_text=text).first.wait_for(state="detached")

    def close(self):
        self._context.close()
        assert self.trouble == []
        assert self.hosts == {self.host}


@pytest.fixture
def screen(browser, sandbox, request):
    name = re.sub(r"\W", "", request.node.name)
    screens = []

    def open_screen(**context):
        screens.append(Screen(browser, sandbox.url, f"sandbox-{name}", **context))
        return screens[-1]

    yield open_screen
    for each in screens:
        each.close()


def test_a_request_appears_without_reloading(screen):
    screen = screen()
    screen.page.evaluate("window.stayed = true")
    screen.me({"phone": PHONE, "name": "Arrived just now"})
    screen.see("#requests .row", "200")
    screen.see("#contacts .row", "Arrived just now")
    screen.me({"phone": "nonsense"})
    screen.see("#requests .row", "phone: Must")
    assert screen.page.evaluate("window.stayed")


def test_search_narrows(screen):
    screen = screen()
    screen.see("#contacts .row", "Grace Okafor")
    screen.page.get_by_label("Search contacts").fill("ÉLODIE")
    screen.miss("#contacts .row", "Grace Okafor")
    screen.see("#contacts .row", "Élodie Martin")
    screen.page.get_by_label("Search contacts").fill("support")
    screen.see("#contacts .row", "Kenji Sato")
    screen.page.get_by_label("Search contacts").fill("nobody at all")
    screen.see("#contacts", "No contact matches.")


def test_a_contact_opens_with_everything_and_escape_closes_it(screen):
    screen = screen()
    screen.page.locator("#contacts .row", has_text="Romain").click()
    screen.see("#detail", "lifetime_value")
    screen.see("#detail", "created_at")
    screen.me({"phone": PHONE, "metadata": {"seen": "live"}})
    screen.see("#detail", "live")
    screen.page.keyboard.press("Escape")
    screen.page.locator("#detail").wait_for(state="hidden")
    focused = screen.page.evaluate("document.activeElement.textContent")
    assert "Romain" in focused


def test_a_request_opens_with_its_response_and_is_copied_as_curl(screen):
    screen = screen(permissions=["clipboard-read", "clipboard-write"])
    screen.me({"phone": PHONE, "name": SCRIPT})
    screen.page.locator("#requests .row", has_text="200").click()
    screen.see("#detail pre", '"name": "' + SCRIPT)
    screen.see("#detail pre", '"updated_at"')
    screen.page.get_by_role("button", name="Copy as curl").click()
    screen.see("button", "Copied")
    copied = screen.page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(copied)[0] == "curl"
    assert f"Authorization: Bearer {screen.token}" in copied


def test_requests_are_filtered_and_stay_so_while_others_arrive(screen):
    screen = screen()
    rows, developer = screen.page.locator("#requests .row"), Developer(screen.url, screen.token)
    developer.inject(status=404, path="/me")
    developer.me()
    screen.me({"phone": PHONE})
    screen.see("#requests .row", "404")
    screen.page.get_by_label("Filter requests by status").select_option("200")
    screen.miss("#requests .row", "404")
    screen.me({"phone": PHONE})
    rows.nth(1).wait_for()
    rows.first.click()
    screen.see("#detail h2", "200")
    assert screen.page.get_by_label("Filter requests by status").input_value() == "200"
    assert rows.count() == 2
    screen.page.get_by_label("Filter requests by status").select_option("")
    screen.page.get_by_label("Filter requests by path").select_option("/me")
    screen.miss("#requests .row", "200")
    screen.page.reload()
    screen.see("#requests .row", "404")
    assert rows.count() == 1


def test_a_workspace_is_watched_before_its_first_request(browser, sandbox):
    token = "sandbox-awaited-on-the-page"
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(DEADLINE)
        page.goto(f"{sandbox.url}/?workspace={token}", timeout=20_000)
        page.get_by_text(f"There is no workspace {token} yet").wait_for()
        page.get_by_text("Live", exact=True).wait_for()
        assert page.get_by_role("button").all_inner_texts() == ["Create it"]
        Developer(sandbox.url, token).me()
        page.locator("#requests .row", has_text="/v1/me").wait_for()
        assert page.get_by_label("Workspace", exact=True).input_value() == token


def test_create_it_makes_the_workspace_and_touches_no_other(browser, sandbox):
    token = "sandbox-created-on-the-page"
    others = Developer(sandbox.url, "sandbox")
    others.update({"phone": PHONE, "name": "As it was"})
    before = others.contacts(), len(others.journal())
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(DEADLINE)
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{sandbox.url}/?workspace={token}", timeout=20_000)
        page.get_by_role("button", name="Create it").click()
        page.locator("#contacts .row", has_text="Romain").wait_for()
        page.get_by_role("button", name="Reset").click()
        page.get_by_text("Nothing has arrived yet.").wait_for()
    assert Developer(sandbox.url, token).journal() == []
    assert (others.contacts(), len(others.journal()) - 1) == before  # the look is a request


def test_a_workspace_that_is_dropped_meanwhile_is_no_longer_shown(browser, tmp_path):
    with serving(tmp_path, "--sandbox") as server:
        screen = Screen(browser, server.url, "sandbox-dropped")
        screen.see("#contacts .row", "Romain")
        delete = ["workspace", "delete", "sandbox-dropped", "--sandbox", "--yes"]
        done = flask(*delete, env=environment(server.database))
        assert done.returncode == 0, done.stderr
        Developer(server.url, "sandbox").me()  # which is news
        screen.see("h2", "There is no workspace sandbox-dropped yet")
        screen.close()


@pytest.mark.parametrize(
    ("workspace", "buttons"), [("sandbox", ["Show", "Show"]), ("sandbox-without-script", [])]
)
def test_without_javascript_there_is_nothing_to_press_that_does_nothing(
    browser, sandbox, workspace, buttons
):
    Developer(sandbox.url, "sandbox").me()
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{sandbox.url}/?workspace={workspace}", timeout=20_000)
        visible = page.locator("button:visible").all_inner_texts()
        assert visible == buttons
        assert page.locator("#live noscript").is_visible()


def test_the_example_can_be_copied(screen):
    screen = screen(permissions=["clipboard-read", "clipboard-write"])
    Developer(screen.url, screen.token)("DELETE", "/sandbox/requests")
    screen.page.locator("#requests").get_by_role("button", name="Copy").click()
    screen.see("#requests button", "Copied")
    copied = screen.page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(copied)[:4] == ["curl", "-X", "POST", f"{screen.url}{UPDATE}"]


def test_a_delayed_request_is_marked(screen):
    screen = screen()
    Developer(screen.url, screen.token).inject(delay_ms=20, times=1)
    assert screen.me({"phone": PHONE}).status_code == 200
    screen.see("#requests .row", "fault A fault made it wait 20 ms.")
    screen.page.locator("#requests .row").first.click()
    screen.see("#detail .why", "A fault made it wait 20 ms.")


def test_headers_and_the_reason_of_a_refused_token_are_shown(browser, tmp_path):
    with serving(tmp_path, "--sandbox") as server:
        screen = Screen(browser, server.url, "sandbox")
        Developer(server.url, "undefined").me()
        screen.page.locator("#requests .row", has_text="Bearer undefined: is the variable").click()
        screen.see("#detail pre", "WWW-Authenticate: Bearer")
        screen.see("#detail pre", f"Host: {screen.host}")
        screen.close()


def test_a_long_tag_is_whole_in_the_detail(screen):
    screen = screen()
    screen.me({"phone": PHONE, "tags": "t" * 64})
    screen.open("Romain")
    tag = screen.page.locator("#detail dd .tag")
    assert tag.evaluate("e => e.scrollWidth <= e.clientWidth && getComputedStyle(e).maxWidth") == (
        "none"
    )


def test_a_skip_link_leads_the_keyboard_to_the_requests(screen):
    screen = screen()
    screen.see("#requests .row", UPDATE)
    screen.page.keyboard.press("Tab")
    skip = screen.page.get_by_role("link", name="Skip to the requests")
    skip.and_(screen.page.locator(":focus")).wait_for()
    assert skip.bounding_box()["y"] >= 0
    screen.page.keyboard.press("Enter")
    screen.page.keyboard.press("Tab")
    screen.page.locator("#clear:focus").wait_for()


# Contacts in the browser


def test_a_contact_is_made_and_opened(screen):
    screen = screen()
    form = screen.form("New")
    form.get_by_label("Phone").fill("+1 415 555 0188")
    form.get_by_label("Name").fill(SCRIPT)
    form.get_by_label("Tags").fill("lead, paris")
    form.get_by_label("Metadata").fill('{"large": 12345678901234567890, "rate": 1.0}')
    screen.save()
    screen.see("#detail h2", SCRIPT)
    contact_id = screen.page.url.rpartition("contact=")[2]
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", contact_id
    )
    stored = screen.stored(contact_id)
    assert stored["phone"] == "+14155550188"
    assert (stored["name"], stored["email"], stored["tags"]) == (SCRIPT, None, ["lead", "paris"])
    assert json.dumps(stored["metadata"]) == '{"large": 12345678901234567890, "rate": 1.0}'
    form = screen.form("New")
    assert form.get_by_label("Phone").input_value() == ""
    assert form.get_by_label("Metadata").input_value() == ""


def test_only_what_was_changed_is_written(screen):
    screen = screen()
    before = screen.stored(ROMAIN)
    screen.open("Romain")
    form = screen.form("Edit")
    assert form.get_by_label("Tags").input_value() == "vip"
    form.get_by_label("Email").fill("")
    form.get_by_label("Tags").fill("vip, lead")
    screen.me({"contact_id": ROMAIN, "name": "Changed by a test"})
    screen.see("#contacts .row", "Changed by a test")
    assert form.get_by_label("Tags").input_value() == "vip, lead"  # typed text outlives the news
    screen.save()
    screen.see("#detail dd .tag", "lead")
    assert screen.stored(ROMAIN) == before | {
        "name": "Changed by a test",
        "email": None,
        "tags": ["vip", "lead"],
    }
    form = screen.form("Edit")
    assert form.get_by_label("Name").input_value() == "Changed by a test"


def test_what_qyvo_says_of_a_contact_is_shown_and_edited(screen):
    screen = screen()
    screen.open("Grace Okafor")
    screen.see("#detail dd", "2026-05-02T18:30:00+00:00")
    form = screen.form("Edit")
    assert form.get_by_role("heading").inner_text() == "Edit contact"
    form.get_by_label("Source").select_option("zapier")
    form.get_by_label("Locale").fill("en-GB")
    form.get_by_label("Opted out").fill("")
    form.get_by_label("Last message").fill("2026-05-07T08:14:23Z")
    form.get_by_label("Messages").fill("3")
    screen.save()
    screen.see("#detail dd", "zapier")
    shown = {
        "source": "zapier",
        "locale": "en-GB",
        "opted_in_at": "2026-04-17T09:00:00+00:00",
        "opted_out_at": None,
        "last_message_at": "2026-05-07T08:14:23+00:00",
        "total_messages": 3,
    }
    assert screen.stored(GRACE).items() >= shown.items()
    form = screen.form("Edit")
    assert form.get_by_label("Last message").input_value() == "2026-05-07T08:14:23+00:00"
    form.get_by_label("Opted in").fill("yesterday")
    screen.save()
    screen.see("#change-opted_in_at-error", "Must be a time such as 2026-05-07T08:14:23")
    screen.expect("422")


def test_an_error_stands_beside_its_field_and_nothing_is_written(screen):
    screen = screen()
    before = Developer(screen.url, screen.token).contacts()
    form = screen.form("New")
    form.get_by_label("Email").fill("x")
    screen.save()
    screen.see("#create-phone-error", "Must be a phone number")
    screen.see("#create-email-error", "Must be an email address.")
    assert form.locator("[aria-invalid=true]").evaluate_all("all => all.map(f => f.name)") == [
        "phone",
        "email",
    ]
    assert screen.page.evaluate("document.activeElement.name") == "phone"
    form.get_by_label("Email").fill("")
    form.get_by_label("Phone").fill(SAMPLES[GRACE][0])
    screen.save()
    screen.see("#create-phone-error", "Another contact of the workspace has it.")
    assert form.locator("#create-email-error").text_content() == ""
    form.get_by_label("Metadata").fill("{nonsense")
    screen.save()
    screen.see("#create-metadata-error", "Must be JSON")
    form.get_by_label("Metadata").fill("[1]")
    form.get_by_label("Phone").fill("+14155550188")
    screen.save()
    screen.see("#create-metadata-error", "Must be a JSON object.")
    assert form.get_by_label("Phone").input_value() == "+14155550188"
    assert Developer(screen.url, screen.token).contacts() == before
    screen.expect("422", "422", "422")


def test_a_contact_that_was_deleted_meanwhile_is_not_changed(screen):
    screen = screen()
    screen.open("Romain")
    form = screen.form("Edit")
    form.get_by_label("Name").fill("Too late")
    Developer(screen.url, screen.token)("DELETE", f"/sandbox/contacts/{ROMAIN}")
    screen.see("#detail", "no longer here")
    screen.save()
    screen.see("dialog [role=alert]", "Contact not found")
    screen.expect("404")


def test_a_contact_is_deleted(screen):
    screen = screen()
    screen.open("Romain")
    screen.page.get_by_role("button", name="Delete").click()
    screen.miss("#contacts .row", "Romain")
    screen.page.locator("#detail").wait_for(state="hidden")
    assert Developer(screen.url, screen.token).contacts().keys() == SAMPLES.keys() - {ROMAIN}


def test_a_contact_is_made_changed_and_deleted_by_keyboard_alone(screen):
    screen = screen()
    press, write = screen.page.keyboard.press, screen.page.keyboard.type

    def focused(name):
        return screen.page.locator(f"#{name}:focus").wait_for()

    screen.page.get_by_role("button", name="New").focus()
    press("Enter")
    focused("create-phone")
    write("+14155550188")
    press("Tab")
    write("By keyboard")
    press("Enter")
    screen.see("#detail h2", "By keyboard")
    focused("detail")
    press("Tab")
    press("Enter")  # Edit
    focused("change-phone")
    press("Tab")
    write("Changed")
    press("Escape")  # closes the form, not the contact, and forgets what was typed
    focused("edit")
    press("Enter")
    focused("change-phone")
    press("Tab")
    assert screen.page.evaluate("document.activeElement.value") == "By keyboard"
    write("Changed")
    press("Enter")
    screen.see("#detail h2", "Changed")
    focused("edit")
    press("Tab")
    press("Enter")  # Delete
    screen.miss("#contacts .row", "Changed")
    focused("new")


def test_a_name_that_is_allowed_leads_to_a_page_that_works(browser, tmp_path):
    with serving(tmp_path, "--sandbox", "--allow-host", NAME) as server:
        screen = Screen(browser, server.url, "sandbox", NAME)
        assert not screen.page.evaluate("isSecureContext")
        screen.form("New").get_by_label("Phone").fill("+14155550188")
        screen.save()
        screen.see("#detail h2", "+14155550188")
        screen.close()


def test_in_the_browser_too_another_site_changes_nothing(screen):
    screen = screen()
    other = screen.page.context.new_page()
    other.route("http://other.example/", lambda route: route.fulfill(body="<p>Another site"))
    other.goto("http://other.example/")
    write = """([url, token, id]) => Promise.all(["cors", "no-cors"].map((mode) =>
        fetch(`${url}/sandbox/contacts/${id}`, {
            method: "DELETE", mode, headers: { Authorization: `Bearer ${token}` }
        }).then(() => "arrived", () => "refused")))"""
    sent = other.evaluate(write, [screen.url, screen.token, ROMAIN])
    assert sent == ["refused", "refused"]
    assert Developer(screen.url, screen.token).contacts().keys() == SAMPLES.keys()


@contextmanager
def development_server(sandbox_url):
    """An application's page and, below /api, the sandbox, whose own name the Host then is.

    So does Vite with `server.proxy` and `changeOrigin`.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.respond(200, "text/html", b"<p>An application")

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with connection(sandbox_url) as http:
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                http.request("POST", self.path, body, headers)
                response = http.getresponse()
                self.respond(response.status, response.headers["Content-Type"], response.read())

        def respond(self, status, content_type, body):
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


def test_an_application_on_localhost_reaches_the_sandbox_through_its_development_server(
    browser, sandbox
):
    send = """async ([token, phone]) => {
        const response = await fetch("/api/v1/actions/update-contact", {
            method: "POST",
            headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
            body: JSON.stringify({ phone, name: "From a browser" }),
        });
        return [response.status, (await response.json()).name];
    }"""
    with development_server(sandbox.url) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url, timeout=20_000)
        assert page.evaluate(send, ["sandbox-vite", PHONE]) == [200, "From a browser"]
    [entry] = Developer(sandbox.url, "sandbox-vite").journal()
    assert entry["request_headers"]["Origin"] == url
    assert entry["request_headers"]["Host"] == urlsplit(sandbox.url).netloc


def test_without_cors_headers_a_page_cannot_send_requests_directly(browser, sandbox):
    send = """([url, phone]) => fetch(`${url}/api/v1/actions/update-contact`, {
        method: "POST",
        headers: { Authorization: "Bearer sandbox-direct", "Content-Type": "application/json" },
        body: JSON.stringify({ phone, name: "From a browser" }),
    }).then(() => "arrived", () => "refused")"""
    with development_server(sandbox.url) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url, timeout=20_000)
        assert page.evaluate(send, [sandbox.url, PHONE]) == "refused"
    assert Developer(sandbox.url, "sandbox-direct").name() == "Romain"


# Faults in the browser


def open_faults(screen):
    screen.page.locator("#faults-summary").click()
    return screen.page.locator("#inject")


def shown_faults(screen):
    return [text.strip() for text in screen.page.locator("#faults li span").all_inner_texts()]


def test_a_fault_is_injected_and_triggered(screen):
    screen = screen()
    form = open_faults(screen)
    screen.see("#faults", "No faults.")
    form.get_by_label("Answer with status").select_option("429")
    form.get_by_label("How many times").fill("2")
    form.get_by_label("Retry-After").fill("7")
    form.get_by_role("button", name="Inject").click()
    screen.see("#faults li", "429, retry after 7 s, 2 to come")
    screen.see("#active-mark", "active")
    response = screen.me({"phone": PHONE})
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    screen.see("#faults li", "1 to come; triggered 1\u00d7")
    assert screen.me({"phone": PHONE}).status_code == 429
    assert screen.me({"phone": PHONE}).status_code == 200
    screen.see("#faults li", "0 to come; triggered 2\u00d7")
    screen.miss("#active-mark .mark", "active")
    screen.see("#requests .row", "Too many requests")
    form.get_by_role("button", name="Remove all").click()
    screen.see("#faults", "No faults.")


@pytest.mark.parametrize(
    ("choice", "shown", "fault"),
    [
        ("502 as an HTML page", "502 as an HTML page", {"status": 502, "body": "html"}),
        ("none: carry it out, lose the response", "response lost", {"respond": False}),
        ("none: close the connection at once", "connection closed", {"close": True}),
    ],
)
def test_every_kind_of_fault_can_be_injected(screen, choice, shown, fault):
    screen = screen()
    form = open_faults(screen)
    form.get_by_label("Answer with status").select_option(choice)
    form.get_by_label("Wait before answering").fill("20")
    form.get_by_role("button", name="Inject").click()
    screen.see("#faults li", f"{shown} after 20 ms, 1 to come; triggered 0\u00d7")
    [injected] = Developer(screen.url, screen.token).faults()
    assert injected.items() >= (fault | {"delay_ms": 20, "times": 1}).items()
    form.get_by_label("Answer with status").select_option("429")
    form.get_by_role("button", name="Inject").click()
    screen.see("#faults li", "429")
    [kept, _] = Developer(screen.url, screen.token).faults()
    assert kept == injected


def test_a_fault_is_injected_and_removed_by_keyboard_alone(screen):
    screen = screen()
    press, write = screen.page.keyboard.press, screen.page.keyboard.type
    screen.page.locator("#faults-summary").focus()
    press("Enter")
    press("Tab")
    screen.page.locator("#inject-status:focus").wait_for()
    write("503")
    press("Tab")
    write("20")
    press("Enter")
    screen.see("#faults li", "503 after 20 ms, 1 to come; triggered 0\u00d7")
    for _ in range(7):  # past the other fields and both buttons
        press("Tab")
    screen.page.locator("#remove-0:focus").wait_for()
    press("Enter")
    screen.see("#faults", "No faults.")
    press("Escape")
    screen.page.locator("#faults-summary:focus").wait_for()
    assert not screen.page.locator("#inject").is_visible()


def test_a_lost_response_is_shown_as_none_with_what_was_written(screen):
    screen = screen()
    Developer(screen.url, screen.token).inject(respond=False, times=1)
    with pytest.raises(RemoteDisconnected):
        screen.me({"phone": PHONE, "name": "Written"})
    screen.page.locator("#requests .row", has_text="none").click()
    screen.see("#detail h3", "Response, which was not sent")
    screen.see("#detail pre", '"name": "Written"')


def test_another_fault_keeps_those_that_are_not_used_up(screen):
    screen = screen()
    me = Developer(screen.url, screen.token)
    me.inject({"status": 503, "times": 1}, {"status": 404, "times": 3, "retry_after": 2})
    for status in (503, 404):
        assert screen.me({"phone": PHONE}).status_code == status
    form = open_faults(screen)
    screen.see("#faults li", "503, 0 to come; triggered 1\u00d7")
    form.get_by_label("Answer with status").select_option("500")
    form.get_by_label("How many times").fill("")
    form.get_by_label("Probability").fill("0.25")
    form.get_by_label("Endpoint").select_option("/me")
    form.get_by_role("button", name="Inject").click()
    screen.see("#faults li", "500")
    assert shown_faults(screen) == [
        "404, retry after 2 s, 2 to come; triggered 0\u00d7",
        "500, /me only, with probability 0.25, until removed; triggered 0\u00d7",
    ]
    assert me.faults() == [
        {"status": 404, "times": 2, "probability": 1, "retry_after": 2, "triggered": 0},
        {"status": 500, "probability": 0.25, "path": "/me", "triggered": 0},
    ]


def test_one_fault_is_removed_and_the_others_stay(screen):
    screen = screen()
    Developer(screen.url, screen.token).inject({"status": 503}, {"status": 404}, {"status": 500})
    open_faults(screen)
    screen.page.get_by_role("button", name="Remove fault 2").click()
    screen.miss("#faults li", "404")
    assert [text[:3] for text in shown_faults(screen)] == ["503", "500"]
    screen.page.keyboard.press("Enter")  # the focus is on the one that took its place
    screen.miss("#faults li", "500")
    assert [text[:3] for text in shown_faults(screen)] == ["503"]


def test_every_fault_of_a_list_is_shown_in_order(screen):
    screen = screen()
    faults = [
        {"status": 503, "path": "/me", "probability": 0.5},
        {"delay_ms": 50, "times": 3},
        {"status": 418, "retry_after": 5},
    ]
    Developer(screen.url, screen.token).inject(*faults)
    open_faults(screen)
    screen.see("#faults li", "418")
    assert shown_faults(screen) == [
        "503, /me only, with probability 0.5, until removed; triggered 0\u00d7",
        "the usual response after 50 ms, 3 to come; triggered 0\u00d7",
        "418, retry after 5 s, until removed; triggered 0\u00d7",
    ]


def test_a_fault_that_cannot_be_injected_says_why(screen):
    screen = screen()
    form = open_faults(screen)
    form.get_by_label("Answer with status").select_option("the usual one")
    form.get_by_role("button", name="Inject").click()
    screen.see("#inject-status-error", "Choose what to answer with, or how long to wait.")
    Developer(screen.url, screen.token).inject(*[{"status": 500}] * 20)
    form.get_by_label("Answer with status").select_option("429")
    form.get_by_role("button", name="Inject").click()
    screen.see("#inject [role=alert]", "Pass at most 20 faults.")
    screen.expect("422")


def test_reset_puts_the_samples_back(screen):
    screen = screen()
    screen.me({"phone": PHONE, "name": "Somebody else"})
    screen.see("#contacts .row", "Somebody else")
    screen.page.get_by_role("button", name="Reset").click()
    screen.see("#contacts .row", "Romain")
    screen.see("#requests", "Nothing has arrived yet.")


def test_the_workspace_is_a_choice(screen):
    screen = screen()
    screen.me({"phone": PHONE, "name": "In mine"})
    screen.page.get_by_label("Workspace", exact=True).select_option("sandbox")
    screen.page.wait_for_url("**/?workspace=sandbox")
    screen.page.get_by_label("Workspace", exact=True).select_option(screen.token)
    screen.see("#contacts .row", "In mine")


def test_names_are_text_in_the_browser_too(screen):
    screen = screen()
    screen.me({"phone": PHONE, "name": SCRIPT, "metadata": {SCRIPT: SCRIPT}})
    screen.page.locator("#contacts .row", has_text=SCRIPT).click()
    screen.see("#detail h2", SCRIPT)


def test_everything_is_reached_by_keyboard(screen):
    screen = screen()
    reached = set()
    for _ in range(30):
        screen.page.keyboard.press("Tab")
        reached.add(
            screen.page.evaluate(
                "(document.activeElement.id || document.activeElement.textContent).split('-')[0]"
            )
        )
    expected = {"workspace", "Connect", "faults", "reset", "q", "new", "contact", "clear", "path"}
    assert expected | {"status", "request"} <= reached
    screen.page.locator("#contacts .row", has_text="Romain").focus()
    screen.page.keyboard.press("Enter")
    screen.see("#detail", "lifetime_value")


def test_every_field_and_button_has_a_name(screen):
    screen = screen()
    Developer(screen.url, screen.token).inject(status=500)
    screen.open("Romain")
    unnamed = """[...document.querySelectorAll("input, select, textarea, button")]
        .filter((e) => e.checkVisibility() && !e.ariaLabel && !e.labels.length && !e.innerText)
        .map((e) => e.outerHTML)"""
    for shown in (None, "Faults", "Connect", "New", "Edit"):
        if shown in ("New", "Edit"):
            screen.form(shown)
        elif shown:
            screen.page.locator("summary", has_text=shown).click()
        assert screen.page.evaluate(unnamed) == []
        screen.page.keyboard.press("Escape" if shown else "Shift")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_at_360_pixels_nothing_is_cut_off(screen, scheme):
    screen = screen(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    screen.me({"phone": PHONE, "name": "N" * 255, "tags": "t" * 64, "metadata": {"k" * 200: 1}})
    screen.see("#contacts .row", "NNN")
    width = "document.documentElement.scrollWidth"
    assert screen.page.evaluate(width) == 360
    screen.page.locator("#contacts .row", has_text="NNN").click()
    screen.see("#detail", "kkk")
    assert screen.page.evaluate(width) == 360
    for form in (lambda: screen.form("Edit"), lambda: open_faults(screen)):
        box = form().bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        screen.page.keyboard.press("Escape")


def test_the_page_works_where_qyvo_token_is_set(browser, tmp_path):
    with serving(tmp_path, "--sandbox", QYVO_TOKEN=TOKEN) as server:
        post(server.url, {"phone": PHONE})
        context = browser.new_context()
        page = context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(server.url, timeout=20_000)
        page.get_by_role("button", name="Reset").click()
        page.get_by_text("Nothing has arrived yet.").wait_for(timeout=DEADLINE)
        context.close()
