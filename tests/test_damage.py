"""Damaged data files: what is refused, what is quarantined, and what ends a server for good.

Pages are damaged in many ways, each case with a broker in a process of its own (`tests/damage.py`); records in every
sub-database, key and value; and the file of a real server is damaged under it.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import damage, lively
from tests.engines import Do, dump, open_engine
from tests.harness import ROOT
from tq import dump as format_
from tq import keys, lifecycle
from tq.audit import audit
from tq.errors import EXIT_DATA
from tq.store import directory as directory_module
from tq.store.directory import DATA_FILE
from tq.store.lmdb.snapshot import Snapshot

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MEMORY = Path("/dev/shm")  # thousands of commits; what is tried here is not durability
KILLED = {"SIGSEGV", "SIGBUS", "SIGABRT"}


class Sound:
    """A lively store that is closed, and what comes out of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        store = lively.make(path / "sound")
        self.spaces = store.read(dump)
        self.pages = store._env.info()["last_pgno"] + 1
        store.close()
        (path / "sound" / "reserve").unlink()
        self.data = (path / "sound" / DATA_FILE).read_bytes()
        self.found = damage.look(self.copy())

    def copy(self) -> Path:
        copy = self.path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        return shutil.copytree(self.path / "sound", copy)


@pytest.fixture(scope="module")
def sound() -> Iterator[Sound]:
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as d,
    ):
        patch.setattr(directory_module, "EXTENT_BYTES", 0)
        yield Sound(Path(d))


def test_an_undamaged_store_gives_all_it_has(sound: Sound) -> None:
    """What the other tests compare with: each kind of record is there, and most of what was sent comes out."""
    assert {name for name in vars(keys).values() if isinstance(name, str)} > sound.spaces.keys() - {
        name for name in sound.spaces if name.startswith("queue/")
    }
    assert set(keys.BY_QUEUE) <= sound.spaces.keys()
    assert damage.contents(sound.found).total() > 100
    assert sound.found["errors"] == {"gone": "queue_not_found"}
    assert set(sound.found["left"].values()) == {0}


# --- pages ---------------------------------------------------------------------------

Edits = list[tuple[int, str]]


def flip(data: bytes, at: int, chance: random.Random) -> tuple[int, str]:
    return at, bytes([data[at] ^ 1 << chance.randrange(8)]).hex()


def page_cases(sound: Sound, chance: random.Random, flips: int) -> Iterator[Edits]:
    """Each page zeroed, overwritten and with flipped bits; bits in its head too, where its structure is."""
    for page in range(sound.pages):
        start = page * PAGE_BYTES
        yield [(start, bytes(PAGE_BYTES).hex())]
        yield [(start, chance.randbytes(PAGE_BYTES).hex())]
        for _ in range(flips):
            yield [flip(sound.data, start + chance.randrange(PAGE_BYTES), chance)]
            yield [flip(sound.data, start + chance.randrange(64), chance)]
        several = chance.sample(range(sound.pages), chance.randrange(2, 6))
        yield [flip(sound.data, other * PAGE_BYTES + chance.randrange(PAGE_BYTES), chance) for other in several]
        yield [(other * PAGE_BYTES, bytes(PAGE_BYTES).hex()) for other in several[:2]]


def judge(founds: list[dict[str, Any]], sound: Sound) -> list[str]:
    """What is wrong with how one server after the other took a damaged file."""
    wrong: list[str] = []
    for found in founds:
        if "signal" in found:
            wrong += [] if found["signal"] in KILLED else [f"ended by {found['signal']}"]
        elif "refused" in found:
            is_sentence = re.fullmatch(r"[A-Z][^\n]+\.", found["refused"])
            wrong += [] if found["code"] == EXIT_DATA and is_sentence else [f"refused with {found}"]
        elif "raised" in found:
            wrong.append(found["raised"])
        else:
            wrong += damage.untold(found, sound.found)
            if "internal_error" in found["errors"].values():
                wrong.append(f"internal errors: {found['errors']}")
    if "signal" in founds[-1] or founds[-1].get("failed"):
        wrong.append(f"{len(founds)} servers in a row ended")
    return wrong


