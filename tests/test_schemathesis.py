"""A live server is asked all that its own description allows, and much that it does not, by Schemathesis.

Most calls are given something to find: a queue that exists, with messages in several states, and receipts that are
good.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from random import Random
from typing import Any

import msgpack
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core import NOT_SET
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi import checks

from tests.harness import Server
from tq.web import ROUTES
from tq.web.exchange import NoParameters, Route
from tq.web.formats import MSGPACK, NDJSON
from tq.web.openapi import PATH, describe

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.unsupported_method,
    checks.negative_data_rejection,
]
QUEUE, OTHER = "orders", "other"
STALE = "rAAAAAAkAAAAAAAAEAAAAAQ"
FORMATS = ["application/json", NDJSON, MSGPACK, "*/*", "image/png, */*;q=0.1", "nothing/known"]


def without_long_lists(value: Any) -> Any:
    """The document without bounds that take seconds to try; `test_formats` and `test_native` try them."""
    if isinstance(value, list):
        return [without_long_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: without_long_lists(item) for key, item in value.items() if key != "maxItems" or item <= 100}
    return value


DOCUMENT = json.loads(msgspec.json.encode(describe(ROUTES)))
SCHEMA = schemathesis.openapi.from_dict(without_long_lists(DOCUMENT))


def bounds(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


# --- media types that Schemathesis does not know ---------------------------------------


@schemathesis.serializer(NDJSON)
def to_lines(_: schemathesis.SerializationContext, value: Any) -> dict[str, Any]:
    return {"data": "\n".join(map(json.dumps, value if isinstance(value, list) else [value])).encode()}


@schemathesis.serializer(MSGPACK)
def to_msgpack(_: schemathesis.SerializationContext, value: Any) -> dict[str, Any]:
    return {"data": msgpack.packb(json.loads(json.dumps(value), parse_int=to_int))}


def to_int(digits: str) -> float:
    """Of what msgpack has for it."""
    return int(digits) if -(1 << 63) <= int(digits) < 1 << 64 else float(digits)


@schemathesis.deserializer(NDJSON)
def from_lines(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.deserializer(MSGPACK)
def from_msgpack(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    """Content that is bytes becomes text, for JSON schemas know no bytes."""
    return json.loads(json.dumps(msgpack.unpackb(response.content), default=bytes.hex))


# --- something to find -------------------------------------------------------------


class Stock:
    """A server with a queue that is filled again before each call that may get as far as that."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session = requests.Session()
        self._calls = 0
        self._is_spoilt = True  # the queues may be gone, or have other settings
        self._receipt, self._ready, self._move = STALE, "1", STALE
        self.seen: dict[str, set[int]] = defaultdict(set)

    def call(self, case: schemathesis.Case) -> None:
        do_not_wait(case)
        self._calls += 1
        chance = Random(self._calls)
        if chance.random() < 0.8:
            self._furnish(case, chance)
        self._is_spoilt |= case.method in ("PUT", "PATCH", "DELETE")
        response = case.call_and_validate(
            self._server.url,
            self._session,
            {"Accept": chance.choice(FORMATS)},
            CHECKS,
            excluded_checks=[checks.negative_data_rejection] if is_mistaken(case) else None,
        )
        self.seen[case.operation.label].add(response.status_code)

    def _furnish(self, case: schemathesis.Case, chance: Random) -> None:
        """Put what exists in the place of what was made up, unless it was made up to be wrong."""
        if not is_wrong(case, *ParameterLocation):
            self._fill(chance)
        if not is_wrong(case, ParameterLocation.PATH):
            found = {"queue": [QUEUE, QUEUE, QUEUE, OTHER], "id": [self._receipt, self._receipt, self._ready, STALE]}
            found["move"] = [self._move]
            for name in case.path_parameters:
                case.path_parameters[name] = chance.choice(found[name])
        if not is_wrong(case, ParameterLocation.BODY):
            case.body = furnished(case.body, self._receipt, chance)

    def _fill(self, chance: Random) -> None:
        """Have a good receipt, the id of a message that is ready, and delayed and blocked ones too."""
        if self._is_spoilt:
            for name in (QUEUE, OTHER):
                self._ask("PUT", f"/queues/{name}", json={})
            self._is_spoilt = False
        at = f"/queues/{QUEUE}/messages"
        options: tuple[dict[str, Any], ...] = ({}, {"delay": 60}, {"group": "g"}, {"group": "g"}, {})
        self._ready = str(self._ask("POST", at, json=[{"content": 1, **each} for each in options]).json()["ids"][-1])
        leased = self._ask("GET", f"{at}?visibility_timeout=60&max=1").json()["messages"]
        self._receipt = leased[0]["receipt"]
        moves = f"/queues/{QUEUE}/moves"
        running = [each for each in self._ask("GET", moves).json()["moves"] if each["status"] == "running"]
        move = running[0] if running else self._ask("POST", moves, json={"to": OTHER, "per_second": 1}).json()
        self._move = move["id"]
        if chance.random() < 0.3:
            self._ask("POST", f"{at}?priority=9", data=b"\xff", headers={"Content-Type": "image/png"})

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        response = self._session.request(method, self._server.url + path, **options)
        assert response.status_code in (200, 201), (method, path, response.content)
        return response


