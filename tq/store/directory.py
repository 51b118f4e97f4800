"""The data directory: what lies in it, who holds it, and whether its data file may be opened at all.

    FORMAT      the format of the directory, one line; written last when the directory is made
    data.mdb    LMDB's data file
    lock.mdb    LMDB's table of readers
    server.lock held with flock(2) by the one server that writes
    reserve     allocated room that is given up when the disk is full, so that consumers can go on
    fault       what went wrong in the last server (`store.faults`)

LMDB makes an empty database out of a missing or empty file, and a file that was cut short kills the process with
SIGBUS when a missing page is touched. So the file is judged here, by reading it, before LMDB sees it. What FORMAT
says decides:

    FORMAT        data.mdb      what it means
    missing       missing       a new directory: make it
    "… creating"  any           making it was cut off before anything was stored: make it again
    "… copying"   any           refuse: a restore or backup was cut off; for another one it is a new directory
    current       sound         open it
    current       missing, cut  refuse: data was lost
    missing       there         refuse: not made by tq, or FORMAT was lost
    another       any           refuse: made by another version
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from contextlib import suppress
from pathlib import Path

from tq.errors import EXIT_DATA, StartError

FORMAT = "tq 1"
CREATING = "tq 1 creating"
COPYING = "tq 1 copying"
DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
FAULT_FILE = "fault"

EXTENT_BYTES = 1 << 20  # written ahead of the data at a time: a millisecond of a disk's time

_FILES = ("FORMAT", DATA_FILE, LOCK_FILE, "server.lock", "reserve", FAULT_FILE)

log = logging.getLogger("tq.store")

_META_PAGE = struct.Struct("<QHHHH IIQQ IHHQQQQQ IHHQQQQQ QQ")  # mdb.c: MDB_page, MDB_meta
_META_FLAG = 0x08
_MAGIC = 0xBEEFC0DE
_DATA_VERSION = 1


class DataDirectory:
    """Holds a directory for one server, from `__init__` to `close`."""

    def __init__(self, path: Path) -> None:
        """Make the directory when it is absent and take its lock. Raises StartError."""
        self.path = path
        self._data = -1  # of the data file, once it was written ahead
        self._ahead_bytes = 0  # how long it was then
        try:
            _make(path)
            self._lock = open_private(path / "server.lock", os.O_RDWR)
        except OSError as error:
            raise StartError(
                f"The data directory {path} cannot be used ({error.strerror}); choose another with --data-dir.",
                EXIT_DATA,
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may just have removed it, as what is cut off does: then another one is the lock now.
            if not self._is_named("server.lock", self._lock):
                raise BlockingIOError
        except BlockingIOError as error:
            os.close(self._lock)
            raise StartError(
                f"The data directory {path} is held by another tq server or command; "
                f"let that end first, or choose another directory with --data-dir.",
                EXIT_DATA,
            ) from error

        self._shut_out_others()

    def close(self) -> None:
        if self._data >= 0:
            os.close(self._data)
        os.close(self._lock)

    def _is_named(self, name: str, descriptor: int) -> bool:
        """Whether the name stands for what was opened by it."""
        try:
            return os.path.samestat((self.path / name).stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _shut_out_others(self) -> None:
        """Let the owner alone read the files, which earlier versions did not see to; the directory is the user's."""
        if self.path.stat().st_mode & 0o077:
            log.warning("Others than the owner may enter the data directory %s; say: chmod 700 %s", *[self.path] * 2)
        for name in _FILES:
            path = self.path / name
            try:
                if path.stat().st_mode & 0o077:
                    path.chmod(0o600)
            except FileNotFoundError:
                pass  # it is still to be made
            except OSError as error:
                log.warning("Others than the owner may read %s (%s)", path, error.strerror)

    def is_new(self, *, for_copy: bool = False) -> bool:
        """Judge what is there by the table above. Raises StartError where it must not be touched."""
        found = self._read_format()
        has_data = (self.path / DATA_FILE).exists()
        if found == CREATING or (found is None and not has_data) or (found == COPYING and for_copy):
            return True
        if found == COPYING:
            raise self._refuse("is what a restore or a backup that was cut off has left; run that again")
        if found is None:
            raise self._refuse("holds a data.mdb but no FORMAT file, so it is not known to be tq's: move it away")
        if found != FORMAT:
            number = found.removeprefix("tq ")
            is_newer = number.isdecimal() and int(number) > int(FORMAT.removeprefix("tq "))
            made = "was made by a newer version of tq: it " if is_newer else ""
            raise self._refuse(
                f"{made}has the format {found!r}, and this version of tq reads {FORMAT!r}: use the one that made it"
            )
        if not has_data:
            raise self._refuse("has lost its data.mdb; restore it from a backup")
        return False

    def begin_creation(self, state: str = CREATING) -> None:
        """Begin anew. What was noted of an earlier data file does not count for this one."""
        for name in (DATA_FILE, LOCK_FILE, FAULT_FILE):
            (self.path / name).unlink(missing_ok=True)
        self._write_format(state)

    def end_creation(self) -> None:
        """Say that the directory is complete, once all in it and its own name are durable."""
        sync_directory(self.path)
        sync_directory(self.path.parent)
        self._write_format(FORMAT)

    def missing_pages(self) -> int:
        """How many pages the data file is short of what its newest meta page counts.

        A few may be missing from a sound file: LMDB does not write pages at the end that were taken and freed again
        in one transaction. Whoever gets more than 0 must verify the file's structure before opening it. Raises
        StartError.
        """
        path = self.path / DATA_FILE
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(_META_PAGE.size)
            if len(first) < _META_PAGE.size:
                raise self._refuse(f"has a data.mdb of only {size} bytes; restore it from a backup")
            page_bytes = _META_PAGE.unpack(first)[9]
            if page_bytes not in (1 << shift for shift in range(9, 17)):
                raise self._refuse("has a damaged data.mdb (page size); restore it from a backup")
            file.seek(page_bytes)
            second = file.read(_META_PAGE.size)
        if len(second) < _META_PAGE.size:
            raise self._refuse(f"has a data.mdb of only {size} bytes; restore it from a backup")
        metas = [_META_PAGE.unpack(page) for page in (first, second)]
        for meta in metas:
            if not meta[2] & _META_FLAG or meta[5:7] != (_MAGIC, _DATA_VERSION):
                raise self._refuse("has a damaged data.mdb (meta page); restore it from a backup")
        _, last_page = max((int(meta[-1]), int(meta[-2])) for meta in metas)
        return max(0, last_page + 1 - size // int(page_bytes))

    def write_ahead(self, used_bytes: int) -> None:
        """Keep zeros behind what is used of the data file, so that a commit need not make the file longer.

        A sync that has to store a new length takes almost twice as long; and a file that is always longer than its
        meta page says need not be verified after a crash. LMDB writes behind the end of the file too: so this may be
        called only while no transaction that writes is open.
        """
        if used_bytes <= self._ahead_bytes - EXTENT_BYTES // 2:
            return
        with suppress(OSError):  # a disk that is full will say so when it matters
            if self._data < 0:
                self._data = os.open(self.path / DATA_FILE, os.O_WRONLY | os.O_CLOEXEC)
            end = os.fstat(self._data).st_size
            if used_bytes > end - EXTENT_BYTES // 2:
                end += os.pwrite(self._data, bytes(EXTENT_BYTES), end)
            self._ahead_bytes = end

    def data_bytes(self) -> int:
        """How long the data file is."""
        return (self.path / DATA_FILE).stat().st_size

    def disk_free_bytes(self) -> int:
        figures = os.statvfs(self.path)
        return figures.f_bavail * figures.f_frsize

    def disk_total_bytes(self) -> int:
        figures = os.statvfs(self.path)
        return figures.f_blocks * figures.f_frsize

    def fill_reserve(self, size: int) -> None:
        """Allocate the reserve; a disk too full for it leaves it empty."""
        path = self.path / "reserve"
        try:
            if not path.exists() or path.stat().st_size < size:
                with os.fdopen(open_private(path, os.O_WRONLY), "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            with suppress(OSError):
                os.truncate(path, 0)

    def reserve_bytes(self) -> int:
        """What `empty_reserve` would give back."""
        try:
            return (self.path / "reserve").stat().st_size
        except FileNotFoundError:
            return 0

    def empty_reserve(self) -> bool:
        """Give the reserve's room back to the disk; False when there was none."""
        if not self.reserve_bytes():
            return False
        os.truncate(self.path / "reserve", 0)
        return True

    def _read_format(self) -> str | None:
        try:
            return (self.path / "FORMAT").read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refuse(f"cannot be read ({error.strerror})") from error

    def _write_format(self, text: str) -> None:
        temporary = self.path / "FORMAT.new"
        with os.fdopen(open_private(temporary, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path / "FORMAT")
        sync_directory(self.path)

    def _refuse(self, why: str) -> StartError:
        return StartError(f"The data directory {self.path} {why}; or choose another with --data-dir.", EXIT_DATA)


class DirectoryToRead(DataDirectory):
    """A directory that a server may hold meanwhile: nothing of it is changed."""

    def __init__(self, path: Path) -> None:
        """Judge the directory. Raises StartError where there is nothing to read."""
        self.path = path
        if not path.is_dir():
            raise self._refuse("is no directory" if path.exists() else "does not exist")
        if self.is_new():
            raise self._refuse("holds no data of tq's")
        self.missing_pages()

    def close(self) -> None:
        pass

    def _refuse(self, why: str) -> StartError:
        return StartError(f"The directory {self.path} {why}.", EXIT_DATA)


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a file that is made when it is absent, for its owner only from the first moment."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; LMDB itself never does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    """Make the directory, only the owner's to enter, and its parents, and make their names durable."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_directory(made.parent)
