"""The engines that tests open, and `Do`, which reaches past `lifecycle` into the spaces; sends for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from tq import lifecycle, model
from tq.errors import TqError
from tq.store import Store, Tx
from tq.store.lmdb import LmdbStore
from tq.store.memory import MemoryStore

RECORD_BYTES = 1_984  # a larger message record is kept apart from its content


def inline_bytes(media_type: str | None) -> int:
    """The longest content that is kept in its record, for a time since 1970-02-19 and a media type of 1 to 31 bytes."""
    version, array, time, counts, content_head, first, nil, clocks, checksum = 1, 1, 9, 4, 3, 1, 1, 2, 4
    media = 1 + len(media_type or "")
    return RECORD_BYTES - (version + array + time + counts + media + content_head + first + nil + clocks + checksum)


class Do(model.Command, frozen=True):
    """Result: what `do` returns, or the TqError it raises. It may read and write any space."""

    do: Callable[[Tx], Any]


class Grow(Do, frozen=True):
    """A `Do` that the store refuses when it is full."""

    grows: ClassVar[bool] = True


def apply(tx: Tx, commands: Sequence[model.Command], now_ms: int) -> list[Any]:
    """`lifecycle.apply`, and `Do` besides."""
    results: list[Any] = []
    for is_raw, grouped in groupby(commands, lambda command: isinstance(command, Do)):
        run: list[Any] = list(grouped)
        results += [_do(tx, command) for command in run] if is_raw else lifecycle.apply(tx, run, now_ms)
    return results


def _do(tx: Tx, command: Do) -> Any:
    try:
        return command.do(tx)
    except TqError as refusal:
        return refusal


def put(space: str, key: bytes, value: bytes) -> Do:
    return Do(lambda tx: tx.space(space).put(key, value))


def delete(space: str, key: bytes) -> Do:
    return Do(lambda tx: tx.space(space).delete(key))


def dump(tx: Tx) -> dict[str, list[tuple[bytes, bytes]]]:
    """Everything in a store: the pairs of each space that is not empty."""
    spaces = {name: list(tx.space(name).scan()) for name in tx.spaces()}
    return {name: pairs for name, pairs in spaces.items() if pairs}


def open_engine(kind: str, path: Path, **options: Any) -> Store:
    """An engine that runs `apply` of this module."""
    if kind == "memory":
        return MemoryStore(apply)
    return LmdbStore(path, apply, **{"max_spaces": lifecycle.MAX_SPACES, "reserve_bytes": 1 << 20, **options})


def one(store: LmdbStore, command: model.Command) -> Any:
    [result] = store.commit([command], 0)
    return result


def sends(first: int, number: int, size: int = 1_000) -> list[model.Command]:
    """Commands of one message each, whose contents are numbered."""
    return [model.Send("q", (model.Draft(b"%d".ljust(size) % n),)) for n in range(first, first + number)]
