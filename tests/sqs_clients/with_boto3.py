"""boto3: every operation of SQS that the installed version knows, by client, resource and paginator.

Runs with boto3 of today, which speaks JSON, and with versions that speak Query and XML. The operations that were called
are recorded on the way, and at the end they must be all of them.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from typing import Any

import boto3
import botocore
from botocore.exceptions import ClientError
from checks import ACCOUNT, ENDPOINT, REGION, check, done, raises, same, until

ATTRIBUTES = {
    "City": {"DataType": "String", "StringValue": "Any City"},
    "Kind": {"DataType": "String.color", "StringValue": "grün & <gelb>"},
    "Weight": {"DataType": "Number", "StringValue": "1.50"},
    "Thumb": {"DataType": "Binary", "BinaryValue": b"\x00\x01\xff"},
    "Thumb.jpg": {"DataType": "Binary.jpg", "BinaryValue": bytes(range(256))},
}
BODY = 'Grüße, "tq" & <friends>\n\t\U0001f40c'

client = boto3.client("sqs", endpoint_url=ENDPOINT)
resource = boto3.resource("sqs", endpoint_url=ENDPOINT)
errors = client.exceptions
called: set[str] = set()
for each in (client, resource.meta.client):
    each.meta.events.register("before-call.sqs", lambda model, **_: called.add(model.name))


def has(operation: str) -> bool:
    """Whether this version of boto3 knows an operation."""
    return operation in client.meta.service_model.operation_names


def arn(name: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def make(name: str, **attributes: str) -> str:
    return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]


def receive(url: str, **parameters: Any) -> list[dict[str, Any]]:
    return client.receive_message(QueueUrl=url, **parameters).get("Messages", [])


def take(url: str, count: int) -> list[str]:
    """The bodies of that many messages, which are deleted."""
    bodies: list[str] = []
    while len(bodies) < count:
        got = receive(url, MaxNumberOfMessages=10, WaitTimeSeconds=5)
        assert got, f"only {bodies} in {url}"
        for message in got:
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            bodies.append(message["Body"])
    return bodies


def attribute(url: str, name: str) -> str:
    return client.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name]


# --- queues -------------------------------------------------------------


def queues() -> None:
    url = client.create_queue(QueueName="plain", Attributes={"VisibilityTimeout": "17"}, tags={"team": "a"})["QueueUrl"]
    same(url, f"{ENDPOINT}/{ACCOUNT}/plain", "the URL of a queue")
    same(make("plain", VisibilityTimeout="17"), url, "made again")
    same(client.get_queue_url(QueueName="plain")["QueueUrl"], url, "GetQueueUrl")
    error = raises(errors.QueueNameExists, lambda: make("plain", VisibilityTimeout="18"))
    same(error.response["Error"]["Code"], "QueueAlreadyExists", "the code of QueueNameExists")
    same(error.response["ResponseMetadata"]["HTTPStatusCode"], 400, "the status of QueueNameExists")
    error = raises(errors.QueueDoesNotExist, lambda: client.get_queue_url(QueueName="absent"))
    same(error.response["Error"]["Code"], "AWS.SimpleQueueService.NonExistentQueue", "the code of QueueDoesNotExist")
    raises(errors.QueueDoesNotExist, lambda: receive(f"{ENDPOINT}/{ACCOUNT}/absent"))
    raises(ClientError, lambda: make("no name"))

    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    same(found["QueueArn"], arn("plain"), "QueueArn")
    same(found["VisibilityTimeout"], "17", "VisibilityTimeout")
    same(found["MessageRetentionPeriod"], "345600", "MessageRetentionPeriod")
    client.set_queue_attributes(QueueUrl=url, Attributes={"DelaySeconds": "0", "ReceiveMessageWaitTimeSeconds": "0"})
    client.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "30"})
    same(attribute(url, "VisibilityTimeout"), "30", "VisibilityTimeout that was set")
    raises(
        errors.InvalidAttributeName,
        lambda: client.get_queue_attributes(QueueUrl=url, AttributeNames=["Colour"]),
    )

    client.tag_queue(QueueUrl=url, Tags={"stage": "test", "umlaut": "ä"})
    same(client.list_queue_tags(QueueUrl=url)["Tags"], {"team": "a", "stage": "test", "umlaut": "ä"}, "tags")
    client.untag_queue(QueueUrl=url, TagKeys=["team", "umlaut"])
    same(client.list_queue_tags(QueueUrl=url)["Tags"], {"stage": "test"}, "tags that are left")
    client.untag_queue(QueueUrl=url, TagKeys=["stage"])
    check(not client.list_queue_tags(QueueUrl=url).get("Tags"), "no tags are left")

    client.add_permission(QueueUrl=url, Label="share", AWSAccountIds=["111111111111"], Actions=["SendMessage"])
    policy = json.loads(attribute(url, "Policy"))
    same(policy["Statement"][0]["Sid"], "share", "the policy of AddPermission")
    client.remove_permission(QueueUrl=url, Label="share")
    all_of_it = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    check("Policy" not in all_of_it, "the policy is gone with its last statement")


def listing() -> None:
    urls = [make(f"list-{number}") for number in range(5)]
    same(client.list_queues(QueueNamePrefix="list-")["QueueUrls"], urls, "ListQueues")
    check("QueueUrls" not in client.list_queues(QueueNamePrefix="nothing"), "an empty list is left out")
    page = client.list_queues(QueueNamePrefix="list-", MaxResults=2)
    same(page["QueueUrls"], urls[:2], "the first page")
    check(page["NextToken"], "a page that is not the last has a token")
    pages = client.get_paginator("list_queues").paginate(QueueNamePrefix="list-", PaginationConfig={"PageSize": 2})
    found = [page["QueueUrls"] for page in pages]
    same(found, [urls[:2], urls[2:4], urls[4:]], "pages of ListQueues")
    same(client.waiter_names, [], "waiters that boto3 has for SQS")
    for url in urls:
        client.delete_queue(QueueUrl=url)
    check("QueueUrls" not in client.list_queues(QueueNamePrefix="list-"), "deleted queues are not listed")


# --- messages -------------------------------------------------------------


def messages() -> None:
    url = make("messages")
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793"
    sent = client.send_message(
        QueueUrl=url,
        MessageBody=BODY,
        MessageAttributes=ATTRIBUTES,
        MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": trace}},
    )
    same(sent["MD5OfMessageBody"], md5(BODY), "the MD5 of the body")
    check(sent["MD5OfMessageSystemAttributes"], "the MD5 of the system attributes is told")
    (got,) = receive(url, AttributeNames=["All"], MessageAttributeNames=["All"], VisibilityTimeout=30)
    same(got["MessageId"], sent["MessageId"], "MessageId")
    same(got["Body"], BODY, "the body")
    same(got["MD5OfBody"], md5(BODY), "the MD5 of the body that was received")
    same(got["MessageAttributes"], ATTRIBUTES, "the message attributes")
    same(got["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"], "the MD5 of all attributes")
    same(got["Attributes"]["ApproximateReceiveCount"], "1", "ApproximateReceiveCount")
    same(got["Attributes"]["AWSTraceHeader"], trace, "AWSTraceHeader")
    check(abs(int(got["Attributes"]["SentTimestamp"]) / 1000 - time.time()) < 60, "SentTimestamp is in milliseconds")
    same(receive(url), [], "a message in flight is not received")
    same(attribute(url, "ApproximateNumberOfMessagesNotVisible"), "1", "messages in flight")

    handle = got["ReceiptHandle"]
    client.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
    (again,) = receive(url, AttributeNames=["ApproximateReceiveCount"], MessageAttributeNames=["Thumb.j.*", "City"])
    same(again["Attributes"], {"ApproximateReceiveCount": "2"}, "the attribute that was asked for")
    same(set(again["MessageAttributes"]), {"City", "Thumb.jpg"}, "the message attributes that were asked for")
    client.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    client.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    raises(
        errors.ReceiptHandleIsInvalid,
        lambda: client.delete_message(QueueUrl=url, ReceiptHandle="nonsense"),
    )
    error = raises(ClientError, lambda: receive(url, MaxNumberOfMessages=11))
    same(error.response["Error"]["Code"], "InvalidParameterValue", "the code of a number that is too high")
    raises(errors.InvalidMessageContents, lambda: client.send_message(QueueUrl=url, MessageBody="\ufffe"))
    if "MessageSystemAttributeNames" in client.meta.service_model.operation_model("ReceiveMessage").input_shape.members:
        client.send_message(QueueUrl=url, MessageBody="new name")
        (got,) = receive(url, MessageSystemAttributeNames=["SenderId"])
        same(set(got["Attributes"]), {"SenderId"}, "MessageSystemAttributeNames")


def timing() -> None:
    url = make("timing", ReceiveMessageWaitTimeSeconds="20")
    threading.Timer(0.3, lambda: client.send_message(QueueUrl=url, MessageBody="late")).start()
    begun = time.monotonic()
    (got,) = receive(url, VisibilityTimeout=1)
    waited = time.monotonic() - begun
    check(0.2 < waited < 15, f"a long poll ends when a message comes: {waited} s")
    (again,) = receive(url, WaitTimeSeconds=10)
    same(again["MessageId"], got["MessageId"], "what was not deleted comes back")
    client.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    client.send_message(QueueUrl=url, MessageBody="delayed", DelaySeconds=2)
    same(receive(url, WaitTimeSeconds=0), [], "a delayed message is not there yet")
    same(attribute(url, "ApproximateNumberOfMessagesDelayed"), "1", "messages delayed")
    same([each["Body"] for each in receive(url, WaitTimeSeconds=5)], ["delayed"], "the delay is over")


def batches() -> None:
    url = make("batches")
    entries = [{"Id": f"e{number}", "MessageBody": f"body {number}"} for number in range(9)]
    entries.append({"Id": "bad", "MessageBody": "x", "DelaySeconds": 901})
    entries[0]["MessageAttributes"] = ATTRIBUTES
    entries[1]["DelaySeconds"] = 0
    sent = client.send_message_batch(QueueUrl=url, Entries=entries)
    same([each["Id"] for each in sent["Successful"]], [f"e{number}" for number in range(9)], "sent of a batch")
    same([(each["Id"], each["Code"], each["SenderFault"]) for each in sent["Failed"]],
         [("bad", "InvalidParameterValue", True)], "refused of a batch")  # fmt: skip
    same(sent["Successful"][3]["MD5OfMessageBody"], md5("body 3"), "an MD5 in a batch")

    got = receive(url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
    same(len(got), 9, "received at once")
    same(got[0]["MessageAttributes"], ATTRIBUTES, "the attributes of an entry")
    changes = [
        {"Id": "a", "ReceiptHandle": got[0]["ReceiptHandle"], "VisibilityTimeout": 0},
        {"Id": "b", "ReceiptHandle": got[1]["ReceiptHandle"], "VisibilityTimeout": 60},
        {"Id": "c", "ReceiptHandle": "nonsense", "VisibilityTimeout": 60},
    ]
    changed = client.change_message_visibility_batch(QueueUrl=url, Entries=changes)
    same([each["Id"] for each in changed["Successful"]], ["a", "b"], "changed of a batch")
    same([(each["Id"], each["Code"]) for each in changed["Failed"]], [("c", "ReceiptHandleIsInvalid")], "not changed")
    (back,) = receive(url)
    same(back["MessageId"], got[0]["MessageId"], "given back by a batch")
    handles = [back["ReceiptHandle"]] + [each["ReceiptHandle"] for each in got[1:]]
    deleted = client.delete_message_batch(
        QueueUrl=url,
        Entries=[{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(handles)],
    )
    same(len(deleted["Successful"]), 9, "deleted by a batch")
    check(not deleted.get("Failed"), "none failed to be deleted")

    double = [{"Id": "same", "MessageBody": "x"}] * 2
    raises(errors.BatchEntryIdsNotDistinct, lambda: client.send_message_batch(QueueUrl=url, Entries=double))
    many = [{"Id": str(number), "MessageBody": "x"} for number in range(11)]
    raises(errors.TooManyEntriesInBatchRequest, lambda: client.send_message_batch(QueueUrl=url, Entries=many))
    raises(errors.EmptyBatchRequest, lambda: client.send_message_batch(QueueUrl=url, Entries=[]))
    odd = [{"Id": "not.valid", "MessageBody": "x"}]
    raises(errors.InvalidBatchEntryId, lambda: client.send_message_batch(QueueUrl=url, Entries=odd))
    client.send_message(QueueUrl=url, MessageBody="in the way")
    client.purge_queue(QueueUrl=url)
    same(receive(url), [], "purged")


def fifo() -> None:
    url = make("orders.fifo", FifoQueue="true", ContentBasedDeduplication="true")
    first = client.send_message(QueueUrl=url, MessageBody="a1", MessageGroupId="a")
    twice = client.send_message(QueueUrl=url, MessageBody="a1", MessageGroupId="a")
    same(twice["MessageId"], first["MessageId"], "the same content is the same message")
    same(twice["SequenceNumber"], first["SequenceNumber"], "and has the same number")
    entries = [
        {"Id": "1", "MessageBody": "a2", "MessageGroupId": "a", "MessageDeduplicationId": "a2"},
        {"Id": "2", "MessageBody": "b1", "MessageGroupId": "b", "MessageDeduplicationId": "b1"},
    ]
    sent = client.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]
    numbers = [first["SequenceNumber"]] + [each["SequenceNumber"] for each in sent]
    same(numbers, sorted(numbers), "sequence numbers grow")
    asked = {"AttributeNames": ["All"], "ReceiveRequestAttemptId": "attempt-1"}
    (got,) = receive(url, **asked)
    same(got["Body"], "a1", "the first of the first group")
    same(got["Attributes"]["MessageGroupId"], "a", "MessageGroupId")
    same(got["Attributes"]["SequenceNumber"], first["SequenceNumber"], "SequenceNumber")
    (repeated,) = receive(url, **asked)
    same(repeated["MessageId"], got["MessageId"], "the same attempt gets the same message")
    (other,) = receive(url, MaxNumberOfMessages=10)
    same(other["Body"], "b1", "only the other group is free")
    for message in (repeated, other):
        client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    same(take(url, 1), ["a2"], "the next of the group")
    error = raises(ClientError, lambda: client.send_message(QueueUrl=url, MessageBody="x"))
    same(error.response["Error"]["Code"], "MissingParameter", "the code of a missing group")


# --- dead letters -------------------------------------------------------------


def dead_letters() -> None:
    dead = make("dead")
    policy = {"deadLetterTargetArn": arn("dead"), "maxReceiveCount": 1}
    sources = [make(f"source-{number}", RedrivePolicy=json.dumps(policy)) for number in range(3)]
    same(json.loads(attribute(sources[0], "RedrivePolicy")), policy, "RedrivePolicy")
    found = client.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"]
    same(found, sources, "ListDeadLetterSourceQueues")
    pages = client.get_paginator("list_dead_letter_source_queues").paginate(
        QueueUrl=dead, PaginationConfig={"PageSize": 2}
    )
    same([len(page["queueUrls"]) for page in pages], [2, 1], "pages of ListDeadLetterSourceQueues")
    check(not client.list_dead_letter_source_queues(QueueUrl=sources[0]).get("queueUrls"), "a queue without sources")

    client.send_message(QueueUrl=sources[0], MessageBody="poison")
    same(len(receive(sources[0], VisibilityTimeout=0)), 1, "received once")
    same(receive(sources[0]), [], "not a second time")
    (letter,) = receive(dead, AttributeNames=["All"], VisibilityTimeout=0)
    same(letter["Attributes"]["DeadLetterQueueSourceArn"], arn("source-0"), "DeadLetterQueueSourceArn")
    if has("StartMessageMoveTask"):
        move_back(sources[0])


def move_back(source: str) -> None:
    handle = client.start_message_move_task(SourceArn=arn("dead"))["TaskHandle"]
    check(handle, "a task has a handle")

    def task() -> dict[str, Any]:
        return client.list_message_move_tasks(SourceArn=arn("dead"))["Results"][0]

    until(lambda: task()["Status"] == "COMPLETED", "the task is over")
    same(task()["ApproximateNumberOfMessagesMoved"], 1, "ApproximateNumberOfMessagesMoved")
    same(take(source, 1), ["poison"], "moved back to its source")
    raises(
        errors.ResourceNotFoundException,
        lambda: client.start_message_move_task(SourceArn=arn("absent")),
    )
    dead = client.get_queue_url(QueueName="dead")["QueueUrl"]
    for _ in range(4):
        entries = [{"Id": str(number), "MessageBody": "x"} for number in range(10)]
        client.send_message_batch(QueueUrl=dead, Entries=entries)
    slow = client.start_message_move_task(
        SourceArn=arn("dead"), DestinationArn=arn("messages"), MaxNumberOfMessagesPerSecond=1
    )
    moved = client.cancel_message_move_task(TaskHandle=slow["TaskHandle"])["ApproximateNumberOfMessagesMoved"]
    check(moved < 40, f"cancelled before all were moved: {moved}")
    until(lambda: task()["Status"] == "CANCELLED", "the task is cancelled")


# --- resource -------------------------------------------------------------


def resources() -> None:
    queue = resource.create_queue(QueueName="resource", Attributes={"VisibilityTimeout": "30"})
    same(resource.get_queue_by_name(QueueName="resource"), queue, "get_queue_by_name")
    same(queue.attributes["QueueArn"], arn("resource"), "attributes of a resource")
    check(queue in resource.queues.filter(QueueNamePrefix="res"), "queues.filter")
    queue.send_message(MessageBody="one", MessageAttributes=ATTRIBUTES)
    queue.send_messages(Entries=[{"Id": str(number), "MessageBody": f"{number}"} for number in range(3)])
    got = queue.receive_messages(MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"])
    same([each.body for each in got], ["one", "0", "1", "2"], "bodies by resource")
    same(got[0].message_attributes, ATTRIBUTES, "message attributes by resource")
    same(got[0].md5_of_body, md5("one"), "md5_of_body by resource")
    got[0].change_visibility(VisibilityTimeout=0)
    (again,) = queue.receive_messages()
    again.delete()
    queue.change_message_visibility_batch(
        Entries=[{"Id": "x", "ReceiptHandle": got[1].receipt_handle, "VisibilityTimeout": 0}]
    )
    (back,) = queue.receive_messages()
    gone = queue.delete_messages(Entries=[{"Id": "x", "ReceiptHandle": back.receipt_handle}])
    same([each["Id"] for each in gone["Successful"]], ["x"], "delete_messages")
    queue.set_attributes(Attributes={"DelaySeconds": "1"})
    queue.reload()
    same(queue.attributes["DelaySeconds"], "1", "set_attributes and reload")
    queue.add_permission(Label="l", AWSAccountIds=["111111111111"], Actions=["*"])
    queue.remove_permission(Label="l")
    same(list(queue.dead_letter_source_queues.all()), [], "dead_letter_source_queues of a queue without")
    dead = resource.get_queue_by_name(QueueName="dead")
    same(len(list(dead.dead_letter_source_queues.all())), 3, "dead_letter_source_queues")
    queue.purge()
    queue.delete()
    raises(resource.meta.client.exceptions.QueueDoesNotExist, queue.load)


for scenario in (queues, listing, messages, timing, batches, fifo, dead_letters, resources):
    scenario()
same(sorted(set(client.meta.service_model.operation_names) - called), [], "operations that were not called")
protocol = client.meta.service_model.metadata["protocol"]
done(f"boto3 {boto3.__version__}", f"botocore {botocore.__version__}", protocol, f"{len(called)} operations")
