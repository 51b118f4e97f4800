"""Clients by whom messages end in every other way than by a receive or a receipt; what they see is `tests.endings`.

Each of them sends to all of these queues, takes what is there, and does to each queue what that is there for: cancels,
purges, deletes and makes anew, rejects, and moves back what was rejected. Messages have priorities; some have a time.
"""

from __future__ import annotations

from collections import Counter
from time import monotonic_ns
from typing import Any

import msgspec
from msgspec.structs import replace

from tests.clients import Answer, Ask, Client, Place
from tests.endings import END, Act, Endings, Item, Operation, Rules
from tests.harness import Server, wait_until
from tests.history import Kill, digest

MS = 1_000_000
RETENTION_MS = 2_000
TTLS_MS = (200, 600, 1_500, 4_000)  # the last is longer than the retention
LEASE_MS = 1_000
ENDERS = 5
MAX_KNOWN = 20  # ids that a client may cancel
RECEIVES = 1_000  # so that nothing but a rejection makes a dead letter

QUEUES: dict[str, dict[str, Any]] = {
    "ranked": {},
    "swept": {},
    "phoenix": {},
    "brief": {"retention": RETENTION_MS / 1000},
    "bounded": {"max_messages": 30, "overflow": "drop_oldest"},
    "morgue": {},
    "failing": {"dead_letter": {"queue": "morgue", "max_receives": RECEIVES}, "max_in_flight": 6},
}
RULES = {
    "phoenix": Rules(is_mortal=True),
    "bounded": Rules(max_messages=30),
    "failing": Rules(dead_letters="morgue", max_in_flight=6),
}
SENT_TO = ("ranked", "ranked", "swept", "swept", "phoenix", "brief", "brief", "bounded", "failing", "failing")


class Asked(Ask, frozen=True, kw_only=True):
    """What a client asks, and what of it goes into the history; `create` does not."""

    operation: Operation | None
    queue: str
    items: tuple[Item, ...] = ()
    limit: int = 1


class Origin(msgspec.Struct):
    reason: str


class Handed(msgspec.Struct):
    id: int
    content: msgspec.Raw
    priority: int = 0
    receipt: str = ""
    dead_letter: Origin | None = None


class Told(msgspec.Struct):
    """All that is read of any answer."""

    id: int | str | None = None  # text for a move
    ids: list[int] = []
    messages: list[Handed] = []
    purged: int = 0
    moved: int = 0


