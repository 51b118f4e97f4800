"""The checker of endings finds each kind of broken promise, and finds nothing where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.endings import END, Act, Endings, Item, Rules, check_endings
from tests.history import Kill

S = 1_000_000_000  # the times below are seconds
CUT = (90, 105)


def act(operation: Any, at: tuple[float, float], *items: Item, **more: Any) -> Act:
    """A request under way from at[0] to at[1]."""
    return Act(**{"client": "c", "queue": "q", **more}, operation=operation, **_at(at), items=items)


def _at(at: tuple[float, float]) -> dict[str, int]:
    return {"invoked": int(at[0] * S), "returned": int(at[1] * S)}


def send(*contents: str, at: tuple[float, float] = (1, 2), first: int | None = 1, **more: Any) -> Act:
    """Messages with ids from `first` on, or with none that is known; `priority` and `ttl` are of all."""
    priority, ttl_ns = more.pop("priority", 0), int(more.pop("ttl", 0) * S)
    items = (Item(first and first + n, one, priority, ttl_ns) for n, one in enumerate(contents))
    return act("send", at, *items, **{"client": "p", "outcome": "ok" if first else "unknown", **more})


def take(at: tuple[float, float], *items: Item, limit: int = 9, **more: Any) -> Act:
    return act("take", at, *items, limit=limit, **more)


def end(*items: Item, queue: str = "q", at: tuple[float, float] = (900, 901)) -> Act:
    """The last take, which saw the queue's end."""
    return take(at, *items, client=END, queue=queue)


def lease(at: tuple[float, float], *items: tuple[int, str], lasts: float = 10) -> Act:
    return act("lease", at, *(Item(number, one, until_ns=int(lasts * S)) for number, one in items), queue="f")


def reject(at: tuple[float, float], number: int, content: str, reason: str = "why", **more: Any) -> Act:
    return act("reject", at, Item(number, content, reason=reason), queue="f", **more)


def history(*acts: Act, kills: tuple[Kill, ...] = (Kill(100 * S, 110 * S, 120 * S),), **counters: Any) -> Endings:
    """With a kill from 100 to 120. Dead letters of f go to d; two of it may be leased at a time; b holds one."""
    rules = {"f": Rules("d", max_in_flight=2), "b": Rules(max_messages=1), "m": Rules(is_mortal=True)}
    return Endings(acts, kills, rules, counters)


def counted(**counters: int) -> dict[str, int]:
    names = "sent acked purged cancelled expired dropped dead_lettered redriven quarantined"
    return dict.fromkeys(names.split(), 0) | counters


A, B, C = Item(1, "A"), Item(2, "B"), Item(3, "C")
HIGH, DEAD = Item(2, "B", 9), Item(1, "A", reason="why")
PURGE = act("purge", (5, 6))
FAILING = send("A", queue="f")
REJECTED = (FAILING, lease((3, 4), (1, "A")), reject((5, 6), 1, "A"))

GOOD = {
    "nothing": history(),
    "left": history(send("A"), end(A)),
    "taken": history(send("A"), take((3, 4), A), end()),
    "empty while a send is under way": history(send("A", at=(1, 5)), take((2, 3)), end(A)),
    "empty while a take is under way": history(send("A"), take((3, 6), A), take((4, 5), client="d"), end()),
    "taken by a take without answer": history(send("A"), take(CUT, outcome="unknown"), end()),
    "a send without answer that came": history(send("A", at=CUT, first=None), end(A)),
    "a send without answer that did not": history(send("A", at=CUT, first=None), end()),
    "purged": history(send("A"), PURGE, end()),
    "sent while a purge was under way, and left": history(send("A", at=(5, 6)), PURGE, end(A)),
    "sent while a purge was under way, and purged": history(send("A", at=(5, 6)), PURGE, end()),
    "a purge without answer that had effect": history(send("A"), act("purge", CUT, outcome="unknown"), end()),
    "a purge without answer that had none": history(send("A"), act("purge", CUT, outcome="unknown"), end(A)),
    "taken while a purge was under way": history(send("A"), PURGE, take((5.2, 7), A), end()),
    "gone with its queue, and an id again": history(
        send("A", queue="m"),
        act("delete", (3, 4), queue="m"),
        send("B", at=(5, 6), queue="m"),
        end(Item(1, "B"), queue="m"),
    ),
    "sent to a queue that was gone": history(send("A", first=None, outcome="fail"), end()),
    "cancelled": history(send("A"), act("cancel", (3, 4), A), end()),
    "cancelled too late": history(send("A"), take((3, 4), A), act("cancel", (5, 6), A, outcome="fail"), end()),
    "expired": history(send("A", ttl=5), take((6.01, 7)), end()),
    "taken before it expired": history(send("A", ttl=5), take((6.9, 7), Item(1, "A")), end()),
    "dropped for a later one": history(send("A", "B", queue="b"), end(B, queue="b")),
    "by priority": history(send("A"), send("B", priority=9, first=2), take((3, 4), HIGH, limit=1), end(A)),
    "a higher one that came meanwhile": history(
        send("A"), send("B", at=(3, 4), priority=9, first=2), take((3, 4), A, limit=1), end(HIGH)
    ),
    "a higher one that was taken meanwhile": history(
        send("A"), send("B", priority=9, first=2), take((3, 6), HIGH, limit=1), take((4, 5), A, limit=1), end()
    ),
    "rejected": history(*REJECTED, end(DEAD, queue="d", at=(800, 801)), end(queue="f")),
    "a rejection without answer that had none": history(
        FAILING, lease((80, 81), (1, "A")), reject(CUT, 1, "A", outcome="unknown"), end(queue="d"), end(A, queue="f")
    ),
    "rejected, and back under a new id": history(
        *REJECTED,
        act("redrive", (7, 8), queue="d", count=1),
        lease((9, 10), (2, "A")),
        reject((11, 12), 2, "A", "again"),
        end(Item(2, "A", reason="again"), queue="d", at=(800, 801)),
        end(queue="f"),
        f=counted(sent=2, dead_lettered=2),
        d=counted(sent=2, redriven=1, acked=1),
    ),
    "two leased at a time, and a third when one is settled": history(
        send("A", "B", "C", queue="f"),
        lease((3, 4), (1, "A"), (2, "B")),
        act("ack", (5, 6), A, queue="f"),
        lease((5.5, 7), (3, "C")),
        act("ack", (8, 9), B, queue="f"),
        act("ack", (8, 9), C, queue="f"),
        end(queue="d"),
        end(queue="f"),
    ),
    "counters": history(
        send("A", "B", "C"),
        act("cancel", (3, 4), A),
        act("purge", (5, 6), count=1),
        take((3, 4), B, limit=1),
        end(),
        q=counted(sent=3, cancelled=1, purged=1, acked=1),
    ),
}

