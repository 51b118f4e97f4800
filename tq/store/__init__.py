"""The seam between what messages may do and where they are kept.

An engine keeps *spaces*, which are sorted maps from bytes to bytes, and commits *commands* to them in groups. It
knows nothing of messages: the function `apply` it is made with turns commands into reads and writes of spaces. Two
engines keep this contract, `store.lmdb` on disk and `store.memory`; `tests/test_store.py` holds both to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from tq.model import Command, StorageInfo

T = TypeVar("T")


class Space(Protocol):
    """A sorted map from bytes to bytes, as one transaction sees it. Keys are 1 to 511 bytes long."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`, new or not."""

    def append(self, key: bytes, value: bytes) -> None:
        """Set `key`, which must be new; packs pages tighter than `put` where it is greater than every other."""

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False when it was not there."""

    def pop_first(self) -> tuple[bytes, bytes] | None:
        """Remove the pair with the smallest key and return it; None when the space is empty."""

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop, rising. The space must not change while a scan of it is read."""

    def count(self) -> int:
        """How many keys the space holds, in O(1)."""


class Tx(Protocol):
    """One transaction: it sees what was committed before it began and its own writes, nothing else."""

    def space(self, name: str) -> Space:
        """The space of this name, empty when it was never written."""

    def drop(self, name: str) -> None:
        """Remove a space and all that is in it. Costs time for each page: empty a large space in steps first."""

    def spaces(self) -> list[str]:
        """The names of all spaces, sorted."""


Apply = Callable[[Tx, Sequence[Any], int], "list[Any]"]
"""`apply(tx, commands, now_ms)` gives one result for each command: a value, or the TqError it was refused with.

It must be deterministic and may be called again with the same commands after its transaction was thrown away. A command
that is refused has written nothing. Any other exception means that the transaction must be thrown away. It raises
StorageDamaged when what it finds there cannot be.
"""


class Store(Protocol):
    """An engine. One `commit` or `close` runs at a time, on whichever thread; `read` may be called from any thread.

    `synced_s` is how long the last commit took to write and sync, of all that it took. `recovered` says what was wrong
    when it was opened, and is not any more; empty when nothing was.
    """

    synced_s: float
    recovered: str

    def commit(self, commands: Sequence[Command], now_ms: int) -> list[Any]:
        """Apply the commands in order in one transaction and return when it is on disk.

        One result per command: a value, or the exception it failed with. A command that raises something other than a
        TqError fails alone: the transaction is thrown away and each command runs again in one of its own. Commands
        that grow the store get StorageFull while there is no room.
        Raises StorageFailed when a write or sync failed: what of the group is on disk is unknown then, and
        the store must not be used again. StorageDamaged, which is one, when the storage is found damaged.
        """

    def read(self, look: Callable[[Tx], T]) -> T:
        """Call `look` with a snapshot of what is committed. It must not write. Raises StorageDamaged."""

    def info(self) -> StorageInfo:
        """How much room is used and left."""

    def check(self) -> list[str]:
        """What is structurally wrong with the storage itself, one sentence each; empty when all is well."""

    def close(self) -> None:
        """Release the storage. Nothing is lost when this is never called."""
