"""The OpenAPI document: valid, complete, true to the service, with examples that are real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import SECONDS, TOKEN, connection, json_response

ENDPOINTS = {
    "/actions/update-contact",
    "/actions/create-contact",
    "/actions/get-contact",
    "/actions/search-contacts",
    "/actions/add-tag",
    "/actions/remove-tag",
    "/me",
    "/openapi.json",
}
STATUSES = {path: 201 if path.endswith("create-contact") else 200 for path in ENDPOINTS}
NODE_TOOLS = [
    "@usebruno/cli@4.1.0",
    "openapi-to-postmanv2@6.3.3",
    "newman@6.2.2",
    "openapi-typescript@7.13.0",
    "typescript@5.9.3",
]
USE_OF_THE_CLIENT = """
import type { components } from "./client";
type Schemas = components["schemas"];
const update: Schemas["UpdateContact"] = { phone: "+14155550123", email: "", metadata: { a: 1 } };
// @ts-expect-error: an email is a string
const wrong: Schemas["UpdateContact"] = { email: 1 };
// @ts-expect-error: the phone is required
const less: Schemas["CreateContact"] = { name: "Noor" };
export const last = (contact: Schemas["Contact"]): string | null => contact.last_message_at;
"""


@pytest.fixture
def document(client):
    return client.get("/api/v1/openapi.json").json


def servers(client, base="/api/v1", **request):
    """The URLs of the servers in the document, as somebody finds it by this request."""
    response = client.get(f"{base}/openapi.json", **request)
    assert response.status_code == 200
    return [server["url"] for server in response.json["servers"]]


def operations(document):
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def validate(response, schema, document):
    jsonschema = pytest.importorskip("jsonschema", reason="compares responses with the document")
    jsonschema.validate(response, {**schema, "components": document["components"]})


def test_needs_no_token_and_is_the_same_under_both_base_paths(client):
    response = client.get("/api/v1/openapi.json")
    assert response.status_code == 200
    assert response.json["openapi"] == "3.1.0"
    assert client.get("/v1/openapi.json").data == response.data


def test_is_valid(document):
    validator = pytest.importorskip("openapi_spec_validator", reason="validates the document")
    validator.validate(document)


def test_describes_every_endpoint(document):
    assert document["paths"].keys() == ENDPOINTS


def test_the_servers_are_urls_with_the_requests_host(client):
    for host in ("127.0.0.1:8000", "[::1]:8000", "contacts.example.com"):
        expected = [f"http://{host}/api/v1", f"http://{host}/v1"]
        assert servers(client, headers={"Host": host}) == expected
        assert servers(client, "/v1", headers={"Host": host}) == expected
    mounted = servers(
        client, headers={"Host": "example.com"}, environ_overrides={"SCRIPT_NAME": "/c"}
    )
    assert mounted == ["http://example.com/c/api/v1", "http://example.com/c/v1"]


ODD_HOSTS = ["", "[:::]", "[::1", "a b", 'x"}],', "h\xe9", "a/b", "a@b", "a:70000", "a:b:c", "%00"]


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_an_odd_host_is_no_error_and_changes_nothing_but_the_servers(shared_server, host):
    with connection(shared_server.url) as http_connection:
        http_connection.putrequest("GET", "/api/v1/openapi.json", skip_host=True)
        http_connection.putheader("Host", host.encode("latin-1"))
        http_connection.endheaders()
        response = json_response(http_connection.getresponse())
    assert response.status_code == 200
    urls = [server["url"] for server in response.json.pop("servers")]
    assert urls in (["/api/v1", "/v1"], [f"http://{host}/api/v1", f"http://{host}/v1"])
    with urlopen(f"{shared_server.url}/api/v1/openapi.json") as usual:
        expected = json.load(usual)
    del expected["servers"]
    assert response.json == expected


def test_the_servers_are_https_if_the_trusted_proxy_says_so_and_nobody_else(make_app):
    client = make_app(CONTACTS_TRUSTED_PROXY="192.0.2.1").test_client()
    headers = {"Host": "example.com", "X-Forwarded-Proto": "https"}
    for peer, scheme in {
        "192.0.2.1": "https",
        "::ffff:192.0.2.1": "https",
        "192.0.2.2": "http",
    }.items():
        expected = [f"{scheme}://example.com/api/v1", f"{scheme}://example.com/v1"]
        assert servers(client, headers=headers, environ_base={"REMOTE_ADDR": peer}) == expected
    headers["X-Forwarded-Proto"] = "javascript"
    odd = servers(client, headers=headers, environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert odd == ["http://example.com/api/v1", "http://example.com/v1"]


def test_is_served_as_yaml_too_with_the_same_text(client):
    response = client.get("/api/v1/openapi.yaml")
    assert response.status_code == 200
    assert response.content_type == "application/yaml"
    assert response.data == client.get("/api/v1/openapi.json").data
    assert client.get("/v1/openapi.yaml").data == response.data
    yaml = pytest.importorskip("yaml", reason="reads the document as YAML")
    assert yaml.safe_load(response.data) == json.loads(response.data)


def test_every_endpoint_but_the_document_itself_needs_the_bearer_scheme(document):
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"}
    }
    for _, path, operation in operations(document):
        assert operation["security"] == ([] if path == "/openapi.json" else [{"bearer": []}])


def test_every_endpoint_documents_every_error_it_can_respond_with(document):
    every = {"401", "429", "500", "503"}
    with_body = every | {"400", "413", "415", "422"}
    expected = {
        "/me": every,
        "/openapi.json": {"500"},
        "/actions/create-contact": with_body,
        "/actions/search-contacts": with_body,
    }
    for _, path, operation in operations(document):
        errors = {status for status in operation["responses"] if status >= "400"}
        assert errors == expected.get(path, with_body | {"404"})


def test_each_request_example_works_and_its_response_has_the_documented_shape(make_app):
    client = make_app(sandbox=True).test_client()
    document = client.get("/api/v1/openapi.json").json
    for method, path, operation in operations(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        response = client.open(
            "/api/v1" + path,
            method=method,
            headers={"Authorization": "Bearer sandbox"},
            json=body.get("example"),
        )
        [status] = [status for status in operation["responses"] if status < "400"]
        assert response.status_code == int(status)
        assert response.json  # something is found
        schema = operation["responses"][status]["content"]["application/json"]["schema"]
        validate(response.json, schema, document)


def test_each_body_and_each_of_its_properties_has_an_example_that_is_valid(document):
    for _, _, operation in operations(document):
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            validate(content["example"], content["schema"], document)
            schema = document["components"]["schemas"][content["schema"]["$ref"].split("/")[-1]]
            assert schema["default"] == content["example"]
            for described in schema["properties"].values():
                [example] = described["examples"]
                validate(example, described, document)


def test_errors_have_the_documented_shape(client, document):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    responses = document["components"]["responses"]
    for name, request in {
        "Unauthenticated": {"json": {}},
        "Invalid": {"json": {}, "headers": headers},
        "NotJSON": {"data": "{}", "headers": headers},
        "ContactNotFound": {"json": {"phone": "+33639980199"}, "headers": headers},
    }.items():
        schema = responses[name]["content"]["application/json"]["schema"]
        response = client.post("/v1/actions/update-contact", **request)
        validate(response.json, schema, document)
        documented = responses[name]["headers"].items()
        assert {h for h, each in documented if each["required"]} <= set(response.headers.keys())


@pytest.mark.slow
def test_schemathesis_finds_nothing(sandbox, tmp_path):
    pytest.importorskip("schemathesis", reason="holds the service to its document")
    folder = Path(__file__).parent / "openapi"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", folder / "schemathesis.toml"),
            *("run", f"{sandbox.url}/api/v1/openapi.json"),
            *("--header", "Authorization: Bearer sandbox-schemathesis"),
            *("--checks", "all", "--seed", "1", "--max-examples", "40"),
            "--no-color",
        ],
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": str(folder / "formats.py")},
        capture_output=True,
        text=True,
        timeout=6 * SECONDS,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    endpoints = len(ENDPOINTS) - 1  # it leaves out the document's own
    assert f"Tested: {endpoints}\n" in run.stdout, run.stdout


@pytest.fixture(scope="module")
def node_tools(made_once):
    """Runs a command of the packages that read the document for people who use Node."""
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("npm is not installed")

    def install(folder):
        folder.mkdir()
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder]
        subprocess.run([*command, *NODE_TOOLS], check=True, capture_output=True, timeout=300)

    folder = made_once("node-tools", install)

    def run(command, *args, **options):
        command = [folder / "node_modules" / ".bin" / command, *args]
        options |= {"env": os.environ | {"NO_PROXY": "*"}, "timeout": 3 * SECONDS}
        return subprocess.run(command, capture_output=True, text=True, **options)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("values_from", ["Schema", "Example"])
@pytest.mark.parametrize("name", ["openapi.json", "openapi.yaml"])
def test_every_request_that_postman_makes_of_it_succeeds(
    sandbox, node_tools, client, tmp_path, name, values_from
):
    with urlopen(f"{sandbox.url}/api/v1/{name}") as response:
        (tmp_path / name).write_bytes(response.read())
    collection, report = tmp_path / "collection.json", tmp_path / "report.json"
    options = f"parametersResolution={values_from}"
    run = node_tools("openapi2postmanv2", "-s", tmp_path / name, "-o", collection, "-O", options)
    assert run.returncode == 0, run.stdout + run.stderr
    token = f"sandbox-postman-{name[-4:]}-{values_from}"
    reporting = ("--reporters", "json", "--reporter-json-export", report)
    node_tools("newman", "run", collection, "--env-var", f"bearerToken={token}", *reporting)
    executions = json.loads(report.read_text())["run"]["executions"]
    assert {
        "/" + "/".join(execution["request"]["url"]["path"][2:]): execution["response"]["code"]
        for execution in executions
    } == STATUSES


@pytest.mark.slow
def test_every_request_that_bruno_makes_of_it_succeeds(sandbox, node_tools, tmp_path):
    source = f"{sandbox.url}/api/v1/openapi.json"
    run = node_tools("bru", "import", "openapi", "-s", source, "-o", tmp_path, "-n", "imported")
    assert run.returncode == 0, run.stdout + run.stderr
    variables = ("--env", "Environment 1", "--env-var", "token=sandbox-bruno")
    reporting = ("--reporter-json", tmp_path / "report.json")
    node_tools("bru", "run", "-r", *variables, *reporting, cwd=tmp_path / "imported")
    [report] = json.loads((tmp_path / "report.json").read_text())
    assert {
        result["request"]["url"].removeprefix(f"{sandbox.url}/api/v1"): result["response"]["status"]
        for result in report["results"]
    } == STATUSES


@pytest.mark.slow
def test_a_typed_client_for_typescript_is_made_of_it_and_knows_every_field(
    node_tools, document, tmp_path
):
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    made = tmp_path / "client.ts"
    run = node_tools("openapi-typescript", tmp_path / "openapi.json", "-o", made)
    assert run.returncode == 0, run.stdout + run.stderr
    (tmp_path / "use.ts").write_text(USE_OF_THE_CLIENT)
    run = node_tools("tsc", "--noEmit", "--strict", "--skipLibCheck", tmp_path / "use.ts")
    assert run.returncode == 0, run.stdout + run.stderr


def test_is_json_that_a_file_can_hold(document, tmp_path):
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    assert json.loads((tmp_path / "openapi.json").read_text()) == document