class Ender(Client):
    def __init__(self, name: str, seed: int, place: Place, acts: list[Act]) -> None:
        super().__init__(name, seed, place)
        self._acts = acts
        self._held: list[tuple[str, Item]] = []
        self._known: list[tuple[str, Item]] = []
        self._is_phoenix_gone = False

    def next_request(self) -> Ask:
        if self._is_phoenix_gone:
            self._is_phoenix_gone = False
            return Asked("PUT", "/queues/phoenix", b"{}", operation=None, queue="phoenix")
        what = self.chance.random()
        if what < 0.4:
            return self._send()
        if what < 0.45 and self._known:
            queue, item = self._known.pop(self.chance.randrange(len(self._known)))
            return Asked(
                "DELETE", f"/queues/{queue}/messages/{item.id}", operation="cancel", queue=queue, items=(item,)
            )
        if what < 0.47:
            return Asked("DELETE", "/queues/swept/messages", operation="purge", queue="swept")
        if what < 0.49:
            return Asked("DELETE", "/queues/phoenix", operation="delete", queue="phoenix")
        if what < 0.52:
            return self._redrive()
        if self._held:
            return self._settle(*self._held.pop())
        if what < 0.7:
            return take("failing", self.chance.choice((1, 3)), f"&visibility_timeout={LEASE_MS / 1000}", "lease")
        return take(self.chance.choice(SENT_TO), self.chance.choice((1, 1, 2, 5)))

    def _send(self) -> Asked:
        queue = self.chance.choice(SENT_TO)
        drafts = [self._draft(queue) for _ in range(self.chance.choice((1, 1, 1, 2, 4)))]
        body = b"[%b]" % b",".join(envelope for envelope, _ in drafts)
        items = tuple(item for _, item in drafts)
        return Asked("POST", f"/queues/{queue}/messages", body, operation="send", queue=queue, items=items)

    def _draft(self, queue: str) -> tuple[bytes, Item]:
        content, priority = self.content(), self.chance.choice((0, 0, 4, 9))
        fields, life_ms = f', "priority": {priority}', RETENTION_MS if queue == "brief" else 0
        if queue == "brief" and self.chance.random() < 0.8:
            ttl_ms = self.chance.choice(TTLS_MS)
            fields, life_ms = f'{fields}, "ttl": {ttl_ms / 1000}', min(ttl_ms, RETENTION_MS)
        return b'{"content":%b%b}' % (content, fields.encode()), Item(None, digest(content), priority, life_ms * MS)

    def _redrive(self) -> Asked:
        number = self.chance.choice((1, 5, 20, 100))
        path, body = self.chance.choice((("redrive", b'{"limit": %d}'), ("moves", b'{"per_second": %d}')))
        return Asked("POST", f"/queues/morgue/{path}", body % number, operation="redrive", queue="morgue")

    def _settle(self, receipt: str, item: Item) -> Asked:
        path = f"/queues/failing/messages/{receipt}"
        if self.chance.random() < 0.4:
            return Asked("DELETE", path, operation="ack", queue="failing", items=(item,))
        item = replace(item, reason=f"{self.name} {self.chance.randrange(1_000_000)}")
        body = b'{"dead_letter": true, "reason": "%b"}' % (item.reason or "").encode()
        return Asked("PATCH", path, body, operation="reject", queue="failing", items=(item,))

    def learn(self, request: Ask, answer: Answer) -> None:
        assert isinstance(request, Asked)
        assert answer.status in (0, 200, 201, 204, 404, 409, 429), answer
        outcome = "fail" if answer.status >= 400 else "ok" if answer.status else "unknown"
        self._is_phoenix_gone = request.queue == "phoenix" and answer.status == 404
        if request.operation is None:
            return
        told = msgspec.json.decode(answer.body if outcome == "ok" and answer.body else b"{}", type=Told)
        items = request.items
        if request.operation == "send" and outcome == "ok":
            items = tuple(replace(item, id=number) for item, number in zip(items, told.ids, strict=True))
            if request.queue in ("ranked", "swept"):
                self._known = [*self._known, *((request.queue, item) for item in items)][-MAX_KNOWN:]
        elif request.operation in ("take", "lease"):
            until_ns = LEASE_MS * MS if request.operation == "lease" else 0
            items = tuple(_item(one, until_ns) for one in told.messages)
            self._held += [(one.receipt, item) for one, item in zip(told.messages, items, strict=True) if one.receipt]
        self._acts.append(
            Act(
                client=self.name,
                operation=request.operation,
                queue=request.queue,
                invoked=answer.invoked,
                returned=answer.returned,
                outcome=outcome,
                items=items,
                limit=request.limit,
                count=told.purged + told.moved,
            )
        )

    def take_all(self, server: Server) -> None:
        """Take what is left in each queue, when no lease and no move is under way."""
        wait_until(lambda: not any(told["in_flight"] for told in _messages(server, "failing")), 30)
        wait_until(lambda: not any(move["status"] == "running" for move in _moves(server)), 30)
        for queue in QUEUES:
            request, reply = take(queue, 1_000), None
            while reply is None or reply.status == 200:
                invoked = monotonic_ns()
                reply = server.request(request.method, request.path)
                self.learn(request, Answer(invoked, monotonic_ns(), reply.status, reply.body))


def _messages(server: Server, *queues: str) -> list[dict[str, int]]:
    return [server.request("GET", f"/queues/{queue}").json["messages"] for queue in queues]


def _moves(server: Server) -> list[dict[str, Any]]:
    moves: list[dict[str, Any]] = server.request("GET", "/queues/morgue/moves").json["moves"]
    return moves


def _item(one: Handed, until_ns: int) -> Item:
    reason = one.dead_letter.reason if one.dead_letter else None
    return Item(one.id, digest(bytes(one.content)), one.priority, 0, until_ns, reason)


def take(queue: str, limit: int, more: str = "", operation: Operation = "take") -> Asked:
    return Asked("GET", f"/queues/{queue}/messages?max={limit}{more}", operation=operation, queue=queue, limit=limit)


def enders(seed: int, place: Place, acts: list[Act]) -> list[Ender]:
    return [Ender(f"ender {number}", seed, place, acts) for number in range(ENDERS)]


def take_rest(server: Server, seed: int, place: Place, acts: list[Act]) -> dict[str, dict[str, int]]:
    """Take what is left; the totals of each queue that was there from the beginning."""
    Ender(END, seed, place, acts).take_all(server)
    lasting = [queue for queue in QUEUES if queue != "phoenix"]
    return {queue: server.request("GET", f"/queues/{queue}").json["totals"] for queue in lasting}


def endings(acts: list[Act], kills: list[Kill], counters: dict[str, dict[str, int]]) -> Endings:
    return Endings(tuple(acts), tuple(kills), RULES, counters)


def ending_figures(acts: list[Act]) -> Counter[str]:
    """How much happened, so that a test can tell that it has tested something."""
    counted = Counter[str]()
    for act in acts:
        counted[f"{act.operation}: {act.outcome}"] += 1
        counted[f"messages of {act.operation}: {act.outcome}"] += len(act.items)
    return counted
