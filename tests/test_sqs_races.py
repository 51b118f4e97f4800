"""What two operations of SQS do to each other that are under way at once: each is several commands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tq import lifecycle, model
from tq.errors import Overloaded, TqError
from tq.metrics import Metrics
from tq.settings import Settings
from tq.store.memory import MemoryStore
from tq.web import sqs
from tq.web.exchange import Request, Response


class Halves:
    """Two requests under way at once, on a store in memory: what each asks of it is answered when a test says so."""

    def __init__(self, **settings: Any) -> None:
        self._store = MemoryStore(lifecycle.apply)
        self._endpoint = sqs.Endpoint(Settings(**settings), Metrics())

    def begin(self, operation: str, given: dict[str, Any]) -> list[Any]:
        """Its steps and what it asks first."""
        headers = {"x-amz-target": f"AmazonSQS.{operation}"}
        steps = self._endpoint.ask(Request("POST", "/", "", headers, {}, json.dumps(given).encode()))
        return [steps, next(steps)]

    def answer_one(self, half: list[Any]) -> None:
        """Answer what it asks, and see what it asks next; its response in the end."""
        steps, asked = half
        now_ms = 1_700_000_000_000
        try:
            if isinstance(asked, model.Command):
                (result,) = self._store.commit([asked], now_ms)
                half[1] = steps.throw(result) if isinstance(result, TqError) else steps.send(result)
            else:
                result = self._store.read(lambda tx: lifecycle.answer(tx, asked, now_ms))
                half[1] = steps.send(result)
        except TqError as refusal:
            half[1] = steps.throw(refusal)
        except StopIteration as stop:
            half[1] = stop.value

    def finish(self, half: list[Any]) -> dict[str, Any]:
        while not isinstance(half[1], Response):
            self.answer_one(half)
        document: dict[str, Any] = json.loads(half[1].body)
        return document

    def ask(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        return self.finish(self.begin(operation, given))


@pytest.mark.parametrize("attributes", [{"Policy": '{"Statement":[]}'}, {"DelaySeconds": "1"}])
def test_two_make_one_queue_at_once(attributes: dict[str, str]) -> None:
    """The second one, who found none, is told how it is now."""
    halves = Halves()
    first = halves.begin("CreateQueue", {"QueueName": "q"})
    second = halves.begin("CreateQueue", {"QueueName": "q", "Attributes": attributes})
    halves.answer_one(first)
    halves.answer_one(second)
    assert "QueueUrl" in halves.finish(first)
    told = halves.finish(second)
    assert told["__type"].endswith("#QueueNameExists")


def test_the_queue_for_dead_letters_goes_while_one_is_made() -> None:
    halves = Halves()
    halves.ask("CreateQueue", {"QueueName": "dead"})
    policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:dead", "maxReceiveCount": 1})
    making = halves.begin("CreateQueue", {"QueueName": "q", "Attributes": {"RedrivePolicy": policy}})
    while not isinstance(making[1], model.CreateQueue):
        halves.answer_one(making)
    halves.ask("DeleteQueue", {"QueueUrl": "dead"})
    told = halves.finish(making)
    assert told["__type"].endswith("#InvalidParameterValueException")
    assert told["message"].endswith("Reason: There is no queue named 'dead'.")


def test_two_give_permissions_at_once() -> None:
    halves = Halves()
    halves.ask("CreateQueue", {"QueueName": "q"})
    rest = {"QueueUrl": "q", "AWSAccountIds": ["1" * 12], "Actions": ["*"]}
    first, second = (halves.begin("AddPermission", {"Label": label, **rest}) for label in ("a", "b"))
    halves.answer_one(first)
    halves.answer_one(second)
    assert halves.finish(first) == halves.finish(second) == {}
    shown = halves.ask("GetQueueAttributes", {"QueueUrl": "q", "AttributeNames": ["Policy"]})
    assert [each["Sid"] for each in json.loads(shown["Attributes"]["Policy"])["Statement"]] == ["a", "b"]


def test_a_tag_that_is_taken_off_meanwhile_does_not_come_back() -> None:
    halves = Halves()
    halves.ask("CreateQueue", {"QueueName": "q", "tags": {"a": "1"}})
    first = halves.begin("TagQueue", {"QueueUrl": "q", "Tags": {"b": "1"}})
    halves.answer_one(first)
    halves.ask("UntagQueue", {"QueueUrl": "q", "TagKeys": ["a"]})
    assert halves.finish(first) == {}
    assert halves.ask("ListQueueTags", {"QueueUrl": "q"}) == {"Tags": {"b": "1"}}


def test_of_two_purges_at_once_one_is_too_soon() -> None:
    halves = Halves(sqs_purge_seconds=60)
    halves.ask("CreateQueue", {"QueueName": "q"})
    first, second = (halves.begin("PurgeQueue", {"QueueUrl": "q"}) for _ in range(2))
    halves.answer_one(first)
    halves.answer_one(second)
    assert halves.finish(first) == {}
    assert halves.finish(second)["__type"].endswith("#PurgeQueueInProgress")


def test_a_purge_that_failed_does_not_count() -> None:
    halves = Halves(sqs_purge_seconds=60)
    halves.ask("CreateQueue", {"QueueName": "q"})
    first = halves.begin("PurgeQueue", {"QueueUrl": "q"})
    halves.answer_one(first)
    assert isinstance(first[1], model.PurgeQueue)
    with pytest.raises(StopIteration) as stop:
        first[0].throw(Overloaded())
    assert stop.value.value.status == 503
    assert halves.ask("PurgeQueue", {"QueueUrl": "q"}) == {}
