"""One transaction of LMDB as the engine's contract has it: `Tx` and `Space` over py-lmdb.

`mdb_dbi_open` may be in use by one transaction at a time, so a reader opens nothing: it takes the handles that the
writer has, and where one is missing or being closed at this moment it raises LookAgain, and is to begin anew.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import takewhile
from threading import Lock
from typing import Any

import lmdb

from tq.store import Space

MAP_BYTES = 1 << 40  # 1 TiB of address space; a file never shrinks, so the bound is the disk or the quota

# `MDB_db` of LMDB 0.9 begins with md_pad, md_flags and md_depth; then come its branch, leaf and overflow pages.
_PAGES_OF = struct.Struct("=8x3Q")
_DUPLICATES = _OVERWRITE = _APPEND = True  # what lmdb.Transaction.put calls dupdata, overwrite and append
_NO_OVERWRITE = _NO_APPEND = False


class LookAgain(Exception):
    """A reader met a sub-database whose handle is being opened or closed by the writer at this moment."""


class LmdbTx:
    """A transaction; read-only when `closing` is None."""

    def __init__(self, env: lmdb.Environment, txn: Any, handles: dict[bytes, Any], closing: Lock | None) -> None:
        self._env = env
        self._handles = handles
        self._closing = closing
        self._spaces: dict[str, Space] = {}
        self.txn = txn
        self.opened: dict[bytes, Any] = {}
        self.dropped: list[bytes] = []

    def space(self, name: str) -> Space:
        found = self._spaces.get(name)
        if found is None:
            found = self._spaces[name] = self._find(name.encode())
        return found

    def _find(self, name: bytes) -> Space:
        if self._closing is None:
            handle = self._handle_to_read(name)
            return _LmdbSpace(self.txn, handle) if handle is not None else _NoSpace()
        handle = self.opened.get(name) or self._handles.get(name)
        if handle is None:
            handle = self.opened[name] = self._env.open_db(name, txn=self.txn)
        return _LmdbSpace(self.txn, handle)

    def _handle_to_read(self, name: bytes) -> Any:
        """The handle of a sub-database, None where this snapshot has none of that name. Raises LookAgain."""
        if self.txn.get(name) is None:
            return None
        handle = self._handles.get(name)
        if handle is None:
            raise LookAgain(f"the sub-database {name!r} is not open")
        try:
            self.txn.stat(handle)
        except (lmdb.InvalidParameterError, lmdb.BadDbiError) as error:
            raise LookAgain(f"the sub-database {name!r}: {error}") from error
        return handle

    def used_pages(self) -> int:
        """Pages in use by the main database, as of now, and by every sub-database, as this reader sees them.

        The main database holds nothing but LMDB's records of the others, which are read as they are: to ask for each
        by its handle would hold up the event loop for a tenth of a second where there are ten thousand queues.
        """
        main = self._env.stat()
        pages: int = main["branch_pages"] + main["leaf_pages"] + main["overflow_pages"]
        try:
            return pages + sum(sum(_PAGES_OF.unpack_from(value)) for _, value in self.txn.cursor())
        except struct.error as error:
            raise lmdb.CorruptedError(f"what is said of a sub-database is too short: {error}") from error

    def drop(self, name: str) -> None:
        assert self._closing is not None, "a reader drops nothing"
        key = name.encode()
        space = self.space(name)
        assert isinstance(space, _LmdbSpace)
        space.let_go()
        handle = self.opened.pop(key, None) or self._handles[key]
        with self._closing:
            self.txn.drop(handle, delete=True)
            if self._handles.pop(key, None) is not None:
                self.dropped.append(key)
        del self._spaces[name]

    def spaces(self) -> list[str]:
        return sorted(name.decode(errors="replace") for name in self._env.dbs(self.txn))  # a disk may have changed one


class _LmdbSpace:
    """Calls py-lmdb with positional arguments: naming them costs it two thirds of the time of a put."""

    __slots__ = ("_cursor", "_handle", "_txn", "_was_empty")

    def __init__(self, txn: Any, handle: Any) -> None:
        self._txn = txn
        self._handle = handle
        self._cursor: Any = None  # made by the first pop, for the others
        self._was_empty = False  # it was sound then, and what came since is in memory

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._txn.get(key, None, self._handle)
        except lmdb.BadValsizeError:
            return None  # no key has none or so many bytes, unless a disk has made it
        return value

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, _DUPLICATES, _OVERWRITE, _NO_APPEND, self._handle)

    def append(self, key: bytes, value: bytes) -> None:
        if self._txn.put(key, value, _DUPLICATES, _OVERWRITE, _APPEND, self._handle):
            return
        if not self._txn.put(key, value, _DUPLICATES, _NO_OVERWRITE, _NO_APPEND, self._handle):
            raise ValueError(f"append of {key!r}, which is there already")

    def delete(self, key: bytes) -> bool:
        try:
            deleted: bool = self._txn.delete(key, b"", self._handle)
        except lmdb.BadValsizeError:
            return False
        return deleted

    def pop_first(self) -> tuple[bytes, bytes] | None:
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = self._txn.cursor(self._handle)
        if not cursor.first():
            self._expect_empty()
            return None
        item: tuple[bytes, bytes] = cursor.item()
        try:
            cursor.delete()
        except SystemError as error:  # so py-lmdb tells of damage here
            raise error.__cause__ or error from None
        return item

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._txn.cursor(self._handle)  # closed when the iterator over it is gone, or the transaction
        if not cursor.set_range(start):
            if not start:
                self._expect_empty()
            return iter(())
        items: Iterator[tuple[bytes, bytes]] = cursor.iternext()
        return items if stop is None else takewhile(lambda item: item[0] < stop, items)

    def count(self) -> int:
        entries: int = self._txn.stat(self._handle)["entries"]
        return entries

    def _expect_empty(self) -> None:
        """Nothing was found: there must be nothing, or messages are lost and nobody is told."""
        if not self._was_empty and self.count():
            raise lmdb.CorruptedError(f"nothing is found where {self.count()} keys are counted")
        self._was_empty = True

    def let_go(self) -> None:
        """Close the cursor, before the space is dropped."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None


class _NoSpace:
    """What a reader sees of a space that was never written."""

    def get(self, key: bytes) -> bytes | None:
        return None

    def put(self, key: bytes, value: bytes) -> None:
        raise AssertionError("a reader writes nothing")

    append = put

    def pop_first(self) -> tuple[bytes, bytes] | None:
        raise AssertionError("a reader writes nothing")

    def delete(self, key: bytes) -> bool:
        return False

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        return iter(())

    def count(self) -> int:
        return 0
