"""The contract of `tq.store`, which both engines keep: no messages here but in the last section."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engines import Do, delete, dump, open_engine, put
from tq import model
from tq.errors import NotFound, QueueNotFound
from tq.store import Store, Tx
from tq.store.memory import MemoryStore

KEYS = [b"\0", b"a", b"a\0", b"ab", b"b", b"\xff", b"\xff\xff"]


@pytest.fixture(params=["lmdb", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = open_engine(request.param, tmp_path / "engine")
    yield store
    found = store.check()
    store.close()
    assert found == []


def run(engine: Store, do: Callable[[Tx], Any]) -> Any:
    """What `do` returns or raises in a transaction of its own."""
    [result] = engine.commit([Do(do)], 0)
    if isinstance(result, Exception):
        raise result
    return result


def fill(engine: Store, name: str, keys: list[bytes]) -> None:
    assert engine.commit([put(name, key, b"v" + key) for key in keys], 0) == [None] * len(keys)


def keys_of(engine: Store, name: str, *bounds: Any) -> list[bytes]:
    return engine.read(lambda tx: [key for key, _ in tx.space(name).scan(*bounds)])


def fail(_: Tx) -> None:
    raise ZeroDivisionError("the culprit")


def refuse(_: Tx) -> None:
    raise NotFound("refused")


# --- a space ---------------------------------------------------------------------------


def test_what_was_put_is_got(engine: Store) -> None:
    fill(engine, "s", KEYS)
    assert engine.read(lambda tx: [tx.space("s").get(key) for key in KEYS]) == [b"v" + key for key in KEYS]
    assert engine.read(lambda tx: tx.space("s").get(b"absent")) is None


def test_put_replaces(engine: Store) -> None:
    fill(engine, "s", [b"a", b"b"])
    assert run(engine, lambda tx: (tx.space("s").put(b"a", b""), tx.space("s").get(b"a"))) == (None, b"")
    assert dump_of(engine) == {"s": [(b"a", b""), (b"b", b"vb")]}


def test_values_of_every_size_come_back(engine: Store) -> None:
    values = [bytes([size % 251]) * size for size in (0, 1, 1_984, 2_040, 4_080, 4_081, 1_000_000)]
    engine.commit([put("s", bytes([n]), value) for n, value in enumerate(values)], 0)
    assert engine.read(lambda tx: [value for _, value in tx.space("s").scan()]) == values


def test_delete_says_whether_it_was_there(engine: Store) -> None:
    fill(engine, "s", [b"a", b"b"])
    assert run(engine, lambda tx: [tx.space("s").delete(b"a") for _ in range(2)]) == [True, False]
    assert run(engine, lambda tx: tx.space("new").delete(b"a")) is False
    assert keys_of(engine, "s") == [b"b"]


def test_pop_first_takes_the_smallest_key_there_is_now(engine: Store) -> None:
    fill(engine, "s", [b"b", b"d", b"f"])

    def pop(tx: Tx) -> list[Any]:
        space = tx.space("s")
        popped = [space.pop_first()]
        space.put(b"a", b"before")
        popped += [space.pop_first(), space.pop_first()]
        space.delete(b"f")
        space.append(b"g", b"behind")
        return [*popped, space.count(), space.pop_first(), space.pop_first(), space.count()]

    expected = [(b"b", b"vb"), (b"a", b"before"), (b"d", b"vd"), 1, (b"g", b"behind"), None, 0]
    assert run(engine, pop) == expected
    assert run(engine, lambda tx: tx.space("new").pop_first()) is None
    assert dump_of(engine).get("s", []) == []


def test_a_space_that_was_popped_from_can_be_dropped_and_made_again(engine: Store) -> None:
    fill(engine, "s", [b"b", b"d"])

    def pop_drop_pop(tx: Tx) -> list[Any]:
        first = tx.space("s").pop_first()
        tx.drop("s")
        tx.space("s").put(b"z", b"new")
        return [first, tx.space("s").pop_first(), tx.space("s").pop_first()]

    assert run(engine, pop_drop_pop) == [(b"b", b"vb"), (b"z", b"new"), None]


def test_count(engine: Store) -> None:
    assert run(engine, lambda tx: tx.space("s").count()) == 0
    fill(engine, "s", KEYS)
    fill(engine, "s", KEYS[:2])
    assert engine.read(lambda tx: tx.space("s").count()) == len(KEYS)
    assert run(engine, lambda tx: (tx.space("s").delete(b"a"), tx.space("s").count())) == (True, len(KEYS) - 1)


def test_append_takes_rising_keys(engine: Store) -> None:
    for key in KEYS:
        run(engine, lambda tx, key=key: tx.space("s").append(key, b""))
    assert keys_of(engine, "s") == KEYS


def test_append_takes_other_keys_too(engine: Store) -> None:
    for key in reversed(KEYS):
        run(engine, lambda tx, key=key: tx.space("s").append(key, b""))
    assert keys_of(engine, "s") == KEYS


@pytest.mark.parametrize("key", [b"b", b"a"])
def test_append_of_a_key_that_is_there_fails_and_leaves_nothing(engine: Store, key: bytes) -> None:
    fill(engine, "s", [b"a", b"b"])
    before = dump_of(engine)
    with pytest.raises(ValueError, match="append"):
        run(engine, lambda tx: (tx.space("s").put(b"c", b""), tx.space("s").delete(b"c"), append(tx, key)))
    assert dump_of(engine) == before


def append(tx: Tx, key: bytes) -> None:
    tx.space("s").append(key, b"new")


@pytest.mark.parametrize("length", [1, 511])
def test_the_shortest_and_the_longest_key(engine: Store, length: int) -> None:
    fill(engine, "s", [b"k" * length])
    assert keys_of(engine, "s") == [b"k" * length]


@pytest.mark.parametrize("method", ["put", "append"])
@pytest.mark.parametrize("length", [0, 512])
def test_no_other_key_is_written(engine: Store, length: int, method: str) -> None:
    with pytest.raises((ValueError, lmdb.BadValsizeError)):
        run(engine, lambda tx: getattr(tx.space("s"), method)(b"k" * length, b"v"))
    assert dump_of(engine) == {}


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (b"", None, KEYS),
        (b"a", None, KEYS[1:]),
        (b"", b"b", KEYS[:4]),
        (b"a", b"b", [b"a", b"a\0", b"ab"]),
        (b"a\0", b"ab", [b"a\0"]),
        (b"aa", b"az", [b"ab"]),
        (b"a", b"a", []),
        (b"b", b"a", []),
        (b"\xff\xff\0", None, []),
        (b"", b"\0", []),
    ],
)
def test_scan(engine: Store, start: bytes, stop: bytes | None, expected: list[bytes]) -> None:
    fill(engine, "s", KEYS[::-1])
    assert keys_of(engine, "s", start, stop) == expected
    assert run(engine, lambda tx: [key for key, _ in tx.space("s").scan(start, stop)]) == expected


any_key = st.binary(min_size=1, max_size=3)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(any_key), start=st.one_of(st.just(b""), any_key), stop=st.one_of(st.none(), any_key))
def test_scan_is_a_slice_of_the_sorted_keys(engine: Store, keys: list[bytes], start: bytes, stop: bytes | None) -> None:
    run(engine, lambda tx: tx.drop("s"))
    fill(engine, "s", keys)
    wanted = [key for key in sorted(set(keys)) if key >= start and (stop is None or key < stop)]
    assert keys_of(engine, "s", start, stop) == wanted


def test_a_scan_that_is_left_early_holds_nothing_up(engine: Store) -> None:
    fill(engine, "s", KEYS)
    assert run(engine, lambda tx: (next(tx.space("s").scan())[0], tx.space("s").delete(b"\0"))) == (b"\0", True)
    assert engine.read(lambda tx: next(tx.space("s").scan())[0]) == b"a"
    fill(engine, "s", [b"\0"])
    assert keys_of(engine, "s") == KEYS


# --- spaces ---------------------------------------------------------------------------


def test_a_space_that_was_never_written_is_empty(engine: Store) -> None:
    def look(tx: Tx) -> Any:
        space = tx.space("never")
        return space.get(b"a"), list(space.scan()), list(space.scan(b"a", b"b")), space.count(), tx.spaces()

    assert engine.read(look) == (None, [], [], 0, [])


def test_spaces_are_apart(engine: Store) -> None:
    fill(engine, "b", [b"k"])
    fill(engine, "a/1", [b"k", b"l"])
    run(engine, lambda tx: tx.space("b").delete(b"l"))
    assert engine.read(lambda tx: tx.spaces()) == ["a/1", "b"]
    assert keys_of(engine, "a/1") == [b"k", b"l"]


def test_drop_removes_a_space_and_no_other(engine: Store) -> None:
    fill(engine, "a", KEYS)
    fill(engine, "b", KEYS)
    assert run(engine, lambda tx: (tx.drop("a"), tx.spaces())) == (None, ["b"])
    assert keys_of(engine, "a") == []
    assert keys_of(engine, "b") == KEYS
    fill(engine, "a", [b"new"])
    assert keys_of(engine, "a") == [b"new"]


def test_drop_of_what_is_not_there_or_was_made_just_now(engine: Store) -> None:
    run(engine, lambda tx: tx.drop("never"))
    run(engine, lambda tx: (tx.space("s").put(b"a", b""), tx.drop("s"), tx.drop("s")))
    assert engine.read(lambda tx: tx.spaces()) == []


def test_a_dropped_space_can_be_made_again_at_once(engine: Store) -> None:
    fill(engine, "s", KEYS)
    run(engine, lambda tx: (tx.drop("s"), tx.space("s").put(b"new", b"")))
    assert keys_of(engine, "s") == [b"new"]


def test_a_drop_that_is_thrown_away_did_nothing(engine: Store) -> None:
    fill(engine, "s", KEYS)
    assert isinstance(engine.commit([Do(lambda tx: (tx.drop("s"), fail(tx)))], 0)[0], ZeroDivisionError)
    assert keys_of(engine, "s") == KEYS
    fill(engine, "s", [b"new"])
    assert len(keys_of(engine, "s")) == len(KEYS) + 1


# --- a group ---------------------------------------------------------------------------


def test_an_empty_group(engine: Store) -> None:
    assert engine.commit([], 0) == []


def test_results_come_in_order_and_each_sees_those_before(engine: Store) -> None:
    def add(tx: Tx) -> int:
        tx.space("s").put(bytes([tx.space("s").count()]), b"")
        return tx.space("s").count()

    assert engine.commit([Do(add)] * 20, 0) == list(range(1, 21))
    assert engine.commit([Do(add)] * 2, 0) == [21, 22]


def test_a_culprit_fails_alone(engine: Store) -> None:
    def spoil(tx: Tx) -> None:
        tx.space("s").put(b"spoilt", b"")
        tx.space("new").put(b"spoilt", b"")
        fail(tx)

    results = engine.commit([put("s", b"a", b"1"), Do(spoil), put("s", b"b", b"2"), Do(fail), put("t", b"c", b"3")], 0)
    assert [type(result) for result in results[1::2]] == [ZeroDivisionError, ZeroDivisionError]
    assert results[::2] == [None] * 3
    assert dump_of(engine) == {"s": [(b"a", b"1"), (b"b", b"2")], "t": [(b"c", b"3")]}


def test_a_group_of_culprits(engine: Store) -> None:
    results = engine.commit([Do(fail)] * 3, 0)
    assert [str(result) for result in results] == ["the culprit"] * 3
    fill(engine, "s", [b"a"])


def test_a_refused_command_is_no_culprit(engine: Store) -> None:
    results = engine.commit([put("s", b"a", b"1"), Do(refuse), put("s", b"b", b"2")], 0)
    assert results[::2] == [None, None]
    assert isinstance(results[1], NotFound)
    assert keys_of(engine, "s") == [b"a", b"b"]


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_apply_is_told_the_time(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_engine(kind, tmp_path)
    monkeypatch.setattr(store, "_apply", lambda _, commands, now_ms: [now_ms] * len(commands))
    assert store.commit([delete("s", b"")] * 2, 123) == [123, 123]
    store.close()


# --- a read ---------------------------------------------------------------------------


def test_a_read_sees_what_another_thread_committed(engine: Store) -> None:
    seen = []
    fill(engine, "s", [b"a"])
    reader = threading.Thread(target=lambda: seen.append(dump_of(engine)))
    reader.start()
    reader.join()
    assert seen == [{"s": [(b"a", b"va")]}]


@pytest.mark.parametrize("name", ["s", "never"])
def test_a_read_that_writes_is_stopped(engine: Store, name: str) -> None:
    fill(engine, "s", [b"a"])
    with pytest.raises((AssertionError, lmdb.ReadonlyError)):
        engine.read(lambda tx: tx.space(name).put(b"b", b""))


def test_what_a_read_raises_is_raised(engine: Store) -> None:
    with pytest.raises(QueueNotFound):
        engine.read(lambda _: (_ for _ in ()).throw(QueueNotFound()))
    fill(engine, "s", [b"a"])
    assert keys_of(engine, "s") == [b"a"]


def test_info_counts_what_is_used(engine: Store) -> None:
    before = engine.info()
    run(engine, lambda tx: tx.space("s").put(b"a", b"x" * 100_000))
    after = engine.info()
    assert after.engine in ("lmdb", "memory")
    assert 100_000 <= after.used_bytes - before.used_bytes < 150_000


def dump_of(engine: Store) -> Any:
    return engine.read(dump)


# --- the strictness of the engine in memory -----------------------------------------------


@pytest.mark.parametrize("on_disk", [b"", b"space"])
def test_a_command_with_two_outcomes_is_found(on_disk: bytes) -> None:
    chance = count()

    def differ(tx: Tx) -> int | None:
        number = next(chance)
        if not on_disk:
            return number
        return tx.space("s").put(b"a", bytes([number]))

    with pytest.raises(AssertionError, match="two outcomes"):
        MemoryStore(lambda tx, commands, _: [c.do(tx) for c in commands]).commit([Do(differ)], 0)


def test_a_refused_command_that_wrote_is_found() -> None:
    def refuse_late(tx: Tx) -> None:
        tx.space("s").put(b"a", b"")
        refuse(tx)

    with pytest.raises(AssertionError, match="were refused but wrote"):
        open_engine("memory", Path()).commit([Do(refuse_late)], 0)


def test_a_query_that_wrote_is_found() -> None:
    with pytest.raises(AssertionError, match="a query wrote"):
        open_engine("memory", Path()).read(lambda tx: tx.space("s").put(b"a", b""))


# --- both with messages ---------------------------------------------------------------------------


def test_messages_through_each_engine(store: Store) -> None:
    drafts = (model.Draft(b"1"), model.Draft(b"2", "text/plain"), model.Draft(b"3" * 10_000))
    results = store.commit(
        [model.CreateQueue("a"), model.Send("a", drafts), model.Send("b", drafts), model.Receive(("a",), 2)], 5
    )
    assert results[0].is_new
    assert results[1] == model.Sent((1, 2, 3))
    assert isinstance(results[2], QueueNotFound)
    assert results[3].messages == (model.Message(1, b"1", None, 5, 1), model.Message(2, b"2", "text/plain", 5, 1))
