"""The engine on disk when there is little room: a quota, a full disk, and the reserve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tq.store.lmdb as engine_module
from tests.engines import one, open_engine, sends
from tests.harness import fill_disk, findings, open_store
from tq import lifecycle, model
from tq.errors import StorageFull
from tq.model import CreateQueue, PurgeQueue, Receive, Sweep
from tq.store.directory import DATA_FILE
from tq.store.lmdb import LmdbStore

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    store = open_engine("lmdb", tmp_path / "data")
    yield store
    store.close()
    assert findings(tmp_path / "data") == []


def fill(store: LmdbStore, group_size: int = 10, size: int = 1_000) -> list[bytes]:
    """Send until the store is full; the contents that were acknowledged, in order."""
    one(store, CreateQueue("q"))
    acknowledged: list[bytes] = []
    while True:
        group = sends(len(acknowledged), group_size, size)
        results = store.commit(group, 0)
        acknowledged += [c.drafts[0].content for c, r in zip(group, results, strict=True) if isinstance(r, model.Sent)]
        assert len(acknowledged) * size < 32 * MIB, "nothing is ever refused"
        full = [result for result in results if not isinstance(result, model.Sent)]
        if full:
            assert {type(result) for result in full} == {StorageFull}
            return acknowledged


def drain(store: LmdbStore, limit: int = 7) -> list[bytes]:
    """Receive everything."""
    received: list[bytes] = []
    while messages := one(store, Receive(("q",), limit)).messages:
        received += [message.content for message in messages]
    return received


# --- the quota ---------------------------------------------------------------------------


@pytest.fixture
def quota_store(tmp_path: Path) -> Iterator[LmdbStore]:
    store = open_store(tmp_path / "data", max_store_bytes=MIB)
    yield store
    store.close()
    assert findings(tmp_path / "data") == []


def test_at_the_quota_only_what_grows_is_refused(quota_store: LmdbStore) -> None:
    acknowledged = fill(quota_store)
    assert 0.9 * MIB < quota_store.info().used_bytes < 1.1 * MIB
    assert quota_store.info().available_bytes == 0
    [probe, refused, received, created, swept] = quota_store.commit(
        [model.Probe(), *sends(0, 1), Receive(("q",)), CreateQueue("new"), Sweep(9)], 0
    )
    assert (probe, swept) == (None, False)
    assert isinstance(refused, StorageFull)
    assert isinstance(created, StorageFull)
    assert received.messages[0].content == acknowledged[0]


def test_the_log_says_once_that_there_is_no_room_and_once_that_there_is(
    quota_store: LmdbStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tq.store")
    fill(quota_store)
    for _ in range(3):
        assert isinstance(one(quota_store, sends(0, 1)[0]), StorageFull)
    drain(quota_store)
    assert isinstance(one(quota_store, sends(0, 1)[0]), model.Sent)
    told = [record.args for record in caplog.records if isinstance(record.args, dict)]
    assert [each["event"] for each in told] == ["storage_full", "storage_has_room"]
    assert told[0]["available_bytes"] < told[0]["reserve_bytes"] < told[1]["available_bytes"]


def test_receives_make_room(quota_store: LmdbStore) -> None:
    for _ in range(3):
        acknowledged = fill(quota_store)
        assert drain(quota_store) == acknowledged
        assert isinstance(one(quota_store, sends(0, 1)[0]), model.Sent)
        drain(quota_store)
    assert quota_store.info().file_bytes < 1.1 * MIB


def test_a_purge_and_the_sweep_make_room(quota_store: LmdbStore) -> None:
    for _ in range(3):
        acknowledged = fill(quota_store, size=10_000)
        assert one(quota_store, PurgeQueue("q")) == len(acknowledged)
        while one(quota_store, Sweep(100)):
            pass
        assert isinstance(one(quota_store, sends(0, 1)[0]), model.Sent)
        drain(quota_store)
    assert quota_store.info().file_bytes < 1.1 * MIB


# --- a full disk ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1_000, 10_000])
def test_a_full_disk_takes_no_messages_and_gives_them_all(small_disk: Path, size: int) -> None:
    store = open_store(small_disk / "data")
    for _ in range(3):
        acknowledged = fill(store, size=size)
        assert len(acknowledged) * size > 4 * MIB
        assert drain(store) == acknowledged
    assert isinstance(one(store, sends(0, 1)[0]), model.Sent)
    store.close()
    assert findings(small_disk / "data") == []


def test_when_another_file_fills_the_disk_the_reserve_lets_receivers_go_on(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "READER_CHECK_S", 0)
    store = open_store(small_disk / "data")
    one(store, CreateQueue("q"))
    messages = [command.drafts[0].content for command in sends(0, 1_000)]
    store.commit(sends(0, 1_000), 0)
    reserve = small_disk / "data" / "reserve"
    assert reserve.stat().st_size == MIB
    filler = fill_disk(small_disk)
    assert drain(store) == messages
    assert reserve.stat().st_size == 0
    assert isinstance(one(store, sends(0, 1)[0]), model.Sent)  # into pages that are free now
    filler.unlink()
    one(store, Receive(("q",)))
    assert reserve.stat().st_size == MIB
    store.close()
    assert findings(small_disk / "data") == []


@pytest.mark.parametrize(("reserves", "looks"), [(engine_module.PLENTY + 1, 1), (engine_module.PLENTY - 1, 20)])
def test_the_disk_is_looked_at_before_each_commit_when_it_has_no_plenty(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch, reserves: int, looks: int
) -> None:
    store.commit([CreateQueue("q")], 0)
    monkeypatch.setattr(engine_module, "DISK_CHECK_S", 3600)
    monkeypatch.setattr(engine_module, "READER_CHECK_S", 3600)
    looked: list[int] = []
    free = reserves * store._reserve_bytes
    monkeypatch.setattr(store._directory, "disk_free_bytes", lambda: looked.append(1) or free)
    store._disk_free_bytes = 0
    for command in sends(0, 20):
        assert isinstance(one(store, command), model.Sent)
    assert len(looked) == looks
    monkeypatch.setattr(engine_module, "DISK_CHECK_S", 0)
    free = 0
    assert isinstance(one(store, sends(20, 1)[0]), StorageFull)


def test_the_reserve_serves_more_than_once(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "READER_CHECK_S", 0)
    store = open_store(small_disk / "data")
    for _ in range(3):
        acknowledged = fill(store)
        filler = fill_disk(small_disk)
        assert drain(store) == acknowledged
        filler.unlink()
    store.close()
    assert findings(small_disk / "data") == []


def test_a_purge_frees_a_full_disk(small_disk: Path) -> None:
    store = open_store(small_disk / "data")
    acknowledged = fill(store, size=10_000)
    fill_disk(small_disk)
    assert one(store, PurgeQueue("q")) == len(acknowledged)
    while one(store, Sweep(100)):
        pass
    assert isinstance(one(store, sends(0, 1)[0]), model.Sent)
    store.close()
    assert findings(small_disk / "data") == []


def test_a_store_opens_on_a_full_disk(small_disk: Path) -> None:
    store = open_store(small_disk / "data")
    acknowledged = fill(store)
    store.close()
    fill_disk(small_disk)
    store = open_store(small_disk / "data")
    assert isinstance(one(store, sends(0, 1)[0]), StorageFull)
    assert drain(store) == acknowledged
    store.close()
    assert findings(small_disk / "data") == []


def test_a_group_that_is_too_large_for_what_is_left(small_disk: Path) -> None:
    """The room was enough when it was asked for, and the disk fills up while the group is written."""
    store = open_store(small_disk / "data")
    one(store, CreateQueue("q"))
    acknowledged: list[bytes] = []
    for _ in range(4):
        group = [*sends(0, 40, 100_000), Receive(("q",), 1)]
        results = store.commit(group, 0)
        for command, result in zip(group, results, strict=True):
            assert isinstance(result, model.Sent | StorageFull | model.Received)
            if isinstance(result, model.Sent):
                acknowledged.append(command.drafts[0].content)
        assert [m.content for m in results[-1].messages] == [acknowledged.pop(0)]
    assert any(isinstance(result, StorageFull) for result in results)
    assert drain(store) == acknowledged
    store.close()
    assert findings(small_disk / "data") == []


@pytest.mark.parametrize("asks", ["Tick", "Receive"])
def test_what_expires_on_a_full_disk_becomes_dead_letters_bit_by_bit(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asks: str
) -> None:
    """Each is copied before its old place is free: no more at once than the reserve has room for, but some."""
    monkeypatch.setattr(model, "MAX_PAGE_BYTES", MIB // 4)
    store = open_store(small_disk / "data")
    one(store, CreateQueue("dead"))
    acknowledged = fill(store, size=50_000)
    letter = model.DeadLetter("dead", 1, on_expiry=True)
    store.commit([model.PatchQueue("q", model.SettingsChange(retention=1, dead_letter=letter))], 1)
    fill_disk(small_disk)
    command: model.Command = model.Tick(50) if asks == "Tick" else Receive(("q",))
    for _ in range(len(acknowledged)):
        first, _ = store.commit([command, model.Tick(0)], 1_000)
        assert not isinstance(first, Exception), first
        if not counts(store, "q").ready:
            break
    assert (counts(store, "q").ready, counts(store, "dead").ready) == (0, len(acknowledged))
    assert "a group of" not in caplog.text
    store.close()
    assert findings(small_disk / "data") == []


def counts(store: LmdbStore, queue: str) -> model.Counts:
    info: model.QueueInfo = store.read(lambda tx: lifecycle.answer(tx, model.GetQueue(queue), 1_000))
    return info.messages


def test_what_lies_behind_the_last_page_is_room(small_disk: Path) -> None:
    """As a write leaves it there that a full disk has cut off."""
    store = open_store(small_disk / "data")
    before = store.info().available_bytes
    with (small_disk / "data" / DATA_FILE).open("ab") as file:
        file.write(bytes(MIB))
    assert store.info().available_bytes == before
    store.close()
