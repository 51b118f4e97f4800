"""Judges what clients saw of the queues, and knows nothing of the server but its promises.

A history is every request that clients made, with the interval of time in which it was under way, the kills of the
server, and the messages that were left at the end. `check` says what in it breaks a promise. A request that was
refused before any of it was sent is no part of a history; one that got no whole answer, or a 5xx, has the outcome
`unknown`. Contents must be unique within a history, so that each tells which send it came from.

**What is known of time.** A request takes effect at one moment, for all of its messages at once. The moment lies
between `invoked` and `returned`. That holds for `unknown` too, if there was an effect at all: such a request returned
after the server was dead, and a dead server does nothing. So of two requests it is certain which was first when one
returned before the other was invoked; when they overlap either may have been. Each rule below finds fault only with
what no choice of moments can explain:

- *Order of sends.* Ids rise with the moments of the sends. If send A returned before send B was invoked, every id of
  A is smaller than every id of B. The ids of a batch rise in the order in which it was written.
- *Order of receives.* A receive takes the smallest ids there are. Where B is in the queue, every smaller id has been
  sent already, because ids rise with the moments of the sends. So if the receive of B returned, no smaller id may
  come from a receive that was invoked later: it would have been in the queue and first in line. This is so for any
  two clients; within one client, whose requests never overlap, it says that the ids it receives rise.
- *Nothing withheld.* A receive that took fewer than it asked for saw the queue's end (answers are also bounded in
  bytes; histories stay far below that). A message is withheld when its send returned before that receive was invoked
  and it came from one that was invoked after that one returned.
- *Nothing lost.* A message that is certainly sent is received, or left at the end, or was taken by a receive whose
  answer a kill cut off. Certainly sent is what was acknowledged, and every message of a batch of which one was seen.
  A receive that was cut off may have taken a missing message when it was under way in this window: after the message
  was sent, after the last receive of a smaller id was invoked (smaller ids went first), and before the first receive
  of a greater id returned (the message was gone by then). Where no answer told the id of a message, those of its
  batch that were seen before and behind it are the smaller and the greater ones. A receive took at most as many as it
  asked for. The missing messages must all find a place at once in receives that were cut off.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Literal, Protocol

from msgspec import Struct

NEVER = 1 << 62  # a moment after every other; the end, when what is left is looked at


class Message(Struct, frozen=True):
    """`id` is None as long as no answer has told it."""

    id: int | None
    digest: str


class Operation(Struct, frozen=True):
    """One request. A send has the messages it sent, a receive those it got, at most `limit`. Times: monotonic ns."""

    client: str
    operation: Literal["send", "receive"]
    queue: str
    messages: tuple[Message, ...]
    invoked: int
    returned: int
    outcome: Literal["ok", "fail", "unknown"] = "ok"
    limit: int = 1


class Kill(Struct, frozen=True):
    """When the signal was sent, when the process was gone, and when its successor was announced to the clients."""

    sent: int
    dead: int
    back: int


class History(Struct, frozen=True):
    """`left`: what the last receives of all took from each queue, in order, when every client was done."""

    operations: tuple[Operation, ...]
    kills: tuple[Kill, ...] = ()
    left: dict[str, tuple[Message, ...]] = {}


class Interval(Protocol):
    """When a request was under way."""

    @property
    def invoked(self) -> int: ...
    @property
    def returned(self) -> int: ...


class Recorder:
    """Collects a history. Any thread may record; the rest is one thread's."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.kills: list[Kill] = []

    def record(self, operation: Operation) -> None:
        self.operations.append(operation)

    def history(self, left: dict[str, tuple[Message, ...]]) -> History:
        return History(tuple(self.operations), tuple(self.kills), left)


def digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()


def check(history: History) -> list[str]:
    """Every broken promise, one sentence each; empty when all were kept."""
    found = [
        f"queue {operation.queue}: a {operation.operation} of {operation.client} failed without any kill."
        for operation in history.operations
        if operation.outcome == "unknown" and not is_cut_off(operation, history.kills)
    ]
    for name in sorted({operation.queue for operation in history.operations} | history.left.keys()):
        view = _view(history, name)
        for rule in _RULES:
            found += [f"queue {name}: {sentence}" for sentence in rule(view)]
    return found


def is_cut_off(request: Interval, kills: Iterable[Kill]) -> bool:
    """Whether a kill explains that the request has no answer."""
    return any(kill.sent <= request.returned and request.invoked <= kill.back for kill in kills)


def may_have_acted(request: Interval, kills: Iterable[Kill]) -> bool:
    """Whether the server was alive at any moment of a request without answer."""
    return not any(kill.dead < request.invoked <= kill.back for kill in kills)


# --- one queue ---------------------------------------------------------------------------


