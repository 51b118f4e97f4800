"""Judges what clients saw of messages that end in every other way: purged, cancelled, expired, dropped, rejected, or
gone with their queue; and of those that come in the order of their priorities, or back from a dead-letter queue.

`tests.history` and `tests.leases` rest on it that nothing ends but by a receive or a receipt, and find the more for
it. Here a message may be gone for many reasons, so each has a time in which it was *certainly there*: from when its
send had returned until the first request that may have ended it was invoked, or its time may have been over. Contents
are unique. A request takes effect at one moment between `invoked` and `returned`, or not at all when it has no answer.

- *Missing.* A take that got fewer than it asked for saw the end of its queue: nothing is certainly there meanwhile. The
  last take from each queue is such a one, so what is lost is missing there. Where messages are leased, or move to a
  dead-letter queue and back, only those last takes count, when no lease and no move is left.
- *Back.* What was taken, acknowledged, cancelled or purged is not seen by a request that was invoked afterwards, nor is
  what had its time: a kill does not begin it anew. What was rejected is not seen again under the same id.
- *Order.* What is certainly there during a take does not go before what it got: first comes the higher priority, then
  the smaller id.
- *Doubled.* A content is removed once, however often it became a dead letter and was moved back.
- *Counters.* All that came into a queue went out of it in one of the ways that are counted, each of which is between
  what is known and what requests without answer may have added.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from operator import attrgetter
from typing import Literal

from msgspec import Struct

from tests.history import NEVER, Kill, Span, is_cut_off, may_have_acted, overtaken

GRAIN_NS = 20_000_000  # the server's clock counts milliseconds, and begins anew with each start
END = "the end"  # the client that takes what is left

Operation = Literal["send", "take", "lease", "ack", "reject", "cancel", "purge", "delete", "redrive"]
REMOVING = ("take", "ack", "cancel")


class Item(Struct, frozen=True):
    """A message: one that is sent, with `ttl_ns` if it has a time; one that came; or one that a request is about.

    `until_ns`: how long a lease lasts. `reason`: why it is rejected, or became a dead letter.
    """

    id: int | None
    digest: str
    priority: int = 0
    ttl_ns: int = 0
    until_ns: int = 0
    reason: str | None = None


class Act(Struct, frozen=True):
    """A request; times are monotonic ns. `count`: how many it says that it purged or moved."""

    client: str
    operation: Operation
    queue: str
    invoked: int
    returned: int
    outcome: Literal["ok", "fail", "unknown"] = "ok"
    items: tuple[Item, ...] = ()
    limit: int = 1
    count: int = 0


class Rules(Struct, frozen=True):
    """Of a queue. `dead_letters`: where what it rejects goes. `is_mortal`: it is deleted and made anew."""

    dead_letters: str = ""
    max_messages: int = 0
    max_in_flight: int = 0
    is_mortal: bool = False


class Endings(Struct, frozen=True):
    """`counters`: the totals of each queue when all was taken out of it."""

    acts: tuple[Act, ...]
    kills: tuple[Kill, ...] = ()
    rules: dict[str, Rules] = {}
    counters: dict[str, dict[str, int]] = {}


def check_endings(endings: Endings) -> list[str]:
    """Every broken promise, one sentence each; empty when all were kept."""
    found = [
        f"a {act.operation} of {act.client} failed without any kill."
        for act in endings.acts
        if act.outcome == "unknown" and not is_cut_off(act, endings.kills)
    ]
    dead = {rules.dead_letters for rules in endings.rules.values()}
    for name in sorted({act.queue for act in endings.acts} - dead):
        view = _view(endings, name)
        found += [f"queue {name}: {sentence}" for rule in _RULES for sentence in rule(view)]
    return found + list(_counters(endings))


# --- one queue -------------------------------------------------------------


class _Life(Struct):
    """A content, how it was sent, and every request that it is in, in the order of their invocation."""

    sent: Item
    send: Act
    acts: list[tuple[Item, Act]]
    may_end: int = NEVER  # from then on it may be gone
    is_taken_perhaps: bool = False  # and only a take without answer explains that it is

    def is_certain(self) -> bool:
        return self.send.outcome == "ok" or any(act.operation in ("take", "lease") for _, act in self.acts)

    def is_there(self, act: Act) -> bool:
        """Whether it is certainly there as long as this request is under way."""
        return self.is_certain() and self.send.returned < act.invoked and act.returned < self.may_end

    def __str__(self) -> str:
        return f"message {self.number()} ({self.sent.digest})"

    def number(self) -> int | None:
        """Its id, if it is known at all. (What was moved back has another.)"""
        return next((n for n in (self.sent.id, *(item.id for item, _ in self.acts)) if n is not None), None)

    def rank(self) -> tuple[int, int]:
        return -self.sent.priority, self.number() or NEVER


class _View(Struct):
    """A queue and its dead letters."""

    name: str
    rules: Rules
    acts: list[Act]
    lives: dict[str, _Life]
    strangers: list[tuple[Item, Act]]  # what nobody sent
    cut_off: list[Act]  # takes that may have got something

    def looks(self) -> list[Act]:
        """Takes that saw the end of the queue; of one with dead letters the last of all, which saw them gone too."""
        short = [act for act in self.acts if _is(act, "take") and len(act.items) < act.limit]
        return [act for act in short[-1:] if act.client == END] if self.rules.dead_letters else short


def _is(act: Act, *operations: Operation) -> bool:
    return act.outcome == "ok" and act.operation in operations


def _view(endings: Endings, name: str) -> _View:
    rules = endings.rules.get(name, Rules())
    mine = (act for act in endings.acts if act.queue in (name, rules.dead_letters))
    acts = sorted(mine, key=attrgetter("invoked"))
    lives = {item.digest: _Life(item, act, []) for act in acts if act.operation == "send" for item in act.items}
    view = _View(name, rules, acts, lives, [], [])
    for act in acts:
        if act.operation == "take" and act.outcome == "unknown" and may_have_acted(act, endings.kills):
            view.cut_off.append(act)
        for item in act.items if act.operation != "send" else ():
            if item.digest in lives:
                lives[item.digest].acts.append((item, act))
            else:
                view.strangers.append((item, act))
    cleared = [act for act in acts if act.operation in ("purge", "delete") and act.outcome != "fail"]
    highest = max((life.number() or 0 for life in lives.values()), default=0)
    highest += sum(len(act.items) for act in acts if act.operation == "send" and act.outcome == "unknown")
    for life in lives.values():
        excuses = [act.invoked for act in cleared if act.returned >= life.send.invoked]
        excuses += [act.invoked for _, act in life.acts if act.operation in REMOVING and act.outcome != "fail"]
        if life.sent.ttl_ns:
            excuses.append(life.send.invoked + life.sent.ttl_ns - GRAIN_NS)
        if rules.max_messages and (life.number() or 0) <= highest - rules.max_messages:
            excuses.append(life.send.invoked)  # dropped for one behind it
        takes = [act.invoked for act in view.cut_off if act.returned >= life.send.invoked]
        life.is_taken_perhaps = not excuses and bool(takes)
        life.may_end = min(excuses + takes, default=NEVER)
    return view


# --- what was sent, and what was seen -------------------------------------------------------------


def _missing(view: _View) -> Iterator[str]:
    looks = view.looks()
    begun = [act.invoked for act in looks]
    for life in view.lives.values():
        for act in looks[bisect_right(begun, life.send.returned) :]:
            if act.invoked >= life.may_end:
                break
            if life.is_there(act):
                yield f"missing: {life} was there, and {act.client} got {len(act.items)} of {act.limit} without it."
                break
    taken = sum(life.is_certain() and life.is_taken_perhaps for life in view.lives.values())
    room = sum(act.limit for act in view.cut_off)
    if taken > room:
        yield f"lost: {taken} messages are gone, and takes without answer can have taken {room}."


def _halved(view: _View) -> Iterator[str]:
    for act in view.acts:
        if act.operation == "send" and act.outcome == "unknown":
            lives = [view.lives[item.digest] for item in act.items]
            seen = [life for life in lives if life.is_certain()]
            unseen = [life for life in lives if not life.is_certain() and life.may_end == NEVER]
            if seen and unseen:
                yield f"half a batch: of one by {act.client} {unseen[0]} was never seen."


def _invented(view: _View) -> Iterator[str]:
    for item, act in view.strangers:
        yield f"a phantom: {act.client} got {item.id} ({item.digest}), and nobody sent it."
    for life in view.lives.values():
        for item, act in life.acts:
            if life.send.outcome == "fail":
                yield f"a phantom: {act.client} got {life}, whose send was refused."
            if act.returned < life.send.invoked:
                yield f"{act.client} got {life} before it was sent."
            if item.priority != life.sent.priority:
                yield f"altered: {act.client} got {life} with the priority {item.priority}."
            is_renumbered = act.queue != view.name or view.rules.dead_letters
            if life.sent.id is not None and item.id != life.sent.id and not is_renumbered:
                yield f"altered: {act.client} got {life} as {item.id}."


def _doubled(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        takers = [act.client for _, act in life.acts if _is(act, *REMOVING)]
        if len(takers) > 1:
            yield f"doubled: {life} was removed by {' and by '.join(takers)}."
    if view.rules.is_mortal:
        return
    sent = {(view.name, life.sent.id, digest) for digest, life in view.lives.items() if life.sent.id is not None}
    seen = {(act.queue, item.id, digest) for digest, life in view.lives.items() for item, act in life.acts}
    for (queue, number), times in Counter((queue, number) for queue, number, _ in sent | seen).items():
        if times > 1:
            yield f"the id {number} of {queue} was given to {times} messages."


def _back(view: _View) -> Iterator[str]:
    cleared = [act for act in view.acts if _is(act, "purge", "delete")]
    for life in view.lives.values():
        gone = [(act.returned, act.operation) for act in cleared if act.invoked > life.send.returned]
        gone += [(act.returned, act.operation) for _, act in life.acts if _is(act, *REMOVING)]
        if life.sent.ttl_ns:
            gone.append((life.send.returned + life.sent.ttl_ns + GRAIN_NS, "ttl"))
        moment, why = min(gone, default=(NEVER, ""))
        rejected = [(item.id, act.returned) for item, act in life.acts if _is(act, "reject")]
        for item, act in life.acts:
            if act.invoked > moment and _is(act, "lease", *REMOVING):
                yield f"back: {act.client} could {act.operation} {life}, which the {why} had ended."
            is_rejected = any(item.id == number and act.invoked > at for number, at in rejected)
            if is_rejected and act.queue == view.name and _is(act, "take", "lease", "ack"):
                yield f"back: {act.client} could {act.operation} {life}, which was rejected."


def _refused(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        for _, act in life.acts:
            if act.operation == "cancel" and act.outcome == "fail" and life.is_there(act):
                yield f"{act.client} could not cancel {life}, which was there."


# --- order -------------------------------------------------------------


def _out_of_order(view: _View) -> Iterator[str]:
    if view.rules.dead_letters:
        return
    waiting = sorted((life for life in view.lives.values() if life.is_certain()), key=lambda one: -one.send.returned)
    there: list[_Life] = []
    for act in view.acts:
        if not _is(act, "take"):
            continue
        while waiting and waiting[-1].send.returned < act.invoked:
            there.append(waiting.pop())
        there = [life for life in there if life.may_end > act.invoked]
        ranks = [(-item.priority, item.id or NEVER) for item in act.items]
        if ranks != sorted(ranks):
            yield f"out of order: {act.client} got {ranks} in one answer."
        for life in there:
            if ranks and life.is_there(act) and life.rank() < max(ranks):
                yield f"out of order: {act.client} got {max(ranks)} while {life} of rank {life.rank()} was there."


def _sends_out_of_order(view: _View) -> Iterator[str]:
    if view.rules.is_mortal:
        return
    known = [
        (act, tuple(item.id for item in act.items if item.id is not None)) for act in view.acts if _is(act, "send")
    ]
    for act, ids in known:
        if any(before >= after for before, after in pairwise(ids)):
            yield f"a send of {act.client} was given the ids {ids}."
    for earlier, later in overtaken(Span(act.client, act.invoked, act.returned, ids) for act, ids in known if ids):
        yield (
            f"{later.client} was given the id {min(later.ids)} by a send that began "
            f"after the one by which {earlier.client} was given {max(earlier.ids)}."
        )


# --- leases and dead letters -------------------------------------------------------------


def _too_many_held(view: _View) -> Iterator[str]:
    """A lease is held from when it was answered until its time may be over, or it may be settled."""
    changes: list[tuple[int, int]] = []
    for life in view.lives.values():
        for item, act in life.acts:
            if _is(act, "lease"):
                settled = (
                    other.invoked
                    for about, other in life.acts
                    if other.operation in ("ack", "reject") and about.id == item.id and other.invoked > act.returned
                )
                end = min([act.invoked + item.until_ns - GRAIN_NS, *settled])
                changes += [(act.returned, 1), (end, -1)] if end > act.returned else []
    held = most = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    if view.rules.max_in_flight and most > view.rules.max_in_flight:
        yield f"{most} messages were leased at a time, and {view.rules.max_in_flight} may be."


def _wrong_reasons(view: _View) -> Iterator[str]:
    for life in view.lives.values():
        given = {item.reason for item, act in life.acts if act.operation == "reject" and act.outcome != "fail"}
        for item, act in life.acts:
            if act.operation == "take" and act.queue == view.rules.dead_letters and item.reason not in given:
                yield f"{life} is a dead letter for the reason {item.reason!r}, which nobody gave."


# --- counters -------------------------------------------------------------

WAYS_OUT = ("acked", "purged", "cancelled", "expired", "dropped", "dead_lettered", "redriven", "quarantined")


def _counters(endings: Endings) -> Iterator[str]:
    bounds: dict[str, dict[str, tuple[int, int]]] = {queue: _known(endings, queue) for queue in endings.counters}
    for queue, told in endings.counters.items():
        out = sum(told[way] for way in WAYS_OUT)
        if told["sent"] != out:
            yield f"{queue} counts {told['sent']} sent, and {out} that went in any way."
        for name, (least, most) in bounds[queue].items():
            if not least <= told[name] <= most:
                yield f"{queue} counts {told[name]} {name}, and it is {least} to {most}."
        dead = endings.rules.get(queue, Rules()).dead_letters
        if dead and endings.counters[dead]["sent"] != told["dead_lettered"]:
            came = endings.counters[dead]["sent"]
            yield f"{dead} counts {came} sent, and {queue} counts {told['dead_lettered']} dead letters."


def _known(endings: Endings, queue: str) -> dict[str, tuple[int, int]]:
    """Of each counter, the least and the most that it may be by what was answered."""
    done: dict[str, Counter[str]] = defaultdict(Counter)
    for act in endings.acts:
        if act.queue == queue:
            done[act.outcome][act.operation] += len(act.items) if act.operation in ("send", "take") else 1
            done[f"{act.outcome} count"][act.operation] += act.count
            if act.operation == "take" and act.outcome == "unknown":
                done["unknown"]["take"] += act.limit
    ok, unknown = done["ok"], done["unknown"]
    rules = endings.rules.get(queue, Rules())
    back = endings.counters[rules.dead_letters]["redriven"] if rules.dead_letters else 0
    is_dead_letters = any(other.dead_letters == queue for other in endings.rules.values())
    known = {
        "acked": (ok["take"] + ok["ack"], ok["take"] + ok["ack"] + unknown["take"] + unknown["ack"]),
        "cancelled": (ok["cancel"], ok["cancel"] + unknown["cancel"]),
        "dead_lettered": (ok["reject"], ok["reject"] + unknown["reject"]),
        "purged": (done["ok count"]["purge"], NEVER if unknown["purge"] else done["ok count"]["purge"]),
        "redriven": (done["ok count"]["redrive"], NEVER),
    }
    if not is_dead_letters:
        known["sent"] = ok["send"] + back, ok["send"] + back + unknown["send"]
        known["redriven"] = 0, 0
    return known


_RULES: tuple[Callable[[_View], Iterator[str]], ...] = (
    _missing,
    _halved,
    _invented,
    _doubled,
    _back,
    _refused,
    _out_of_order,
    _sends_out_of_order,
    _too_many_held,
    _wrong_reasons,
)