BAD = {
    "no answer and no kill": (
        history(take((3, 4), outcome="unknown"), end()),
        "a take of c failed without any kill.",
    ),
    "lost": (history(send("A"), end()), "missing: message 1 (A) was there, and the end got 0 of 9 without it."),
    "withheld": (history(send("A"), take((3, 4)), end(A)), "missing: message 1 (A) was there, and c got 0 of 9"),
    "lost before its time was over": (
        history(send("A", ttl=50), take((8, 9)), end()),
        "missing: message 1 (A) was there, and c got 0 of 9",
    ),
    "lost after an earlier purge": (history(PURGE, send("A", at=(7, 8)), end()), "missing: message 1 (A) was there"),
    "lost after a cancellation of another": (
        history(send("A", "B"), act("cancel", (3, 4), A), end()),
        "missing: message 2 (B) was there",
    ),
    "lost after a cancellation that was refused": (
        history(send("A"), act("cancel", (3, 4), A, outcome="fail"), end()),
        "c could not cancel message 1 (A), which was there.",
    ),
    "dropped, and there was room": (history(send("A", queue="b"), end(queue="b")), "missing: message 1 (A) was there"),
    "dropped, and it was the latest": (
        history(send("A", "B", queue="b"), end(A, queue="b")),
        "missing: message 2 (B) was there",
    ),
    "more lost than takes can have taken": (
        history(send("A", "B"), take(CUT, limit=1, outcome="unknown"), end()),
        "lost: 2 messages are gone, and takes without answer can have taken 1.",
    ),
    "lost, for the take began when the server was dead": (
        history(send("A"), take((112, 115), outcome="unknown"), end()),
        "missing: message 1 (A) was there",
    ),
    "half a batch": (
        history(send("A", "B", at=CUT, first=None), end(A)),
        "half a batch: of one by p message None (B) was never seen.",
    ),
    "phantom": (history(end(A)), "a phantom: the end got 1 (A), and nobody sent it."),
    "refused and there all the same": (
        history(send("A", first=None, outcome="fail"), end(A)),
        "a phantom: the end got message 1 (A), whose send was refused.",
    ),
    "before it was sent": (history(send("A", at=(5, 6)), take((1, 2), A), end()), "c got message 1 (A) before it"),
    "a priority forgotten": (
        history(send("A", priority=4), end(A)),
        "altered: the end got message 1 (A) with the priority 0.",
    ),
    "another id": (history(send("A"), end(Item(2, "A"))), "altered: the end got message 1 (A) as 2."),
    "taken twice": (
        history(send("A"), take((3, 4), A), take((3, 5), A, client="d"), end()),
        "doubled: message 1 (A) was removed by c and by d.",
    ),
    "one id for two": (
        history(send("A"), send("B", at=(1, 2)), end(A, Item(1, "B"))),
        "the id 1 of q was given to 2 messages.",
    ),
    "an id again after a purge": (
        history(send("A"), PURGE, send("B", at=(7, 8)), end(Item(1, "B"))),
        "the id 1 of q was given to 2 messages.",
    ),
    "taken and back": (
        history(send("A"), take((3, 4), A), end(A)),
        "back: the end could take message 1 (A), which the take had ended.",
    ),
    "purged and back": (
        history(send("A"), PURGE, end(A)),
        "back: the end could take message 1 (A), which the purge had ended.",
    ),
    "gone with its queue and back": (
        history(send("A", queue="m"), act("delete", (3, 4), queue="m"), end(A, queue="m")),
        "back: the end could take message 1 (A), which the delete had ended.",
    ),
    "cancelled and back": (
        history(send("A"), act("cancel", (3, 4), A), end(A)),
        "back: the end could take message 1 (A), which the cancel had ended.",
    ),
    "its time began anew": (
        history(send("A", ttl=100), take((130, 131), A), end()),
        "back: c could take message 1 (A), which the ttl had ended.",
    ),
    "acknowledged and back": (
        history(FAILING, lease((3, 4), (1, "A")), act("ack", (5, 6), A, queue="f"), end(queue="d"), end(A, queue="f")),
        "back: the end could take message 1 (A), which the ack had ended.",
    ),
    "a rejection that was lost": (
        history(*REJECTED, end(queue="d"), end(A, queue="f")),
        "back: the end could take message 1 (A), which was rejected.",
    ),
    "rejected and gone": (
        history(*REJECTED, end(queue="d", at=(800, 801)), end(queue="f")),
        "missing: message 1 (A) was there, and the end got 0 of 9 without it.",
    ),
    "moved back and still there": (
        history(*REJECTED, end(DEAD, queue="d"), end(Item(2, "A"), queue="f")),
        "doubled: message 1 (A) was removed by the end and by the end.",
    ),
    "moved back twice": (
        history(*REJECTED, end(queue="d"), end(Item(2, "A"), Item(3, "A"), queue="f")),
        "doubled: message 1 (A) was removed by the end and by the end.",
    ),
    "dead for another reason": (
        history(*REJECTED, end(Item(1, "A", reason="x"), queue="d"), end(queue="f")),
        "message 1 (A) is a dead letter for the reason 'x', which nobody gave.",
    ),
    "a lower priority first": (
        history(send("A"), send("B", priority=9, first=2), take((3, 4), A, limit=1), end(HIGH)),
        "out of order: c got (0, 1) while message 2 (B) of rank (-9, 2) was there.",
    ),
    "a greater id first": (
        history(send("A", "B"), take((3, 4), B, limit=1), end(A)),
        "out of order: c got (0, 2) while message 1 (A) of rank (0, 1) was there.",
    ),
    "a lower priority first in one answer": (
        history(send("A"), send("B", priority=9, first=2), end(A, HIGH)),
        "out of order: the end got [(0, 1), (-9, 2)] in one answer.",
    ),
    "a later send with a smaller id": (
        history(send("A", first=2), send("B", at=(3, 4), first=1, client="r"), end(Item(1, "B"), Item(2, "A"))),
        "r was given the id 1 by a send that began after the one by which p was given 2.",
    ),
    "a batch in another order": (
        history(act("send", (1, 2), B, A), end(A, B)),
        "a send of c was given the ids (2, 1).",
    ),
    "three leased at a time": (
        history(
            send("A", "B", "C", queue="f"),
            lease((3, 4), (1, "A"), (2, "B")),
            lease((5, 6), (3, "C")),
            end(queue="d"),
            end(A, B, C, queue="f"),
        ),
        "3 messages were leased at a time, and 2 may be.",
    ),
    "what came did not go": (
        history(send("A"), end(A), q=counted(sent=2, acked=1)),
        "q counts 2 sent, and 1 that went",
    ),
    "a wrong count of acked": (
        history(send("A"), end(A), q=counted(sent=1, purged=1)),
        "q counts 0 acked, and it is 1 to 1.",
    ),
    "a wrong count of cancelled": (
        history(send("A"), act("cancel", (3, 4), A), end(), q=counted(sent=1, expired=1)),
        "q counts 0 cancelled, and it is 1 to 1.",
    ),
    "a wrong count of purged": (
        history(send("A"), act("purge", (5, 6), count=1), end(), q=counted(sent=1, expired=1)),
        "q counts 0 purged, and it is 1 to 1.",
    ),
    "a wrong count of sent": (
        history(send("A"), end(A), q=counted(sent=2, acked=1, expired=1)),
        "q counts 2 sent, and it is 1 to 1.",
    ),
    "a wrong count of dead letters": (
        history(*REJECTED, end(DEAD, queue="d"), end(queue="f"), f=counted(sent=1, expired=1), d=counted()),
        "f counts 0 dead_lettered, and it is 1 to 1.",
    ),
    "a wrong count of what was moved back": (
        history(*REJECTED, act("redrive", (7, 8), queue="d", count=1), d=counted(sent=1, acked=1)),
        "d counts 0 redriven, and it is 1 to ",
    ),
    "dead letters that never came": (
        history(*REJECTED, f=counted(sent=1, dead_lettered=1), d=counted()),
        "d counts 0 sent, and f counts 1 dead letters.",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_kept_promise_is_not_complained_of(name: str) -> None:
    assert check_endings(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_broken_promise_is_found(name: str) -> None:
    bad, sentence = BAD[name]
    found = [one.removeprefix(f"queue {one[6]}: ") for one in check_endings(bad)]
    assert any(one.startswith(sentence) for one in found), found
