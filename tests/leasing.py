"""Clients that take messages through their whole life; what they see is a `tests.leases.Lives`.

Each of them sends and leases, and settles what it leased sooner or later or never: many leases run out, some end with
their third receive in the dead-letter queue, and long ones last through several kills. A send with a `dedup_id` that
got no answer is repeated until it gets one, and now and then one that did.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from time import monotonic, monotonic_ns
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from tests.clients import Answer, Ask, Client, Place
from tests.harness import Server
from tests.history import Kill, digest
from tests.leases import Lease, Limit, Lives, Request, Sent, Step

MAX_RECEIVES = 3
DEAD_LETTERS: dict[str, Any] = {"dead_letter": {"queue": "dead", "max_receives": MAX_RECEIVES}}
QUEUES: dict[str, dict[str, Any]] = {"dead": {}, "made": {}, "jobs": DEAD_LETTERS, "grouped": DEAD_LETTERS}
LEASERS = 6
MAX_OPEN = 40  # messages that a client has sent and nobody acknowledged, about: more would wait too long for their turn
MAX_HELD = 12  # receipts in a client's hands
SHORT_MS, LONG_MS = (150, 500), (2_000, 3_000)  # leases and delays: some end between two kills, some outlive them
GROUP_SIZE = 10  # so many in a row from each client
DRAIN_SECONDS = 10  # without any message, several times the longest lease

MS = 1_000_000


class Asked(Ask, frozen=True, kw_only=True):
    """What a client asks, and what of it goes into the history."""

    operation: Literal["send", "receive", "settle", "transact"]
    sent: tuple[Sent, ...] = ()
    steps: tuple[Step, ...] = ()
    queues: tuple[str, ...] = ()
    until_ns: int = 0
    is_repeatable: bool = False


class Origin(msgspec.Struct):
    source: str
    receive_count: int


class Handed(msgspec.Struct):
    id: int
    content: msgspec.Raw
    receive_count: int
    receipt: str
    queue: str | None = None
    group: str | None = None
    dead_letter: Origin | None = None


class Page(msgspec.Struct):
    messages: list[Handed]


class Settled(msgspec.Struct):
    receipt: str
    status: Literal["acked", "released", "extended", "stale_receipt", "message_not_found"]


class Told(msgspec.Struct):
    """All that is read of an answer which is no page of messages."""

    id: int | None = None
    duplicate: bool = False
    ids: list[int] = []
    duplicates: list[int] = []
    results: list[Settled] = []
    code: Literal["stale_receipt", "message_not_found", ""] = ""


class Leaser(Client):
    def __init__(self, name: str, seed: int, place: Place, requests: list[Request]) -> None:
        super().__init__(name, seed, place)
        self._requests = requests
        self._open = 0
        self._again: Asked | None = None
        self._repeatable: list[Asked] = []
        self._held: list[tuple[str, str]] = []  # queue, receipt
        self._settled: list[tuple[str, str]] = []

    # --- what it asks -------------------------------------------------------------

    def next_request(self) -> Ask:
        if self._again:
            return self._again
        if self._open < MAX_OPEN and self.chance.random() < 0.3:
            return self._send()
        if len(self._held) < 2 or (len(self._held) < MAX_HELD and self.chance.random() < 0.4):
            return self._receive()
        if self.chance.random() < 0.1:
            self._held.pop(self.chance.randrange(len(self._held)))  # forgotten: this lease will run out
            return self._receive()
        return self._settle()

    def _send(self) -> Asked:
        if self._repeatable and self.chance.random() < 0.1:
            return self.chance.choice(self._repeatable)
        queue = self.chance.choice(("jobs", "grouped"))
        is_repeatable = self.chance.random() < 0.5
        drafts = [self._draft(queue, is_repeatable) for _ in range(self.chance.choice((1, 1, 1, 2, 4, 8)))]
        envelopes = [envelope for envelope, _ in drafts]
        body, media_type = envelopes[0], "application/json"
        if len(drafts) > 1 and self.chance.random() < 0.5:
            body = b"[%b]" % b",".join(envelopes)
        elif len(drafts) > 1:
            body, media_type = b"\n".join(envelopes), "application/x-ndjson"
        sent = tuple(one for _, one in drafts)
        path = f"/queues/{queue}/messages"
        return Asked("POST", path, body, media_type, operation="send", sent=sent, is_repeatable=is_repeatable)

    def _draft(self, queue: str, is_repeatable: bool = False) -> tuple[bytes, Sent]:
        """A message that is to be sent, and how it goes into the history."""
        content = self.content()
        fields: dict[str, Any] = {"queue": queue} if queue == "made" else {}
        delay_ms, group = 0, None
        if queue == "grouped" and self.chance.random() < 0.9:
            group = fields["group"] = f"group {self._sent // GROUP_SIZE}"
        if queue != "made" and self.chance.random() < 0.15:
            delay_ms = self._time_ms(SHORT_MS if group else LONG_MS)
            fields["delay"] = delay_ms / 1000
        if is_repeatable:
            fields["dedup_id"] = f"{self.name} {self._sent}"
        more = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()).encode()
        return b'{"content":%b%b}' % (content, more), Sent(queue, digest(content), None, delay_ms * MS, group)

    def _receive(self) -> Asked:
        queues = tuple(self.chance.choices(list(QUEUES), (1, 1, 2, 2), k=self.chance.choice((1, 1, 3))))
        lease_ms = self._time_ms(SHORT_MS, SHORT_MS, LONG_MS)
        return lease(tuple(dict.fromkeys(queues)), self.chance.choice((1, 1, 2, 5)), lease_ms, 0.1)

    def _settle(self) -> Asked:
        if self._settled and self.chance.random() < 0.05:
            return act([Step("ack", *self.chance.choice(self._settled))])
        kind = self.chance.choices(("ack", "extend", "release", "batch", "transact"), (4, 1, 1, 3, 3))[0]
        first = self.chance.choice(self._held)
        if kind == "transact":
            others = [one for one in self._held if one[0] != first[0]][: self.chance.choice((0, 1))]
            return self._transact([Step("ack", *one) for one in (first, *others)])
        if kind != "batch":
            return act([self._step(kind, *first)])
        mine = [one for one in self._held if one[0] == first[0]]
        kinds = sorted(self.chance.choices(("ack", "extend", "release"), (8, 1, 1), k=len(mine)))
        return act([self._step(kind, *one) for kind, one in zip(kinds, mine, strict=True)], is_batch=True)

    def _step(self, kind: str, queue: str, receipt: str) -> Step:
        if kind == "ack":
            return Step("ack", queue, receipt)
        if kind == "extend":
            return Step("extend", queue, receipt, self._time_ms(SHORT_MS, LONG_MS) * MS)
        return Step("release", queue, receipt, self.chance.choice((0, self._time_ms(SHORT_MS, LONG_MS))) * MS)

    def _time_ms(self, *ranges: tuple[int, int]) -> int:
        return self.chance.randint(*self.chance.choice(ranges))

    def _transact(self, steps: list[Step]) -> Asked:
        drafts = [self._draft("made") for _ in range(self.chance.choice((1, 1, 2)))]
        acks = json.dumps([{"queue": step.queue, "receipt": step.receipt} for step in steps]).encode()
        body = b'{"ack": %b, "send": [%b]}' % (acks, b",".join(envelope for envelope, _ in drafts))
        sent = tuple(one for _, one in drafts)
        return Asked("POST", "/transactions", body, operation="transact", sent=sent, steps=tuple(steps))

    # --- what it makes of the answer -------------------------------------------------------------

    def learn(self, request: Ask, answer: Answer) -> None:
        assert isinstance(request, Asked)
        told = learned(request, answer)
        self._requests.append(
            Request(
                client=self.name,
                operation=request.operation,
                invoked=answer.invoked,
                returned=answer.returned,
                outcome=told.outcome,
                sent=told.sent,
                leases=told.leases,
                steps=told.steps,
                queues=request.queues,
            )
        )
        self._again = None
        if request.is_repeatable:
            self._again = request if told.outcome == "unknown" else None
            self._repeatable = [*self._repeatable[-10:], request]
        self._open += sum(told.outcome == "ok" and not one.is_repeated for one in told.sent)
        self._held += [(one.queue, one.receipt) for one in told.leases]
        for step in told.steps:
            self._open -= step.verb == "ack" and step.status == "ok"
            is_kept = step.status == "unknown" or (step.verb == "extend" and step.status == "ok")
            if (step.queue, step.receipt) in self._held and not is_kept:
                self._held.remove((step.queue, step.receipt))
                self._settled = [*self._settled[-20:], (step.queue, step.receipt)]

    # --- the end -------------------------------------------------------------

    def drain(self, server: Server) -> None:
        """Lease and acknowledge until nothing is left in any queue, or nothing comes any more."""
        deadline = monotonic() + DRAIN_SECONDS
        while any(counters(server, queue)["messages"] for queue in QUEUES) and monotonic() < deadline:
            self._ask_directly(server, lease(tuple(QUEUES), 100, 60_000, 0.5))
            for queue in {queue for queue, _ in self._held}:
                acks = [Step("ack", *one) for one in self._held if one[0] == queue]
                self._ask_directly(server, act(acks, is_batch=True))
                deadline = monotonic() + DRAIN_SECONDS

    def _ask_directly(self, server: Server, request: Asked) -> None:
        invoked = monotonic_ns()
        reply = server.request(request.method, request.path, request.body)
        self.learn(request, Answer(invoked, monotonic_ns(), reply.status, reply.body))


def lease(queues: tuple[str, ...], limit: int, lease_ms: int, wait_s: float) -> Asked:
    fields: dict[str, Any] = {"max": limit, "visibility_timeout": lease_ms / 1000, "wait": wait_s}
    until_ns = lease_ms * MS
    if len(queues) > 1:
        body = json.dumps({"queues": queues, **fields}).encode()
        return Asked("POST", "/receive", body, operation="receive", queues=queues, until_ns=until_ns)
    query = "&".join(f"{name}={value}" for name, value in fields.items())
    path = f"/queues/{queues[0]}/messages?{query}"
    return Asked("GET", path, operation="receive", queues=queues, until_ns=until_ns)


def act(steps: list[Step], is_batch: bool = False) -> Asked:
    """The request that settles leases of one queue: one of them, or any number in the order ack, extend, release."""
    queue, receipt = steps[0].queue, steps[0].receipt
    path = f"/queues/{queue}/messages/{receipt}"
    if is_batch:
        ordered = [step for verb in ("ack", "release", "extend") for step in steps if step.verb == verb]
        fields: dict[str, list[Any]] = defaultdict(list)
        for step in ordered:
            if step.verb == "ack":
                fields["receipts"].append(step.receipt)
            elif step.verb == "release":
                fields["releases"].append({"receipt": step.receipt, "delay": step.ns / MS / 1000})
            else:
                fields["extends"].append({"receipt": step.receipt, "visibility_timeout": step.ns / MS / 1000})
        body = json.dumps(fields).encode()
        return Asked("POST", f"/queues/{queue}/acks", body, operation="settle", steps=tuple(ordered))
    if steps[0].verb == "ack":
        return Asked("DELETE", path, operation="settle", steps=tuple(steps))
    name = "visibility_timeout" if steps[0].verb == "extend" else "delay"
    body = json.dumps({name: steps[0].ns / MS / 1000}).encode()
    return Asked("PATCH", path, body, operation="settle", steps=tuple(steps))


class Learned(msgspec.Struct, frozen=True):
    outcome: Literal["ok", "fail", "unknown"]
    sent: tuple[Sent, ...] = ()
    leases: tuple[Lease, ...] = ()
    steps: tuple[Step, ...] = ()


def learned(request: Asked, answer: Answer) -> Learned:
    """What is known of a request now."""
    if not answer.status:
        return Learned("unknown", request.sent, (), tuple(replace(step, status="unknown") for step in request.steps))
    assert answer.status in (200, 201, 204, 404, 409), answer
    if request.operation == "receive":
        handed = msgspec.json.decode(answer.body, type=Page).messages if answer.status == 200 else []
        return Learned("ok", leases=tuple(_leased(request, one) for one in handed))
    told = msgspec.json.decode(answer.body or b"{}", type=Told)
    if answer.status >= 400:
        assert told.code, answer
        steps = tuple(replace(step, status=told.code) for step in request.steps)
        return Learned("fail", request.sent, (), steps)
    ids = [told.id] if told.id is not None else told.ids
    repeated = [0] if told.duplicate else told.duplicates
    sent = tuple(
        replace(one, id=number, is_repeated=index in repeated)
        for index, (one, number) in enumerate(zip(request.sent, ids, strict=True))
    )
    return Learned("ok", sent, (), tuple(_settled(request.steps, told.results)))


def _leased(request: Asked, handed: Handed) -> Lease:
    origin = handed.dead_letter
    return Lease(
        queue=handed.queue or request.queues[0],
        digest=digest(bytes(handed.content)),
        id=handed.id,
        receipt=handed.receipt,
        receive_count=handed.receive_count,
        until_ns=request.until_ns,
        group=handed.group,
        source=origin.source if origin else None,
        source_receives=origin.receive_count if origin else 0,
    )


def _settled(steps: tuple[Step, ...], results: list[Settled]) -> Iterable[Step]:
    """The steps with what became of each: all were done where there is no list of results."""
    if not results:
        return steps
    assert [one.receipt for one in results] == [step.receipt for step in steps]
    refusals = ("stale_receipt", "message_not_found")
    return (replace(s, status=r.status if r.status in refusals else "ok") for s, r in zip(steps, results, strict=True))


def leasers(seed: int, place: Place, requests: list[Request]) -> list[Leaser]:
    return [Leaser(f"leaser {n}", seed, place, requests) for n in range(LEASERS)]


def counters(server: Server, queue: str) -> dict[str, Any]:
    """What a queue says of itself; `messages` is how many there are in any state."""
    told = server.request("GET", f"/queues/{queue}").json
    return {**told["totals"], **told["messages"], "messages": sum(told["messages"].values())}


def lives(requests: list[Request], kills: list[Kill], ended: dict[str, dict[str, Any]]) -> Lives:
    limit = Limit("dead", MAX_RECEIVES)
    return Lives(tuple(requests), tuple(kills), {"jobs": limit, "grouped": limit}, ended)


def acks_done(requests: list[Request]) -> int:
    return sum(step.verb == "ack" and step.status == "ok" for request in requests for step in request.steps)


def life_figures(history: Lives) -> Counter[str]:
    """How much happened, so that a test can tell that it has tested something."""
    counted = Counter[str]()
    for request in history.requests:
        counted[f"{request.outcome} {request.operation}s"] += 1
        counted["leases"] += len(request.leases)
        counted["leases after the first"] += sum(one.receive_count > 1 for one in request.leases)
        counted["leases of dead letters"] += sum(one.source is not None for one in request.leases)
        counted["sends found to be repeated"] += any(one.is_repeated for one in request.sent)
        for step in request.steps:
            counted[f"{step.verb}s: {step.status}"] += 1
        if request.outcome == "ok":
            counted["messages of ok sends"] += len(request.sent)
            counted["delayed"] += sum(one.delay_ns > 0 for one in request.sent)
            counted["grouped"] += sum(one.group is not None for one in request.sent)
    return counted
