"""The history of queues' numbers: the ring by itself, the sampler on a real loop, and both over HTTP."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api import Api, create, send, shown
from tests.harness import Server, wait_until
from tq import history, model, survey
from tq.broker import Broker
from tq.errors import StorageFull
from tq.history import COLUMNS, KEPT_QUEUES, POINTS, SAMPLE_S, History
from tq.lifecycle import apply
from tq.settings import Settings
from tq.store.memory import MemoryStore
from tq.web.server import Application

STEP_MS = round(SAMPLE_S * 1000)


def figures(name: str, ready: int = 0, sent: int = 0, created_at_ms: int = 1, **more: Any) -> model.Figures:
    counters = model.Counters(sent=sent, received=more.pop("received", 0))
    given = {"bytes": 10 * ready, "oldest_message_age_ms": 7 if ready else None, **more}
    return model.Figures(name, created_at_ms, model.Counts(ready=ready), counters=counters, **given)


def round_of(kept: History, at: int, *found: model.Figures) -> None:
    kept.begin()
    for one in found:
        kept.take([one])
    kept.finish(at * STEP_MS)


def test_a_queue_has_its_numbers_oldest_first() -> None:
    kept = History()
    round_of(kept, 1, figures("a", 1, 1))
    round_of(kept, 2, figures("a", 0, 1), figures("b", 5, 5))
    round_of(kept, 3, figures("a", 3, 4), figures("b", 5, 5))
    found = kept.of("a", 1, 3 * STEP_MS + 100)
    assert found.ages_ms == (2 * STEP_MS + 100, STEP_MS + 100, 100)
    assert found.columns["ready"] == (1, 0, 3)
    assert found.columns["sent"] == (1, 1, 4)
    assert found.columns["bytes"] == (10, 0, 30)
    assert found.columns["oldest_message_age_ms"] == (7, history.NO_AGE, 7)
    assert tuple(found.columns) == COLUMNS
    assert kept.of("b", 1, 3 * STEP_MS).ages_ms == (STEP_MS, 0)
    assert kept.of("none", 1, 3 * STEP_MS) == model.QueueHistory("none", (), dict.fromkeys(COLUMNS, ()))
    assert {name: one.messages.ready for name, one in kept.latest.items()} == {"a": 3, "b": 5}


def test_an_hour_is_kept_and_no_more() -> None:
    kept = History()
    for at in range(POINTS + 5):
        round_of(kept, at, figures("a", at))
    found = kept.of("a", 1, (POINTS + 4) * STEP_MS)
    assert found.columns["ready"] == tuple(range(5, POINTS + 5))
    assert found.ages_ms[0] == (POINTS - 1) * STEP_MS
    assert found.ages_ms[-1] == 0


def test_a_queue_that_is_deleted_leaves_and_one_made_again_begins_anew() -> None:
    kept = History()
    round_of(kept, 1, figures("a", 1), figures("b", 1))
    round_of(kept, 2, figures("b", 2))
    assert kept.of("a", 1, 0).ages_ms == ()
    assert list(kept.latest) == ["b"]
    assert kept.of("b", 2, 0).ages_ms == ()  # made again since the last round
    round_of(kept, 3, figures("b", 9, created_at_ms=2))
    assert kept.of("b", 2, 0).columns["ready"] == (9,)
    assert kept.of("b", 1, 0).ages_ms == ()


def test_a_round_that_was_not_finished_leaves_no_trace() -> None:
    kept = History()
    round_of(kept, 1, figures("a", 1), figures("b", 1))
    kept.begin()
    kept.take([figures("a", 100)])
    round_of(kept, 3, figures("a", 2), figures("b", 1))
    assert kept.of("a", 1, 0).columns["ready"] == (1, 2)
    assert kept.of("b", 1, 3 * STEP_MS).ages_ms == (2 * STEP_MS, 0)


def test_of_many_queues_the_most_active_are_kept_in_bounded_memory() -> None:
    names = [f"q{number:04}" for number in range(1_000)]
    kept = History()
    quiet = [figures(name) for name in names]
    tracemalloc.start()
    round_of(kept, 1, *quiet)
    ring_bytes = sum(each.size for each in tracemalloc.take_snapshot().statistics("lineno") if each.size > 1_000_000)
    tracemalloc.stop()
    assert ring_bytes < 1.1 * KEPT_QUEUES * 8 * POINTS * len(COLUMNS)
    busy = {figures(name, 1, 50).name: figures(name, 1, 50) for name in names[-KEPT_QUEUES:]}
    round_of(kept, 2, *[busy.get(name, one) for name, one in zip(names, quiet, strict=True)])
    assert sorted(kept.recent("", 1_000, 0).queues) == sorted(busy)
    # One that rests keeps its past for a while, though others are a little busier now; not though they are very busy.
    mild = {name: figures(name, 0, 20) for name in names[:10]}
    resting = [busy.get(name, mild.get(name, figures(name))) for name in names]
    round_of(kept, 3, *resting)
    assert sorted(kept.recent("", 1_000, 0).queues) == sorted(busy)
    wild = {name: figures(name, 0, 9_000) for name in names[:10]}
    round_of(kept, 4, *[busy.get(name, wild.get(name, figures(name))) for name in names])
    assert set(wild) < set(kept.recent("", 1_000, 0).queues)
    assert len(kept.recent("", 1_000, 0).queues) == KEPT_QUEUES


def test_in_short_there_is_a_number_for_each_minute() -> None:
    kept = History()
    for at in range(30):
        others = [figures("b", 1, at)] if at >= 20 else []
        round_of(kept, at, figures("a", 100 if at == 8 else 1, at), *others)
    found = kept.recent("", 10, 29 * STEP_MS)
    assert found.ages_ms == (24 * STEP_MS, 12 * STEP_MS, 0)
    assert found.queues["a"]["messages"] == (1, 100, 1)  # the peak is seen
    assert found.queues["a"]["sent"] == (5, 17, 29)
    assert found.queues["b"]["sent"] == (29,)  # 20 … 29 are less than two times twelve
    assert kept.recent("a", 10, 0).queues.keys() == {"a"}
    assert kept.recent("", 1, 0).queues.keys() == {"a"}
    assert History().recent("", 10, 0) == model.RecentHistory((), {})


# --- the sampler -------------------------------------------------------------


@pytest.fixture
def _samples_come_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "SAMPLE_S", 0.01)
    monkeypatch.setattr(survey, "SAMPLE_PAUSE_S", 0)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.usefixtures("_samples_come_quickly")
def test_the_sampler_takes_all_queues_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "SAMPLED_QUEUES", 7)
    sizes: list[int] = []
    take = History.take

    def counted(self: History, part: tuple[model.Figures, ...]) -> None:
        sizes.append(len(part))
        take(self, part)

    monkeypatch.setattr(History, "take", counted)

    async def run() -> None:
        broker = Broker(MemoryStore(apply), Settings())
        for number in range(30):
            await broker.call(model.CreateQueue(f"q{number:02}"))
        await broker.call(model.Send("q03", (model.Draft(b"1"),) * 3))
        await until(lambda: len(broker.history.latest) == 30 and broker.history.latest["q03"].messages.ready == 3)
        assert max(sizes) == 7
        info = await broker.call(model.GetQueue("q03"))
        latest = broker.history.latest["q03"]
        assert (latest.messages, latest.bytes, latest.counters) == (info.messages, info.bytes, info.counters)
        await broker.close()

    asyncio.run(run())


@pytest.mark.usefixtures("_samples_come_quickly")
def test_a_look_that_fails_ends_neither_the_sampler_nor_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does what nobody has thought of."""
    failures: list[Exception] = [StorageFull(), RuntimeError("unforeseen")]
    store = MemoryStore(apply)
    read = store.read

    def failing(look: Any) -> Any:
        if failures and is_failing:
            raise failures.pop()
        return read(look)

    is_failing = False
    monkeypatch.setattr(store, "read", failing)

    async def run() -> None:
        nonlocal is_failing
        broker = Broker(store, Settings())
        await broker.call(model.CreateQueue("q"))
        is_failing = True
        await until(lambda: not failures)
        await broker.call(model.CreateQueue("r"))
        await until(lambda: "r" in broker.history.latest)
        monkeypatch.setattr(broker.history, "take", lambda _: 1 / 0)  # a bug, which the loop's own handler logs
        said: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["exception"]))
        await until(lambda: len(said) > 1)
        await broker.close()

    asyncio.run(run())


