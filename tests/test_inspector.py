"""The page at /, as its HTML and in a real browser."""

import html
import json
import re
import shlex
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest
from conftest import PHONE, TOKEN, UPDATE, caller, connection, environment, post, serving
from developer import Developer

SCRIPT = "<script>alert(1)</script>"
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


def test_the_page_shows_one_workspace(client, call):
    caller(client, "sandbox-a")({"phone": PHONE, "name": "Only here"})
    assert "Only here" not in client.get("/").text
    page = client.get("/?workspace=sandbox-a").text
    assert "Only here" in page
    assert "QYVO_TOKEN=sandbox-a" in page


def test_the_page_makes_no_workspace(client):
    page = client.get("/?workspace=sandbox-nobody").text
    assert "nobody" not in page
    assert "nobody" not in client.get("/").text


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


def test_the_times_of_what_is_opened_are_in_one_format(client, call):
    contact = call({"phone": PHONE, "name": "Changed"}).json
    page = client.get(f"/?contact={contact['id']}").text
    for field in ("created_at", "updated_at"):
        [shown] = re.findall(rf"<dt>{field}</dt><dd>(.*?)</dd>", page)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", shown)
    assert f"<dd>{contact['updated_at']}</dd>" in page
    page = client.get("/?request=1").text
    assert re.search(r"#1 · \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 ·", page)


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


@pytest.mark.parametrize("query", ["request=x", "q=" + "x" * 300])
def test_a_query_that_cannot_be_is_a_422(client, query):
    assert client.get("/?" + query).status_code == 422


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
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


class Screen:
    """The page of one workspace in the browser, and a developer's requests beside it."""

    def __init__(self, browser, url, token, **context):
        self.url, self.token, self.trouble, self.hosts = url, token, [], set()
        self.me({})  # the workspace is made
        self._context = browser.new_context(**context)
        self.page = self._context.new_page()
        self.page.set_default_timeout(DEADLINE)
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.goto(f"{url}/?workspace={token}", timeout=20_000)

    def me(self, body):
        return post(self.url, body, self.token)

    def see(self, selector, text):
        self.page.locator(selector, has_text=text).first.wait_for()

    def miss(self, selector, text):
        self.page.locator(selector, has_text=text).first.wait_for(state="detached")

    def close(self):
        self._context.close()
        assert self.trouble == []
        assert self.hosts == {urlsplit(self.url).netloc}


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


def open_faults(screen):
    screen.page.locator("#faults-summary").click()
    return screen.page.locator("#inject")


def test_a_fault_is_injected_and_triggered(screen):
    screen = screen()
    form = open_faults(screen)
    screen.see("#faults", "No faults.")
    form.get_by_label("Respond with").select_option("429")
    form.get_by_label("How often").fill("2")
    form.get_by_role("button", name="Inject").click()
    screen.see("#faults li", "429, 2 to come")
    screen.see("#active-mark", "active")
    assert screen.me({"phone": PHONE}).status_code == 429
    screen.see("#faults li", "1 to come; triggered 1\u00d7")
    assert screen.me({"phone": PHONE}).status_code == 429
    assert screen.me({"phone": PHONE}).status_code == 200
    screen.see("#faults li", "0 to come; triggered 2\u00d7")
    screen.miss("#active-mark .mark", "active")
    screen.see("#requests .row", "Too many requests")
    form.get_by_role("button", name="Remove all").click()
    screen.see("#faults", "No faults.")


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
    assert [each.strip() for each in screen.page.locator("#faults li").all_inner_texts()] == [
        "503, /me only, with probability 0.5, until removed; triggered 0\u00d7",
        "no error after 50 ms, 3 to come; triggered 0\u00d7",
        "418, retry after 5 s, until removed; triggered 0\u00d7",
    ]


def test_a_fault_that_cannot_be_injected_says_why(screen):
    screen = screen()
    form = open_faults(screen)
    form.get_by_label("Respond with").select_option("")
    form.get_by_role("button", name="Inject").click()
    screen.see("#fault-error", "Pass status or delay_ms")
    [trouble] = screen.trouble  # the browser reports the 422 itself
    assert "422" in trouble
    screen.trouble.clear()


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
    for _ in range(25):
        screen.page.keyboard.press("Tab")
        reached.add(
            screen.page.evaluate(
                "(document.activeElement.id || document.activeElement.textContent).split('-')[0]"
            )
        )
    assert {"workspace", "Connect", "faults", "reset", "q", "contact", "clear"} <= reached
    screen.page.locator("#contacts .row", has_text="Romain").focus()
    screen.page.keyboard.press("Enter")
    screen.see("#detail", "lifetime_value")


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
    box = open_faults(screen).get_by_role("button", name="Remove all").bounding_box()
    assert box["x"] + box["width"] <= 360


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
