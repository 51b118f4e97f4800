"""The engine for tests and `--data-dir memory:`: sorted maps in memory, gone when the process ends.

It is the strict one: it applies each command twice, undoing the first run, and refuses to go on when the two
runs differ in their result or in a single write, or when a command that was refused has written something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any, TypeVar

from sortedcontainers import SortedDict

from tq.errors import TqError
from tq.model import Command, StorageInfo
from tq.store import Apply

T = TypeVar("T")
_Write = tuple[str, bytes, bytes | None]  # space, key, new value or None where it was deleted


class MemoryStore:
    """Keeps the `Store` contract but for durability."""

    synced_s = 0.0  # nothing is written anywhere
    recovered = ""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._spaces: dict[str, SortedDict] = {}
        self._lock = Lock()

    def commit(self, commands: Sequence[Command], now_ms: int) -> list[Any]:
        with self._lock:
            try:
                return self._run(commands, now_ms)
            except _Culprit as culprit:
                if len(commands) == 1:
                    return [culprit.__cause__]
        return [result for command in commands for result in self.commit([command], now_ms)]

    def _run(self, commands: Sequence[Command], now_ms: int) -> list[Any]:
        rehearsal = _MemoryTx(self._spaces)
        try:
            expected = self._apply(rehearsal, commands, now_ms)
        except Exception as error:
            raise _Culprit from error
        finally:
            rehearsal.undo()
        tx = _MemoryTx(self._spaces)
        results = self._apply(tx, commands, now_ms)
        if tx.writes != rehearsal.writes or results != expected:
            raise AssertionError(f"{commands!r} had two outcomes: {expected!r} and {results!r}")
        if tx.writes and all(isinstance(result, TqError) for result in results):
            raise AssertionError(f"{commands!r} were refused but wrote {tx.writes!r}")
        return results

    def read(self, look: Callable[[Any], T]) -> T:
        with self._lock:
            tx = _MemoryTx(self._spaces)
            result = look(tx)
            if tx.writes:
                raise AssertionError(f"a query wrote {tx.writes!r}")
            return result

    def info(self) -> StorageInfo:
        with self._lock:
            used = sum(len(k) + len(v) for space in self._spaces.values() for k, v in space.items())
        return StorageInfo("memory", "memory:", 0, used, None)

    def check(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


class _Culprit(Exception):
    """One of a group's commands raised what is not a refusal."""


class _MemoryTx:
    def __init__(self, spaces: dict[str, SortedDict]) -> None:
        self._spaces = spaces
        self.writes: list[_Write] = []
        self._before: list[_Write] = []

    def space(self, name: str) -> _MemorySpace:
        if name not in self._spaces:
            self._spaces[name] = SortedDict()
        return _MemorySpace(self, name, self._spaces[name])

    def drop(self, name: str) -> None:
        space = self.space(name)
        for key, _ in list(space.scan()):
            space.delete(key)

    def spaces(self) -> list[str]:
        return sorted(name for name, items in self._spaces.items() if items)

    def record(self, space: str, key: bytes, before: bytes | None, after: bytes | None) -> None:
        self._before.append((space, key, before))
        self.writes.append((space, key, after))

    def undo(self) -> None:
        for name, key, value in reversed(self._before):
            if value is None:
                del self._spaces[name][key]
            else:
                self._spaces[name][key] = value


class _MemorySpace:
    def __init__(self, tx: _MemoryTx, name: str, items: SortedDict) -> None:
        self._tx = tx
        self._name = name
        self._items = items

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._items.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        if not 1 <= len(key) <= 511:
            raise ValueError(f"a key of {len(key)} bytes")
        self._tx.record(self._name, key, self._items.get(key), value)
        self._items[key] = value

    def append(self, key: bytes, value: bytes) -> None:
        if key in self._items:
            raise ValueError(f"append of {key!r}, which is there already")
        self.put(key, value)

    def delete(self, key: bytes) -> bool:
        before = self._items.get(key)
        if before is None:
            return False
        self._tx.record(self._name, key, before, None)
        del self._items[key]
        return True

    def pop_first(self) -> tuple[bytes, bytes] | None:
        if not self._items:
            return None
        first: tuple[bytes, bytes] = self._items.peekitem(0)
        self.delete(first[0])
        return first

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        for key in self._items.irange(start, stop, inclusive=(True, False)):
            yield key, self._items[key]

    def count(self) -> int:
        return len(self._items)