@pytest.mark.usefixtures("_samples_come_quickly")
def test_nothing_is_looked_at_when_the_broker_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "SAMPLED_QUEUES", 1)
    looks: list[Any] = []
    store = MemoryStore(apply)
    read = store.read

    async def run() -> None:
        broker = Broker(store, Settings())
        for name in ("a", "b", "c"):
            await broker.call(model.CreateQueue(name))
        await until(lambda: not broker._sampler._look.is_over)  # in the middle of a round
        await broker.close()
        monkeypatch.setattr(store, "read", lambda look: (looks.append(look), read(look))[1])
        await asyncio.sleep(3 * survey.SAMPLE_S)  # there is nothing to wait for

    asyncio.run(run())
    assert looks == []


# --- over HTTP -------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.usefixtures("_samples_come_quickly")
async def test_over_http(api: Api, app: Application, clock: list[int]) -> None:
    await create(api, "a")
    await send(api, "one", "two")
    ring = app.broker.history
    await until(lambda: ring.latest and ring.latest["a"].messages.ready == 2)
    clock[0] += 60_000
    whole = shown(await api("GET", "/queues/a/history"))
    assert whole["queue"] == "a"
    assert whole["figures"]["ready"][-1] == 2
    assert whole["figures"]["oldest_message_age_seconds"][-1] in (0, 60)
    assert {len(column) for column in whole["figures"].values()} == {len(whole["seconds_ago"])}
    short = shown(await api("GET", "/history?prefix=a&limit=5"))
    assert short["queues"]["a"]["messages"][-1] == 2
    assert len(short["seconds_ago"]) == len(short["queues"]["a"]["sent"])
    assert shown(await api("GET", "/history?prefix=b")) == {"seconds_ago": [], "queues": {}}
    assert (await api("GET", "/queues/b/history")).code == 404
    assert (await api("GET", "/queues/a!/history")).code == 400
    assert (await api("GET", "/history?limit=0")).code == 400
    assert (await api("HEAD", "/history")).code == 200
    await create(api, "b")
    await until(lambda: "b" in ring.latest)
    assert (await api("DELETE", "/queues/b")).code == 204
    await create(api, "b")  # at the same time by this clock: only what is looked at now is told
    assert (await api("GET", "/queues/b/history")).code == 200


def test_a_server_begins_with_a_sample(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    server.request("POST", "/queues", {"name": "q"})
    server.stop()
    server = start()
    wait_until(lambda: server.request("GET", "/queues/q/history").json["seconds_ago"] != [])
    assert server.stop() == 0
