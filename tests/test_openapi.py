"""The OpenAPI document: valid, complete, true to the service, with examples that are real."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SECONDS, TOKEN

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


@pytest.fixture
def document(client):
    return client.get("/api/v1/openapi.json").json


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
    assert [server["url"] for server in document["servers"]] == ["/api/v1", "/v1"]


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
        schema = operation["responses"][status]["content"]["application/json"]["schema"]
        validate(response.json, schema, document)


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
        headers = responses[name]["headers"]
        assert {h for h in headers if headers[h]["required"]} <= set(response.headers.keys())


def test_schemathesis_finds_nothing_but_phone_numbers_that_cannot_exist(sandbox, tmp_path):
    pytest.importorskip("schemathesis", reason="holds the service to its document")
    config = Path(__file__).parent / "openapi" / "schemathesis.toml"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
            *("run", f"{sandbox.url}/api/v1/openapi.json"),
            *("--header", "Authorization: Bearer sandbox-schemathesis"),
            *("--checks", "all", "--seed", "1", "--max-examples", "40"),
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=6 * SECONDS,
    )
    _, _, failures = run.stdout.partition(" FAILURES ")
    checks = re.findall(r"^- (.*)", failures, re.MULTILINE)
    bodies = [json.loads(body) for body in re.findall(r"^ *`({.*})`$", failures, re.MULTILINE)]
    assert set(checks) <= {"ST202 Schema-valid request rejected"}, run.stdout
    assert len(bodies) == len(checks)
    for body in bodies:
        [[field, [text]]] = body["errors"].items()
        assert (field, text.partition(":")[0]) == ("phone", "Can't be a phone number")
    endpoints = len(ENDPOINTS) - 1  # it leaves out the document's own
    assert f"Tested: {endpoints}\n" in run.stdout, run.stdout + run.stderr


def test_the_pattern_of_a_phone_meets_every_usual_spelling_and_no_number_without_a_plus(document):
    pattern = document["components"]["schemas"]["CreateContact"]["properties"]["phone"]["pattern"]
    for phone in (
        "+14155550123",
        " +1 (415) 555-0123",
        "tel:+33-6-39-98-01-01",
        "+44.20.7946.0958",
    ):
        assert re.search(pattern, phone)
    for phone in ("0639980101", "+1415555CALL", "+1", "", "+14155550123 ext. 5"):
        assert not re.search(pattern, phone)


def test_is_json_that_a_file_can_hold(document, tmp_path):
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    assert json.loads((tmp_path / "openapi.json").read_text()) == document
