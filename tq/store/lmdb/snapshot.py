"""One moment of a data directory, read from another process than the server's, while that goes on or not.

A read transaction pins the moment: its entry in LMDB's table of readers keeps the writer from using any of its pages
again. So the file can be read past LMDB too, to verify its structure and to copy it, all but the two meta pages, which
every commit overwrites in turn. They are read once, right behind the beginning of the transaction: the commit that
overwrites the one that counts is the second from then on, so while LMDB still knows of no first one, what was read is
whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
from lmdb import verify

from tq.errors import EXIT_DATA, StartError
from tq.store.directory import DATA_FILE, LOCK_FILE, DirectoryToRead, open_private
from tq.store.lmdb.tx import MAP_BYTES, LmdbTx

PIN_S = 10.0  # after which what LMDB counts is not of this file
COPY_BYTES = 1 << 20  # read and written at a time

REPLACED = "it was replaced at this moment; try again"

Tell = Callable[[int], None]
"""Is called with how many bytes were done since the last call."""


def untold(_: int) -> None:
    """Tells nobody."""


class Snapshot:
    """Use it in a `with`. `bytes`: of the file as far as it is used; `number` tells this state from any other."""

    def __init__(self, path: Path, max_spaces: int, *, is_alone: bool = False) -> None:
        """With `is_alone` the caller keeps everybody else out, and LMDB's table of readers is left alone.

        Raises StartError.
        """
        self.path = DirectoryToRead(path).path
        self._tx: LmdbTx | None = None
        try:
            self._file = os.open(path / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            before = self._lock_file()
            self._env = lmdb.open(
                str(path),
                map_size=MAP_BYTES,
                max_dbs=max_spaces,
                readonly=True,
                lock=not is_alone,
                create=False,
                mode=0o600,
            )
            try:
                if before not in (None, self._lock_file()):  # somebody was waited for, who has replaced both files
                    raise OSError(REPLACED)
                self._pin()
            except BaseException:
                self._env.close()
                raise
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, lmdb.Error | OSError):
                raise self._unreadable(error) from error
            raise

    def _lock_file(self) -> tuple[int, int] | None:
        """Which file LMDB's table of readers is now."""
        try:
            figures = (self.path / LOCK_FILE).stat()
        except FileNotFoundError:
            return None
        return figures.st_dev, figures.st_ino

    def _pin(self) -> None:
        if not os.path.samestat(os.fstat(self._file), (self.path / DATA_FILE).stat()):
            raise OSError(REPLACED)
        self.page_bytes: int = self._env.stat()["psize"]
        give_up_at = time.monotonic() + PIN_S
        while True:
            self._txn = self._env.begin()
            self._metas = os.pread(self._file, 2 * self.page_bytes, 0)
            latest = self._env.info()
            if latest["last_txnid"] == self._txn.id():
                break
            self._txn.abort()
            if time.monotonic() > give_up_at:
                raise OSError("lock.mdb is of another file")
        self.bytes: int = (latest["last_pgno"] + 1) * self.page_bytes
        meta = self._metas[self.page_bytes * (self._txn.id() % 2) :][: self.page_bytes]
        self.number = f"{self._txn.id()}-{sha256(meta).hexdigest()[:16]}"

    def structure(self, tell: Tell = untold) -> list[str]:
        """What is wrong with the structure of the file, found by reading it without LMDB."""
        size = os.fstat(self._file).st_size
        try:
            # The public `verify` takes a path, and would see the meta pages of later commits.
            verifier = verify._Verifier(_View(self._file, self._metas, tell), size)  # type: ignore[no-untyped-call]
            return list(verifier.verify())  # type: ignore[no-untyped-call]
        except verify.VerifyError as error:
            return [str(error)]

    def missing(self) -> list[str]:
        """That the file ends too early, if it does."""
        pages = (self.bytes - os.fstat(self._file).st_size) // self.page_bytes
        return [f"the file ends {pages:,} pages early"] if pages > 0 else []

    def tx(self) -> LmdbTx:
        """The spaces. Raises StartError where reading them would kill the process."""
        if self._tx is None:
            if os.fstat(self._file).st_size < self.bytes and (findings := self.structure()):
                raise StartError(f"The data.mdb in {self.path} was cut short ({findings[0]}).", EXIT_DATA)
            handles: dict[bytes, Any] = {}
            for name in self._env.dbs(self._txn):
                handles[name] = self._env.open_db(name, txn=self._txn, create=False)
            self._tx = LmdbTx(self._env, self._txn, handles, None)
        return self._tx

    def copy_to(self, path: Path, tell: Tell = untold) -> None:
        """Copy the file, and return when the copy is on disk. Raises OSError."""
        view = _View(self._file, self._metas, tell)
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_EXCL), "wb", buffering=0) as file:
            at = 0
            while at < self.bytes:
                view.seek(at)
                piece = memoryview(view.read(min(COPY_BYTES, self.bytes - at)))
                if not piece:  # pages at the end that were taken and freed in one transaction were never written
                    file.truncate(self.bytes)
                    break
                at += file.write(piece) or 0
            os.fsync(file.fileno())

    def compact_to(self, path: Path) -> None:
        """Copy what is in use, without the free pages. Raises OSError, and StartError where LMDB cannot."""
        self.tx()
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_EXCL), "wb", buffering=0) as file:
            try:
                self._env.copyfd(file.fileno(), compact=True)
            except lmdb.Error as error:
                if error.code and error.code > 0:  # of the system; LMDB's own are negative
                    raise OSError(error.code, str(error)) from error
                raise self._unreadable(error) from error
            os.fsync(file.fileno())

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._tx = None
        self._txn.abort()
        self._env.close()
        os.close(self._file)
        if isinstance(error, lmdb.Error):
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StartError:
        return StartError(f"The data.mdb in {self.path} cannot be read ({error}); `tq check` says more.", EXIT_DATA)


class _View:
    """The file as it was at the moment: what `verify` needs of a file object, which it reads page by page."""

    def __init__(self, file: int, metas: bytes, tell: Tell) -> None:
        self._file = file
        self._metas = metas
        self._tell = tell
        self._at = 0

    def seek(self, at: int) -> None:
        self._at = at

    def read(self, size: int) -> bytes:
        self._tell(size)
        data = os.pread(self._file, size, self._at)
        early = self._metas[self._at : self._at + size]
        return early + data[len(early) :] if early else data