def is_wrong(case: schemathesis.Case, *places: ParameterLocation) -> bool:
    """Whether one of these parts of the request was made up to be refused."""
    return case.meta is not None and any(map(case.meta.is_negative_at, places))


def furnished(value: Any, receipt: str, chance: Random) -> Any:
    """The body with the names and receipts of what exists."""
    if isinstance(value, list):
        return [furnished(item, receipt, chance) for item in value]
    if not isinstance(value, dict):
        return value
    known = {
        "receipt": receipt,
        "receipts": [receipt],
        "queue": chance.choice([QUEUE, OTHER]),
        "queues": [OTHER, QUEUE],
        "to": OTHER,
        "name": chance.choice([QUEUE, value.get("name")]),
    }
    opaque = {name: value[name] for name in ("content", "headers") if name in value}
    return {key: known.get(key) or furnished(item, receipt, chance) for key, item in value.items()} | opaque


def is_mistaken(case: schemathesis.Case) -> bool:
    """Schemathesis may leave out a body that is optional, and take that for wrong."""
    return case.body is NOT_SET and is_wrong(case, ParameterLocation.BODY)


def do_not_wait(case: schemathesis.Case) -> None:
    """For a test that makes thousands of calls, 60 seconds are long."""
    for location, place in ((ParameterLocation.QUERY, case.query), (ParameterLocation.BODY, case.body)):
        if isinstance(place, dict) and "wait" in place and not is_wrong(case, location):
            place["wait"] = 0


@pytest.fixture(scope="module")
def stock() -> Iterator[Stock]:
    """In memory, where each command is applied twice to prove that it does the same."""
    with Server("memory:") as server:
        assert server.request("GET", PATH).json == DOCUMENT
        stock = Stock(server)
        yield stock
        assert server.stop() == 0
    for label, statuses in stock.seen.items():
        assert statuses & {200, 201, 204}, f"{label} never did what it is for, only {statuses}"


@SCHEMA.parametrize()
@bounds(10)
def test_an_operation_does_what_it_says(case: schemathesis.Case, stock: Stock) -> None:
    """At the bounds of all that its schema names, and at random."""
    stock.call(case)


def can_be_wrong(route: Route) -> bool:
    """Whether anything that the route takes has a wrong form."""
    return "{" in route.path or route.query is not NoParameters or bool(route.body or route.bodies)


AT_LENGTH = [
    pytest.param(route, mode, id=f"{route.method} {route.path} {mode.value}")
    for route in ROUTES
    for mode in GenerationMode
    if mode.is_positive or can_be_wrong(route)
]


@pytest.mark.slow
@pytest.mark.parametrize(("route", "mode"), AT_LENGTH)
def test_an_operation_does_what_it_says_at_length(route: Route, mode: GenerationMode, stock: Stock) -> None:
    @bounds(100)
    @given(SCHEMA[route.path][route.method].as_strategy(mode))
    def search(case: schemathesis.Case) -> None:
        stock.call(case)

    search()
