"""The checker of leases finds each kind of broken promise, and finds nothing where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.history import Kill
from tests.leases import Lease, Limit, Lives, Request, Sent, Step, check_lives

S = 1_000_000_000  # the times below are seconds


def request(operation: Any, at: tuple[float, float], client: str, outcome: Any = "ok", **more: Any) -> Request:
    return Request(client, operation, int(at[0] * S), int(at[1] * S), outcome, **more)


def sent(*contents: str, first: int | None = 1, queue: str = "q", **more: Any) -> tuple[Sent, ...]:
    """Messages with ids from `first` on, or with none that is known."""
    return tuple(Sent(queue, one, first and first + n, **more) for n, one in enumerate(contents))


def send(*contents: str, at: tuple[float, float], client: str = "p", outcome: Any = "ok", **more: Any) -> Request:
    return request("send", at, client, outcome, sent=sent(*contents, **more))


def lease(
    *messages: tuple[int, str],
    at: tuple[float, float],
    count: int = 1,
    lasts: float = 10,
    client: str = "c",
    queue: str = "q",
    **more: Any,
) -> Request:
    """A receive; the receipt of message 1, received for the 2nd time, is 1.2."""
    leases = tuple(
        Lease(queue, content, number, f"{number}.{count}", count, int(lasts * S), **more)
        for number, content in messages
    )
    return request("receive", at, client, leases=leases, queues=(queue,))


def dead(number: int, content: str, at: tuple[float, float], source_receives: int = 3, **more: Any) -> Request:
    return lease((number, content), at=at, queue="dead", source="q", source_receives=source_receives, **more)


def cut_off(at: tuple[float, float], *queues: str) -> Request:
    return request("receive", at, "d", "unknown", queues=queues or ("q",))


def ack(*receipts: str, at: tuple[float, float], status: Any = "ok", client: str = "c", queue: str = "q") -> Request:
    outcome = {"ok": "ok", "unknown": "unknown"}.get(status, "fail")
    steps = tuple(Step("ack", queue, receipt, status=status) for receipt in receipts)
    return request("settle", at, client, outcome, steps=steps)


def change(verb: Any, receipt: str, seconds: float, at: tuple[float, float], status: Any = "ok") -> Request:
    outcome = {"ok": "ok", "unknown": "unknown"}.get(status, "fail")
    return request("settle", at, "c", outcome, steps=(Step(verb, "q", receipt, int(seconds * S), status),))


def transact(
    receipts: str, contents: str, at: tuple[float, float], outcome: Any = "ok", status: Any = "ok", first: Any = 1
) -> Request:
    """Acknowledge some messages of q, and send some to r."""
    steps = tuple(Step("ack", "q", receipt, status=status) for receipt in receipts.split())
    return request("transact", at, "c", outcome, steps=steps, sent=sent(*contents, first=first, queue="r"))


def history(*requests: Request, **counters: dict[str, int]) -> Lives:
    """A history with a kill from 100 to 120, in which q may have dead letters after three receives."""
    return Lives(requests, (Kill(100 * S, 110 * S, 120 * S),), {"q": Limit("dead", 3)}, counters)


def taken(number: int, content: str, at: float, queue: str = "q", client: str = "c", **more: Any) -> list[Request]:
    """Leased and acknowledged at once."""
    count = more.get("count", 1)
    return [
        lease((number, content), at=(at, at + 0.1), queue=queue, client=client, **more),
        ack(f"{number}.{count}", at=(at + 0.2, at + 0.3), queue=queue, client=client),
    ]


def counted(**counters: int) -> dict[str, int]:
    """What an untouched queue counts, but for these."""
    names = "ready in_flight delayed blocked sent dead_lettered acked received released timed_out duplicates"
    return dict.fromkeys(names.split(), 0) | counters


A = send("A", at=(1, 2))
AB = send("A", "B", at=(1, 2))
CUT = (90, 105)

# Dead after its third receive; the second had no answer.
DYING = (
    A,
    lease((1, "A"), at=(3, 4), lasts=2),
    cut_off(CUT),
    lease((1, "A"), at=(130, 131), count=3),
    change("release", "1.3", 60, at=(132, 133)),
)

GOOD = {
    "nothing": history(),
    "leased and acknowledged": history(A, *taken(1, "A", 3)),
    "leased while its send was under way": history(send("A", at=(1, 9)), *taken(1, "A", 3)),
    "leased again when the time is over": history(
        A, lease((1, "A"), at=(3, 4), lasts=2), *taken(1, "A", 5, count=2, client="d")
    ),
    "leased again by a receive that was under way when the time was over": history(
        A, lease((1, "A"), at=(3, 4), lasts=9), lease((1, "A"), at=(5, 12), count=2), ack("1.2", at=(13, 14))
    ),
    "leased again after a release": history(
        A, lease((1, "A"), at=(3, 4)), change("release", "1.1", 0, at=(5, 6)), *taken(1, "A", 5.5, count=2, client="d")
    ),
    "leased again after a release without answer": history(
        A,
        lease((1, "A"), at=(3, 4), lasts=500),
        change("release", "1.1", 0, at=CUT, status="unknown"),
        *taken(1, "A", 130, count=2),
    ),
    "leased again after an extension that made it shorter": history(
        A, lease((1, "A"), at=(3, 4)), change("extend", "1.1", 1, at=(5, 6)), *taken(1, "A", 6, count=2, client="d")
    ),
    "extended, and acknowledged late": history(
        A,
        lease((1, "A"), at=(3, 4), lasts=2),
        change("extend", "1.1", 20, at=(4.5, 4.6)),
        ack("1.1", at=(20, 21)),
    ),
    "an acknowledgement without answer that had effect": history(
        A, lease((1, "A"), at=(80, 81)), ack("1.1", at=CUT, status="unknown")
    ),
    "an acknowledgement without answer that had none": history(
        A, lease((1, "A"), at=(80, 81)), ack("1.1", at=CUT, status="unknown"), *taken(1, "A", 130, count=2)
    ),
    "acknowledged again after no answer": history(
        A,
        lease((1, "A"), at=(80, 81), lasts=500),
        ack("1.1", at=CUT, status="unknown"),
        ack("1.1", at=(130, 131), status="message_not_found"),
    ),
    "an old receipt is refused": history(
        A,
        lease((1, "A"), at=(3, 4), lasts=2),
        *taken(1, "A", 6, count=2, client="d"),
        ack("1.1", at=(6.05, 6.08), status="stale_receipt"),
        ack("1.1", at=(7, 8), status="message_not_found"),
    ),
    "a send without answer that never came": history(send("A", "B", at=CUT, first=None, outcome="unknown")),
    "a send without answer that came whole": history(
        send("A", "B", at=CUT, first=None, outcome="unknown"), *taken(1, "A", 130), *taken(2, "B", 131)
    ),
    "a repeated send": history(
        send("A", at=CUT, first=None, outcome="unknown"),
        send("A", at=(130, 131), is_repeated=True),
        *taken(1, "A", 140),
    ),
    "a repeated send that was the first to have effect": history(
        send("A", at=CUT, first=None, outcome="unknown"),
        send("B", at=(130, 131), client="r"),
        send("A", at=(132, 133), first=2),
        *taken(1, "B", 140),
        *taken(2, "A", 141),
    ),
    "a receive without answer that leased": history(
        A, lease((1, "A"), at=(3, 4), lasts=2), cut_off(CUT), *taken(1, "A", 130, count=3)
    ),
    "dead after three receives, one of them without answer": history(
        *DYING,
        dead(1, "A", at=(134, 135)),
        ack("1.1", at=(136, 137), queue="dead"),
        q=counted(sent=1, received=3, dead_lettered=1, released=1, timed_out=2),
        dead=counted(sent=1, received=1, acked=1),
    ),
    "dead, and all that is known is what the dead letter tells": history(
        A,
        cut_off((85, 105)),
        cut_off(CUT),
        cut_off(CUT),
        dead(1, "A", at=(134, 135)),
        ack("1.1", at=(136, 137), queue="dead"),
    ),
    "a delayed message": history(send("A", at=(1, 2), delay_ns=5 * S), *taken(1, "A", 6)),
    "a delayed message behind a later one": history(
        send("A", "B", at=(1, 2), delay_ns=5 * S), *taken(2, "B", 6.5), *taken(1, "A", 8)
    ),
    "a released message behind a later one": history(
        AB,
        lease((1, "A"), at=(3, 4)),
        change("release", "1.1", 5, at=(5, 6)),
        *taken(2, "B", 7),
        *taken(1, "A", 11, count=2),
    ),
    "leased at the same time in either order": history(
        AB,
        lease((2, "B"), at=(3, 9)),
        lease((1, "A"), at=(4, 8), client="d"),
        ack("2.1", at=(10, 11)),
        ack("1.1", at=(10, 11), client="d"),
    ),
    "a group in order": history(
        send("A", "B", at=(1, 2), group="g"), *taken(1, "A", 3, group="g"), *taken(2, "B", 3.25, group="g", client="d")
    ),
    "two groups at once": history(
        send("A", at=(1, 2), group="g"),
        send("B", at=(3, 4), first=2, group="h"),
        lease((2, "B"), at=(5, 6), group="h"),
        lease((1, "A"), at=(7, 8), group="g", client="d"),
        ack("2.1", at=(9, 10)),
        ack("1.1", at=(9, 10), client="d"),
    ),
    "a transaction": history(
        AB,
        lease((1, "A"), (2, "B"), at=(3, 4)),
        transact("1.1 2.1", "CD", at=(5, 6)),
        *taken(1, "C", 7, queue="r"),
        *taken(2, "D", 8, queue="r"),
    ),
    "a transaction without answer that happened": history(
        A,
        lease((1, "A"), at=(89, 90), lasts=500),
        transact("1.1", "C", at=CUT, outcome="unknown", status="unknown", first=None),
        *taken(1, "C", 130, queue="r"),
    ),
    "a transaction without answer that did not": history(
        A,
        lease((1, "A"), at=(89, 90), lasts=50),
        transact("1.1", "C", at=CUT, outcome="unknown", status="unknown", first=None),
        *taken(1, "A", 140, count=2),
    ),
    "a transaction that was refused for one of its receipts": history(
        AB,
        lease((1, "A"), at=(3, 4), lasts=2),
        lease((2, "B"), at=(3, 4), lasts=50),
        transact("1.1 2.1", "C", at=(7, 8), outcome="fail", status="stale_receipt", first=None),
        ack("2.1", at=(9, 10)),
        *taken(1, "A", 11, count=2),
    ),
    "counters": history(
        send("A", at=(1, 2)),
        send("A", at=(2.1, 2.2), is_repeated=True),
        lease((1, "A"), at=(3, 4)),
        change("release", "1.1", 0, at=(5, 6)),
        *taken(1, "A", 7, count=2),
        q=counted(sent=1, received=2, acked=1, released=1, duplicates=1),
    ),
}

BAD = {
    "no answer and no kill": (
        history(send("A", at=(1, 2), first=None, outcome="unknown")),
        "a send of p failed without any kill.",
    ),
    # What was sent, and what was seen.
    "lost": (history(A), "lost: message 1 of q, acknowledged to p, was never seen."),
    "lost after a lease": (
        history(A, lease((1, "A"), at=(3, 4))),
        "lost: after receive 1 of message 1 of q by c nobody acknowledged it, and it is not there.",
    ),
    "lost after an acknowledgement that was refused": (
        history(A, lease((1, "A"), at=(3, 4)), ack("1.1", at=(20, 21), status="stale_receipt")),
        "lost: after receive 1",
    ),
    "lost after an older receive was acknowledged without answer": (
        history(
            A,
            lease((1, "A"), at=(3, 4), lasts=2),
            lease((1, "A"), at=(20, 21), count=2, client="d"),
            ack("1.1", at=CUT, status="unknown"),
        ),
        "lost: after receive 2 of message 1 of q by d",
    ),
    "lost as a dead letter": (history(*DYING), "lost: after receive 3 of message 1 of q by c"),
    "half a batch": (
        history(send("A", "B", at=CUT, first=None, outcome="unknown"), *taken(1, "A", 130)),
        "a send of p is there in part: B was never seen.",
    ),
    "half of what a transaction sent": (
        history(
            A,
            lease((1, "A"), at=(89, 90)),
            transact("1.1", "CD", at=CUT, outcome="unknown", status="unknown", first=None),
            *taken(1, "C", 130, queue="r"),
        ),
        "a transact of c is there in part: D was never seen.",
    ),
    "a transaction that acknowledged and did not send": (
        history(
            A,
            lease((1, "A"), at=(89, 90)),
            transact("1.1", "C", at=CUT, outcome="unknown", status="unknown", first=None),
        ),
        "lost: after receive 1 of message 1 of q by c",
    ),
    "a transaction that sent and did not acknowledge": (
        history(
            A,
            lease((1, "A"), at=(89, 90), lasts=50),
            transact("1.1", "C", at=CUT, outcome="unknown", status="unknown", first=None),
            *taken(1, "C", 130, queue="r"),
            *taken(1, "A", 145, count=2),
        ),
        "receive 2 of message 1 of q by c came after receive 1 of message 1 of q by c was acknowledged.",
    ),
    "altered": (
        history(A, *taken(1, "B", 3)),
        "altered: receive 1 of message 1 of q by c has a content that nobody sent.",
    ),
    "altered group": (
        history(send("A", at=(1, 2), group="g"), *taken(1, "A", 3, group="h")),
        "altered: receive 1 of message 1 of q by c has the group h.",
    ),
    "phantom": (history(*taken(7, "A", 3)), "a phantom: receive 1 of message 7 of q by c"),
    "from another queue": (history(A, *taken(1, "A", 3, queue="r")), "a phantom: receive 1 of message 1 of r by c"),
    "refused and there all the same": (
        history(send("A", at=(1, 2), first=None, outcome="fail"), *taken(1, "A", 3)),
        "a phantom: receive 1 of message 1 of q by c",
    ),
    "received before it was sent": (
        history(*taken(1, "A", 1), send("A", at=(3, 4))),
        "receive 1 of message 1 of q by c came before it was sent.",
    ),
    "one id for two": (
        history(A, send("B", at=(1, 3), client="r"), *taken(1, "A", 5), *taken(1, "B", 6, client="d")),
        "the id 1 of q was given to 2 messages.",
    ),
    "a repeated send that doubled": (
        history(
            send("A", at=CUT, first=None, outcome="unknown"),
            send("A", at=(130, 131), first=2),
            *taken(1, "A", 140),
            *taken(2, "A", 141),
        ),
        "doubled: the content A is in q as 2 messages.",
    ),
    "said to be repeated": (
        history(send("A", at=(1, 2), is_repeated=True), *taken(1, "A", 3)),
        "message 1 of q, sent by p once, is said to be repeated.",
    ),
    "a later send with a smaller id": (
        history(send("A", at=(1, 2), first=2), send("B", at=(3, 4), client="r")),
        "r was given the id 1 of q by a send that began after the one by which p was given 2.",
    ),
    "a batch in another order": (
        history(send("A", "B", at=CUT, first=None, outcome="unknown"), *taken(2, "A", 131), *taken(1, "B", 130)),
        "a send of p was given the ids [2, 1] of q.",
    ),
    "before its delay was over": (
        history(send("A", at=(1, 2), delay_ns=5 * S), *taken(1, "A", 5.8)),
        "receive 1 of message 1 of q by c came before its delay was over.",
    ),
    # Leases.
    "acknowledged and back": (
        history(A, *taken(1, "A", 3, lasts=1), *taken(1, "A", 20, count=2, client="d")),
        "receive 2 of message 1 of q by d came after receive 1 of message 1 of q by c was acknowledged.",
    ),
    "acknowledged and a dead letter": (
        history(A, *taken(1, "A", 3, count=3), dead(1, "A", at=(20, 21))),
        "receive 1 of message 1 of dead by c came after receive 3 of message 1 of q by c was acknowledged.",
    ),
    "acknowledged twice": (
        history(A, *taken(1, "A", 3), ack("1.1", at=(4, 5))),
        "receive 1 of message 1 of q by c was acknowledged twice.",
    ),
    "gone and back": (
        history(
            A,
            lease((1, "A"), at=(80, 81), lasts=50),
            ack("1.1", at=CUT, status="unknown"),
            ack("1.1", at=(130, 131), status="message_not_found"),
            *taken(1, "A", 140, count=2, client="d"),
        ),
        "receive 2 of message 1 of q by d came after the message was said to be gone.",
    ),
    "leased twice": (
        history(A, lease((1, "A"), at=(3, 4), lasts=5), *taken(1, "A", 6, count=2, client="d")),
        "leased twice: receive 2 of message 1 of q by d came while receive 1 of message 1 of q by c lasted.",
    ),
    "leased twice, for a kill ended the first": (
        history(A, lease((1, "A"), at=(80, 81), lasts=60), *taken(1, "A", 130, count=2, client="d")),
        "leased twice: receive 2 of message 1 of q by d",
    ),
    "leased twice, for an extension was forgotten": (
        history(
            A,
            lease((1, "A"), at=(80, 81), lasts=40),
            change("extend", "1.1", 60, at=(82, 83)),
            *taken(1, "A", 130, count=2, client="d"),
        ),
        "leased twice: receive 2 of message 1 of q by d",
    ),
    "leased twice, for a delay after a release was forgotten": (
        history(
            A,
            lease((1, "A"), at=(80, 81)),
            change("release", "1.1", 60, at=(82, 83)),
            *taken(1, "A", 130, count=2, client="d"),
        ),
        "leased twice: receive 2 of message 1 of q by d",
    ),
    "leased and a dead letter": (
        history(A, lease((1, "A"), at=(3, 4), count=3), dead(1, "A", at=(5, 6))),
        "leased twice: receive 1 of message 1 of dead by c came while receive 3 of message 1 of q by c lasted.",
    ),
    "one receipt for two leases": (
        history(A, lease((1, "A"), at=(3, 4), lasts=1), lease((1, "A"), at=(6, 7))),
        "the receipt 1.1 of q was given 2 times.",
    ),
    "an old receipt had effect": (
        history(
            A,
            lease((1, "A"), at=(3, 4), lasts=2),
            lease((1, "A"), at=(6, 6.5), count=2, client="d"),
            ack("1.1", at=(6.6, 6.7)),
        ),
        "a stale receipt had effect: c could ack receive 1 of message 1 of q by c.",
    ),
    "a released receipt had effect": (
        history(
            A, lease((1, "A"), at=(3, 4)), change("release", "1.1", 0, at=(5, 6)), change("extend", "1.1", 5, at=(7, 8))
        ),
        "a stale receipt had effect: c could extend receive 1 of message 1 of q by c.",
    ),
    "a receipt was good when its lease was over": (
        history(A, lease((1, "A"), at=(3, 4), lasts=2), ack("1.1", at=(7.1, 8))),
        "a lease that was over could be used: c could ack receive 1 of message 1 of q by c.",
    ),
    "refused while the lease lasted": (
        history(A, lease((1, "A"), at=(3, 4)), ack("1.1", at=(5, 6), status="stale_receipt")),
        "a settle of c was refused while the lease lasted.",
    ),
    "refused while an extension lasted": (
        history(
            A,
            lease((1, "A"), at=(3, 4), lasts=2),
            change("extend", "1.1", 50, at=(4, 4.5)),
            ack("1.1", at=(50, 51), status="message_not_found"),
        ),
        "a settle of c was refused while the lease lasted.",
    ),
    "a transaction that was refused while all leases lasted": (
        history(
            AB,
            lease((1, "A"), (2, "B"), at=(3, 4)),
            transact("1.1 2.1", "C", at=(7, 8), outcome="fail", status="stale_receipt", first=None),
        ),
        "a transact of c was refused while the lease lasted.",
    ),
    "counted though it was not received": (
        history(A, *taken(1, "A", 3, count=2)),
        "receive 2 of message 1 of q by c follows receive 0, and no kill explains what is between.",
    ),
    "counted, and what the kill cut off was of another queue": (
        history(A, lease((1, "A"), at=(3, 4), lasts=2), cut_off(CUT, "r"), *taken(1, "A", 130, count=3)),
        "receive 3 of message 1 of q by c follows receive 1, and no kill explains what is between.",
    ),
    "counted, and what the kill cut off was before": (
        history(cut_off(CUT), send("A", at=(125, 126)), *taken(1, "A", 130, count=2)),
        "receive 2 of message 1 of q by c follows receive 0, and no kill explains what is between.",
    ),
    "counted, and what the kill cut off was when the server was dead": (
        history(A, lease((1, "A"), at=(3, 4), lasts=2), cut_off((112, 115)), *taken(1, "A", 130, count=3)),
        "receive 3 of message 1 of q by c follows receive 1, and no kill explains what is between.",
    ),
    "counted twice the same": (
        history(A, lease((1, "A"), at=(3, 4), lasts=1), *taken(1, "A", 6)),
        "receive 1 of message 1 of q by c came after receive 1.",
    ),
    "counted backwards": (
        history(A, lease((1, "A"), at=(3, 4), lasts=1, count=2), *taken(1, "A", 6)),
        "receive 2 of message 1 of q by c came after receive 1.",
    ),
    "dead too soon": (
        history(A, lease((1, "A"), at=(3, 4), lasts=1), dead(1, "A", at=(6, 7))),
        "receive 1 of message 1 of dead by c follows receive 1, and no kill explains what is between.",
    ),
    "received once more than it may": (
        history(A, cut_off(CUT), cut_off(CUT), cut_off(CUT), *taken(1, "A", 130, count=4)),
        "receive 4 of message 1 of q by c is one more than it may have.",
    ),
    "dead after too few": (
        history(A, lease((1, "A"), at=(3, 4), lasts=1), dead(1, "A", at=(6, 7), source_receives=1)),
        "receive 1 of message 1 of dead by c is a dead letter of q after 1 receives.",
    ),
    # Order.
    "out of order": (
        history(AB, *taken(2, "B", 3), *taken(1, "A", 4, client="d")),
        "out of order: d was the first to receive message 1 of q, and c had received 2 before.",
    ),
    "out of order in the dead-letter queue": (
        history(
            AB,
            lease((1, "A"), (2, "B"), at=(3, 4), count=3, lasts=1),
            dead(2, "B", at=(6, 7)),
            dead(1, "A", at=(8, 9), client="d"),
        ),
        "out of order: d was the first to receive message 1 of dead, and c had received 2 before.",
    ),
    "out of order in one answer": (
        history(AB, lease((2, "B"), (1, "A"), at=(3, 4))),
        "out of order: c received 1 of q behind 2.",
    ),
    "of a group the second first": (
        history(
            send("A", "B", at=(1, 2), group="g"), *taken(2, "B", 3, group="g"), *taken(1, "A", 4, group="g", client="d")
        ),
        "the group g of q was not in order: one behind 1 came before it was gone.",
    ),
    "of a group the second while the first was leased": (
        history(
            send("A", "B", at=(1, 2), group="g"),
            lease((1, "A"), at=(3, 4), group="g"),
            *taken(2, "B", 5, group="g", client="d"),
            ack("1.1", at=(6, 7)),
        ),
        "the group g of q was not in order: one behind 1 came before it was gone.",
    ),
    "of a group the third between two leases of the first": (
        history(
            send("A", "B", "C", at=(1, 2), group="g"),
            lease((1, "A"), at=(3, 4), group="g", lasts=1),
            *taken(3, "C", 6, group="g", client="d"),
            *taken(1, "A", 7, group="g", count=2),
            *taken(2, "B", 8, group="g"),
        ),
        "the group g of q was not in order: one behind 1 came before it was gone.",
    ),
    "of a group the second before the first was dead": (
        history(
            send("A", "B", at=(1, 2), group="g"),
            lease((1, "A"), at=(3, 4), group="g", count=3),
            *taken(2, "B", 5, group="g", client="d"),
            dead(1, "A", at=(20, 21), group="g"),
        ),
        "the group g of q was not in order: one behind 1 came before it was gone.",
    ),
    "two of a group at once": (
        history(send("A", "B", at=(1, 2), group="g"), lease((1, "A"), (2, "B"), at=(3, 4), group="g")),
        "c received 2 messages of the group g of q at once.",
    ),
    # Counters.
    **{
        f"a wrong count of {name}": (
            history(A, *taken(1, "A", 3), q=counted(**{"sent": 1, "received": 1, "acked": 1, name: 5})),
            f"q counts 5 {name}, and it is ",
        )
        for name in counted()
        if name != "timed_out"
    },
    "leases that do not add up": (
        history(A, *taken(1, "A", 3), q=counted(sent=1, received=1, acked=1, timed_out=1)),
        "the leases of q do not add up: ",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_kept_promise_is_not_complained_of(name: str) -> None:
    assert check_lives(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_broken_promise_is_found(name: str) -> None:
    bad, sentence = BAD[name]
    found = check_lives(bad)
    assert any(one.startswith(sentence) for one in found), found
