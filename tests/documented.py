"""Whether an answer is one that the server's OpenAPI document tells of."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema_rs
import msgspec

from tq.errors import TqError
from tq.web import ROUTES
from tq.web.openapi import describe
from tq.web.router import Router

DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(describe(ROUTES)))


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """The part of the document, or what it refers to."""
    if "$ref" not in part:
        return part
    _, *names = part["$ref"].split("/")
    found: Any = DOCUMENT
    for name in names:
        found = found[name]
    return found


@cache
def validator(method: str, path: str, status: str, media_type: str) -> Any:
    response = resolved(DOCUMENT["paths"][path][method]["responses"][status])
    schema = response["content"][media_type]["schema"]
    return jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})


def assert_documented(method: str, target: str, status: int, media_type: str, body: bytes) -> None:
    """Status and media type are documented for the operation, and a JSON body has the schema of the status."""
    try:
        route = Router(ROUTES).find(target.partition("?")[0])[0].route(method)
    except TqError:
        return  # there is no such operation
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    assert str(status) in operation["responses"], f"{method} {route.path} is not said to answer {status}"
    if not body:
        return
    content = resolved(operation["responses"][str(status)])["content"]
    assert {media_type, "*/*"} & content.keys(), f"{method} {route.path} is not said to answer {media_type}"
    if media_type in ("application/json", "application/problem+json"):
        validator(route.method.lower(), route.path, str(status), media_type).validate(json.loads(body))