def try_pages(sound: Sound, cases: list[Edits]) -> set[str]:
    """Run the cases; the ways in which first servers ended."""
    command = [sys.executable, "-m", "tests.damage", str(sound.path)]
    asked = "\n".join(map(json.dumps, cases))
    ran = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=ROOT, check=True)
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == len(cases)
    for edits, founds in zip(cases, answers, strict=True):
        where = [(at // PAGE_BYTES, at % PAGE_BYTES, new[:8]) for at, new in edits]
        assert judge(founds, sound) == [], (where, founds)
    firsts = [founds[0] for founds in answers]
    return {
        found.get("signal") or ("refused" if "refused" in found else "failed" if found["failed"] else "served")
        for found in firsts
    }


def test_each_page_of_a_file_may_be_damaged(sound: Sound) -> None:
    """In one way each, so that it is quick; the long run tries them all."""
    chance = random.Random(8)
    ways = try_pages(sound, chance.sample(list(page_cases(sound, chance, 1)), sound.pages))
    assert ways >= {"refused", "failed", "served"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_each_page_of_a_file_may_be_damaged_in_many_ways(sound: Sound, seed: int) -> None:
    try_pages(sound, list(page_cases(sound, random.Random(seed), 25)))


# --- records ---------------------------------------------------------------------------

Pair = tuple[bytes, bytes]


def flipped(value: bytes, chance: random.Random) -> bytes:
    if not value:
        return b"\1"
    at = chance.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << chance.randrange(8)]) + value[at + 1 :]


SPOIL: dict[str, Callable[[bytes, bytes, random.Random], Pair]] = {
    "a bit of the key": lambda key, value, chance: (flipped(key, chance), value),
    "a short key": lambda key, value, chance: (key[: len(key) // 2] or b"\1", value),
    "a long key": lambda key, value, chance: (key + b"\xff", value),
    "a random key": lambda key, value, chance: (chance.randbytes(len(key)), value),
    "a key of ones": lambda key, value, chance: (b"\xff" * len(key), value),
    "a bit of the value": lambda key, value, chance: (key, flipped(value, chance)),
    "a short value": lambda key, value, chance: (key, value[:-1]),
    "half a value": lambda key, value, chance: (key, value[: len(value) // 2]),
    "an empty value": lambda key, value, chance: (key, b""),
    "a long value": lambda key, value, chance: (key, value + b"\xff" * 9),
    "a random value": lambda key, value, chance: (key, chance.randbytes(len(value) or 8)),
    "a value of ones": lambda key, value, chance: (key, b"\xff" * (len(value) or 8)),
}
SPACES = [name for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)]


def spoil(sound: Sound, name: str, pairs: list[Pair], how: str, chance: random.Random) -> Path:
    """A copy in which some records of a space are spoilt."""

    def change(tx: Any) -> None:
        space = tx.space(name)
        for key, value in pairs:
            space.delete(key)
            spoilt, other = SPOIL[how](key, value, chance)
            space.put(key if space.get(spoilt) is not None else spoilt, other)

    copy = sound.copy()
    store = open_engine("lmdb", copy)
    assert store.commit([Do(change)], lively.NOW_MS) == [None]
    store.close()
    return copy


def try_records(sound: Sound, space: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Spoil one record, and all, in each way: a broker serves on, and says what is not there any more."""
    chance = random.Random(f"{space} {seed}")
    for how in SPOIL:
        for pairs in ([chance.choice(sound.spaces[space])], sound.spaces[space]):
            found = damage.look(spoil(sound, space, pairs, how, chance))
            assert judge([found], sound) == [], (space, how, len(pairs), found)
            assert not found["failed"], (space, how, found)
            tracebacks = [record.getMessage() for record in caplog.records if record.exc_info]
            assert tracebacks == [], (space, how, len(pairs))
            others = [name for name, code in found["errors"].items() if code != "queue_not_found"]
            assert space in (keys.QUEUES, keys.NOTES) or not others


@pytest.mark.parametrize("name", [*SPACES, "ready", "another"])
def test_no_record_stops_a_server(sound: Sound, name: str, caplog: pytest.LogCaptureFixture) -> None:
    space = getattr(keys, name, None) or keys.ready_space({"ready": 1, "another": 7}[name])
    try_records(sound, space, 0, caplog)


SEALED = (keys.QUEUES, keys.IN_FLIGHT, keys.DELAYED, keys.BLOCKED, keys.ready_space(1))  # every record has a checksum


def look_through(tx: Any) -> list[str]:
    """What is told of in a dump, all of which can be loaded, or by an audit."""
    told = audit(tx)
    for line in format_.lines(tx, (), told.append):
        again = format_.decode(format_.encode(line))
        if not isinstance(again, format_.Head | format_.End):
            format_.part_of(again)
    return told


@pytest.mark.parametrize("how", SPOIL)
def test_no_record_stops_a_check_or_a_dump(sound: Sound, how: str) -> None:
    chance = random.Random(how)
    for space in sound.spaces:
        for pairs in ([chance.choice(sound.spaces[space])], sound.spaces[space]):
            store = open_engine("lmdb", spoil(sound, space, pairs, how, chance))
            told = store.read(look_through)
            store.close()
            assert told or space not in SEALED or len(pairs) == 1, (space, how)  # one may be garbage


@pytest.mark.parametrize("end", [b"\xff", b"x"])
@pytest.mark.parametrize("name", [b"delayed", b"in_flight", b"chunks", b"meta", b"queue/9"])
def test_the_name_of_a_space_is_damaged(sound: Sound, name: bytes, end: bytes) -> None:
    copy = sound.copy()
    assert sound.data.count(name) > 1
    (copy / DATA_FILE).write_bytes(sound.data.replace(name, name[:-1] + end))
    with Snapshot(copy, lifecycle.MAX_SPACES) as snapshot:
        assert audit(snapshot.tx())
        left_out: list[str] = []
        list(format_.lines(snapshot.tx(), (), left_out.append))
    assert left_out or name == b"meta"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 20))
def test_no_record_of_any_space_stops_a_server(sound: Sound, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    for space in sound.spaces:
        try_records(sound, space, seed, caplog)
