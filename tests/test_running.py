"""Running it for years: behind a proxy, under systemd."""

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import (
    MIB,
    PHONE,
    ROOT,
    SECONDS,
    TOKEN,
    UPDATE,
    assert_refused,
    copy_of_the_project,
    deployed,
    environment,
    flask,
    json_response,
    log_line,
    post,
    serving,
)
from pages import examples

DEPLOY = ROOT / "deploy"
HOST = "contacts.example.com"


def needs(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


@pytest.fixture
def proxied(tmp_path):
    """A deployment that trusts the proxy at 127.0.0.1."""
    with deployed(tmp_path, CONTACTS_TRUSTED_PROXY="127.0.0.1") as server:
        yield server


# Whom the log names


def address_in_log(server, forwarded):
    before = server.log()
    assert post(server.url, {"phone": PHONE}, **{"X-Forwarded-For": forwarded}).status_code == 200
    return log_line(server, " 200 ", before).split(" ")[6:]


def test_a_forwarded_address_is_believed_from_the_trusted_proxy_alone(tmp_path, proxied, server):
    assert address_in_log(server, "203.0.113.9") == ["127.0.0.1\n"]
    assert address_in_log(proxied, "198.51.100.1, 203.0.113.9") == ["203.0.113.9\n"]


@pytest.mark.parametrize("proxy", ["192.0.2.1", "::1"])
def test_another_address_than_the_trusted_proxys_is_not_believed(tmp_path, proxy):
    with serving(tmp_path, "--sandbox", CONTACTS_TRUSTED_PROXY=proxy) as server:
        fields = {"X-Forwarded-For": "203.0.113.9"}
        assert post(server.url, {"phone": PHONE}, "sandbox", **fields).status_code == 200
        assert log_line(server, " 200 ").endswith(" 127.0.0.1\n")


NO_ADDRESSES = ["", ",", '"', '"203.0.113.9', "[::1", ":.", ":80", "unknown", "203.0.113.9 forged",
                "fe80::1%forged", "é", "1" * 5000, "2026-01-01 GET /forged 200"]  # fmt: skip


def test_a_forwarded_address_that_is_none_does_no_harm(proxied, subtests):
    for forwarded in NO_ADDRESSES:
        with subtests.test(ascii(forwarded)):
            before = proxied.log()
            [address] = address_in_log(proxied, forwarded.encode("latin-1"))
            assert re.fullmatch(r"[0-9a-f.:]{2,45}\n", address)
            assert proxied.log().removeprefix(before).count("\n") == 1


def test_a_forwarded_ipv6_address_is_logged(proxied):
    assert address_in_log(proxied, "2001:db8::7") == ["2001:db8::7\n"]


def test_a_trusted_proxy_that_is_no_address_stops_the_start(tmp_path):
    env = environment(tmp_path / "contacts.db", CONTACTS_TRUSTED_PROXY="nginx")
    result = flask("serve", "--port", "0", env=env)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: CONTACTS_TRUSTED_PROXY: ")
    assert result.stderr.count("\n") == 1


def warnings(directory, host, **settings):
    """What `flask serve` says on stderr until it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "serve", "--port", "0", "--host", host],
        cwd=ROOT,
        env=environment(directory / "contacts.db", **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline().startswith("Serving on ")
        process.terminate()
        return process.stderr.read()


def test_beyond_loopback_without_a_proxy_it_warns_that_there_is_no_tls(tmp_path):
    warning = warnings(tmp_path, "0.0.0.0")
    assert "without TLS" in warning
    assert "CONTACTS_TRUSTED_PROXY" in warning
    assert warning.count("\n") == 1
    assert warnings(tmp_path, "127.0.0.2") == ""
    assert warnings(tmp_path, "localhost") == ""
    assert warnings(tmp_path, "0.0.0.0", CONTACTS_TRUSTED_PROXY="192.0.2.1") == ""


# Proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A throw-away certificate for HOST, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


def replaced(text, replacements):
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(folder, port, server_url, certificate):
    """Debian's nginx with deploy/nginx.conf, but for ports and certificate."""
    site = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        {
            "    listen 443 ssl;\n": f"    listen 127.0.0.1:{port} ssl;\n",
            "    listen [::]:443 ssl;\n": "",
            f"/etc/letsencrypt/live/{HOST}/fullchain.pem": str(certificate / "cert.pem"),
            f"/etc/letsencrypt/live/{HOST}/privkey.pem": str(certificate / "key.pem"),
            "http://127.0.0.1:8000": server_url,
        },
    )
    (folder / "site.conf").write_text(site)
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in paths)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}"
        f" http {{ {temporary} include {folder}/site.conf; }}"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def caddy(folder, port, server_url, certificate):
    """Debian's Caddy with deploy/Caddyfile, but for ports and certificate."""
    tls = f"\ttls {certificate}/cert.pem {certificate}/key.pem\n"
    site = replaced(
        (DEPLOY / "Caddyfile").read_text(),
        {
            f"{HOST} {{\n": f"https://{HOST}:{port} {{\n\tbind 127.0.0.1\n{tls}",
            "127.0.0.1:8000": server_url.removeprefix("http://"),
        },
    )
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + site)
    return ["caddy", "run", "--config", str(folder / "Caddyfile")]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(
    params=[
        pytest.param(nginx, marks=needs("nginx", "openssl")),
        pytest.param(caddy, marks=needs("caddy", "openssl")),
    ],
    ids=["nginx", "caddy"],
)
def call_through_proxy(request, tmp_path, proxied, certificate):
    """Calls update-contact over TLS through the proxy, as a client at 127.0.0.2."""
    folder, port = tmp_path / "proxy", free_port()
    folder.mkdir()
    command = request.param(folder, port, proxied.url, certificate)
    context = ssl.create_default_context(cafile=certificate / "cert.pem")

    class Connection(http.client.HTTPSConnection):
        def connect(self):
            plain = socket.create_connection(("127.0.0.1", port), SECONDS, ("127.0.0.2", 0))
            self.sock = context.wrap_socket(plain, server_hostname=HOST)

    def call(body, **headers):
        with closing(Connection(HOST)) as connection:
            fields = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            connection.request("POST", UPDATE, body, fields | headers)
            return json_response(connection.getresponse())

    with (folder / "output").open("w") as output:
        home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        process = subprocess.Popen(command, env=os.environ | home, stdout=output, stderr=output)
    with process:
        try:
            wait_for(port, process, folder / "output")
            yield call
        finally:
            process.terminate()


