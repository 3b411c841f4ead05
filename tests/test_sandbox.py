"""The sandbox as a whole: what a deployment lacks, who may reach it, and what it never shows."""

import subprocess
import sys

import pytest
from conftest import (
    PHONE,
    ROOT,
    UPDATE,
    assert_refused,
    environment,
    flask,
    log_line,
    post,
    serving,
)
from developer import SAMPLES, Developer


@pytest.fixture
def app(make_app):
    return make_app(sandbox=True)


@pytest.fixture
def me(app):
    return Developer(app)


# Without the flag


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/sandbox/requests"),
        ("POST", "/sandbox/reset"),
        ("PUT", "/sandbox/contacts/0197a1c0-5e00-7000-8000-000000000001"),
        ("GET", "/inspector/inspector.js"),
    ],
)
def test_a_deployment_has_none_of_it(make_app, method, path):
    assert_refused(make_app().test_client().open(path, method=method), 404, "Not found")


def test_a_deployment_does_without_the_files_of_the_sandbox():
    code = "import sys; sys.modules['sandbox'] = None\nimport app; app.create_app()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=20)


# Tokens


def test_every_workspace_starts_with_the_same_sample_contacts_under_the_same_ids(app):
    for token in ("sandbox", "sandbox-a", "sandbox-b"):
        contacts = Developer(app, token).contacts()
        assert {i: (c["phone"], c["name"], c["tags"]) for i, c in contacts.items()} == SAMPLES


def test_the_endpoints_of_the_sandbox_need_a_token(app):
    contact = f"/sandbox/contacts/{next(iter(SAMPLES))}"
    for method, path in [
        ("GET", "/sandbox/requests"), ("DELETE", "/sandbox/requests"), ("POST", "/sandbox/reset"),
        ("GET", "/sandbox/faults"), ("PUT", "/sandbox/faults"), ("DELETE", "/sandbox/faults"),
        ("PUT", contact), ("DELETE", contact),
    ]:  # fmt: skip
        response = Developer(app, "unknown")(method, path, {"status": 500})
        assert_refused(response, 401, "Unauthenticated.")
    assert Developer(app, "sandbox").contacts().keys() == SAMPLES.keys()


def test_qyvo_token_is_another_name_of_sandbox(make_app):
    app = make_app(sandbox=True, QYVO_TOKEN="s3.cret")
    Developer(app, "s3.cret").update({"phone": PHONE, "name": "Written by the one"})
    assert Developer(app, "sandbox").name() == "Written by the one"
    Developer(app, "s3.cret").inject(status=503)
    assert Developer(app, "sandbox").me().status_code == 503
    for token in ("s3xcret", "s3.cret2", "s3.cret-a"):
        assert Developer(app, token).me().status_code == 401
    assert Developer(app, "sandbox-a").me().status_code == 200


def test_qyvo_token_is_never_shown_on_page_terminal_or_log(tmp_path):
    secret = "s3.cret"
    with serving(tmp_path, "--sandbox", QYVO_TOKEN=secret) as server:
        owner = Developer(server.url, secret)
        assert owner.update({"phone": PHONE}).status_code == 200
        assert owner("GET", "/v1/nowhere").status_code == 404
        shown = [
            owner("GET", path, headers={"Authorization": ""}).text
            for path in ("/", "/?request=1", f"/?contact={next(iter(SAMPLES))}")
        ]
        shown += [owner.me().text, owner("POST", "/sandbox/reset", b"x").text]
        shown += [entry["response_body"]["message"] for entry in owner.journal(status=404)]
        log_line(server, "/sandbox/reset")
        assert server.stop() == 0
        shown += [server.ready, server.process.stdout.read(), server.log()]
        assert all(secret not in text for text in shown)
        assert "Bearer sandbox" in shown[-2]
        assert all(secret.encode() not in file.read_bytes() for file in tmp_path.glob("*.db*"))


# Responses


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sandbox/reset"),
        ("DELETE", "/sandbox/requests"),
        ("DELETE", "/sandbox/faults"),
        ("DELETE", f"/sandbox/contacts/{next(iter(SAMPLES))}"),
    ],
)
def test_a_204_has_neither_a_body_nor_a_content_type(me, method, path):
    response = me(method, path)
    assert (response.status_code, response.data) == (204, b"")
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize(
    "query", ["status=abc", "request=x", "status=1.5", "q=" + "x" * 300, f"request={10**50}"]
)
def test_an_address_that_was_typed_wrong_shows_a_person_the_page(me, query):
    response = me("GET", f"/?{query}")
    assert (response.status_code, response.content_type.partition(";")[0]) == (200, "text/html")


