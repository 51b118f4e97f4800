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
from tests.clients import Place
from tests.harness import Server, findings, wait_until
from tests.sqs_crashing import Log, Story, crew, left, make_queues

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
                    assert server.errors() == ""
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
