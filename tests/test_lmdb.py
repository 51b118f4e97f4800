"""The engine on disk: failing writes, handles, and reads while something is written."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import pytest

from tests.engines import Do, dump, one, open_engine, put, sends
from tests.harness import findings, open_store
from tq import keys, lifecycle, model
from tq.audit import audit
from tq.errors import StorageDamaged, StorageFailed, StorageFull, TqError
from tq.model import CreateQueue, DeleteQueue, Draft, Peek, PurgeQueue, Receive, Send, Sweep
from tq.store.lmdb import LmdbStore
from tq.store.lmdb.tx import LmdbTx, LookAgain

MIB = 1 << 20
PATIENCE_S = 5  # only how long a test that fails takes to say so
A_MOMENT_S = 0.2  # for a thread that may be right to wait; nothing is asserted about how long it takes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    store = open_engine("lmdb", tmp_path / "data")
    yield store
    store.close()
    assert findings(tmp_path / "data") == []


# --- how LMDB is opened ---------------------------------------------------------------------------


def test_lmdb_is_opened_with_its_safe_defaults(store: LmdbStore) -> None:
    flags = store._env.flags()
    assert flags["sync"]
    assert flags["metasync"]
    assert flags["lock"]
    assert not flags["writemap"]
    assert not flags["map_async"]


def test_what_was_committed_is_there_after_opening_again(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    results = store.commit([CreateQueue("q"), Send("q", (Draft(b"a"), Draft(b"b" * 10_000))), Receive(("q",))], 5)
    assert not [result for result in results if isinstance(result, Exception)]
    before = store.read(dump)
    store.close()
    store = open_store(tmp_path)
    assert store.read(dump) == before
    store.close()


def test_check_sees_a_damaged_structure(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    one(store, CreateQueue("q"))
    assert store.check() == []
    data = (tmp_path / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(data[:8192] + b"\xa5" * (len(data) - 8192))
    assert store.check() != []
    (tmp_path / "data.mdb").write_bytes(data)
    store.close()


# --- failing writes, through the seam ----------------------------------------------------------


def failure(code: int) -> lmdb.Error:
    error = lmdb.Error("mdb_txn_commit: made up")
    error.code = code
    return error


def break_commits(store: LmdbStore, monkeypatch: pytest.MonkeyPatch, code: int, times: int = 1_000) -> list[int]:
    """Let this many commits fail; the list grows with each. At ENOSPC the disk is full from then on."""
    failed: list[int] = []
    commit = store._commit_txn

    def fail(txn: Any) -> None:
        if len(failed) == times:
            commit(txn)
            return
        failed.append(code)
        if code == errno.ENOSPC:
            monkeypatch.setattr(store._directory, "disk_free_bytes", lambda: 0)
        txn.abort()
        raise failure(code)

    monkeypatch.setattr(store, "_commit_txn", fail)
    return failed


def test_a_failed_write_acknowledges_nothing(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([CreateQueue("q"), *sends(1, 1)], 0)
    before = store.read(dump)
    failed = break_commits(store, monkeypatch, errno.EIO)
    with pytest.raises(StorageFailed):
        store.commit([*sends(2, 3), Receive(("q",)), CreateQueue("new"), PurgeQueue("q")], 0)
    assert failed == [errno.EIO]  # it was not tried again
    assert store.read(dump) == before
    with pytest.raises(StorageFailed):
        one(store, Receive(("q",)))
    assert store.read(dump) == before


def test_a_failed_store_keeps_no_reader_waiting(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lost the handle of what it dropped for good; a server that is about to end must still answer or fail."""
    store.commit([CreateQueue("q"), PurgeQueue("q")], 0)
    break_commits(store, monkeypatch, errno.EIO)
    with pytest.raises(StorageFailed):
        one(store, Sweep(9))
    assert in_time(lambda: look_at(store))


def look_at(store: LmdbStore) -> str:
    """Answer or fail."""
    with suppress(StorageFailed):
        store.info()
        store.read(dump)
    return "done"