# Hosts and origins


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1:8000",
        "127.0.0.2:80",
        "[::1]:9",
        "[::ffff:127.0.0.1]:80",
        "LOCALHOST:80",
    ],
)
def test_the_sandbox_responds_to_the_names_of_loopback(me, host):
    assert me("GET", "/v1/me", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "10.0.0.1",
        "[::ffff:10.0.0.1]",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/v1/me", "/sandbox/requests", "/inspector/inspector.js"])
def test_the_sandbox_responds_to_no_other_name(me, host, path):
    response = me("GET", path, headers={"Host": host})
    assert_refused(response, 403)
    assert "--allow-host" in response.json["error"]


def test_on_loopback_allow_host_adds_exactly_these_names(tmp_path):
    names = ("--allow-host", "host.docker.internal", "--allow-host", "Web")
    with serving(tmp_path, "--sandbox", *names) as server:
        for host, status in {
            "host.docker.internal:8000": 200,
            "web": 200,
            "127.0.0.1": 200,
            "docker.internal": 403,
            "a.host.docker.internal": 403,
            "web2": 403,
        }.items():
            assert post(server.url, {"phone": PHONE}, "sandbox", Host=host).status_code == status
        own = {"Host": "web:80", "Origin": "http://web:80"}
        assert post(server.url, {"phone": PHONE}, "sandbox", **own).status_code == 200
        foreign = {"Host": "web:80", "Origin": "http://host.docker.internal"}
        assert post(server.url, {"phone": PHONE}, "sandbox", **foreign).status_code == 403


def test_beyond_loopback_it_responds_to_every_name_and_warns_of_that_in_one_line(tmp_path):
    with serving(tmp_path, "--sandbox", "--host", "0.0.0.0") as server:
        url = server.url
        assert post(url, {"phone": PHONE}, "sandbox", Host="box.example").status_code == 200
        warning = "anyone who can reach this port can read and change everything"
        assert [line for line in server.log().splitlines() if warning in line]


def test_beyond_loopback_with_allow_host_it_responds_to_loopback_and_that_name_alone(tmp_path):
    options = ("--sandbox", "--host", "0.0.0.0", "--allow-host", "box.example")
    with serving(tmp_path, *options) as server:
        url = server.url
        for host, status in {"box.example": 200, "localhost": 200, "10.0.0.1": 403}.items():
            assert post(url, {"phone": PHONE}, "sandbox", Host=host).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": ""},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:3000.evil.example"},
        {"Origin": "http://localhost@evil.example"},
        {"Origin": "http://127.0.0.2:3000"},
        {"Origin": "http://app.localhost:3000"},
        {"Origin": "file://localhost"},
        {"Origin": "null", "Host": "null"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", UPDATE),
        ("POST", "/sandbox/reset"),
        ("PUT", "/sandbox/contacts/0197a1c0-5e00-7000-8000-000000000001"),
        ("DELETE", "/sandbox/contacts/0197a1c0-5e00-7000-8000-000000000001"),
    ],
)
def test_no_page_of_another_site_may_change_anything(me, headers, method, path):
    before = me.contacts()
    assert_refused(me(method, path, {"phone": PHONE, "name": "x"}, headers=headers), 403)
    assert me.contacts() == before


LOOPBACK_ORIGINS = [
    "http://localhost:5173",
    "https://localhost",
    "http://127.0.0.1:3000",
    "http://[::1]:8080",
]


@pytest.mark.parametrize("origin", LOOPBACK_ORIGINS)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin"])
def test_a_page_on_loopback_is_of_this_machine_whatever_its_port_and_the_host(me, origin, site):
    for host in ("localhost", "127.0.0.1:8000"):
        headers = {"Origin": origin, "Sec-Fetch-Site": site, "Host": host}
        assert me.update({"phone": PHONE, "name": host}, headers=headers).status_code == 200
        assert me.name() == host
    headers["Host"] = "evil.example"
    assert_refused(me.update({"phone": PHONE}, headers=headers), 403)


@pytest.mark.parametrize("origin", LOOPBACK_ORIGINS)
def test_there_are_no_cors_headers(me, origin):
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    responses = [
        me("OPTIONS", UPDATE, headers=preflight),
        me.update({"phone": PHONE}, headers={"Origin": origin}),
        me("GET", "/", headers={"Origin": origin}),
    ]
    for response in responses:
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]
    assert responses[0].status_code == 405


def test_the_sandboxs_own_page_may(me):
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert me("POST", "/sandbox/reset", headers=own).status_code == 204


def test_it_follows_every_rule_that_conform_checks(tmp_path):
    command = [sys.executable, "-m", "conform", "--phone", PHONE, "--rate", "1000000", "--yes"]
    with serving(tmp_path / "served", "--sandbox") as server:
        env = environment(tmp_path, QYVO_TOKEN="sandbox", XDG_STATE_HOME=str(tmp_path))
        done = subprocess.run(
            [*command, server.url], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " rules: 0 different, " in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", ["http://host", "host:8000", "", "a b", "*"])
def test_what_is_no_host_s_name_stops_the_start(tmp_path, name):
    env = environment(tmp_path / "sandbox.db")
    done = flask("serve", "--sandbox", "--port", "0", "--allow-host", name, env=env)
    assert done.returncode == 2
    assert "pass the name alone, such as host.docker.internal." in done.stderr


def test_an_allowed_address_of_ipv6_is_recognised_in_brackets(tmp_path):
    with serving(tmp_path, "--sandbox", "--allow-host", "fd00::1") as server:
        for host, status in {"[fd00::1]:80": 200, "fd00::1": 403, "127.0.0.1]": 403}.items():
            response = post(server.url, {"phone": PHONE}, "sandbox", Host=host)
            assert response.status_code == status
