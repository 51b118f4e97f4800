"""Judges what clients saw of messages that are leased: their whole life, from the send to the acknowledgement.

It complements `tests.history`, whose words and whose notion of time it shares: a request takes effect at one moment
between `invoked` and `returned`, or not at all. Here a request may send, lease and settle, each any number of messages.
Four things must be so for the rules to be right:

- Contents are unique, but that a send may be repeated with the same content and `dedup_id`.
- A receipt is used by the client that got it alone, so what is done with it happens in the order of the requests.
- In these queues nothing is removed but by a receipt, and nothing has a priority or expires.
- At the end every queue is drained by leases and acknowledgements whose answers came, and they are in the history.

**What follows.** Who acknowledges a message has seen it. So every message that was ever there is in an answer of the
history, and what the last lease of each tells adds up to the queues' counters exactly, whatever was cut off before.
A transaction without answer happened if what it sent was seen, and else it did not; nothing of it is left open.

**Leases in order.** `receive_count` numbers the leases of a message in its queue, those in the dead-letter queue follow
the others. An acknowledgement that was confirmed therefore belongs to the last lease there is, whenever it was asked.

**How long a lease lasts.** At least until its request was invoked plus its time, for the server cannot have granted it
sooner. An extension that was confirmed replaces that by its own; one without answer may have, so the earlier of the two
counts. A release ends it at any moment from its invocation on. A kill ends nothing. Until the earliest end of a lease
no other lease of the message may be answered, nor may its receipt be refused. The server's clock counts milliseconds,
and after a kill it starts anew from the wall clock: `GRAIN_NS` is allowed for both. In the other direction, for a
receipt that is too old to be good, `LATE_NS` is, because nobody promises when exactly a lease ends.

**First in line.** A lease takes the smallest ids that are ready. A message without delay and group is ready from its
send to its first lease, which is the one with receive_count 1. So no lease of a greater id may have been answered
before that one was invoked. Of a group this is so for every lease, and until the message is gone: it blocks the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tests.history import NEVER, Kill, Span, is_cut_off, may_have_acted, overtaken

GRAIN_NS = 20_000_000
LATE_NS = 1_000_000_000

Status = Literal["ok", "stale_receipt", "message_not_found", "unknown", "undone"]


class Sent(Struct, frozen=True):
    """A message that was sent. `is_repeated`: the answer said that it was there already."""

    queue: str
    digest: str
    id: int | None = None
    delay_ns: int = 0
    group: str | None = None
    is_repeated: bool = False


class Lease(Struct, frozen=True):
    """A message that was received. `source` and `source_receives` tell how it became a dead letter."""

    queue: str
    digest: str
    id: int
    receipt: str
    receive_count: int
    until_ns: int  # how long it was asked to last
    group: str | None = None
    source: str | None = None
    source_receives: int = 0


class Step(Struct, frozen=True):
    """What was asked for a leased message, and what was answered. `ns`: how long from then until it can be received."""

    verb: Literal["ack", "extend", "release"]
    queue: str
    receipt: str
    ns: int = 0
    status: Status = "ok"


class Request(Struct, frozen=True):
    """`queues` are those a receive asked for; times are monotonic ns."""

    client: str
    operation: Literal["send", "receive", "settle", "transact"]
    invoked: int
    returned: int
    outcome: Literal["ok", "fail", "unknown"] = "ok"
    sent: tuple[Sent, ...] = ()
    leases: tuple[Lease, ...] = ()
    steps: tuple[Step, ...] = ()
    queues: tuple[str, ...] = ()


class Limit(Struct, frozen=True):
    """Of a queue whose messages become dead letters."""

    dead_letters: str
    max_receives: int


class Lives(Struct, frozen=True):
    """`counters`: what each queue said of itself when it was drained, the messages it holds and its totals."""

    requests: tuple[Request, ...]
    kills: tuple[Kill, ...] = ()
    limits: dict[str, Limit] = {}
    counters: dict[str, dict[str, int]] = {}


def check_lives(lives: Lives) -> list[str]:
    """Every broken promise, one sentence each; empty when all were kept."""
    view = _view(lives)
    return [sentence for rule in _RULES for sentence in rule(view)]


# --- one message -------------------------------------------------------------


class _Held(Struct):
    """One lease: the request that got it, and what was done with its receipt, in order."""

    lease: Lease
    request: Request
    steps: list[tuple[Step, Request]]

    def rank(self) -> tuple[bool, int]:
        return self.lease.source is not None, self.lease.receive_count

    def known_end(self, before: int = NEVER) -> tuple[int, int]:
        """The earliest and the latest moment at which it may have ended, from what was asked before a moment."""
        earliest, latest = self.request.invoked + self.lease.until_ns, self.request.returned + self.lease.until_ns
        for step, request in self.steps:
            if request.invoked >= before or step.verb == "ack":
                continue
            begin, end = request.invoked + step.ns, request.returned + step.ns
            if step.status == "ok":
                earliest, latest = begin, end
            elif step.status == "unknown":
                earliest, latest = min(earliest, begin), max(latest, end)
        return earliest, latest

    def is_acked(self, *statuses: Status) -> bool:
        return any(step.verb == "ack" and step.status in statuses for step, _ in self.steps)

    def __str__(self) -> str:
        lease = self.lease
        return f"receive {lease.receive_count} of message {lease.id} of {lease.queue} by {self.request.client}"


class _Life(Struct):
    """All of one content: how it was sent, and its leases by rank."""

    digest: str
    sends: list[tuple[Sent, Request]]
    held: list[_Held]

    def leases_in(self, queue: str) -> list[_Held]:
        return [held for held in self.held if held.lease.queue == queue]

    def is_dead(self, queue: str) -> bool:
        """Whether it left this queue as a dead letter."""
        return any(held.lease.source == queue for held in self.held)

    def was_in(self, queue: str) -> bool:
        return self.is_dead(queue) or any(held.lease.queue == queue for held in self.held)

    def is_plain(self, queue: str) -> bool:
        return not any(sent.group or (sent.delay_ns and sent.queue == queue) for sent, _ in self.sends)


class _View(Struct):
    history: Lives
    lives: dict[str, _Life]
    requests: list[Request]
    cut_off: list[Request]  # receives that may have leased something
    by_receipt: dict[tuple[str, str], _Held] = {}

    def queues(self) -> list[str]:
        asked = {queue for request in self.requests for queue in request.queues}
        return sorted(asked | {sent.queue for request in self.requests for sent in request.sent})


def _view(lives: Lives) -> _View:
    seen = {lease.digest for request in lives.requests for lease in request.leases}
    requests = sorted((_decided(request, seen) for request in lives.requests), key=lambda request: request.invoked)
    digests = seen | {sent.digest for request in requests for sent in request.sent}
    view = _View(lives, {digest: _Life(digest, [], []) for digest in sorted(digests)}, requests, [])
    for request in requests:
        for sent in request.sent:
            view.lives[sent.digest].sends.append((sent, request))
        for lease in request.leases:
            held = view.by_receipt[lease.queue, lease.receipt] = _Held(lease, request, [])
            view.lives[lease.digest].held.append(held)
        for step in request.steps:
            held = view.by_receipt[step.queue, step.receipt]
            limit = lives.limits.get(step.queue)
            is_last = limit is not None and held.lease.receive_count >= limit.max_receives
            # What is released for the last time becomes a dead letter at once, whatever the delay.
            held.steps.append((replace(step, ns=0) if is_last and step.verb == "release" else step, request))
        if request.operation == "receive" and request.outcome == "unknown" and may_have_acted(request, lives.kills):
            view.cut_off.append(request)
    for life in view.lives.values():
        life.held.sort(key=_Held.rank)
    return view


def _decided(request: Request, seen: set[str]) -> Request:
    """A transaction without answer, with what became of its acknowledgements."""
    if request.operation != "transact" or request.outcome != "unknown":
        return request
    status: Status = "ok" if any(sent.digest in seen for sent in request.sent) else "undone"
    return replace(request, steps=tuple(replace(step, status=status) for step in request.steps))


def _unanswered(view: _View) -> Iterator[str]:
    for request in view.requests:
        if request.outcome == "unknown" and not is_cut_off(request, view.history.kills):
            yield f"a {request.operation} of {request.client} failed without any kill."


# --- what was sent, and what was seen -------------------------------------------------------------


def _lost(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        if life.held:
            last = life.held[-1]
            if not last.is_acked("ok", "unknown"):
                yield f"lost: after {last} nobody acknowledged it, and it is not there."
            continue
        for sent, request in life.sends:
            if request.outcome == "ok":
                yield f"lost: message {sent.id} of {sent.queue}, acknowledged to {request.client}, was never seen."
            elif any(view.lives[other.digest].held for other in request.sent):
                yield f"a {request.operation} of {request.client} is there in part: {life.digest} was never seen."


def _invented(view: _View) -> Iterator[str]:
    given = {
        (sent.queue, sent.id): sent.digest
        for request in view.requests
        if request.outcome == "ok"
        for sent in request.sent
    }
    for life in view.lives.values():
        possible = [(sent, request) for sent, request in life.sends if request.outcome != "fail"]
        for held in life.held:
            lease = held.lease
            origin = lease.source or lease.queue
            if not life.sends and (lease.queue, lease.id) in given:
                yield f"altered: {held} has a content that nobody sent."
            elif not any(sent.queue == origin for sent, _ in possible):
                yield f"a phantom: {held} has a content that nobody sent there with success."
            elif lease.group not in {sent.group for sent, _ in possible}:
                yield f"altered: {held} has the group {lease.group}."
            elif held.request.returned < min(request.invoked for _, request in possible):
                yield f"{held} came before it was sent."


def _doubled(view: _View) -> Iterator[str]:
    """One id for each message and one message for each id, whatever was repeated."""
    given = {(s.queue, s.id, s.digest) for r in view.requests if r.outcome == "ok" for s in r.sent}
    given |= {(held.lease.queue, held.lease.id, d) for d, life in view.lives.items() for held in life.held}
    for (queue, number), times in sorted(Counter((queue, number) for queue, number, _ in given).items()):
        if times > 1:
            yield f"the id {number} of {queue} was given to {times} messages."
    for (queue, digest), times in sorted(Counter((queue, digest) for queue, _, digest in given).items()):
        if times > 1:
            yield f"doubled: the content {digest} is in {queue} as {times} messages."
    for life in view.lives.values():
        for sent, request in life.sends:
            earlier = (r for _, r in life.sends if r.outcome != "fail" and r.invoked < request.invoked)
            if sent.is_repeated and not any(earlier):
                yield f"message {sent.id} of {sent.queue}, sent by {request.client} once, is said to be repeated."


def _sends_out_of_order(view: _View) -> Iterator[str]:
    for queue in view.queues():
        spans: list[Span] = []
        known: dict[str, int] = {}
        for life in view.lives.values():
            mine = [(sent, r) for sent, r in life.sends if sent.queue == queue and r.outcome != "fail"]
            ids = {sent.id for sent, _ in mine} | {held.lease.id for held in life.leases_in(queue)}
            number = min((one for one in ids if one is not None), default=None)
            if mine and number is not None:
                told = [request for sent, request in mine if request.outcome == "ok" and not sent.is_repeated]
                known[life.digest] = number
                took_effect = told or [request for _, request in mine]
                begin, end = min(r.invoked for r in took_effect), max(r.returned for r in took_effect)
                spans.append(Span(took_effect[0].client, begin, end, (number,)))
        for request in view.requests:
            numbers = [known[s.digest] for s in request.sent if s.queue == queue and s.digest in known]
            if request.outcome != "fail" and any(before >= after for before, after in pairwise(numbers)):
                yield f"a {request.operation} of {request.client} was given the ids {numbers} of {queue}."
        for earlier, later in overtaken(spans):
            yield (
                f"{later.client} was given the id {later.ids[0]} of {queue} by a send that began "
                f"after the one by which {earlier.client} was given {earlier.ids[0]}."
            )


def _too_early(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        possible = [request.invoked + sent.delay_ns for sent, request in life.sends if request.outcome != "fail"]
        for held in life.held[:1]:
            if possible and held.request.returned < min(possible) - GRAIN_NS:
                yield f"{held} came before its delay was over."


# --- leases -------------------------------------------------------------


def _acknowledged_and_back(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        for held, later in pairwise(life.held):
            if held.is_acked("ok"):
                yield f"{later} came after {held} was acknowledged."
        for held in life.held:
            if sum(step.verb == "ack" and step.status == "ok" for step, _ in held.steps) > 1:
                yield f"{held} was acknowledged twice."


def _gone_and_back(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        gone: dict[str, int] = {}
        for held in life.held:
            for step, request in held.steps:
                if step.status == "message_not_found":
                    gone[step.queue] = min(request.returned, gone.get(step.queue, NEVER))
        for held in life.held:
            if held.request.invoked > gone.get(held.lease.queue, NEVER):
                yield f"{held} came after the message was said to be gone."


def _leased_twice(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        for held, later in pairwise(life.held):
            if later.request.returned < held.known_end()[0] - GRAIN_NS:
                yield f"leased twice: {later} came while {held} lasted."
    receipts = Counter((lease.queue, lease.receipt) for request in view.requests for lease in request.leases)
    for (queue, receipt), times in receipts.items():
        if times > 1:
            yield f"the receipt {receipt} of {queue} was given {times} times."


def _stale_receipts(view: _View) -> Iterator[str]:
    """A receipt that cannot be good any more does nothing, and one that must be good is not refused."""
    for life in view.lives.values():
        newest = NEVER  # when the first of the later leases was answered
        for held in reversed(life.held):
            is_over = False
            for step, request in held.steps:
                if step.status == "ok":
                    _, latest = held.known_end(before=request.invoked)
                    if is_over or request.invoked > newest:
                        yield f"a stale receipt had effect: {request.client} could {step.verb} {held}."
                    elif request.invoked > latest + LATE_NS:
                        yield f"a lease that was over could be used: {request.client} could {step.verb} {held}."
                    is_over |= step.verb != "extend"
            newest = min(newest, held.request.returned)
    for request in view.requests:
        refused = [_is_refused_wrongly(view, step, request) for step in request.steps]
        if refused and (all(refused) if request.operation == "transact" else any(refused)):
            yield f"a {request.operation} of {request.client} was refused while the lease lasted."


def _is_refused_wrongly(view: _View, step: Step, request: Request) -> bool:
    if step.status not in ("stale_receipt", "message_not_found"):
        return False
    held = view.by_receipt[step.queue, step.receipt]
    before = [one for one, at in held.steps if at.invoked < request.invoked and one.status in ("ok", "unknown")]
    earliest, _ = held.known_end(before=request.invoked)
    return all(one.verb == "extend" for one in before) and request.returned < earliest - GRAIN_NS


def _miscounted(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        begin, queue, count = min((r.invoked for _, r in life.sends), default=0), "", 0
        for held in life.held:
            lease = held.lease
            missing = lease.receive_count - count - 1
            asked = {lease.queue}
            if lease.source and lease.queue != queue:
                missing = lease.source_receives - count * (queue == lease.source) + lease.receive_count - 1
                asked.add(lease.source)
            if missing < 0 or held.request.returned < begin:
                yield f"{held} came after receive {count}."
            elif missing and missing > sum(
                request.returned >= begin
                and request.invoked <= held.request.returned
                and not asked.isdisjoint(request.queues)
                for request in view.cut_off
            ):
                yield f"{held} follows receive {count}, and no kill explains what is between."
            begin, queue, count = held.request.invoked, lease.queue, lease.receive_count


def _dead_letters(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        for held in life.held:
            lease, limit = held.lease, view.history.limits.get(held.lease.queue)
            if limit and lease.receive_count > limit.max_receives:
                yield f"{held} is one more than it may have."
            source = view.history.limits.get(lease.source or "")
            if lease.source and source != Limit(lease.queue, lease.source_receives):
                yield f"{held} is a dead letter of {lease.source} after {lease.source_receives} receives."


# --- order -------------------------------------------------------------


def _leases_out_of_order(view: _View) -> Iterator[str]:
    spans: dict[str, list[Span]] = defaultdict(list)
    firsts: dict[str, list[Span]] = defaultdict(list)
    for life in view.lives.values():
        for held in life.held:
            lease, request = held.lease, held.request
            span = Span(request.client, request.invoked, request.returned, (lease.id,))
            spans[lease.queue].append(span)
            if lease.receive_count == 1 and life.is_plain(lease.queue):
                firsts[lease.queue].append(span)
    for queue, later_ones in firsts.items():
        for earlier, later in overtaken(later_ones, spans[queue]):
            yield (
                f"out of order: {later.client} was the first to receive message {later.ids[0]} of {queue}, "
                f"and {earlier.client} had received {earlier.ids[0]} before."
            )
    for request in view.requests:
        for before, after in pairwise(request.leases):
            if before.queue == after.queue and before.id >= after.id:
                yield f"out of order: {request.client} received {after.id} of {after.queue} behind {before.id}."


def _groups_out_of_order(view: _View) -> Iterator[str]:
    groups: dict[tuple[str, str], dict[int, list[_Held]]] = defaultdict(lambda: defaultdict(list))
    for life in view.lives.values():
        for held in life.held:
            if held.lease.group:
                groups[held.lease.queue, held.lease.group][held.lease.id].append(held)
    for (queue, group), messages in groups.items():
        ids = sorted(messages)
        first_seen = [min(held.request.returned for held in messages[number]) for number in ids]
        after = list(accumulate(reversed(first_seen), min))[::-1]  # when any of this place or behind it was seen
        for number, followed in zip(ids, [*after[1:], NEVER], strict=True):
            if _was_there_until(messages[number]) > followed:
                yield f"the group {group} of {queue} was not in order: one behind {number} came before it was gone."
    for request in view.requests:
        names = Counter((lease.queue, lease.group) for lease in request.leases if lease.group)
        for (queue, group), times in names.items():
            if times > 1:
                yield f"{request.client} received {times} messages of the group {group} of {queue} at once."


def _was_there_until(leases: list[_Held]) -> int:
    """A moment up to which a message was certainly in its queue."""
    moments = [held.request.invoked for held in leases]
    moments += [request.invoked for held in leases for step, request in held.steps if step.status == "ok"]
    last = leases[-1]
    if not last.is_acked("ok", "unknown"):  # it left as a dead letter, when its lease was over
        moments.append(last.known_end()[0] - GRAIN_NS)
    return max(moments)


# --- counters -------------------------------------------------------------


def _counters(view: _View) -> Iterator[str]:
    for queue, told in view.history.counters.items():
        there = [life for life in view.lives.values() if life.was_in(queue)]
        dead = [life for life in there if life.is_dead(queue)]
        received = sum(
            next(h.lease.source_receives for h in life.held if h.lease.source == queue)
            if life.is_dead(queue)
            else life.held[-1].lease.receive_count
            for life in there
        )
        expected = dict.fromkeys(("ready", "in_flight", "delayed", "blocked"), 0)
        expected |= {"sent": len(there), "dead_lettered": len(dead), "acked": len(there) - len(dead)}
        expected["received"] = received
        for name, count in expected.items():
            if told[name] != count:
                yield f"{queue} counts {told[name]} {name}, and it is {count}."
        if told["acked"] + told["released"] + told["timed_out"] != told["received"]:
            yield f"the leases of {queue} do not add up: {told}."
        yield from _between(view, queue, told)


def _between(view: _View, queue: str, told: dict[str, int]) -> Iterator[str]:
    """What may have been done by requests without answer is known only within bounds."""
    known, open_ = Counter[str](), Counter[str]()
    for request in view.requests:
        mine = [sent for sent in request.sent if sent.queue == queue]
        known["duplicates"] += sum(sent.is_repeated for sent in mine)
        open_["duplicates"] += len(mine) * (request.outcome == "unknown")
        released = [step.status for step in request.steps if step.queue == queue and step.verb == "release"]
        known["released"] += released.count("ok")
        open_["released"] += released.count("unknown")
    for name in known:
        if not known[name] <= told[name] <= known[name] + open_[name]:
            yield f"{queue} counts {told[name]} {name}, and it is {known[name]} to {known[name] + open_[name]}."


_RULES: tuple[Callable[[_View], Iterator[str]], ...] = (
    _unanswered,
    _lost,
    _invented,
    _doubled,
    _sends_out_of_order,
    _too_early,
    _acknowledged_and_back,
    _gone_and_back,
    _leased_twice,
    _stale_receipts,
    _miscounted,
    _dead_letters,
    _leases_out_of_order,
    _groups_out_of_order,
    _counters,
)
