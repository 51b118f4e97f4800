"""What clients saw up to the moment at which the power was cut, and whether the disk still has it.

A load of all that tq does runs against a server on a disk that is recorded (`tests.disks`): the clients of
`tests.test_crash`, and one whose queue is purged. A cut makes of their histories what was known at its moment: what was
answered before is certain, what was under way is unknown, and the rest was never asked. `judge` opens what the cut has
left, takes everything out, and lets `tests.history` and `tests.leases` compare.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from time import monotonic_ns
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from tests import leasing, removing
from tests.clients import Answer, Ask, Client, Place
from tests.disk_recorder import Record
from tests.disks import RecordedDisk
from tests.harness import Server, open_store, wait_until
from tests.history import History, Kill, Message, Operation, Recorder, check, digest
from tests.leases import Lease, Lives, Request, Sent, Step, check_lives
from tq import lifecycle, model
from tq.audit import audit
from tq.errors import StartError
from tq.store.lmdb import LmdbStore

PURGED = "purged"
QUEUES: dict[str, dict[str, Any]] = {**{name: {} for name in (*removing.QUEUES, PURGED)}, **leasing.QUEUES}
ENOUGH_MESSAGES, ENOUGH_ACKS, ENOUGH_PURGES = 200, 100, 4  # of a load
LATER_S = (
    3_600  # after the cut its leftovers are looked at: every lease and delay is over, no deduplication id is asked
)
MINUTE_MS = 60_000


class Turn(Struct, frozen=True):
    """A request of the one who uses the queue that is purged; a purge has no contents."""

    contents: tuple[bytes, ...]
    invoked: int
    returned: int


class Purger(Client):
    """Sends and purges, alone in its queue, so that what is there is known exactly."""

    def __init__(self, seed: int, place: Place) -> None:
        super().__init__("purger", seed, place)
        self.turns: list[Turn] = []
        self._contents: tuple[bytes, ...] = ()

    def next_request(self) -> Ask:
        path = f"/queues/{PURGED}/messages"
        if self.chance.random() < 0.15:
            self._contents = ()
            return Ask("DELETE", path)
        self._contents = tuple(self.content() for _ in range(self.chance.choice((1, 1, 3))))
        return Ask("POST", path, b"[%b]" % b",".join(b'{"content":%b}' % content for content in self._contents))

    def learn(self, request: Ask, answer: Answer) -> None:
        assert answer.status in (200, 201), answer
        self.turns.append(Turn(self._contents, answer.invoked, answer.returned))


class Session(Struct, frozen=True):
    """What clients saw of a server, times in monotonic ns. `created`: when each queue was known to be there."""

    began: int
    ended: int
    created: dict[str, int]
    operations: list[Operation]
    requests: list[Request]
    turns: list[Turn]

    def acknowledged(self, moment: int) -> int:
        """How many requests were answered before a moment."""
        returned = [*self.created.values(), *(r.returned for r in (*self.operations, *self.requests, *self.turns))]
        return sum(one < moment for one in returned)

    def until(self, moment: int) -> Session:
        """What of it was known at a moment."""
        return replace(
            self,
            ended=moment,
            created={name: at for name, at in self.created.items() if at < moment},
            operations=[_known_operation(one, moment) for one in self.operations if one.invoked < moment],
            requests=[_known_request(one, moment) for one in self.requests if one.invoked < moment],
            turns=[replace(one, returned=min(one.returned, moment)) for one in self.turns if one.invoked < moment],
        )


def _known_operation(one: Operation, moment: int) -> Operation:
    if one.returned < moment:
        return one
    sent = one.messages if one.operation == "send" else ()
    return replace(one, returned=moment, outcome="unknown", messages=tuple(replace(m, id=None) for m in sent))


def _known_request(one: Request, moment: int) -> Request:
    if one.returned < moment:
        return one
    sent = tuple(replace(each, id=None, is_repeated=False) for each in one.sent)
    steps = tuple(replace(step, status="unknown") for step in one.steps)
    return replace(one, returned=moment, outcome="unknown", sent=sent, leases=(), steps=steps)


def record(
    image: Path, work: Path, seed: int, *flags: str, wrapper: tuple[str, ...] = ()
) -> tuple[Session, list[Record]]:
    """Run a server on the disk, from the making of its data directory on, under load until enough has happened."""
    place, recorder = Place(), Recorder()
    requests: list[Request] = []
    purger = Purger(seed, place)
    clients = [*removing.removers(seed, place, recorder), *leasing.leasers(seed, place, requests), purger]
    disk = RecordedDisk(image, work)
    try:
        for client in clients:
            client.start()
        began, created = monotonic_ns(), {}
        with Server(disk.path / "data", *flags, wrapper=wrapper) as server:
            for name, settings in QUEUES.items():
                assert server.request("POST", "/queues", {"name": name, **settings}).status == 201
                created[name] = monotonic_ns()
            place.announce(server.port)
            wait_until(
                lambda: (
                    any(client.failure for client in clients)
                    or (
                        removing.work_done(recorder.operations) >= ENOUGH_MESSAGES
                        and leasing.acks_done(requests) >= ENOUGH_ACKS
                        and sum(not turn.contents for turn in purger.turns) >= ENOUGH_PURGES
                    )
                ),
                60,
            )
            place.end()
            for client in clients:
                client.finish()
            ended = monotonic_ns()
    finally:
        place.end()
        records = disk.close()
    return Session(began, ended, created, recorder.operations, requests, purger.turns), records


# --- what is left -------------------------------------------------------------


class Judge:
    """Judges in a process of its own, because a data file that is damaged may kill whoever opens it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._begin()

    def _begin(self) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _remember, (self._session,))

    def find(self, data_dir: Path, moment: int) -> list[str]:
        """All that is wrong with what a cut at that moment has left."""
        try:
            return self._pool.submit(_judge_at, data_dir, moment).result()
        except BrokenProcessPool:
            self._begin()
            return ["who opened it was killed by it."]

    def close(self) -> None:
        self._pool.shutdown()