def wait_for(port, process, output):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(output.read_text())


def test_behind_a_proxy_a_call_works_and_the_log_has_the_clients_address(
    call_through_proxy, proxied
):
    body = json.dumps({"phone": PHONE, "name": "Proxied"})
    response = call_through_proxy(body, **{"X-Forwarded-For": "203.0.113.9"})
    assert (response.status_code, response.json["name"]) == (200, "Proxied")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Strict-Transport-Security"]
    assert log_line(proxied, " 200 ").endswith(" QYVO_TOKEN 127.0.0.2\n")


def test_errors_have_their_shape_behind_a_proxy_too(call_through_proxy, proxied):
    assert_refused(call_through_proxy("{}", Authorization="Bearer wrong"), 401)
    for size in (MIB + 1, 3 * MIB):
        assert_refused(call_through_proxy(b" " * size), 413)
        assert_refused(call_through_proxy(iter([b" " * size])), 413)  # chunked
    assert call_through_proxy(iter([json.dumps({"phone": PHONE}).encode()])).status_code == 200
    assert proxied.stop() == 0
    response = call_through_proxy("{}")
    assert_refused(response, 503)
    assert response.headers["Retry-After"]


# systemd


@needs("systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path):
    executable = Path(sys.executable).with_name("flask")
    unit = replaced(
        (DEPLOY / "qyvo-standin.service").read_text(),
        {"/opt/qyvo-standin/.venv/bin/flask": str(executable), "/opt/qyvo-standin": str(ROOT)},
    )
    (tmp_path / "qyvo-standin.service").write_text(unit)

    def analyze(*arguments):
        return subprocess.run(
            ["systemd-analyze", *arguments, tmp_path / "qyvo-standin.service"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    verified = analyze("verify", "--man=no")
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    exposure = analyze("security", "--offline=yes", "--threshold=15", "--no-pager")
    assert exposure.returncode == 0, exposure.stdout


SUDO = """#!/bin/sh
[ "$1" = -u ] && shift 2
exec env "$@"
"""


@needs("make")
def test_the_documented_commands_install_it(tmp_path):
    """Below a folder that stands for /, and with programs that change the system left out."""
    project = tmp_path / "opt" / "qyvo-standin"
    for folder in (project / ".venv", tmp_path / "bin", tmp_path / "etc/systemd/system",
                   tmp_path / "etc/nginx/sites-enabled", tmp_path / "etc/caddy",
                   tmp_path / "var/lib/qyvo-standin"):  # fmt: skip
        folder.mkdir(parents=True)
    copy_of_the_project(project)
    shutil.copytree(DEPLOY, project / "deploy")
    (project / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (project / ".venv/runs").touch()
    for name in ("useradd", "systemctl", "nginx"):
        (tmp_path / "bin" / name).write_text('#!/bin/sh\necho "$0" "$@" >&2\n')
    (tmp_path / "bin" / "sudo").write_text(SUDO)
    for program in (tmp_path / "bin").iterdir():
        program.chmod(0o755)
    run = [
        *examples("docs/operating.md#run-it-as-a-systemd-service"),
        *examples("docs/operating.md#nginx-in-front"),
        *examples("docs/operating.md#caddy-in-front"),
    ]
    script = "\n".join(example.text for example in run)
    for folder in ("/opt/", "/etc/", "/var/"):
        script = script.replace(folder, f"{tmp_path}{folder}")
    ran = subprocess.run(
        ["sh", "-e"],
        input=script,
        env=environment("unused") | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert f"systemctl enable --now {DEPLOY.joinpath('qyvo-standin.service').stem}" in ran.stderr
    for path in ("systemd/system/qyvo-standin.service", "nginx/sites-enabled/qyvo-standin"):
        assert (tmp_path / "etc" / path).is_file()
    assert (tmp_path / "etc/caddy/Caddyfile").is_file()
    token = ran.stdout.splitlines()[-1]
    database = tmp_path / "var/lib/qyvo-standin/contacts.db"
    with serving(tmp_path, CONTACTS_DATABASE=str(database)) as server:
        assert post(server.url, {"phone": PHONE}, token).status_code == 404