class _View(Struct, frozen=True):
    """One queue's part of a history. What was left is the last of `receives`."""

    sends: tuple[Operation, ...]
    receives: tuple[Operation, ...]
    cut_off: tuple[Operation, ...]

    def seen(self) -> Iterator[tuple[Message, Operation]]:
        return ((message, receive) for receive in self.receives for message in receive.messages)

    def senders(self) -> dict[str, tuple[Message, Operation]]:
        return {message.digest: (message, send) for send in self.sends for message in send.messages}

    def ids(self) -> dict[str, int]:
        """The id of each content, from the acknowledgement, else from the first time it was seen."""
        found = {message.digest: message.id for message, _ in reversed(list(self.seen())) if message.id is not None}
        return found | {d: message.id for d, (message, _) in self.senders().items() if message.id is not None}


def _view(history: History, queue: str) -> _View:
    mine = [operation for operation in history.operations if operation.queue == queue]
    receives = [o for o in mine if o.operation == "receive"]
    left = history.left.get(queue, ())
    end = Operation("the end", "receive", queue, left, NEVER, NEVER, limit=len(left))
    return _View(
        sends=tuple(o for o in mine if o.operation == "send"),
        receives=(*(o for o in receives if o.outcome == "ok"), end),
        cut_off=tuple(o for o in receives if o.outcome == "unknown" and may_have_acted(o, history.kills)),
    )


def _repeated(view: _View) -> Iterator[str]:
    takers: dict[str, list[str]] = defaultdict(list)
    for message, receive in view.seen():
        takers[message.digest].append(f"to {receive.client} as {message.id}")
    for content, times in takers.items():
        if len(times) > 1:
            yield f"the content {content} was handed out {len(times)} times: {', '.join(times)}."


def _invented(view: _View) -> Iterator[str]:
    senders, acknowledged = view.senders(), _acknowledged(view)
    for message, receive in view.seen():
        sent, send = senders.get(message.digest, (None, None))
        who = f"message {message.id}, received by {receive.client},"
        if send is None or sent is None:
            if message.id not in acknowledged:
                yield f"{who} is a phantom: nobody sent its content."
        elif send.outcome == "fail":
            yield f"{who} is a phantom: its send by {send.client} was refused."
        elif receive.returned < send.invoked:
            yield f"{who} was received before it was sent."
        elif sent.id not in (None, message.id):
            yield f"{who} was acknowledged as {sent.id}."


def _altered(view: _View) -> Iterator[str]:
    senders, acknowledged = view.senders(), _acknowledged(view)
    for message, receive in view.seen():
        expected = acknowledged.get(message.id)
        if expected and message.digest != expected and message.digest not in senders:
            yield f"message {message.id} was altered: sent as {expected}, {receive.client} received {message.digest}."


def _acknowledged(view: _View) -> dict[int | None, str]:
    return {m.id: m.digest for send in view.sends if send.outcome == "ok" for m in send.messages}


def _reused_ids(view: _View) -> Iterator[str]:
    senders = view.senders()
    given = {(m.id, m.digest) for send in view.sends for m in send.messages if m.id is not None}
    given |= {(m.id, m.digest) for m, _ in view.seen() if m.digest in senders}
    for number, times in Counter(number for number, _ in given).items():
        if times > 1:
            yield f"the id {number} was given to {times} messages."


# --- order -------------------------------------------------------------


class Span(Struct, frozen=True):
    """A request with the ids it is known to have moved, of which there is at least one."""

    client: str
    invoked: int
    returned: int
    ids: tuple[int, ...]


def _span(request: Operation, ids: tuple[int, ...]) -> Span:
    return Span(request.client, request.invoked, request.returned, ids)


def _sends_out_of_order(view: _View) -> Iterator[str]:
    ids = view.ids()
    known = [(send, tuple(ids[m.digest] for m in send.messages if m.digest in ids)) for send in view.sends]
    for send, numbers in known:
        for before, after in pairwise(numbers):
            if before >= after:
                yield f"in a batch of {send.client} the id {after} follows {before}."
    for earlier, later in overtaken(_span(send, numbers) for send, numbers in known if numbers):
        yield (
            f"{later.client} was given the id {min(later.ids)} by a send that began "
            f"after the one by which {earlier.client} was given {max(earlier.ids)}."
        )


def _receives_out_of_order(view: _View) -> Iterator[str]:
    spans = (_span(r, tuple(m.id for m in r.messages if m.id is not None)) for r in view.receives if r.messages)
    for earlier, later in overtaken(spans):
        if earlier.client != later.client:
            yield (
                f"out of order: {later.client} received message {min(later.ids)} by a receive that began "
                f"after the one by which {earlier.client} had received {max(earlier.ids)}."
            )


def overtaken(spans: Iterable[Span], others: Iterable[Span] | None = None) -> Iterator[tuple[Span, Span]]:
    """Pairs where the first returned before the second was invoked and has a greater id: one for each second.

    The second is one of `spans`, the first one of the `others`, or also of `spans` where there are none.
    """
    begun = sorted(spans, key=attrgetter("invoked"))
    ended = iter(sorted(begun if others is None else others, key=attrgetter("returned")))
    candidate, greatest = next(ended, None), None
    for span in begun:
        while candidate and candidate.returned < span.invoked:
            greatest = candidate if greatest is None or max(candidate.ids) > max(greatest.ids) else greatest
            candidate = next(ended, None)
        if greatest and max(greatest.ids) > min(span.ids):
            yield greatest, span