_session: Session  # of the process that judges


def _remember(session: Session) -> None:
    global _session
    _session = session


def _judge_at(data_dir: Path, moment: int) -> list[str]:
    return judge(data_dir, _session.until(moment))


def judge(data_dir: Path, session: Session) -> list[str]:
    """All that is wrong with what a cut at the end of the session has left."""
    try:
        store = open_store(data_dir)
    except StartError as refusal:
        return [f"refused: {refusal}"]
    try:
        found = store.check() or store.read(audit)  # a reader may lose its way in a structure that is damaged
        return found or [*_Leftovers(store, session).compare(), *store.read(audit)]
    finally:
        store.close()


class _Leftovers:
    """Takes out what is in the queues, an hour later. That it can send once more shows that no id is used again."""

    def __init__(self, store: LmdbStore, session: Session) -> None:
        self._store = store
        self._session = session
        self._now_ms = time.time_ns() // 1_000_000 + LATER_S * 1_000
        self._at = session.ended + LATER_S * 1_000_000_000

    def compare(self) -> list[str]:
        page = self._store.read(lambda tx: lifecycle.answer(tx, model.ListQueues(), self._now_ms))
        there = {info.name for info in page.queues}
        found = [f"the queue {name}, acknowledged, is lost." for name in self._session.created.keys() - there]
        for name in QUEUES:  # in their order, because some need others
            if name not in there:
                settings = leasing.QUEUES.get(name, {}).get("dead_letter")
                letter = model.DeadLetter(**settings) if settings else None
                self._do(model.CreateQueue(name, model.QueueSettings(dead_letter=letter)))
        self._end_waits()
        return [*found, *self._purged(), *check(self._history()), *check_lives(self._lives())]

    def _do(self, *commands: model.Command) -> list[Any]:
        results = self._store.commit(commands, self._now_ms)
        assert not [one for one in results if isinstance(one, Exception)], results
        return results

    def _end_waits(self) -> None:
        """Do what is due: end the leases and the delays."""
        due_ms: int | None = 0
        while due_ms is not None and due_ms <= self._now_ms:
            due_ms = self._do(model.Tick(1_000), model.Tick(0))[-1].next_due_ms

    def _purged(self) -> list[str]:
        """What is in the queue of the purger, which may or may not have done its last request."""
        before: tuple[bytes, ...] = ()
        after = before
        for turn in self._session.turns:
            before, after = after, after + turn.contents if turn.contents else ()
        last = self._session.turns[-1:]
        possible = [before, after] if last and last[0].returned == self._session.ended else [after]
        page = self._store.read(lambda tx: lifecycle.answer(tx, model.Peek(PURGED, limit=10_000), self._now_ms))
        found = tuple(message.content for message in page.messages)
        return [] if found in possible else [f"{PURGED} has {len(found)} messages, not {[*map(len, possible)]}."]

    def _history(self) -> History:
        """Of the queues whose messages are removed by their receive."""
        left: dict[str, tuple[Message, ...]] = {}
        sends: list[Operation] = []
        for queue in removing.QUEUES:
            sent, received = self._do(_last_send(queue), model.Receive((queue,), 100_000))
            one = (Message(sent.ids[0], digest(_last(queue))),)
            sends.append(Operation("the end", "send", queue, one, self._at, self._at))
            left[queue] = tuple(Message(m.id, digest(m.content)) for m in received.messages)
        return History((*self._session.operations, *sends), (self._cut(),), left)

    def _lives(self) -> Lives:
        """Of the others."""
        requests = list(self._session.requests)
        for queue in leasing.QUEUES:
            [sent] = self._do(_last_send(queue))
            one = (Sent(queue, digest(_last(queue)), sent.ids[0]),)
            requests.append(Request("the end", "send", self._at, self._at, sent=one))
        while drained := [request for queue in leasing.QUEUES for request in self._take(queue)]:
            requests += drained
        counters: dict[str, dict[str, int]] = {}
        for queue in leasing.QUEUES:
            info = self._store.read(lambda tx, queue=queue: lifecycle.answer(tx, model.GetQueue(queue), self._now_ms))
            messages = asdict(info.messages)
            counters[queue] = {**asdict(info.counters), **messages, "messages": sum(messages.values())}
        return leasing.lives(requests, [self._cut()], counters)

    def _take(self, queue: str) -> list[Request]:
        """Lease and acknowledge all that can be received now; no requests where there was none."""
        [received] = self._do(model.Receive((queue,), 100_000, MINUTE_MS))
        if not received.messages:
            return []
        leases = tuple(_lease(queue, message) for message in received.messages)
        self._do(model.Settle(queue, tuple(model.Ack(lease.receipt) for lease in leases)))
        steps = tuple(Step("ack", queue, lease.receipt) for lease in leases)
        self._at += 1
        return [
            Request("the end", "receive", self._at, self._at, leases=leases, queues=(queue,)),
            Request("the end", "settle", self._at, self._at, steps=steps),
        ]

    def _cut(self) -> Kill:
        """As a kill at one moment, after which nobody asked anything."""
        return Kill(self._session.ended, self._session.ended, self._session.ended)


def _last(queue: str) -> bytes:
    return b'"the last of %b"' % queue.encode()


def _last_send(queue: str) -> model.Send:
    return model.Send(queue, (model.Draft(_last(queue)),))


def _lease(queue: str, message: model.Message) -> Lease:
    origin = message.dead_letter
    return Lease(
        queue=queue,
        digest=digest(message.content),
        id=message.id,
        receipt=message.receipt or "",
        receive_count=message.receive_count,
        until_ns=MINUTE_MS * leasing.MS,
        group=message.group,
        source=origin.source if origin else None,
        source_receives=origin.receive_count if origin else 0,
    )
