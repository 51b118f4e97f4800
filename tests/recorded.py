"""What a program asks with httpx and is answered, in a file that outlives the program, and that file as a history.

Each line is written before what it tells of goes on, so that of a program that was killed everything is known that it
can have known. `tests.leases` judges the requests; the other lines are what the program itself says of its work.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from time import monotonic_ns
from typing import Any, Literal
from urllib.parse import parse_qsl

import httpx
import msgspec

from tests.clients import Answer
from tests.history import NEVER, digest
from tests.leases import Request, Sent, Step
from tests.leasing import MS, Asked, learned
from tq.client.transport import AsyncTransport, Transport

Work = Literal["handling", "handled", "failed"]


class Line(msgspec.Struct, omit_defaults=True):
    """One thing that happened at a moment (monotonic ns). `asked` and its `answered` have the same `number`."""

    kind: Literal["asked", "answered", Work]  # type: ignore[valid-type]
    at: int
    number: int = 0
    method: str = ""
    path: str = ""
    body: str = ""
    status: int = 0
    receipt: str = ""
    content: msgspec.Raw = msgspec.Raw()


class Log:
    """Writes the file. Any thread may."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._numbers = count(1)

    def write(self, kind: Any, **fields: Any) -> None:
        os.write(self._file, msgspec.json.encode(Line(kind, monotonic_ns(), **fields)) + b"\n")

    def asked(self, request: httpx.Request, body: bytes) -> int:
        number = next(self._numbers)
        path = request.url.raw_path.decode()
        self.write("asked", number=number, method=request.method, path=path, body=body.decode())
        return number

    def answered(self, number: int, response: httpx.Response | None) -> None:
        """None when there is none, or not all of it."""
        status, body = (response.status_code, response.text) if response else (0, "")
        self.write("answered", number=number, status=status, body=body)


def record(log: Log) -> None:
    """From now on each request that httpx makes in this process is in the log, each try of its own."""
    ask, ask_async = Transport.handle_request, AsyncTransport.handle_async_request

    def recording(self: Transport, request: httpx.Request) -> httpx.Response:
        number, response = log.asked(request, request.read()), None
        try:
            response = ask(self, request)
        finally:
            log.answered(number, response)
        return response

    async def recording_async(self: AsyncTransport, request: httpx.Request) -> httpx.Response:
        number, response = log.asked(request, await request.aread()), None
        try:
            response = await ask_async(self, request)
        finally:
            log.answered(number, response)
        return response

    Transport.handle_request = recording  # type: ignore[method-assign]
    AsyncTransport.handle_async_request = recording_async  # type: ignore[method-assign]


# --- the file as a history -------------------------------------------------------------


def read_log(path: Path) -> list[Line]:
    """All lines but one that the end has cut."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [msgspec.json.decode(line, type=Line) for line in whole.split(b"\n") if line]


def requests_of(client: str, lines: Iterable[Line]) -> list[Request]:
    """What was asked of messages. What had no answer may take effect at any time.

    A receive with an `attempt_id` may hand out what an earlier try of it has leased, so it began when that did. Of what
    was refused, for there was no room, it is known that it was not done.
    """
    answered = {line.number: line for line in lines if line.kind == "answered"}
    began: dict[str, int] = {}
    found = []
    for line in lines:
        told = answered.get(line.number)
        wanted = asked_of(line) if line.kind == "asked" and not (told and told.status == 429) else None
        if wanted is None:
            continue
        first = began.setdefault(wanted.attempt_id or str(line.number), line.at)
        answer = Answer(line.at, NEVER)
        if told and 0 < told.status < 500:
            answer = Answer(first, told.at, told.status, told.body.encode())
        found.append(_request(client, wanted, answer))
    return found


def _request(client: str, wanted: Attempt, answer: Answer) -> Request:
    known = learned(wanted, answer)
    return Request(
        client=client,
        operation=wanted.operation,
        invoked=answer.invoked,
        returned=answer.returned,
        outcome=known.outcome,
        sent=known.sent,
        leases=known.leases,
        steps=known.steps,
        queues=wanted.queues,
    )


class Attempt(Asked, frozen=True, kw_only=True):
    attempt_id: str = ""


class _Envelope(msgspec.Struct):
    content: msgspec.Raw
    group: str | None = None


class _Acks(msgspec.Struct):
    receipts: list[str] = []
    releases: list[dict[str, Any]] = []
    extends: list[dict[str, Any]] = []


def asked_of(line: Line) -> Attempt | None:
    """The request as the history knows them; None for one that is not about messages."""
    path, _, query = line.path.partition("?")
    body = line.body.encode()
    match path.split("/")[1:]:
        case ["queues", queue, "messages"] if line.method == "POST":
            return Attempt(line.method, path, body, operation="send", sent=tuple(_sent(queue, body)))
        case ["queues", queue, "messages", "receive"] | ["queues", queue, "messages"]:
            return _receive(line, queue, {**dict(parse_qsl(query)), **msgspec.json.decode(body or b"{}")})
        case ["queues", queue, "acks"]:
            return Attempt(line.method, path, body, operation="settle", steps=tuple(_steps(queue, body)))
        case ["queues", queue, "messages", receipt]:
            step = Step("ack", queue, receipt)
            if line.method == "PATCH":
                change = msgspec.json.decode(body)
                verb: Any = "extend" if change.get("visibility_timeout") else "release"
                step = Step(verb, queue, receipt, _ns(change.get("visibility_timeout", change.get("delay", 0))))
            return Attempt(line.method, path, body, operation="settle", steps=(step,))
    return None


def _sent(queue: str, body: bytes) -> Iterable[Sent]:
    shape: Any = list[_Envelope] | _Envelope
    for line in body.splitlines():
        told = msgspec.json.decode(line, type=shape)
        for envelope in told if isinstance(told, list) else [told]:
            yield Sent(queue, digest(bytes(envelope.content)), group=envelope.group)


def _receive(line: Line, queue: str, wanted: dict[str, Any]) -> Attempt:
    assert "visibility_timeout" in wanted, line
    return Attempt(
        line.method,
        line.path,
        operation="receive",
        queues=(queue,),
        until_ns=_ns(float(wanted["visibility_timeout"])),
        attempt_id=wanted.get("attempt_id", ""),
    )


def _steps(queue: str, body: bytes) -> Iterable[Step]:
    wanted = msgspec.json.decode(body, type=_Acks)
    yield from (Step("ack", queue, receipt) for receipt in wanted.receipts)
    yield from (Step("release", queue, one["receipt"], _ns(one.get("delay", 0))) for one in wanted.releases)
    yield from (Step("extend", queue, one["receipt"], _ns(one["visibility_timeout"])) for one in wanted.extends)


def _ns(seconds: float) -> int:
    return round(seconds * 1000) * MS
