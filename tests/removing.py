"""Clients that send, and clients that receive what is removed at once; what they see is a `tests.history.History`."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from tests.clients import Answer, Ask, Client, Place
from tests.harness import Server
from tests.history import History, Message, Operation, Recorder, digest

QUEUES = ("deep", "even", "shallow")  # by how much waits in them
PRODUCERS = CONSUMERS = 5


class Handed(msgspec.Struct):
    id: int
    content: msgspec.Raw


class Page(msgspec.Struct):
    messages: list[Handed]


class Ids(msgspec.Struct):
    id: int | None = None
    ids: tuple[int, ...] = ()


class Request(Ask, frozen=True, kw_only=True):
    """What a client asks, and what of it goes into the history. `digests`: of what it sends."""

    operation: Literal["send", "receive"]
    queue: str
    digests: tuple[str, ...] = ()
    limit: int = 1


class Remover(Client):
    """A producer or a consumer."""

    def __init__(self, name: str, seed: int, place: Place, recorder: Recorder) -> None:
        super().__init__(name, seed, place)
        self._recorder = recorder

    def learn(self, request: Ask, answer: Answer) -> None:
        assert isinstance(request, Request)
        self._recorder.record(
            Operation(
                client=self.name,
                operation=request.operation,
                queue=request.queue,
                messages=learned(request, answer.status, answer.body),
                invoked=answer.invoked,
                returned=answer.returned,
                outcome="ok" if answer.status else "unknown",
                limit=request.limit,
            )
        )


class Producer(Remover):
    def next_request(self) -> Ask:
        queue = self.chance.choice(QUEUES)
        contents = [self.content() for _ in range(self.chance.choice((1, 1, 1, 1, 1, 2, 4, 8)))]
        envelopes = [b'{"content":%b}' % content for content in contents]
        body, media_type = envelopes[0], "application/json"
        if len(contents) > 1 and self.chance.random() < 0.5:
            body = b"[%b]" % b",".join(envelopes)
        elif len(contents) > 1:
            body, media_type = b"\n".join(envelopes), "application/x-ndjson"
        digests = tuple(map(digest, contents))
        path = f"/queues/{queue}/messages"
        return Request("POST", path, body, media_type, operation="send", queue=queue, digests=digests)


class Consumer(Remover):
    def next_request(self) -> Ask:
        queue = self.chance.choices(QUEUES, (1, 4, 8))[0]
        limit = self.chance.choice((1, 1, 1, 2, 5, 10))
        method, end = self.chance.choice((("GET", ""), ("GET", ""), ("POST", "/receive")))
        maximum = f"?max={limit}" if limit > 1 else ""
        path = f"/queues/{queue}/messages{end}{maximum}"
        return Request(method, path, operation="receive", queue=queue, limit=limit)


def removers(seed: int, place: Place, recorder: Recorder) -> list[Client]:
    producers = [Producer(f"producer {n}", seed, place, recorder) for n in range(PRODUCERS)]
    return [*producers, *(Consumer(f"consumer {n}", seed, place, recorder) for n in range(CONSUMERS))]


def learned(request: Request, status: int = 0, answer: bytes = b"") -> tuple[Message, ...]:
    """The messages of a request, as far as its answer tells."""
    if request.operation == "send":
        if not status:
            return tuple(Message(None, one) for one in request.digests)
        assert status == 201, answer
        told = msgspec.json.decode(answer, type=Ids)
        ids = told.ids if told.id is None else (told.id,)
        return tuple(Message(*pair) for pair in zip(ids, request.digests, strict=True))
    assert status in (0, 200, 204), answer
    if status != 200:
        return ()
    if request.limit == 1:
        handed = [msgspec.json.decode(answer, type=Handed)]
    else:
        handed = msgspec.json.decode(answer, type=Page).messages
    return tuple(Message(one.id, digest(bytes(one.content))) for one in handed)


def remove_all(server: Server) -> dict[str, tuple[Message, ...]]:
    """What is left in each queue."""
    return {queue: tuple(_drain(server, queue)) for queue in QUEUES}


def _drain(server: Server, queue: str) -> list[Message]:
    request = Request("GET", f"/queues/{queue}/messages?max=100", operation="receive", queue=queue, limit=100)
    messages: list[Message] = []
    while (reply := server.request(request.method, request.path)).status == 200:
        messages += learned(request, reply.status, reply.body)
    assert reply.status == 204
    return messages


def work_done(operations: list[Operation]) -> int:
    """How many messages were certainly sent and received, whichever is less."""
    done = Counter[str]()
    for operation in operations:
        done[operation.operation] += len(operation.messages) * (operation.outcome == "ok")
    return min(done["send"], done["receive"])


def figures(history: History) -> Counter[str]:
    """How much happened, so that a test can tell that it has tested something."""
    counted = Counter[str]()
    for one in history.operations:
        counted[f"{one.outcome} {one.operation}s"] += 1
        if one.outcome == "ok":
            counted[f"messages of ok {one.operation}s"] += len(one.messages)
    unknown = [one for one in history.operations if one.outcome == "unknown"]
    counted["kills"] = len(history.kills)
    counted["kills that cut requests off"] = sum(
        any(one.invoked < kill.sent < one.returned for one in unknown) for kill in history.kills
    )
    left = [message for messages in history.left.values() for message in messages]
    counted["messages left"] = len(left)
    known = {"send": set[str](), "receive": {message.digest for message in left}}
    for one in history.operations:
        known[one.operation].update(message.digest for message in one.messages if one.outcome == "ok")
    counted["messages whose receive was cut off"] = len(known["send"] - known["receive"])
    counted["messages whose send was cut off"] = len(known["receive"] - known["send"])
    return counted
