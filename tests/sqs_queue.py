"""A queue over SQS for tests of what it does: short calls that must succeed, and what they found."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from tests.harness import Reply
from tests.sqs_cases import ACCOUNT
from tests.sqs_server import LocalServer
from tests.sqs_wire import Json, Told, Wire

_numbers = count(1)


class SqsQueue:
    """A queue of its own, on a client of its own. A FIFO queue's messages get groups and deduplication ids."""

    def __init__(
        self, local: LocalServer, *, fifo: bool = False, wire: type[Wire] = Json, **attributes: object
    ) -> None:
        self.is_fifo = fifo
        self.client = wire(local.port)
        self.name = f"b{next(_numbers)}{'.fifo' if fifo else ''}"
        self.arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{self.name}"
        given = {name: str(value) for name, value in attributes.items()}
        if fifo:
            given["FifoQueue"] = "true"
        self.url: str = self.ok("CreateQueue", QueueName=self.name, Attributes=given)["QueueUrl"]

    def close(self) -> None:
        self.client.close()

    def ask(self, operation: str, **given: Any) -> Told:
        if not {"QueueName", "SourceArn", "TaskHandle"} & given.keys():
            given = {"QueueUrl": self.url, **given}
        return self.client.ask(operation, given)

    def ok(self, operation: str, **given: Any) -> dict[str, Any]:
        told = self.ask(operation, **given)
        assert told.output is not None, told
        return told.output

    def send(self, *bodies: str, group: str = "g", **more: Any) -> list[str]:
        """The ids."""
        ids: list[str] = []
        for body in bodies:
            named = {"MessageGroupId": group, "MessageDeduplicationId": f"d{next(_numbers)}"} if self.is_fifo else {}
            ids.append(self.ok("SendMessage", **{"MessageBody": body, **named, **more})["MessageId"])
        return ids

    def receive(self, most: int = 10, **more: Any) -> list[dict[str, Any]]:
        """Messages with all that they have."""
        asked = {"MaxNumberOfMessages": most, "MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]}
        found: list[dict[str, Any]] = self.ok("ReceiveMessage", **{**asked, **more}).get("Messages", [])
        return found

    def bodies(self, most: int = 10, **more: Any) -> list[str]:
        return [message["Body"] for message in self.receive(most, **more)]

    def take(self, **more: Any) -> dict[str, Any]:
        """The one message that there is to receive."""
        (message,) = self.receive(1, **more)
        return message

    def delete(self, message: dict[str, Any]) -> Told:
        return self.ask("DeleteMessage", ReceiptHandle=message["ReceiptHandle"])

    def change(self, message: dict[str, Any], seconds: int) -> Told:
        return self.ask("ChangeMessageVisibility", ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds)

    def set(self, **attributes: object) -> None:
        self.ok("SetQueueAttributes", Attributes={name: str(value) for name, value in attributes.items()})

    def attributes(self) -> dict[str, str]:
        found: dict[str, str] = self.ok("GetQueueAttributes", AttributeNames=["All"])["Attributes"]
        return found

    def counts(self) -> tuple[int, int, int]:
        """Visible, in flight, delayed."""
        found = self.attributes()
        names = ("", "NotVisible", "Delayed")
        visible, in_flight, delayed = (int(found[f"ApproximateNumberOfMessages{name}"]) for name in names)
        return visible, in_flight, delayed

    def dead_letters_to(self, other: SqsQueue, receives: int) -> None:
        self.set(RedrivePolicy=json.dumps({"deadLetterTargetArn": other.arn, "maxReceiveCount": receives}))


class Poll(threading.Thread):
    """A long poll that is under way on a connection of its own; `result` waits for what it gets."""

    def __init__(self, queue: SqsQueue, seconds: int | None, **more: Any) -> None:
        super().__init__(daemon=True)
        self._client = type(queue.client)(queue.client.port)
        given = {"QueueUrl": queue.url, "MaxNumberOfMessages": 10, **more}
        self._given = given if seconds is None else {**given, "WaitTimeSeconds": seconds}
        self._told: Told | None = None
        self.start()

    def run(self) -> None:
        self._told = self._client.ask("ReceiveMessage", self._given)

    def result(self) -> Told:
        self.join(30)
        assert self._told, "the poll hangs"
        self._client.close()
        return self._told

    def bodies(self) -> list[str]:
        told = self.result()
        assert told.output is not None, told
        return [message["Body"] for message in told.output.get("Messages", [])]


Make = Callable[..., SqsQueue]


class Native:
    """tq's own API on a queue that was made over SQS."""

    def __init__(self, q: SqsQueue) -> None:
        self._client = q.client
        self.path = f"/queues/{q.name}"

    def ask(self, method: str, path: str, body: Any = None, media_type: str = "application/json") -> Reply:
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return self._client.request(
            method, self.path + path, raw, {"Content-Type": media_type, "Accept": "application/json"}
        )

    def send(self, content: Any, **more: Any) -> None:
        reply = self.ask("POST", "/messages", {"content": content, **more})
        assert reply.status in (200, 201), reply

    def send_raw(self, content: bytes, media_type: str = "application/json") -> None:
        reply = self.ask("POST", "/messages", content, media_type)
        assert reply.status == 201, reply

    def receive(self) -> Any:
        """Lease the next message; None when there is none."""
        reply = self.ask("GET", "/messages?visibility_timeout=30")
        return reply.json if reply.status == 200 else None