def _falling_ids(view: _View) -> Iterator[str]:
    last: dict[str, int] = {}
    for receive in sorted(view.receives, key=attrgetter("invoked")):
        for message in receive.messages:
            number, before = message.id or 0, last.get(receive.client, 0)
            if number < before:
                yield f"{receive.client} received message {number} after {before}."
            last[receive.client] = max(number, before)


def _withheld(view: _View) -> Iterator[str]:
    senders = view.senders()
    came = {message.digest: receive for message, receive in view.seen()}
    known = sorted((senders[d][1].returned, r.invoked, d) for d, r in came.items() if d in senders)
    sent = [returned for returned, _, _ in known]
    latest = list(accumulate(known, lambda a, b: max(a, b, key=lambda one: one[1])))
    for receive in view.receives:
        before = bisect_left(sent, receive.invoked)
        if before and len(receive.messages) < receive.limit and latest[before - 1][1] > receive.returned:
            _, _, withheld = latest[before - 1]
            yield (
                f"{receive.client} received {len(receive.messages)} of up to {receive.limit} messages "
                f"while message {view.ids()[withheld]} was in the queue."
            )


# --- loss -------------------------------------------------------------


class _Missing(Struct, frozen=True):
    """A message that was certainly sent and never seen, and the receives without answer that may have taken it."""

    message: Message
    send: Operation
    takers: tuple[int, ...]


def _lost(view: _View) -> Iterator[str]:
    missing = list(_missing(view))
    for one in missing:
        if not one.takers:
            yield _loss(one)
    rest = [one for one in missing if one.takers]
    placed = _placed([one.takers for one in rest], [receive.limit for receive in view.cut_off])
    if placed < len(rest):
        numbers = ", ".join(str(one.message.id) for one in rest)
        yield (
            f"{len(rest)} messages are lost ({numbers}), "
            f"and the receives that a kill cut off can have taken {placed} of them."
        )


def _loss(one: _Missing) -> str:
    client, size = one.send.client, len(one.send.messages)
    excuse = "and no receive that a kill cut off can have taken it."
    if one.send.outcome == "ok":
        return f"message {one.message.id}, acknowledged to {client}, is lost, {excuse}"
    return f"a batch of {size} by {client} is there in part: the content {one.message.digest} is lost, {excuse}"


def _missing(view: _View) -> Iterator[_Missing]:
    ids = view.ids()
    seen = {message.digest for message, _ in view.seen()}
    window = _windows(view)
    for send in view.sends:
        certain = send.outcome == "ok" or any(message.digest in seen for message in send.messages)
        for at, message in enumerate(send.messages if certain else ()):
            if message.digest not in seen:
                begin, end = window(*_between(send, at, ids))
                begin = max(begin, send.invoked)
                takers = (n for n, r in enumerate(view.cut_off) if r.returned >= begin and r.invoked <= end)
                yield _Missing(message, send, tuple(takers))


def _between(send: Operation, at: int, ids: dict[str, int]) -> tuple[int, int]:
    """The nearest ids below and above that of a message, which may itself be known only by its place in a batch."""
    number = ids.get(send.messages[at].digest)
    if number is not None:
        return number - 1, number + 1
    known = [[ids[m.digest] for m in part if m.digest in ids] for part in (send.messages[:at], send.messages[at + 1 :])]
    return max(known[0], default=0), min(known[1], default=NEVER)


def _windows(view: _View) -> Callable[[int, int], tuple[int, int]]:
    """A function that says between which moments a message with an id between two others may have left the queue."""
    seen = sorted((m.id, r.invoked, r.returned) for m, r in view.seen() if m.id is not None)
    ids = [number for number, _, _ in seen]
    invoked = list(accumulate((invoked for _, invoked, _ in seen), max, initial=0))
    returned = list(accumulate((returned for _, _, returned in reversed(seen)), min, initial=NEVER))[::-1]

    def window(below: int, above: int) -> tuple[int, int]:
        return invoked[bisect_right(ids, below)], returned[bisect_left(ids, above)]

    return window


def _placed(choices: list[tuple[int, ...]], room: list[int]) -> int:
    """How many can be given one of their choices, where each place has room for some: augmenting paths (Kuhn)."""
    taken: list[list[int]] = [[] for _ in room]
    full: set[int] = set()  # a search that failed shows that no path through what it tried can ever be found

    def place(who: int, tried: set[int]) -> bool:
        for where in choices[who]:
            if where in tried:
                continue
            tried.add(where)
            if len(taken[where]) < room[where]:
                taken[where].append(who)
                return True
            for index, other in enumerate(taken[where]):
                if place(other, tried):
                    taken[where][index] = who
                    return True
        return False

    count = 0
    for who in range(len(choices)):
        tried = set(full)
        if place(who, tried):
            count += 1
        else:
            full = tried
    return count


_RULES: tuple[Callable[[_View], Iterator[str]], ...] = (
    _lost,
    _repeated,
    _invented,
    _altered,
    _reused_ids,
    _sends_out_of_order,
    _receives_out_of_order,
    _falling_ids,
    _withheld,
)