def in_time(call: Callable[[], Any]) -> Any:
    """What `call` returns, unless it hangs."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert results, "it hangs or failed"
    return results[0]


def test_a_drop_for_which_there_was_no_room_did_nothing(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([put("s", b"a", b"1"), put("t", b"b", b"2")], 0)
    break_commits(store, monkeypatch, errno.ENOSPC)
    assert isinstance(one(store, Do(lambda tx: tx.drop("s"))), StorageFull)
    assert in_time(lambda: store.read(dump)) == {"s": [(b"a", b"1")], "t": [(b"b", b"2")]}
    monkeypatch.undo()
    one(store, Do(lambda tx: tx.drop("s")))
    assert store.read(dump) == {"t": [(b"b", b"2")]}


def test_a_disk_that_has_room_and_says_that_it_is_full_has_failed(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a sync may, of a volume that has promised more than it has."""
    store.commit([CreateQueue("q")], 0)

    def fail(txn: Any) -> None:
        txn.abort()
        raise failure(errno.ENOSPC)

    monkeypatch.setattr(store, "_commit_txn", fail)
    with pytest.raises(StorageFailed):
        store.commit(sends(1, 1), 0)
    monkeypatch.undo()
    with pytest.raises(StorageFailed):
        store.commit([Receive(("q",))], 0)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_refuses_what_grows(store: LmdbStore, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    store.commit([CreateQueue("q"), *sends(1, 1)], 0)
    break_commits(store, monkeypatch, code)
    results = store.commit([*sends(2, 2), Receive(("q",)), CreateQueue("new")], 0)
    assert [type(result) for result in results] == [StorageFull] * 4
    monkeypatch.undo()
    received = one(store, Receive(("q",), 9)).messages
    assert [message.content for message in received] == [sends(1, 1)[0].drafts[0].content]


def test_the_reserve_is_given_up_for_what_does_not_grow(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([CreateQueue("q"), *sends(1, 1)], 0)
    reserve = store._directory.path / "reserve"
    failed = break_commits(store, monkeypatch, errno.ENOSPC, times=1)
    assert isinstance(one(store, sends(2, 1)[0]), StorageFull)
    assert reserve.stat().st_size == MIB
    failed.clear()
    assert len(one(store, Receive(("q",))).messages) == 1
    assert reserve.stat().st_size == 0


def test_a_short_write_on_a_full_disk_is_no_failure(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([CreateQueue("q"), *sends(1, 1)], 0)
    commit = store._commit_txn

    def fill_up_and_fail(txn: Any) -> None:
        monkeypatch.setattr(store._directory, "disk_free_bytes", lambda: 0)
        monkeypatch.setattr(store, "_commit_txn", commit)
        txn.abort()
        raise failure(errno.EIO)

    monkeypatch.setattr(store, "_commit_txn", fill_up_and_fail)
    assert isinstance(one(store, sends(2, 1)[0]), StorageFull)
    assert len(one(store, Receive(("q",), 9)).messages) == 1


@pytest.mark.parametrize(
    ("error", "expected"), [(failure(errno.EIO), StorageFailed), (lmdb.MapFullError("made up"), StorageFull)]
)
def test_a_write_may_fail_before_the_commit(store: LmdbStore, error: lmdb.Error, expected: type) -> None:
    def fail(_: Any) -> None:
        raise error

    try:
        result = one(store, Do(fail))
    except StorageFailed as raised:
        result = raised
    assert type(result) is expected


def test_a_store_that_cannot_begin_has_failed(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(**_: Any) -> None:
        raise lmdb.PanicError("made up")

    broken = SimpleNamespace(begin=begin, reader_check=lambda: 0, info=lambda: {"last_pgno": 0})
    with monkeypatch.context() as patch:
        patch.setattr(store, "_env", broken)
        with pytest.raises(StorageFailed):
            store.commit([CreateQueue("q")], 0)


# --- handles, and reads while something is written ---------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Future[Any]]]:
    """Runs a call in another thread and gives it a moment; it may be right that it waits for this one."""
    with ThreadPoolExecutor() as threads:

        def run(call: Callable[..., Any], *args: Any) -> Future[Any]:
            future = threads.submit(call, *args)
            wait([future], A_MOMENT_S)
            return future

        yield run


def test_a_read_sees_nothing_of_an_open_transaction(store: LmdbStore, elsewhere: Any) -> None:
    store.commit([put("s", b"a", b"1")], 0)

    def do(tx: Any) -> Any:
        tx.space("s").put(b"a", b"2")
        tx.space("new").put(b"b", b"3")
        return elsewhere(store.read, lambda tx: (dump(tx), tx.space("new").count()))

    assert one(store, Do(do)).result() == ({"s": [(b"a", b"1")]}, 0)


def test_a_read_sees_what_an_open_transaction_drops(store: LmdbStore, elsewhere: Any) -> None:
    store.commit([put("s", b"a", b"1")], 0)

    def do(tx: Any) -> Any:
        tx.drop("s")
        return elsewhere(store.read, lambda tx: (tx.spaces(), tx.space("s").count()))

    assert one(store, Do(do)).result() in ((["s"], 1), ([], 0))  # all before or all after


class Panicking:
    """An environment that lets no transaction write any more, as LMDB's after a failed write of a meta page."""

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, write: bool = False) -> Any:
        if write:
            raise lmdb.PanicError("made up")
        return self._env.begin()


def test_a_drop_after_which_lmdb_panics(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like a full disk may be worse; then nobody may wait for the handle of what was dropped."""
    store.commit([put("s", b"a", b"1")], 0)

    def fail(txn: Any) -> None:
        txn.abort()
        monkeypatch.setattr(store, "_env", Panicking(store._env))
        raise failure(errno.ENOSPC)

    monkeypatch.setattr(store, "_commit_txn", fail)
    with pytest.raises(StorageFailed):
        one(store, Do(lambda tx: tx.drop("s")))
    assert in_time(lambda: look_at(store))


def test_a_read_of_a_space_that_is_dropped_and_made_again(store: LmdbStore, elsewhere: Any) -> None:
    store.commit([put("s", b"a", b"1")], 0)
    is_committed = threading.Event()

    def look(tx: Any) -> Any:
        is_committed.wait(PATIENCE_S)
        return list(tx.space("s").scan())

    def do(tx: Any) -> Any:
        tx.drop("s")
        future = elsewhere(store.read, look)
        tx.space("s").put(b"b", b"2")
        return future

    future = one(store, Do(do))
    is_committed.set()
    assert future.result(PATIENCE_S) in ([(b"a", b"1")], [(b"b", b"2")])


def test_a_read_that_began_before_a_space_was_made_does_not_see_it(store: LmdbStore, elsewhere: Any) -> None:
    store.commit([put("s", b"a", b"1")], 0)

    def look(tx: Any) -> Any:
        commit = elsewhere(store.commit, [put("new", b"a", b"1")], 0)
        return commit, tx.space("new").get(b"a"), tx.space("new").count(), list(tx.space("new").scan())

    commit, *seen = store.read(look)
    assert seen == [None, 0, []]
    assert commit.result() == [None]
    assert store.read(lambda tx: tx.space("new").get(b"a")) == b"1"


def test_room_is_counted_while_a_space_is_made(
    store: LmdbStore, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = store.read

    def slow_read(look: Any) -> Any:
        return read(lambda tx: (elsewhere(store.commit, [put("new", b"a", b"1")], 0), look(tx))[1])

    monkeypatch.setattr(store, "read", slow_read)
    assert store.info().used_bytes > 0


def test_a_read_right_after_the_commit_sees_all_of_it(
    store: LmdbStore, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB shows a commit to readers before `commit` returns to the writer's thread."""
    one(store, CreateQueue("other"))
    commit = store._commit_txn
    looks: list[Any] = []

    def commit_and_look(txn: Any) -> None:
        commit(txn)
        looks.append(elsewhere(store.read, look))

    def look(tx: Any) -> Any:
        return lifecycle.answer(tx, model.GetQueue("q"), 0).counters.sent, lifecycle.answer(tx, Peek("q"), 0).messages

    monkeypatch.setattr(store, "_commit_txn", commit_and_look)
    store.commit([CreateQueue("q"), *sends(1, 1)], 0)
    sent, messages = looks[0].result()
    assert (sent, len(messages)) == (1, 1)


def test_queues_come_and_go_while_others_look(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    problems: list[Any] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            try:
                problems.extend(store.read(audit))
                store.info()
                store.read(lambda tx: lifecycle.answer(tx, model.ListQueues(), 0))
            except Exception as error:
                problems.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for turn in range(150):
        name = f"q{turn % 7}"
        group = [CreateQueue(name), Send(name, (Draft(b"x" * 5_000),)), (PurgeQueue, DeleteQueue)[turn % 2](name)]
        for result in store.commit([*group, Sweep(100)], 0):
            assert not isinstance(result, Exception), result
    is_over.set()
    thread.join()
    store.close()
    assert problems == []


def test_the_pages_in_use_are_those_that_lmdb_counts(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.commit([CreateQueue(f"q{number}") for number in range(300)], 0)
    store.commit([Send(f"q{number}", (Draft(b"x" * 3_000),) * number) for number in range(300)], 0)
    stats = [store._env.stat()]
    with store._env.begin() as txn:
        stats += [txn.stat(store._handles[name]) for name in store._env.dbs(txn)]
    pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
    assert store.read(LmdbTx.used_pages) == pages > 300 * 150
    store.close()


def test_a_thousand_queues_are_there_after_opening_again(tmp_path: Path) -> None:
    names = [f"q{number}" for number in range(1_000)]
    store = open_store(tmp_path)
    store.commit([CreateQueue(name) for name in names], 0)
    store.commit([Send(name, (Draft(name.encode()),)) for name in names], 0)
    store.close()
    store = open_store(tmp_path)
    assert store.read(lambda tx: lifecycle.answer(tx, model.GetTotals(), 0)) == model.Totals(1_000, model.Counts(1_000))
    received = store.commit([Receive((name,)) for name in names], 0)
    assert [result.messages[0].content.decode() for result in received] == names
    store.close()


@pytest.mark.parametrize("is_culprit_first", [True, False])
def test_a_thrown_away_group_leaves_usable_handles(store: LmdbStore, is_culprit_first: bool) -> None:
    def fail(_: Any) -> None:
        raise ZeroDivisionError

    for number in range(20):
        name = f"q{number}"
        group = [CreateQueue(name), Send(name, (Draft(b"1"),)), PurgeQueue(name), Send(name, (Draft(b"2"),))]
        store.commit([Do(fail), *group] if is_culprit_first else [*group, Do(fail)], 0)
        assert [m.content for m in one(store, Receive((name,), 9)).messages] == [b"2"]
        one(store, Sweep(1))
    assert len(store.read(dump)[keys.QUEUES]) == 20


def test_running_out_of_handles_fails_one_command_alone(tmp_path: Path) -> None:
    store = open_engine("lmdb", tmp_path, max_spaces=3)
    results = store.commit([put(name, b"a", b"1") for name in ("s1", "s2", "s3", "s4", "s1")], 0)
    assert [isinstance(result, lmdb.DbsFullError) for result in results] == [False, False, False, True, False]
    assert not isinstance(results[3], TqError)
    assert sorted(store.read(dump)) == ["s1", "s2", "s3"]
    store.close()


def test_what_lmdb_says_of_a_space_may_be_damaged(tmp_path: Path) -> None:
    store = open_engine("lmdb", tmp_path)
    store.commit([put("s", b"a", b"1")], 0)
    with store._env.begin(write=True) as txn:
        txn.put(b"t", b"short")
    with pytest.raises(StorageDamaged):
        store.info()
    store.close()


@pytest.mark.parametrize("is_slow", [True, False])
def test_what_cannot_be_opened_for_long_is_damage_unless_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    monkeypatch.setattr("tq.store.lmdb.LOOK_AGAIN_FOR_S", 0)
    store = open_engine("lmdb", tmp_path)
    store.commit([put("s", b"a", b"1")], 0)
    del store._handles[b"s"]
    store._is_committing = is_slow
    with pytest.raises(LookAgain if is_slow else StorageDamaged):
        store.read(dump)
    store.close()
