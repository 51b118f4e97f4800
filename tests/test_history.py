"""The checker of histories finds each kind of broken promise, and finds nothing where there is none."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
import pytest

from tests.history import History, Kill, Message, Operation, Recorder, check, digest


def send(*contents: str, at: tuple[int, int], first: int | None = None, **more: Any) -> Operation:
    """A send under way from at[0] to at[1]; its messages got ids from `first` on, or no answer told any."""
    ids = [None] * len(contents) if first is None else range(first, first + len(contents))
    messages = tuple(map(Message, ids, contents))
    outcome = "unknown" if first is None else "ok"
    return Operation(**{"client": "p", "queue": "q", "outcome": outcome, **more}, **_base("send", messages, at))


def receive(*seen: tuple[int, str], at: tuple[int, int], **more: Any) -> Operation:
    messages = tuple(Message(*one) for one in seen)
    return Operation(**{"client": "c", "queue": "q", **more}, **_base("receive", messages, at))


def _base(operation: str, messages: tuple[Message, ...], at: tuple[int, int]) -> dict[str, Any]:
    return {"operation": operation, "messages": messages, "invoked": at[0], "returned": at[1]}


def history(*operations: Operation, kills: tuple[tuple[int, int, int], ...] = (), left: Any = ()) -> History:
    return History(operations, tuple(Kill(*kill) for kill in kills), {"q": tuple(Message(*one) for one in left)})


KILL = (100, 110, 120)
CUT = {"outcome": "unknown"}

GOOD = {
    "nothing": history(),
    "received": history(send("A", at=(1, 2), first=1), receive((1, "A"), at=(3, 4))),
    "left": history(send("A", at=(1, 2), first=1), left=[(1, "A")]),
    "received while its send was under way": history(send("A", at=(1, 9), first=1), receive((1, "A"), at=(2, 3))),
    "an unknown send that came": history(send("A", at=(90, 105)), kills=(KILL,), left=[(1, "A")]),
    "an unknown send that did not": history(send("A", at=(90, 105)), kills=(KILL,)),
    "an unknown batch that came whole": history(send("A", "B", at=(90, 105)), kills=(KILL,), left=[(1, "A"), (2, "B")]),
    "taken by a receive that was cut off": history(
        send("A", at=(1, 2), first=1), receive(at=(90, 105), **CUT), kills=(KILL,)
    ),
    "two taken by a receive of two that was cut off": history(
        send("A", "B", at=(1, 2), first=1), receive(at=(90, 105), limit=2, **CUT), kills=(KILL,)
    ),
    "a batch that came in part, its first message taken by a receive that was cut off": history(
        send("A", "B", at=(90, 105)), receive(at=(95, 105), client="d", **CUT), kills=(KILL,), left=[(2, "B")]
    ),
    "two taken by two, of which one can only have taken the first": history(
        receive(at=(190, 205), client="d", **CUT),
        send("A", at=(1, 2), first=1),
        receive(at=(90, 105), **CUT),
        send("B", at=(130, 140), first=2),
        kills=(KILL, (200, 210, 220)),
    ),
    "overlapping sends in either order": history(
        send("A", at=(1, 9), first=2), send("B", at=(2, 8), first=1, client="r"), left=[(1, "B"), (2, "A")]
    ),
    "overlapping receives in either order": history(
        send("A", "B", at=(1, 2), first=1), receive((2, "B"), at=(3, 9)), receive((1, "A"), at=(4, 8), client="d")
    ),
    "empty before a send has returned": history(
        send("A", at=(1, 5), first=1), receive(at=(2, 4)), receive((1, "A"), at=(6, 7))
    ),
    "fewer than asked for, and the rest taken by a receive that overlaps": history(
        send("A", "B", at=(1, 2), first=1),
        receive((2, "B"), at=(3, 6), limit=5),
        receive((1, "A"), at=(4, 5), client="d"),
    ),
    "ids of another queue": history(
        send("A", at=(1, 2), first=1),
        send("B", at=(3, 4), first=1, queue="r"),
        receive((1, "B"), at=(5, 6), queue="r"),
        left=[(1, "A")],
    ),
}

BAD = {
    "lost": (
        history(send("A", at=(1, 2), first=1)),
        "queue q: message 1, acknowledged to p, is lost, and no receive that a kill cut off can have taken it.",
    ),
    "lost, for the receive that was cut off was of another queue": (
        history(send("A", at=(1, 2), first=1), receive(at=(90, 105), queue="r", **CUT), kills=(KILL,)),
        "queue q: message 1, acknowledged to p, is lost",
    ),
    "lost, for the receive was cut off before the send": (
        history(receive(at=(90, 105), **CUT), send("A", at=(130, 140), first=1), kills=(KILL,)),
        "queue q: message 1, acknowledged to p, is lost",
    ),
    "lost, for the receive that was cut off began after a greater id was out": (
        history(
            send("A", "B", at=(1, 2), first=1),
            receive((2, "B"), at=(3, 4)),
            receive(at=(90, 105), **CUT),
            kills=(KILL,),
        ),
        "queue q: message 1, acknowledged to p, is lost",
    ),
    "lost, for a smaller id was still there after the kill": (
        history(send("A", "B", at=(1, 2), first=1), receive(at=(90, 105), **CUT), kills=(KILL,), left=[(1, "A")]),
        "queue q: message 2, acknowledged to p, is lost",
    ),
    "lost, for the receive began when the server was dead": (
        history(send("A", at=(1, 2), first=1), receive(at=(112, 115), **CUT), kills=(KILL,)),
        "queue q: message 1, acknowledged to p, is lost",
    ),
    "more vanished than receives were cut off": (
        history(
            send("A", "B", "C", at=(1, 2), first=1),
            receive(at=(90, 105), **CUT),
            receive(at=(91, 105), client="d", **CUT),
            kills=(KILL,),
        ),
        "queue q: 3 messages are lost (1, 2, 3), and the receives that a kill cut off can have taken 2 of them.",
    ),
    "half a batch": (
        history(send("A", "B", "C", at=(90, 105)), kills=(KILL,), left=[(1, "A"), (2, "B")]),
        "queue q: a batch of 3 by p is there in part: the content C is lost, "
        "and no receive that a kill cut off can have taken it.",
    ),
    "half a batch, for its first message was still there after the kill": (
        history(send("A", "B", at=(90, 105)), receive(at=(95, 105), limit=9, **CUT), kills=(KILL,), left=[(1, "A")]),
        "queue q: a batch of 2 by p is there in part: the content B is lost, "
        "and no receive that a kill cut off can have taken it.",
    ),
    "half a batch, for its last message had been received before": (
        history(
            send("A", "B", at=(50, 105)),
            receive((2, "B"), at=(60, 70)),
            receive(at=(95, 105), client="d", **CUT),
            kills=(KILL,),
        ),
        "queue q: a batch of 2 by p is there in part: the content A is lost, "
        "and no receive that a kill cut off can have taken it.",
    ),
    "received twice": (
        history(send("A", at=(1, 2), first=1), receive((1, "A"), at=(3, 4)), receive((1, "A"), at=(5, 6), client="d")),
        "queue q: the content A was handed out 2 times: to c as 1, to d as 1.",
    ),
    "received and still there": (
        history(send("A", at=(1, 2), first=1), receive((1, "A"), at=(3, 4)), left=[(1, "A")]),
        "queue q: the content A was handed out 2 times: to c as 1, to the end as 1.",
    ),
    "an unknown send that came twice": (
        history(send("A", at=(90, 105)), kills=(KILL,), left=[(1, "A"), (2, "A")]),
        "queue q: the content A was handed out 2 times: to the end as 1, to the end as 2.",
    ),
    "phantom": (
        history(receive((7, "A"), at=(3, 4))),
        "queue q: message 7, received by c, is a phantom: nobody sent its content.",
    ),
    "from another queue": (
        history(send("A", at=(1, 2), first=1, queue="r"), left=[(1, "A")]),
        "queue q: message 1, received by the end, is a phantom: nobody sent its content.",
    ),
    "refused and there all the same": (
        history(send("A", at=(1, 2), outcome="fail"), left=[(1, "A")]),
        "queue q: message 1, received by the end, is a phantom: its send by p was refused.",
    ),
    "received before it was sent": (
        history(receive((1, "A"), at=(1, 2)), send("A", at=(3, 4), first=1)),
        "queue q: message 1, received by c, was received before it was sent.",
    ),
    "altered": (
        history(send("A", at=(1, 2), first=1), receive((1, "B"), at=(3, 4))),
        "queue q: message 1 was altered: sent as A, c received B.",
    ),
    "contents exchanged": (
        history(send("A", "B", at=(1, 2), first=1), left=[(1, "B"), (2, "A")]),
        "queue q: message 1, received by the end, was acknowledged as 2.",
    ),
    "one id for two acknowledged sends": (
        history(send("A", at=(1, 2), first=1), send("B", at=(1, 3), first=1), left=[(1, "A"), (1, "B")]),
        "queue q: the id 1 was given to 2 messages.",
    ),
    "an id again after a kill": (
        history(
            send("A", at=(90, 105)), receive((1, "A"), at=(95, 99)), send("B", at=(130, 140), first=1), kills=(KILL,)
        ),
        "queue q: the id 1 was given to 2 messages.",
    ),
    "a later send with a smaller id": (
        history(send("A", at=(1, 2), first=2), send("B", at=(3, 4), first=1, client="r"), left=[(1, "B"), (2, "A")]),
        "queue q: r was given the id 1 by a send that began after the one by which p was given 2.",
    ),
    "a send without answer whose id is smaller than an earlier one": (
        history(send("A", at=(1, 2), first=2), send("B", at=(90, 105)), kills=(KILL,), left=[(1, "B"), (2, "A")]),
        "queue q: p was given the id 1 by a send that began after the one by which p was given 2.",
    ),
    "a batch in another order": (
        history(send("A", "B", at=(90, 105)), kills=(KILL,), left=[(1, "B"), (2, "A")]),
        "queue q: in a batch of p the id 1 follows 2.",
    ),
    "received out of order": (
        history(
            send("A", "B", at=(1, 2), first=1), receive((2, "B"), at=(3, 4)), receive((1, "A"), at=(5, 6), client="d")
        ),
        "queue q: out of order: d received message 1 by a receive that began after the one by which c had received 2.",
    ),
    "out of order for one client": (
        history(send("A", "B", at=(1, 2), first=1), receive((2, "B"), at=(3, 4)), receive((1, "A"), at=(5, 6))),
        "queue q: c received message 1 after 2.",
    ),
    "out of order in one answer": (
        history(send("A", "B", at=(1, 2), first=1), receive((2, "B"), (1, "A"), at=(3, 4), limit=2)),
        "queue q: c received message 1 after 2.",
    ),
    "withheld from one that found nothing": (
        history(send("A", at=(1, 2), first=1), receive(at=(3, 4)), left=[(1, "A")]),
        "queue q: c received 0 of up to 1 messages while message 1 was in the queue.",
    ),
    "withheld from one that asked for more": (
        history(send("A", "B", at=(1, 2), first=1), receive((1, "A"), at=(3, 4), limit=9), left=[(2, "B")]),
        "queue q: c received 1 of up to 9 messages while message 2 was in the queue.",
    ),
    "no answer and no kill": (
        history(send("A", at=(1, 2)), receive(at=(3, 4), **CUT), kills=(KILL,)),
        "queue q: a receive of c failed without any kill.",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_kept_promise_is_not_complained_of(name: str) -> None:
    assert check(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_broken_promise_is_found(name: str) -> None:
    bad, sentence = BAD[name]
    found = check(bad)
    assert any(one.startswith(sentence) for one in found), found
    assert all(re.fullmatch(r"queue [qr]: .+\.", one) for one in found)


def play(seed: int) -> Recorder:
    """A queue that keeps its promises, played by chance: it acts at one moment within each request's interval."""
    chance = random.Random(seed)
    recorder = Recorder()
    queue: list[Message] = []
    free_at = dict.fromkeys("abcd", 0)
    sent = 0
    for moment in range(1_000, 200_000, 1_000):
        free = [name for name, since in free_at.items() if since < moment]
        if not free:
            continue
        client = chance.choice(free)
        invoked = chance.randint(max(free_at[client] + 1, moment - 5_000), moment)
        returned = free_at[client] = moment + chance.randint(0, 5_000)
        at = {"client": client, "queue": "q", "invoked": invoked, "returned": returned}
        count = chance.randint(1, 3)
        if chance.random() < 0.6:
            new = tuple(Message(sent + n, digest(b"%d" % (sent + n))) for n in range(1, count + 1))
            sent += count
            queue += new
            recorder.record(Operation(operation="send", messages=new, **at))
        else:
            taken, queue = tuple(queue[:count]), queue[count:]
            recorder.record(Operation(operation="receive", messages=taken, limit=count, **at))
    recorder.record(Operation("z", "receive", "q", tuple(queue), 900_000, 900_001, limit=len(queue) + 1))
    return recorder


