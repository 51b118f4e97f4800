"""The OpenAPI document is valid and whole, and says what is so."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
import schemathesis

from tests.api import Api, assert_refused
from tests.documented import DOCUMENT, assert_documented, resolved
from tests.harness import ROOT, Server
from tq.errors import all_errors
from tq.model import MAX_LIMIT
from tq.web import ROUTES
from tq.web.openapi import PATH, errors_of

OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_it_is_openapi() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    broken = {**DOCUMENT, "paths": {"/queues": {"get": {"responses": 5}}}}
    with pytest.raises(jsonschema_rs.ValidationError):
        schemathesis.openapi.from_dict(broken).validate()


def test_every_schema_is_one() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def test_every_route_is_in_it_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert len(described) == len(ROUTES)


def test_every_reference_leads_somewhere() -> None:
    def follow(part: Any) -> int:
        if isinstance(part, list):
            return sum(map(follow, part))
        if not isinstance(part, dict):
            return 0
        if "$ref" in part:
            assert resolved(part)
        return ("$ref" in part) + sum(map(follow, part.values()))

    assert follow(DOCUMENT) > 100


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_says_what_it_is(path: str, method: str, operation: Any) -> None:
    names = [other["operationId"] for methods in DOCUMENT["paths"].values() for other in methods.values()]
    assert names.count(operation["operationId"]) == 1
    assert operation["summary"].endswith(".")
    assert any(int(status) < 300 for status in operation["responses"])
    variables = {part["name"] for part in operation["parameters"] if part["in"] == "path"}
    assert variables == {segment[1:-1] for segment in path.split("/") if segment.startswith("{")}
    if method in ("get", "delete"):
        assert "requestBody" not in operation


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_error_that_is_named_exists_with_its_status(path: str, method: str, operation: Any) -> None:
    known = {error.code: error.status for error in all_errors()}
    problems = {status: resolved(part) for status, part in operation["responses"].items() if int(status) >= 400}
    assert {"400", "413", "415", "431", "500"} <= problems.keys()
    for status, problem in problems.items():
        for code in problem["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"]:
            assert known[code] == int(status)


def test_every_error_of_the_tree_is_some_operation_s() -> None:
    """But for those that are of no route, because there is none at the path or for the method, and one of SQS alone."""
    named = {error.code for route in ROUTES for error in errors_of(route)}
    assert {error.code for error in all_errors()} - named == {
        "not_found",
        "method_not_allowed",
        "not_a_receipt",
        "lease_too_long",
    }


def test_the_documentation_names_every_status_and_code() -> None:
    text = (ROOT / "docs/api.md").read_text()
    for route in ROUTES:
        for error in errors_of(route):
            assert f"| {error.status} | `{error.code}` |" in text


def test_it_is_served_as_it_is_and_again_only_when_it_is_another(server: Server) -> None:
    first = server.request("GET", PATH)
    assert (first.status, first.headers["Content-Type"], first.json) == (200, "application/json", DOCUMENT)
    assert first.headers["Cache-Control"] == "no-cache"
    tag = first.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = server.request("GET", PATH, headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers.keys().isdisjoint({"Content-Type", "Content-Length"})
    assert server.request("GET", PATH, headers={"If-None-Match": '"other"'}).status == 200
    assert server.request("HEAD", PATH).headers["ETag"] == tag


# --- what is checked of each answer in the tests of the API ---------------------------------


@pytest.mark.parametrize(
    ("status", "media_type", "body"),
    [
        (418, "application/json", {}),
        (200, "application/json", {"purged": "1"}),
        (200, "application/json", {"purged": 1, "more": 1}),
        (200, "application/problem+json", {"purged": 1}),
        (200, "application/x-ndjson", {"purged": 1}),
        (404, "application/problem+json", {"code": "queue_not_found"}),
    ],
)
def test_what_is_not_documented_is_noticed(status: int, media_type: str, body: Any) -> None:
    right = json.dumps({"purged": 1}).encode()
    assert_documented("DELETE", "/queues/a/messages?x=1", 200, "application/json", right)
    with pytest.raises((AssertionError, jsonschema_rs.ValidationError)):
        assert_documented("DELETE", "/queues/a/messages", status, media_type, json.dumps(body).encode())


def test_a_code_of_another_operation_is_noticed() -> None:
    body = {"type": "about:blank", "title": "", "status": 409, "code": "in_flight", "detail": ""}
    assert_documented("DELETE", "/queues/a/messages/1", 409, "application/problem+json", json.dumps(body).encode())
    with pytest.raises(jsonschema_rs.ValidationError):
        assert_documented("DELETE", "/queues/a", 409, "application/problem+json", json.dumps(body).encode())


# --- what random requests have found ---------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("setting", ["max_messages", "max_bytes"])
async def test_a_limit_that_no_record_can_hold_is_refused(api: Api, setting: str) -> None:
    assert (await api("PUT", "/queues/a", {setting: MAX_LIMIT})).code == 201
    for method, body in (("PUT", {setting: MAX_LIMIT + 1}), ("PATCH", {setting: 1 << 64})):
        assert_refused(await api(method, "/queues/a", body), "invalid_request", f"$.{setting}")
