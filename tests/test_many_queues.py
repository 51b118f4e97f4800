"""What looks at all queues does so in parts: with ten thousand of them it holds up nobody else for long."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, open_store, p99_s
from tests.wire import ask
from tq import model
from tq.broker import Broker
from tq.errors import QueueNotFound
from tq.settings import Settings
from tq.survey import LOOKED_QUEUES, SAMPLED_QUEUES
from tq.web.sqs import TARGET

NAMES = [f"q{number:05}" for number in range(model.MAX_QUEUES)]
TO_LAST = model.QueueSettings(dead_letter=model.DeadLetter(NAMES[-1], 1))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with as many queues as there may be. The first, one in the middle and the last but one go to the last."""
    path = tmp_path_factory.mktemp("many") / "data"
    store = open_store(path)
    for first in range(0, len(NAMES), 1_000):
        store.commit([model.CreateQueue(name) for name in NAMES[first : first + 1_000]], 0)
    store.commit([model.Send(name, (model.Draft(b"1"),)) for name in NAMES[::1_000]], 0)
    store.commit([model.PutQueue(NAMES[number], TO_LAST) for number in (0, 5_000, -2)], 0)
    store.close()
    return path


QUERIES = [
    (model.GetStatus(), lambda status: status.totals == model.Totals(len(NAMES), model.Counts(ready=10))),
    (model.ListSources(NAMES[-1]), lambda found: found == model.Sources((NAMES[0], NAMES[5_000], NAMES[-2]))),
    (model.ListSources(NAMES[-1], limit=2), lambda found: found == model.Sources((NAMES[0], NAMES[5_000]))),
    (model.ListSources(NAMES[-1], NAMES[0], 1), lambda found: found == model.Sources((NAMES[5_000],))),
    (model.ListSources(NAMES[7]), lambda found: found == model.Sources(())),
    (model.ListSources("none"), lambda found: isinstance(found, QueueNotFound)),
]


def test_a_look_at_all_queues_lets_the_loop_turn(data_dir: Path) -> None:
    async def run() -> None:
        broker = Broker(open_store(data_dir), Settings())
        for query, is_right in QUERIES:
            results: list[Any] = []
            turns = 0
            broker.submit(query, results.append)
            while not results:
                turns += 1
                await asyncio.sleep(0)
            assert is_right(results[0]), query
            assert turns >= (0 if isinstance(results[0], QueueNotFound) else len(NAMES) // 3 // LOOKED_QUEUES)
            print(f"{turns} turns for {query}")
        gone: list[Any] = []
        look = broker.submit(model.GetStatus(), gone.append)
        assert look
        await asyncio.sleep(0)
        look.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
        assert gone == []
        await broker.close()

    asyncio.run(run())


def test_the_history_is_sampled_in_short_turns_with_pauses(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_s: list[float] = []

    async def run() -> None:
        store = open_store(data_dir)
        broker = Broker(store, Settings())
        read = store.read

        def timed(look: Any) -> Any:
            began_s = time.perf_counter()
            found = read(look)
            looked_s.append(time.perf_counter() - began_s)
            return found

        monkeypatch.setattr(store, "read", timed)
        async with asyncio.timeout(60):
            while not broker.history.latest:
                await asyncio.sleep(0.01)
        assert len(broker.history.latest) == len(NAMES)
        assert sum(one.messages.ready for one in broker.history.latest.values()) == 10
        await broker.close()

    asyncio.run(run())
    assert len(looked_s) >= len(NAMES) // SAMPLED_QUEUES
    median_ms, most_ms = statistics.median(looked_s) * 1000, max(looked_s) * 1000
    print(f"{len(looked_s)} turns of {median_ms:.2f} ms, {most_ms:.2f} at most, {sum(looked_s) * 1000:.0f} in all")
    assert median_ms < 10  # ten times the usual


@pytest.mark.slow
@pytest.mark.parametrize("what", ["status", "ListDeadLetterSourceQueues", "StartMessageMoveTask"])
def test_others_are_served_meanwhile(data_dir: Path, what: str) -> None:
    """p99 of looks at one queue, while somebody else looks at all of them again and again."""
    request = ask("GET", "/status")
    if what != "status":
        fields = {
            "QueueUrl": f"http://x/000000000000/{NAMES[7]}",
            "SourceArn": f"arn:aws:sqs:x:000000000000:{NAMES[7]}",
        }
        body = json.dumps(fields).encode()
        request = ask("POST", "/", body, f"X-Amz-Target: {TARGET}{what}", "Content-Type: application/x-amz-json-1.0")
    with Server(data_dir) as server:
        before_s = p99_s(server, 3, "GET", f"/queues/{NAMES[0]}")
        is_over = threading.Event()
        looks: list[float] = []

        def look() -> None:
            while not is_over.is_set():
                began_s = time.monotonic()
                assert server.raw(request).startswith(b"HTTP/1.1 ")
                looks.append(time.monotonic() - began_s)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            meanwhile_s = p99_s(server, 3, "GET", f"/queues/{NAMES[0]}")
        finally:
            is_over.set()
            looking.join()
        assert server.stop() == 0
    look_s = statistics.median(looks)
    print(f"{what}: {len(looks)} looks at 10,000 queues of {look_s * 1000:.1f} ms; the others' p99 was")
    print(f"{before_s * 1000:.2f} ms before and {meanwhile_s * 1000:.2f} meanwhile")
    assert meanwhile_s < before_s + 0.05 + look_s / 3  # where a look held up the loop it would be all of it
