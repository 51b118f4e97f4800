"""Long polls over SQS, in real time: what ends them, and that they end by themselves; and the rules of 60 seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.harness import Server, wait_until
from tests.sqs_queue import Make, Native, Poll
from tests.sqs_server import LocalServer
from tests.sqs_wire import Json


def assert_soon(poll: Poll, *bodies: str) -> None:
    """What a poll gets, long before its time is over."""
    began_s = time.monotonic()
    assert poll.bodies() == list(bodies)
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("fifo", [False, True])
def test_a_message_ends_a_poll(queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo)
    poll = Poll(q, 20)
    q.send("a")
    assert_soon(poll, "a")


def test_each_poll_gets_one(queue: Make) -> None:
    q = queue()
    polls = [Poll(q, 20, MaxNumberOfMessages=1) for _ in range(3)]
    q.send("a", "b", "c")
    assert sorted(body for poll in polls for body in poll.bodies()) == ["a", "b", "c"]


def test_a_poll_ends_with_nothing(queue: Make) -> None:
    q = queue()
    began_s = time.monotonic()
    poll = Poll(q, 1)
    assert poll.result().output == {}
    assert 1 <= time.monotonic() - began_s < 3


def test_the_wait_of_the_queue(queue: Make) -> None:
    q = queue(ReceiveMessageWaitTimeSeconds=20)
    poll = Poll(q, None)
    q.send("a")
    assert_soon(poll, "a")
    q.set(ReceiveMessageWaitTimeSeconds=1)
    assert_soon(Poll(q, None))


def test_no_wait_beats_that_of_the_queue(queue: Make) -> None:
    q = queue(ReceiveMessageWaitTimeSeconds=20)
    assert_soon(Poll(q, 0))


def test_a_delayed_message_ends_a_poll(queue: Make) -> None:
    q = queue()
    poll = Poll(q, 20)
    q.send("a", DelaySeconds=1)
    assert_soon(poll, "a")


def test_a_delayed_message_of_a_fifo_queue_ends_a_poll(queue: Make) -> None:
    q = queue(fifo=True, DelaySeconds=1)
    poll = Poll(q, 20)
    q.send("a")
    assert_soon(poll, "a")


def test_a_shorter_delay_of_a_fifo_queue_ends_a_poll(queue: Make) -> None:
    q = queue(fifo=True, DelaySeconds=900)
    q.send("a")
    poll = Poll(q, 20)
    q.set(DelaySeconds=0)
    assert_soon(poll, "a")


@pytest.mark.parametrize("fifo", [False, True])
def test_a_timeout_that_is_over_ends_a_poll(queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo, VisibilityTimeout=1)
    q.send("a")
    q.take()
    assert_soon(Poll(q, 20), "a")


@pytest.mark.parametrize("fifo", [False, True])
def test_giving_back_ends_a_poll(queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo)
    q.send("a")
    message = q.take()
    poll = Poll(q, 20)
    q.change(message, 0)
    assert_soon(poll, "a")


def test_the_next_of_a_group_ends_a_poll(queue: Make) -> None:
    q = queue(fifo=True)
    q.send("a", "b")
    message = q.take()
    poll = Poll(q, 20)
    q.delete(message)
    assert_soon(poll, "b")


@pytest.mark.parametrize("fifo", [False, True])
def test_a_poll_waits_for_room_in_flight(queue: Make, fifo: bool) -> None:
    """Only a short poll is told at once that as many messages are in flight as may be."""
    q = queue(fifo=fifo)
    assert Native(q).ask("PATCH", "", {"max_in_flight": 1}).status == 200
    q.send("a", group="g")
    q.send("b", group="h")
    message = q.take()
    short = q.ask("ReceiveMessage")
    assert short.output == {} if fifo else short.code == "OverLimit"
    assert q.bodies(WaitTimeSeconds=1) == []
    poll = Poll(q, 20)
    q.delete(message)
    assert_soon(poll, "b")


def test_a_dead_letter_ends_a_poll(queue: Make) -> None:
    q, dead = queue(), queue()
    q.dead_letters_to(dead, 1)
    q.send("a")
    q.take(VisibilityTimeout=0)
    poll = Poll(dead, 20)
    assert q.receive() == []
    assert_soon(poll, "a")


def test_a_message_that_moves_back_ends_a_poll(queue: Make) -> None:
    q, dead = queue(), queue()
    q.dead_letters_to(dead, 1)
    q.send("a")
    q.take(VisibilityTimeout=0)
    assert q.receive() == []
    poll = Poll(q, 20)
    dead.ok("StartMessageMoveTask", SourceArn=dead.arn)
    assert_soon(poll, "a")


def test_a_poll_of_a_queue_that_goes(queue: Make) -> None:
    q = queue()
    poll = Poll(q, 20)
    q.counts()
    q.ok("DeleteQueue")
    assert poll.result().code == "AWS.SimpleQueueService.NonExistentQueue"


def test_a_poll_is_for_its_own_queue(queue: Make) -> None:
    q, other = queue(), queue()
    poll = Poll(q, 1)
    other.send("a")
    assert poll.result().output == {}
    assert other.bodies() == ["a"]


def test_a_poll_with_the_same_attempt_gets_the_same(queue: Make) -> None:
    q = queue(fifo=True)
    poll = Poll(q, 20, ReceiveRequestAttemptId="a")
    q.send("a")
    assert_soon(poll, "a")
    assert q.bodies(ReceiveRequestAttemptId="a") == ["a"]


# --- too many, too soon -------------------------------------------------------------


def test_in_flight_there_are_as_many_as_the_queue_allows(queue: Make) -> None:
    standard, ordered = queue(), queue(fifo=True)
    for q in (standard, ordered):
        reply = q.client.request(
            "PATCH", f"/queues/{q.name}", b'{"max_in_flight": 1}', {"Content-Type": "application/json"}
        )
        assert reply.status == 200, reply
        q.send("a", group="a")
        q.send("b", group="b")
    message = standard.take()
    told = standard.ask("ReceiveMessage")
    assert (told.status, told.code, told.kind) == (403, "OverLimit", "com.amazonaws.sqs#OverLimit")
    assert standard.delete(message).status == 200
    assert standard.bodies(1) == ["b"]
    assert ordered.bodies(1) == ["a"]
    assert ordered.bodies(1) == []


def test_a_name_and_a_purge_are_free_again_after_a_while() -> None:
    server = LocalServer(sqs_purge_seconds=0.3, sqs_recreate_seconds=0.3)
    client = Json(server.port)
    try:
        assert client.ask("CreateQueue", {"QueueName": "a"}).status == 200
        assert client.ask("PurgeQueue", {"QueueUrl": "a"}).status == 200
        assert client.ask("PurgeQueue", {"QueueUrl": "a"}).status == 403
        assert client.ask("CreateQueue", {"QueueName": "b"}).status == 200
        assert client.ask("PurgeQueue", {"QueueUrl": "b"}).status == 200  # each for itself
        wait_until(lambda: client.ask("PurgeQueue", {"QueueUrl": "a"}).status == 200)
        assert client.ask("DeleteQueue", {"QueueUrl": "a"}).status == 200
        told = client.ask("CreateQueue", {"QueueName": "a"})
        assert told.code == "AWS.SimpleQueueService.QueueDeletedRecently"
        wait_until(lambda: client.ask("CreateQueue", {"QueueName": "a"}).status == 200)
        assert client.ask("PurgeQueue", {"QueueUrl": "a"}).status == 200  # it is another queue
    finally:
        client.close()
        server.close()


def test_a_move_keeps_its_rate(queue: Make) -> None:
    q, dead, target = queue(), queue(), queue()
    q.dead_letters_to(dead, 1)
    dead.send(*map(str, range(4)))
    began_s = time.monotonic()
    given = {"SourceArn": dead.arn, "DestinationArn": target.arn, "MaxNumberOfMessagesPerSecond": 4}
    dead.ok("StartMessageMoveTask", **given)
    wait_until(lambda: target.counts()[0] == 4)
    assert 0.7 <= time.monotonic() - began_s < 5
    assert sorted(target.bodies()) == ["0", "1", "2", "3"]


def test_a_new_queue_of_an_old_name_may_be_purged() -> None:
    server = LocalServer(sqs_purge_seconds=60)
    client = Json(server.port)
    try:
        for operation in ("CreateQueue", "PurgeQueue", "DeleteQueue") * 2:
            assert client.ask(operation, {"QueueName": "a", "QueueUrl": "a"}).status == 200, operation
    finally:
        client.close()
        server.close()


def test_a_restart_keeps_everything(start: Callable[..., Server]) -> None:
    """On disk, in a process of its own that is killed."""
    server = start()
    client = Json(server.port)
    client.ask("CreateQueue", {"QueueName": "dead", "Attributes": {"Policy": POLICY}, "tags": {"k": "v"}})
    arn = "arn:aws:sqs:us-east-1:000000000000:dead"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    client.ask("CreateQueue", {"QueueName": "a", "Attributes": {"RedrivePolicy": policy}})
    sent = client.ask("SendMessage", {"QueueUrl": "a", "MessageBody": "x", "MessageAttributes": VALUES}).output
    client.ask("ReceiveMessage", {"QueueUrl": "a", "VisibilityTimeout": 0})
    client.close()
    server.kill()
    client = Json(start().port)
    assert client.ask("ReceiveMessage", {"QueueUrl": "a"}).output == {}
    told = client.ask("ReceiveMessage", {"QueueUrl": "dead", "MessageAttributeNames": ["All"]})
    assert told.output
    assert sent
    (message,) = told.output["Messages"]
    assert (message["MessageId"], message["MessageAttributes"]) == (sent["MessageId"], VALUES)
    assert client.ask("ListQueueTags", {"QueueUrl": "dead"}).output == {"Tags": {"k": "v"}}
    shown = client.ask("GetQueueAttributes", {"QueueUrl": "dead", "AttributeNames": ["Policy"]})
    assert shown.output == {"Attributes": {"Policy": POLICY}}
    client.close()


POLICY = '{"Statement":[]}'
VALUES = {
    "n": {"StringValue": "1", "DataType": "Number"},
    "b": {"BinaryValue": "AAE=", "DataType": "Binary"},
    "s": {"StringValue": "x", "DataType": "String.custom"},
}
