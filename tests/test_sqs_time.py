"""What becomes of messages over SQS as time goes by: the clock is put forward, and nobody waits for it."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest

from tests.sqs_cases import ERRORS
from tests.sqs_queue import Make, SqsQueue
from tests.sqs_server import LocalServer
from tests.sqs_wire import Told


def assert_refused(told: Told, kind: str, text: str) -> None:
    assert (told.code, told.status) == ERRORS[kind][:2], told
    assert told.message
    assert text in told.message


def assert_expired(told: Told) -> None:
    assert_refused(told, "InvalidParameterValueException", "Reason: The receipt handle has expired.")


def attribute(message: dict[str, Any], name: str) -> str:
    text: str = message["Attributes"][name]
    return text


# --- visibility -------------------------------------------------------------


@pytest.mark.parametrize("fifo", [False, True])
def test_a_message_comes_back_when_its_timeout_is_over(local: LocalServer, queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo)
    (message_id,) = q.send("a")
    first = q.take()
    assert (first["MessageId"], attribute(first, "ApproximateReceiveCount")) == (message_id, "1")
    assert q.counts() == (0, 1, 0)
    local.jump(29)
    assert q.receive() == []
    local.jump(2)
    assert q.counts() == (1, 0, 0)
    again = q.take()
    assert (again["MessageId"], again["Body"]) == (message_id, "a")
    assert again["ReceiptHandle"] != first["ReceiptHandle"]
    assert attribute(again, "ApproximateReceiveCount") == "2"
    for name in ("SentTimestamp", "ApproximateFirstReceiveTimestamp"):
        assert attribute(again, name) == attribute(first, name)


def test_the_timeout_of_a_receive_beats_that_of_the_queue(local: LocalServer, queue: Make) -> None:
    q = queue(VisibilityTimeout=100)
    q.send("a")
    assert q.bodies(VisibilityTimeout=10) == ["a"]
    local.jump(11)
    assert q.bodies() == ["a"]
    local.jump(99)
    q.set(VisibilityTimeout=5)
    assert q.bodies() == []
    local.jump(2)
    assert q.bodies() == ["a"]
    local.jump(6)
    assert q.bodies(VisibilityTimeout=0) == ["a"]
    assert q.bodies() == ["a"]


@pytest.mark.parametrize("fifo", [False, True])
def test_a_timeout_is_changed_from_now_on(local: LocalServer, queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo)
    q.send("a")
    message = q.take()
    local.jump(20)
    assert q.change(message, 60).status == 200
    local.jump(50)
    assert q.receive() == []
    assert q.change(message, 5).status == 200
    local.jump(6)
    assert q.bodies() == ["a"]


def test_any_handle_of_a_message_deletes_it(local: LocalServer, queue: Make) -> None:
    q = queue()
    q.send("a")
    first = q.take()
    local.jump(31)
    q.take()
    assert q.delete(first).status == 200
    assert q.counts() == (0, 0, 0)
    local.jump(31)
    assert q.receive() == []


def test_a_handle_of_an_earlier_receive_changes_the_timeout(local: LocalServer, queue: Make) -> None:
    q = queue()
    q.send("a")
    first = q.take()
    local.jump(31)
    assert q.change(first, 10).status == 200
    q.take()  # it was visible, and stayed so
    assert q.change(first, 0).status == 200
    assert q.bodies() == ["a"]


# --- delays -------------------------------------------------------------


def test_the_delay_of_a_queue_and_of_a_message(local: LocalServer, queue: Make) -> None:
    q = queue(DelaySeconds=10)
    q.send("as the queue says")
    q.send("at once", DelaySeconds=0)
    q.send("later", DelaySeconds=900)
    assert q.counts() == (1, 0, 2)
    assert q.bodies() == ["at once"]
    local.jump(11)
    assert q.bodies() == ["as the queue says"]
    local.jump(890)
    assert sorted(q.bodies()) == ["as the queue says", "at once", "later"]


def test_a_new_delay_is_for_new_messages(local: LocalServer, queue: Make) -> None:
    q = queue(DelaySeconds=10)
    q.send("a")
    q.set(DelaySeconds=0)
    q.send("b")
    assert q.bodies() == ["b"]
    q.set(DelaySeconds=900)
    local.jump(11)
    assert q.bodies() == ["a"]


def test_a_new_delay_of_a_fifo_queue_is_for_all_messages(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True)
    q.send("a", "b")
    q.set(DelaySeconds=10)
    assert q.bodies() == []
    assert q.counts() == (0, 0, 2)
    local.jump(5)
    q.send("c")
    local.jump(6)
    assert q.bodies() == ["a", "b"]
    q.set(DelaySeconds=0)
    q.send("other", group="h")
    assert q.bodies() == ["other"]


@pytest.mark.parametrize("fifo", [False, True])
def test_what_comes_back_is_not_delayed(local: LocalServer, queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo, DelaySeconds=10)
    q.send("a")
    local.jump(11)
    message = q.take()
    assert q.change(message, 0).status == 200
    assert q.bodies() == ["a"]


@pytest.mark.parametrize("fifo", [False, True])
def test_twelve_hours_in_all(local: LocalServer, queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo)
    q.send("a")
    message = q.take()
    assert q.change(message, 43_200).status == 200
    local.jump(20_000)
    assert q.change(message, 23_199).status == 200
    told = q.change(message, 23_201)
    assert_refused(told, "InvalidParameterValueException", "Value 23201 for parameter VisibilityTimeout is invalid.")
    assert_refused(
        told,
        "InvalidParameterValueException",
        "Reason: Total VisibilityTimeout for the message is beyond the limit [43200 seconds]",
    )
    entry = {"Id": "x", "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 43_200}
    (failed,) = q.ok("ChangeMessageVisibilityBatch", Entries=[entry])["Failed"]
    assert failed["Code"] == "InvalidParameterValue"
    assert q.counts() == (0, 1, 0)
    local.jump(23_200)
    again = q.take()
    assert q.change(again, 43_200).status == 200


# --- retention -------------------------------------------------------------


@pytest.mark.parametrize("fifo", [False, True])
def test_what_is_too_old_is_gone(local: LocalServer, queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo, MessageRetentionPeriod=60)
    q.send("a")
    local.jump(59)
    q.send("b", group="h")
    assert q.counts() == (2, 0, 0)
    local.jump(2)
    assert q.counts() == (1, 0, 0)
    assert q.bodies() == ["b"]


def test_what_is_in_flight_or_delayed_gets_too_old(local: LocalServer, queue: Make) -> None:
    q = queue(MessageRetentionPeriod=60)
    q.send("in flight")
    taken = q.take(VisibilityTimeout=43_200)
    q.send("delayed", DelaySeconds=900)
    local.jump(61)
    assert q.receive() == []
    assert q.counts() == (0, 0, 0)
    assert_refused(q.change(taken, 0), "InvalidParameterValueException", "does not exist")
    assert q.delete(taken).status == 200
    local.jump(900)
    assert q.receive() == []


def test_what_is_in_flight_for_too_long_locks_its_group_no_more(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True, MessageRetentionPeriod=60)
    q.send("a")
    q.take(VisibilityTimeout=43_200)
    local.jump(30)
    q.send("b")
    local.jump(20)
    assert q.bodies() == []
    local.jump(11)
    assert q.bodies() == ["b"]


def test_another_retention_counts_for_what_is_there(local: LocalServer, queue: Make) -> None:
    q = queue(MessageRetentionPeriod=60)
    q.send("a")
    q.set(MessageRetentionPeriod=1_209_600)
    local.jump(1_209_590)
    q.send("b")
    assert q.counts() == (2, 0, 0)
    q.set(MessageRetentionPeriod=60)
    assert q.counts() == (1, 0, 0)
    assert q.bodies() == ["b"]


def test_four_days_unless_it_is_said_otherwise(local: LocalServer, queue: Make) -> None:
    q = queue()
    q.send("a")
    local.jump(345_590)
    assert q.counts() == (1, 0, 0)
    local.jump(11)
    assert q.counts() == (0, 0, 0)


# --- dead letters -------------------------------------------------------------

VALUE = {"a": {"StringValue": "1", "DataType": "Number"}, "b": {"StringValue": "x", "DataType": "String"}}


def with_dead(queue: Make, fifo: bool = False, receives: int = 2, **attributes: object) -> tuple[SqsQueue, SqsQueue]:
    q, dead = queue(fifo=fifo, **attributes), queue(fifo=fifo)
    q.dead_letters_to(dead, receives)
    return q, dead


@pytest.mark.parametrize("fifo", [False, True])
def test_a_dead_letter_moves_at_the_receive_that_is_one_too_many(local: LocalServer, queue: Make, fifo: bool) -> None:
    q, dead = with_dead(queue, fifo)
    (message_id,) = q.send("a", MessageAttributes=VALUE)
    first = q.take()
    local.jump(31)
    q.take()
    local.jump(31)
    assert (q.counts(), dead.counts()) == ((1, 0, 0), (0, 0, 0))  # nobody has asked yet
    assert q.receive() == []
    assert (q.counts(), dead.counts()) == ((0, 0, 0), (1, 0, 0))
    letter = dead.take()
    assert (letter["MessageId"], letter["Body"], letter["MessageAttributes"]) == (message_id, "a", VALUE)
    assert attribute(letter, "DeadLetterQueueSourceArn") == q.arn
    assert attribute(letter, "ApproximateReceiveCount") == "3"
    assert attribute(letter, "SentTimestamp") == attribute(first, "SentTimestamp")
    if fifo:
        assert attribute(letter, "MessageGroupId") == "g"
    assert "DeadLetterQueueSourceArn" not in first["Attributes"]


@pytest.mark.parametrize("fifo", [False, True])
def test_one_receive_takes_what_is_behind_dead_letters(local: LocalServer, queue: Make, fifo: bool) -> None:
    q, dead = with_dead(queue, fifo, receives=1)
    q.send("a", "b")
    assert q.bodies() == ["a", "b"]
    local.jump(31)
    q.send("c")
    assert q.bodies() == ["c"]
    assert dead.bodies() == ["a", "b"]


def test_what_is_deleted_in_time_is_no_dead_letter(local: LocalServer, queue: Make) -> None:
    q, dead = with_dead(queue, receives=1)
    q.send("a")
    message = q.take()
    local.jump(31)
    assert q.delete(message).status == 200
    assert q.receive() == []
    assert dead.receive() == []


@pytest.mark.parametrize("fifo", [False, True])
@pytest.mark.parametrize("receives", [1, 3])
def test_a_dead_letter_queue_with_one_of_its_own(queue: Make, fifo: bool, receives: int) -> None:
    """Only what was received from a queue itself counts there, though all is shown."""
    first, second, third = (queue(fifo=fifo, VisibilityTimeout=0) for _ in range(3))
    second.dead_letters_to(third, receives)
    first.dead_letters_to(second, 2)
    first.send("a")
    assert [first.bodies() for _ in range(3)] == [["a"], ["a"], []]
    counts = [attribute(second.take(), "ApproximateReceiveCount") for _ in range(receives)]
    assert counts == [str(2 + number) for number in range(1, receives + 1)]
    assert second.bodies() == []
    assert third.bodies() == ["a"]


def test_without_its_target_a_message_stays(local: LocalServer, queue: Make) -> None:
    q, dead = with_dead(queue, receives=1)
    q.send("a")
    assert q.bodies(VisibilityTimeout=0) == ["a"]
    dead.ok("DeleteQueue")
    assert q.bodies(VisibilityTimeout=0) == ["a"]


def test_a_new_policy_is_for_the_messages_that_are_there(local: LocalServer, queue: Make) -> None:
    q, dead = queue(), queue()
    q.send("a")
    for _ in range(3):
        assert q.bodies(VisibilityTimeout=0) == ["a"]
    q.dead_letters_to(dead, 3)
    assert q.bodies() == []
    assert dead.bodies() == ["a"]


def test_a_message_that_moved_back_is_a_new_one(local: LocalServer, queue: Make) -> None:
    q, dead = with_dead(queue, receives=1)
    (message_id,) = q.send("a", MessageAttributes=VALUE)
    sent_at = int(attribute(q.take(VisibilityTimeout=0), "SentTimestamp"))
    assert q.receive() == []
    local.jump(100)
    dead.ok("StartMessageMoveTask", SourceArn=dead.arn)
    message = q.take(WaitTimeSeconds=20)
    assert message["MessageId"] != message_id
    assert message["MessageAttributes"] == VALUE
    assert attribute(message, "ApproximateReceiveCount") == "1"
    assert int(attribute(message, "SentTimestamp")) >= sent_at + 100_000
    assert "DeadLetterQueueSourceArn" not in message["Attributes"]


def test_a_dead_letter_is_as_old_as_its_message(local: LocalServer, queue: Make) -> None:
    q, dead = with_dead(queue, receives=1)
    dead.set(MessageRetentionPeriod=100)
    q.send("a")
    local.jump(60)
    assert q.bodies(VisibilityTimeout=0) == ["a"]
    assert q.receive() == []
    assert dead.counts() == (1, 0, 0)
    local.jump(41)
    assert dead.counts() == (0, 0, 0)


def test_a_dead_letter_of_a_fifo_queue_is_new(local: LocalServer, queue: Make) -> None:
    q, dead = with_dead(queue, fifo=True, receives=1)
    dead.set(MessageRetentionPeriod=100)
    q.send("a")
    local.jump(60)
    assert q.bodies(VisibilityTimeout=0) == ["a"]
    assert q.receive() == []
    local.jump(98)
    assert dead.counts() == (1, 0, 0)
    local.jump(3)
    assert dead.counts() == (0, 0, 0)


# --- deduplication -------------------------------------------------------------


def test_a_deduplication_id_is_known_for_five_minutes(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True)
    (first,) = q.send("a", MessageDeduplicationId="d")
    assert q.delete(q.take()).status == 200
    local.jump(290)
    assert q.send("b", MessageDeduplicationId="d") == [first]
    assert q.receive() == []
    local.jump(11)  # five minutes from the first send, not from its duplicate
    (second,) = q.send("c", MessageDeduplicationId="d")
    assert second != first
    assert q.bodies() == ["c"]


def test_deduplication_by_content_shows_its_id(queue: Make) -> None:
    q = queue(fifo=True, ContentBasedDeduplication="true")
    sent = q.ok("SendMessage", MessageBody="a", MessageGroupId="g")
    assert q.ok("SendMessage", MessageBody="a", MessageGroupId="h")["MessageId"] == sent["MessageId"]
    message = q.take()
    assert attribute(message, "MessageDeduplicationId") == hashlib.sha256(b"a").hexdigest()
    assert attribute(message, "SequenceNumber") == sent["SequenceNumber"]
    assert q.receive() == []


def test_sequence_numbers_rise(queue: Make) -> None:
    q = queue(fifo=True)
    q.send("a", "b", "c")
    numbers = [attribute(message, "SequenceNumber") for message in q.receive()]
    assert numbers == sorted(set(numbers))


# --- groups -------------------------------------------------------------


def test_a_group_waits_for_its_message_in_flight(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True)
    q.send("a1", "a2", group="a")
    q.send("b1", group="b")
    first = q.take()
    assert first["Body"] == "a1"
    assert q.bodies() == ["b1"]
    q.send("a3", group="a")
    assert q.bodies() == []
    assert q.delete(first).status == 200
    assert q.bodies() == ["a2", "a3"]


def test_order_after_a_timeout(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True)
    q.send("1", "2", "3")
    assert q.bodies(2) == ["1", "2"]
    local.jump(31)
    assert q.bodies() == ["1", "2", "3"]
    local.jump(31)
    first, second, third = q.receive()
    assert q.delete(second).status == 200
    local.jump(31)
    assert q.bodies() == ["1", "3"]
    assert_expired(q.delete(first))
    assert_expired(q.delete(third))


def test_the_first_of_a_batch_holds_back_the_others(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True)
    q.send("1", "2")
    first, second = q.receive()
    assert q.change(first, 600).status == 200
    local.jump(31)
    assert q.bodies() == []
    assert_expired(q.delete(second))
    assert q.delete(first).status == 200
    assert q.bodies() == ["2"]


def test_a_receive_fills_up_from_one_group_first(queue: Make) -> None:
    q = queue(fifo=True)
    q.send("a1", group="a")
    q.send("b1", group="b")
    q.send("a2", group="a")
    q.send("b2", group="b")
    assert q.bodies(3) == ["a1", "a2", "b1"]
    assert q.bodies() == []


def test_groups_do_not_matter_in_a_standard_queue(queue: Make) -> None:
    q = queue()
    q.send("1", "2", MessageGroupId="g")
    assert q.bodies(1) == ["1"]
    assert q.bodies(1) == ["2"]


def test_an_expired_handle_is_an_error_in_a_fifo_queue(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True)
    q.send("a")
    first = q.take()
    local.jump(31)
    assert_expired(q.delete(first))
    assert_expired(q.change(first, 10))
    again = q.take()
    assert_expired(q.delete(first))
    assert q.delete(again).status == 200
    assert q.delete(again).status == 200


# --- repeated receives -------------------------------------------------------------


def test_a_receive_can_be_repeated(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True)
    q.send("1", "2", "3")
    first = q.receive(2, ReceiveRequestAttemptId="a")
    assert q.bodies() == []
    local.jump(20)
    again = q.receive(2, ReceiveRequestAttemptId="a")
    assert [message["MessageId"] for message in again] == [message["MessageId"] for message in first]
    local.jump(20)  # the timeout begins anew with each
    assert q.bodies() == []
    assert q.delete(again[0]).status == 200
    assert q.delete(again[1]).status == 200
    assert q.bodies(ReceiveRequestAttemptId="a") == ["3"]


def test_another_attempt_is_another_receive(queue: Make) -> None:
    q = queue(fifo=True)
    q.send("1", group="a")
    q.send("2", group="b")
    assert q.bodies(1, ReceiveRequestAttemptId="a") == ["1"]
    assert q.bodies(1, ReceiveRequestAttemptId="b") == ["2"]
    assert q.bodies(1, ReceiveRequestAttemptId="c") == []


def test_a_receive_can_be_repeated_for_five_minutes(local: LocalServer, queue: Make) -> None:
    q = queue(fifo=True, VisibilityTimeout=1000)
    q.send("1")
    assert q.bodies(ReceiveRequestAttemptId="a") == ["1"]
    local.jump(290)
    assert q.bodies(ReceiveRequestAttemptId="a") == ["1"]
    local.jump(20)
    assert q.bodies(ReceiveRequestAttemptId="a") == []


# --- purged, deleted, changed -------------------------------------------------------------


@pytest.mark.parametrize("fifo", [False, True])
def test_a_purge_takes_all_and_ends_no_queue(local: LocalServer, queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo)
    q.send("in flight", "visible")
    message = q.take()
    q.ok("PurgeQueue")
    assert q.counts() == (0, 0, 0)
    local.jump(31)
    assert q.receive() == []
    assert q.delete(message).status == 200
    q.send("new")
    assert q.bodies() == ["new"]


def test_when_the_attributes_were_changed(local: LocalServer, queue: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tq.web.sqs.queues.time", SimpleNamespace(time=lambda: local.now_ms() / 1000))
    q = queue()
    made = q.attributes()
    assert made["CreatedTimestamp"] == made["LastModifiedTimestamp"]
    local.jump(1000)
    q.set(DelaySeconds=1)
    changed = q.attributes()
    assert changed["CreatedTimestamp"] == made["CreatedTimestamp"]
    assert int(changed["LastModifiedTimestamp"]) >= int(made["LastModifiedTimestamp"]) + 1000


# --- what does not change -------------------------------------------------------------


@pytest.mark.parametrize(("born", "later"), [("queue", "messageGroup"), ("messageGroup", "queue")])
def test_the_scope_of_deduplication_is_that_of_the_creation(queue: Make, born: str, later: str) -> None:
    """Another one is shown, as in the service, but changes nothing."""
    q = queue(fifo=True, DeduplicationScope=born)
    q.set(DeduplicationScope=later)
    assert q.attributes()["DeduplicationScope"] == later
    for group in ("g", "h"):
        q.ok("SendMessage", MessageBody=group, MessageGroupId=group, MessageDeduplicationId="d")
    assert len(q.receive()) == (1 if born == "queue" else 2)
    again = {"QueueName": q.name, "Attributes": {"FifoQueue": "true", "DeduplicationScope": born}}
    assert_refused(q.ask("CreateQueue", **again), "QueueNameExists", "attribute DeduplicationScope")
    again["Attributes"] = {"FifoQueue": "true", "DeduplicationScope": later}
    assert q.ok("CreateQueue", **again) == {"QueueUrl": q.url}