@pytest.mark.parametrize("seed", range(50))
def test_what_a_sound_queue_does_passes(seed: int) -> None:
    assert check(play(seed).history({})) == []


@pytest.mark.parametrize("seed", range(50))
def test_one_message_taken_out_of_a_sound_history_is_missed(seed: int) -> None:
    recorder = play(seed)
    receives = [n for n, one in enumerate(recorder.operations) if one.operation == "receive" and one.messages]
    at = random.Random(seed).choice(receives)
    robbed = recorder.operations[at]
    recorder.operations[at] = msgspec.structs.replace(robbed, messages=robbed.messages[1:])
    found = check(recorder.history({}))
    assert any(f"message {robbed.messages[0].id}, acknowledged to" in one for one in found)


@pytest.mark.parametrize("seed", range(50))
def test_two_messages_that_changed_places_in_a_sound_history_are_noticed(seed: int) -> None:
    recorder = play(seed)
    receives = [n for n, one in enumerate(recorder.operations) if one.operation == "receive" and one.messages]
    first, second = recorder.operations[receives[0]], recorder.operations[receives[-1]]
    recorder.operations[receives[0]] = msgspec.structs.replace(first, messages=second.messages)
    recorder.operations[receives[-1]] = msgspec.structs.replace(second, messages=first.messages)
    assert any("out of order" in one for one in check(recorder.history({})))
