"""Where a group is committed while the disk is quick or slow, and what is told and counted of it."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest

from tests.timed import Sized, TimedStore, committed, deliver
from tq.metrics import SECONDS, Histogram, Metrics
from tq.store import Store
from tq.writer import IDLE_S, INLINE_BYTES, QUICK_COMMITS, SLOW_COMMIT_S, SLOW_S, Writer


def test_a_slow_disk_gets_a_thread_until_it_is_quick_again() -> None:
    async def run() -> list[str]:
        store = TimedStore()
        timed = Writer(cast(Store, store), lambda: 0, deliver, max_waiting_commands=9, max_waiting_bytes=9)
        await committed(timed, Sized(0))
        store.took_s = SLOW_S * 2
        for _ in range(3):
            await committed(timed, Sized(0))
        store.took_s = 0
        for _ in range(QUICK_COMMITS + 2):
            await committed(timed, Sized(0))
        await timed.close()
        return store.threads

    assert asyncio.run(run()) == ["aside", "loop"] + ["aside"] * (2 + QUICK_COMMITS) + ["loop"] * 2


def test_after_a_pause_the_disk_is_tried_on_the_thread() -> None:
    async def run() -> list[str]:
        store = TimedStore()
        timed = Writer(cast(Store, store), lambda: 0, deliver, max_waiting_commands=9, max_waiting_bytes=9)
        for _ in range(3):
            await committed(timed, Sized(0))
        timed._known_until_s -= IDLE_S
        for _ in range(3):
            await committed(timed, Sized(0))
        await timed.close()
        return store.threads

    assert asyncio.run(run()) == ["aside", "loop", "loop"] * 2


def test_a_large_group_gets_a_thread() -> None:
    async def run() -> list[str]:
        store = TimedStore()
        timed = Writer(cast(Store, store), lambda: 0, deliver, max_waiting_commands=9, max_waiting_bytes=9)
        for size in (0, INLINE_BYTES - 1, INLINE_BYTES, 0):
            await committed(timed, Sized(size))
        await timed.close()
        return store.threads

    assert asyncio.run(run()) == ["aside", "loop", "aside", "loop"]


def test_the_loop_goes_on_while_a_slow_disk_commits() -> None:
    async def run() -> tuple[float, float]:
        store = TimedStore()
        timed = Writer(cast(Store, store), lambda: 0, deliver, max_waiting_commands=9, max_waiting_bytes=9)
        store.took_s = 0.3
        await committed(timed, Sized(0))
        began_s = time.monotonic()
        slow = asyncio.ensure_future(committed(timed, Sized(0)))
        await asyncio.sleep(0.001)
        turned_s = time.monotonic() - began_s
        await slow
        await timed.close()
        return turned_s, time.monotonic() - began_s

    turned_s, took_s = asyncio.run(run())
    assert turned_s < 0.15 < 0.3 <= took_s


def test_a_slow_disk_is_told_once_and_each_slow_commit_every_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tq.writer")

    async def run() -> Metrics:
        store, metrics = TimedStore(), Metrics()
        bounds = {"max_waiting_commands": 9, "max_waiting_bytes": 9}
        timed = Writer(cast(Store, store), lambda: 0, deliver, metrics=metrics, **bounds)
        await committed(timed, Sized(0))
        store.took_s, store.synced_s = SLOW_COMMIT_S * 1.1, SLOW_COMMIT_S
        for _ in range(2):
            await committed(timed, Sized(0))
        store.took_s = 0
        for _ in range(QUICK_COMMITS + 1):
            await committed(timed, Sized(0))
        timed._may_tell_s = 0.0  # as if a minute had passed
        await committed(timed, Sized(0))
        await timed.close()
        return metrics

    metrics = asyncio.run(run())
    events = [record.args["event"] for record in caplog.records if isinstance(record.args, dict)]
    assert events == ["slow_commit", "commits_on_thread", "slow_commit", "commits_on_loop"]
    slow = sum(metrics.commit_seconds.counts[SECONDS.index(SLOW_COMMIT_S) + 1 :])
    assert slow == sum(metrics.seconds["own"].counts[SECONDS.index(SLOW_COMMIT_S) + 1 :]) == 2
    assert metrics.sync_seconds.total >= SLOW_COMMIT_S * 2
    assert sum(metrics.commit_seconds.counts) == 2 + 2 + QUICK_COMMITS + 1
    assert metrics.commits_aside == 1 + 1 + QUICK_COMMITS


def test_commands_of_a_slow_commit_count_for_as_long_as_each_has_waited() -> None:
    """One comes when a commit on the thread has just begun, another when it is almost over."""

    async def run() -> Histogram:
        store, metrics = TimedStore(), Metrics()
        bounds = {"max_waiting_commands": 9, "max_waiting_bytes": 9}
        timed = Writer(cast(Store, store), lambda: 0, deliver, metrics=metrics, **bounds)
        store.took_s = 0.4
        await asyncio.sleep(0)  # the first commit, which looks what is due, is on the thread now
        early = asyncio.ensure_future(committed(timed, Sized(0)))
        await asyncio.sleep(0.3)
        late = asyncio.ensure_future(committed(timed, Sized(0)))
        store.took_s = 0.0
        await asyncio.gather(early, late)
        await timed.close()
        return metrics.seconds["own"]

    found = asyncio.run(run())
    assert found.total > 0.3
    assert sum(found.counts) == 2
    assert found.counts[SECONDS.index(0.5)] == 1  # the early one; the late one is in a bucket below
