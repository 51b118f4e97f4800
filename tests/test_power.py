"""The power is cut at any moment: what was answered before is on the disk, and what is on the disk can be used.

`tests.disks` has the disk, `tests.powercut` what is done on it and how the rest is judged. The same cuts find out a
server whose LMDB leaves out a sync. POWER_SEED repeats the choices of a run, but not the timing of the machine.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import pytest
from msgspec import Struct

from tests.disk_recorder import Record
from tests.disks import SECTOR_BYTES, cut_off, make_image, mounted, why_not, work_place, write_image
from tests.harness import Server
from tests.powercut import QUEUES, Judge, Session, record

AHEAD = ("--reserve-bytes", "1048576")  # then the disk has plenty of room, and zeros are written ahead of the data
SCARCE = ()  # with the default it has not, and the file grows with its commits
STATES_OF_A_LOAD = 125
REAL_STARTS = 0.12  # of the states get a real server too


class Cut(Struct):
    """A state of the disk: how many records and answers came before the cut, and what is wrong with it."""

    records: int
    acknowledged: int
    found: list[str]


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("POWER_SEED") or time.time_ns() % 1_000_000)
    print(f"POWER_SEED={chosen}")
    return chosen


def suffer(path: Path, seed: int, states: int, flags: tuple[str, ...], left_out: str | None = None) -> list[Cut]:
    """Record a load, cut it off at so many moments, and judge what each cut leaves."""
    if reason := why_not():
        pytest.skip(f"no disk can be recorded here: {reason}")
    chance = random.Random(seed)
    wrapper = (sys.executable, "-m", "tests.unsynced", left_out) if left_out else ()
    with work_place(path) as work:
        image, state = work / "image", work / "state"
        make_image(image)
        session, records = record(image, work, seed, *flags, wrapper=wrapper)
        moments = choose(session, records, states, chance)
        judge, cuts = Judge(session), list[Cut]()
        try:
            for moment, disk in zip(moments, cut_off(image.read_bytes(), records, moments, chance), strict=True):
                write_image(state, disk)
                with mounted(state, work / "again") as again:
                    found = start(again / "data") if not left_out and chance.random() < REAL_STARTS else []
                    found += judge.find(again / "data", moment)
                before = sum(one.at_ns < moment for one in records)
                cuts.append(Cut(before, session.acknowledged(moment), found))
        finally:
            judge.close()
    flushes = sum(one.is_flush for one in records)
    megabytes = sum(len(one.data) for one in records) / 1_000_000
    print(
        f"{len(records) - flushes} writes of {megabytes:.0f} MB and {flushes} flushes, {session.acknowledged(1 << 62)} "
        f"requests answered; {len(cuts)} states, {len({one.records for one in cuts})} of them behind different writes, "
        f"{sum(one.acknowledged == 0 for one in cuts)} before the first answer, on average "
        f"{sum(one.acknowledged for one in cuts) // len(cuts)} answers before the cut; wrong: "
        f"{sum(bool(one.found) for one in cuts)}"
    )
    return cuts


def choose(session: Session, records: list[Record], number: int, chance: random.Random) -> list[int]:
    """Moments of cuts: a quarter while the directory is made, a quarter at any time, half just before any write."""
    first_answer = min(session.created.values())
    written = [one.at_ns for one in records if session.began < one.at_ns < session.ended]
    making = [at for at in written if at < first_answer]
    moments = [chance.choice(making) for _ in range(number // 4)]
    moments += [chance.randint(first_answer, session.ended) for _ in range(number // 4)]
    moments += [chance.choice(written) for _ in range(number - len(moments))]
    return sorted(moments)


def start(data_dir: Path) -> list[str]:
    """What a real server says of it."""
    try:
        with Server(data_dir) as server:
            assert server.request("GET", "/readyz").status == 200
            assert server.stop() == 0
            assert server.complaints() == ""
    except AssertionError as failure:
        return [f"a server: {failure}"]
    return []


def wrong(cuts: list[Cut]) -> list[str]:
    return [f"after {cut.records} records and {cut.acknowledged} answers: {one}" for cut in cuts for one in cut.found]


def test_what_was_acknowledged_outlives_a_power_cut(tmp_path: Path, seed: int) -> None:
    cuts = suffer(tmp_path / "disk", seed, 25, AHEAD)
    assert not wrong(cuts), "\n".join(wrong(cuts)[:20])
    assert sum(cut.acknowledged > len(QUEUES) for cut in cuts) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("flags", [AHEAD, SCARCE], ids=["zeros ahead", "scarce room"])
@pytest.mark.parametrize("load", range(4))
def test_what_was_acknowledged_outlives_1000_power_cuts(
    tmp_path: Path, seed: int, load: int, flags: tuple[str, ...]
) -> None:
    cuts = suffer(tmp_path / "disk", seed + load, STATES_OF_A_LOAD, flags)
    assert not wrong(cuts), "\n".join(wrong(cuts)[:20])
    assert sum(cut.acknowledged > len(QUEUES) for cut in cuts) >= STATES_OF_A_LOAD / 2


@pytest.mark.parametrize(
    ("left_out", "states"),
    [
        ("sync", 12),
        pytest.param("sync", STATES_OF_A_LOAD, marks=pytest.mark.slow),
        pytest.param("metasync", STATES_OF_A_LOAD, marks=pytest.mark.slow),
    ],
)
def test_a_store_that_leaves_out_a_sync_is_found_out(tmp_path: Path, seed: int, left_out: str, states: int) -> None:
    cuts = suffer(tmp_path / "disk", seed, states, AHEAD, left_out)
    found_out = [cut for cut in cuts if any("lost" in one for one in cut.found)]
    print(f"without {left_out}: {len(found_out)} of {len(cuts)} cuts lost what was acknowledged")
    assert found_out


def test_a_cut_leaves_what_was_flushed_and_some_of_the_rest() -> None:
    """Three blocks: one flushed, one written twice since, one never written."""
    block = 8 * SECTOR_BYTES
    letters = [(b"a", 0), (b"b", block), (b"", 0), (b"c", block), (b"d", block)]
    records = [Record(not letter, at, offset, letter * block) for at, (letter, offset) in enumerate(letters)]
    seen: list[set[int]] = []
    for disk in cut_off(bytes(3 * block), records, [1, 3] + [5] * 500, random.Random(0)):
        assert disk[2 * block :] == bytes(block)
        sectors = [set(disk[at : at + SECTOR_BYTES]) for at in range(0, 2 * block, SECTOR_BYTES)]
        assert all(len(sector) == 1 for sector in sectors)
        seen.append(set().union(*sectors[8:]))
        if len(seen) > 1:
            assert set(disk[:block]) == set(b"a")
    assert seen[:2] == [{0}, {ord("b")}]
    assert {frozenset(one) for one in seen[2:]} == {
        *map(frozenset, ([98], [99], [100], [98, 99], [98, 100], [99, 100], [98, 99, 100])),
    }
