"""kill -9 at any moment while batches, FIFO groups, dead letters and move tasks run over SQS; see `tests.sqs_crashing`.

CRASH_SEED repeats what the clients choose, though not the machine's timing.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests import sqs_crashing
from tests.clients import Answer, Place
from tests.harness import Server, findings, wait_until
from tests.sqs_crashing import Log, Seen, Story, crew, left, make_queues

ROUND_RECEIVES = 15  # that got messages, before a kill
MAX_PAUSE_S = 0.4


def suffer(data_dir: Path | str, rounds: int, seed: int, queues: tuple[str, str]) -> Story:
    """What the clients saw over so many kills."""
    place, log, chance = Place(), Log(), random.Random(seed)
    clients = crew(seed, place, log, queues)
    story = Story(log.seen, [])
    for client in clients:
        client.start()
    try:
        for number in range(rounds + 1):
            with Server(data_dir) as server:
                make_queues(server, queues)
                place.announce(server.port)
                begun = len(log.seen)
                wait_until(
                    lambda begun=begun: (
                        any(client.failure for client in clients)
                        or sum(each.operation == "ReceiveMessage" and each.bodies != () for each in log.seen[begun:])
                        >= ROUND_RECEIVES
                    ),
                    60,
                )
                if number < rounds:
                    time.sleep(chance.uniform(0, MAX_PAUSE_S))
                    server.kill()
                else:
                    place.end()
                    for client in clients:
                        client.finish()
                    story.left = left(server, queues)
                    story.dead_lettered, story.redriven = (
                        server.request("GET", f"/queues/{queue}").json["totals"][counter]
                        for queue, counter in zip(queues, ("dead_lettered", "redriven"), strict=True)
                    )
                    assert server.stop() == 0
                    assert server.complaints() == ""
            if isinstance(data_dir, Path):
                story.in_store += [f"after round {number}: {sentence}" for sentence in findings(data_dir)]
    finally:
        place.end()
    return story


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("CRASH_SEED") or time.time_ns() % 1_000_000)
    print(f"CRASH_SEED={chosen}")
    return chosen


@pytest.mark.parametrize("queues", [("q.fifo", "dead.fifo"), ("q", "dead")], ids=["fifo", "standard"])
@pytest.mark.parametrize("rounds", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_what_sqs_was_told_outlives_any_kill(tmp_path: Path, seed: int, rounds: int, queues: tuple[str, str]) -> None:
    story = suffer(tmp_path / "data", rounds, seed, queues)
    found = sqs_crashing.figures(story)
    print(dict(sorted(found.items())), story.dead_lettered, story.redriven)
    mistakes = list(sqs_crashing.wrong(story, queues[0].endswith(".fifo")))
    assert not mistakes, "\n".join(mistakes[:20])
    for operation in ("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch"):
        assert found[f"ok {operation}"] >= rounds * 3, operation
    assert sum(found[f"unknown {each}"] for each in ("SendMessageBatch", "DeleteMessageBatch")) >= rounds / 3
    assert story.dead_lettered >= rounds
    assert story.redriven >= rounds


def test_a_store_that_forgets_is_found_out(seed: int) -> None:
    story = suffer("memory:", 2, seed, ("q.fifo", "dead.fifo"))
    assert len([each for each in sqs_crashing.wrong(story, is_fifo=True) if each.startswith("lost: ")]) >= 3


def seen(operation: str, bodies: tuple[str, ...], begun_s: float, status: int = 200) -> Seen:
    """A request that takes a tenth of a second."""
    answer = Answer(round(begun_s * 1e9), round((begun_s + 0.1) * 1e9), status)
    return Seen(operation, "q.fifo", bodies, answer)


SENT = seen("SendMessageBatch", ("g 1", "g 2"), 0)


@pytest.mark.parametrize(
    ("what", "left", "word"),
    [
        ([SENT], ["g 1"], "lost"),
        ([SENT], ["g 1", "g 2", "g 2"], "there 2 times"),
        ([SENT, seen("ReceiveMessage", ("g 3",), 1)], ["g 1", "g 2"], "invented"),
        ([SENT, seen("DeleteMessageBatch", ("g 1",), 1)], ["g 1", "g 2"], "back from the dead"),
        ([SENT, seen("DeleteMessageBatch", ("g 1",), 1), seen("ReceiveMessage", ("g 1",), 2)], ["g 2"], "came again"),
        ([SENT, seen("ReceiveMessage", ("g 1", "g 1"), 1)], ["g 1", "g 2"], "twice in one answer"),
        (
            [
                SENT,
                seen("ReceiveMessage", ("g 1",), 1),
                seen("ReceiveMessage", ("h 1",), 1.5),
                seen("ReceiveMessage", ("g 2",), 2),
                seen("SendMessageBatch", ("h 1",), 0),
            ],
            ["g 1", "g 2", "h 1"],
            "beside",
        ),
    ],
)
def test_what_is_wrong_is_found(what: list[Seen], left: list[str], word: str) -> None:
    found = list(sqs_crashing.wrong(Story(what, left), is_fifo=True))
    assert len(found) == 1, found
    assert found[0].startswith(word)


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ([SENT], ["g 1", "g 2"]),
        ([seen("SendMessageBatch", ("g 1",), 0, status=0)], []),
        ([seen("SendMessageBatch", ("g 1",), 0, status=0)], ["g 1"]),
        ([SENT, seen("DeleteMessageBatch", ("g 1",), 1, status=0)], ["g 2"]),
        ([SENT, seen("DeleteMessageBatch", ("g 1",), 1), seen("ReceiveMessage", ("g 1",), 1.05)], ["g 2"]),
        ([SENT, seen("ReceiveMessage", ("g 1",), 1), seen("ReceiveMessage", ("g 2",), 3)], ["g 1", "g 2"]),
        (
            [
                SENT,
                seen("ReceiveMessage", ("g 1",), 1),
                seen("ChangeMessageVisibilityBatch", ("g 1",), 1.2),
                seen("ReceiveMessage", ("g 1",), 1.4),
            ],
            ["g 1", "g 2"],
        ),
    ],
)
def test_what_is_right_is_left_alone(what: list[Seen], left: list[str]) -> None:
    assert list(sqs_crashing.wrong(Story(what, left), is_fifo=True)) == []
