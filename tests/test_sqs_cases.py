"""The conformance suite: each case of the tables, in both protocols, on queues of both kinds."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests import (
    sqs_cases_addresses,
    sqs_cases_attributes,
    sqs_cases_messages,
    sqs_cases_moves,
    sqs_cases_queues,
    sqs_cases_receipts,
    sqs_cases_receives,
)
from tests.harness import ROOT
from tests.sqs_cases import ACCOUNT, ERRORS, NO_QUEUE, SEQUENCE, Case, Has, Refused, Step, filled, found
from tests.sqs_model import (
    ERROR_KINDS,
    MESSAGE_ATTRIBUTES,
    OPERATIONS,
    QUEUE_ATTRIBUTES,
    SHAPES,
    every_member,
    input_shape,
    output_shape,
    takes_queue_url,
    touched_members,
)
from tests.sqs_server import LocalServer
from tests.sqs_wire import Json, Query, Told, Wire

TABLES = (
    sqs_cases_addresses,
    sqs_cases_queues,
    sqs_cases_attributes,
    sqs_cases_messages,
    sqs_cases_receives,
    sqs_cases_receipts,
    sqs_cases_moves,
)
CASES = [case for table in TABLES for case in table.CASES]
AWAIT_SECONDS = 10

_numbers = count(1)


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[bool, int]]:
    """Of a server as it is by default, and of one that has the rules of 60 seconds."""
    servers = {False: LocalServer(), True: LocalServer(sqs_purge_seconds=60, sqs_recreate_seconds=60)}
    yield {is_strict: server.port for is_strict, server in servers.items()}
    for server in servers.values():
        server.close()


class Run:
    """One case under way."""

    def __init__(self, case: Case, kind: str, wire: Wire) -> None:
        self.is_fifo = kind == "f"
        self.wire = wire
        base, ending = f"q{next(_numbers):09d}", ".fifo" if self.is_fifo else ""
        host = f"http://127.0.0.1:{wire.port}"
        self.names = {
            "n": base,
            "x": ending,
            "name": base + ending,
            "host": host,
            "url": f"{host}/{ACCOUNT}/{base}{ending}",
            "arn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{base}{ending}",
        }
        if case.attributes is not None:
            self.do(Step("CreateQueue", {"QueueName": "$name", "Attributes": case.attributes}))

    def do(self, step: Step) -> None:
        given, answers = self._adapted(step)
        given, answers = filled(given, self.names), filled(answers, self.names)
        deadline = time.monotonic() + AWAIT_SECONDS
        told = self.wire.ask(step.operation, given)
        while step.is_awaited and told.output != answers and time.monotonic() < deadline:
            time.sleep(0.005)
            told = self.wire.ask(step.operation, given)
        if isinstance(answers, Refused):
            assert_refused(told, answers, self.wire.name)
        else:
            assert told.output == answers, told
        for name, path in step.keeps.items():
            self.names[name] = found(told.output, path)

    def _adapted(self, step: Step) -> tuple[dict[str, Any], Any]:
        """What a step means for the kind of the queue."""
        given, answers = dict(step.given), step.answers
        if takes_queue_url(step.operation):
            given.setdefault("QueueUrl", "$url")
        if not self.is_fifo:
            return given, answers
        if step.operation == "CreateQueue":
            given["Attributes"] = {"FifoQueue": "true", **given.get("Attributes", {})}
        elif step.operation == "SendMessage":
            given, answers = _for_fifo(given), _in_order(answers)
        elif step.operation == "SendMessageBatch" and isinstance(given.get("Entries"), list):
            given["Entries"] = [_for_fifo(entry) for entry in given["Entries"]]
            if isinstance(answers, dict) and "Successful" in answers:
                answers = {**answers, "Successful": [_in_order(each) for each in answers["Successful"]]}
        return given, answers


def _for_fifo(message: dict[str, Any]) -> dict[str, Any]:
    return {"MessageGroupId": "g", "MessageDeduplicationId": f"d{next(_numbers)}", **message}


def _in_order(answers: Any) -> Any:
    return {"SequenceNumber": SEQUENCE, **answers} if isinstance(answers, dict) else answers


def assert_refused(told: Told, refused: Refused, protocol: str) -> None:
    code, status, namespace = ERRORS[refused.kind]
    message = refused.message
    if protocol == "query" and refused.kind == "QueueDoesNotExist":
        message = "The specified queue does not exist for this wsdl version."
    assert told.output is None, told
    assert (told.code, told.message or None, told.status, told.blame) == (code, message, status, "Sender"), told
    if protocol == "json":
        assert told.kind == namespace + refused.kind


def runs() -> Iterator[Any]:
    for case in CASES:
        for kind in case.kinds:
            for protocol in (Json, Query):
                name = f"{case.name}-{'fifo' if kind == 'f' else 'standard'}-{protocol.name}"
                yield pytest.param(case, kind, protocol, id=name)


@pytest.mark.parametrize(("case", "kind", "protocol"), runs())
def test_case(case: Case, kind: str, protocol: type[Wire], ports: dict[bool, int]) -> None:
    wire = protocol(ports[case.is_strict])
    try:
        run = Run(case, kind, wire)
        for step in case.steps:
            run.do(step)
    finally:
        wire.close()


def test_no_two_cases_have_one_name() -> None:
    names = [f"{case.name} {kind}" for case in CASES for kind in case.kinds]
    assert sorted(set(names)) == sorted(names)


# --- completeness -------------------------------------------------------------

# What the service model has and no case touches, with the reason.
NEVER = {
    **{name: "tq does not encrypt" for name in ERROR_KINDS if name.startswith("Kms")},
    "MessageNotInflight": "the service answers 200 where a message is visible again",
    "InvalidIdFormat": "deprecated; it is part of ReceiptHandleIsInvalid",
    "InvalidSecurity": "plain HTTP will do",
    "RequestThrottled": "there is no limit of requests in a second; what is too much is a 503",
    "out MessageAttributeValue.StringListValues": "cannot be sent",
    "out MessageAttributeValue.BinaryListValues": "cannot be sent",
}


def _plain(answers: Any) -> Any:
    """What is expected, as lists and dicts."""
    if isinstance(answers, Has):
        return _plain(answers.items)
    if isinstance(answers, dict):
        return {name: _plain(each) for name, each in answers.items()}
    return [_plain(each) for each in answers] if isinstance(answers, list) else answers


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def test_every_part_of_the_service_model_is_in_a_case() -> None:
    steps = [step for case in CASES for step in case.steps]
    touched: set[str] = {step.operation for step in steps}
    wanted: set[str] = {*OPERATIONS, *ERROR_KINDS}
    for operation in OPERATIONS:
        wanted |= {f"in {member}" for member in every_member(input_shape(operation))}
        shape = output_shape(operation)
        wanted |= {f"out {member}" for member in every_member(shape)} if shape else set()
    for step in steps:
        given = {"QueueUrl": "$url", **step.given} if takes_queue_url(step.operation) else dict(step.given)
        touched |= {f"in {member}" for member in touched_members(input_shape(step.operation), given)}
        shape = output_shape(step.operation)
        if isinstance(step.answers, Refused):
            touched.add(step.answers.kind)
        elif shape:
            told = _plain(step.answers)
            if step.operation.startswith("SendMessage") and isinstance(told, dict):
                touched |= {f"out {shape}.SequenceNumber", "out SendMessageBatchResultEntry.SequenceNumber"}
            touched |= {f"out {member}" for member in touched_members(shape, told)}
    assert wanted - touched == NEVER.keys()


def test_every_attribute_is_in_a_case() -> None:
    steps = [step for case in CASES for step in case.steps]
    of_queues = [step for step in steps if "Queue" in step.operation]
    of_messages = [step for step in steps if step.operation == "ReceiveMessage"]
    for names, where in ((QUEUE_ATTRIBUTES, of_queues), (MESSAGE_ATTRIBUTES, of_messages)):
        found = {text for step in where for text in _texts([dict(step.given), _plain(step.answers)])}
        assert set(names) - found == set()


def test_every_operation_is_refused_a_queue_that_is_not_there() -> None:
    refused = {step.operation for case in CASES for step in case.steps if step.answers == NO_QUEUE}
    assert {name for name in OPERATIONS if takes_queue_url(name)} <= refused


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_documentation_has_every_operation_with_its_parameters(operation: str) -> None:
    text = (ROOT / "docs/sqs.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| {operation} |"))
    shape = SHAPES[input_shape(operation)]
    for name, member in shape["members"].items():
        is_required = name in shape.get("required", ())
        assert re.search(rf"\b{name}{re.escape('*') if is_required else '(?![*])'}", row), name
        for inner in SHAPES.get(SHAPES[member["shape"]].get("member", {}).get("shape", ""), {}).get("members", ()):
            assert inner in row, inner


@pytest.mark.parametrize("name", [*QUEUE_ATTRIBUTES, *MESSAGE_ATTRIBUTES])
def test_the_documentation_has_every_attribute(name: str) -> None:
    assert name == "All" or re.search(rf"\b{name}\b", (ROOT / "docs/sqs.md").read_text())
