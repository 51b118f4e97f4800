"""Whole copies of a data directory: backed up, restored, and compacted.

Each is filled as a directory that is still being made (see `store.directory`) and synced, and only then gets its name,
or, where a restore fills the directory in its place, is called complete: whatever ends the process, there is the old
state or the new one, and what is half done is begun anew by the next run.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tq.errors import EXIT_DATA, StartError
from tq.store import Tx
from tq.store.directory import (
    COPYING,
    DATA_FILE,
    LOCK_FILE,
    DataDirectory,
    DirectoryToRead,
    sync_directory,
)
from tq.store.lmdb.snapshot import Snapshot, Tell

_MIB = 1 << 20


def back_up(snapshot: Snapshot, target: Path, tell: Tell) -> None:
    """Copy a snapshot to a directory that does not exist yet. Raises StartError."""
    if target.exists() or target.is_symlink():
        raise StartError(f"{target} exists already; name a directory that does not exist.", EXIT_DATA)
    unfinished = target.with_name(f".{target.name}.unfinished")
    directory = DataDirectory(unfinished)
    try:
        with _filled(directory, snapshot.bytes):
            snapshot.copy_to(unfinished / DATA_FILE, tell)
        try:
            unfinished.rename(target)
            (target / "server.lock").unlink()  # not before: it keeps out another backup of the name
            sync_directory(target.parent)
        except OSError as error:
            raise StartError(f"The backup {target} could not be finished ({error.strerror}).", EXIT_DATA) from error
    except BaseException:
        if unfinished.exists():
            _clear(unfinished)
            unfinished.rmdir()
        raise
    finally:
        directory.close()


def restore(snapshot: Snapshot, path: Path, tell: Tell) -> None:
    """Copy a backup to where there is no data. Raises StartError."""
    directory = DataDirectory(path)
    try:
        if not directory.is_new(for_copy=True):
            raise StartError(
                f"The data directory {path} holds data, which is never overwritten: move it away first.", EXIT_DATA
            )
        try:
            with _filled(directory, snapshot.bytes):
                snapshot.copy_to(path / DATA_FILE, tell)
        except BaseException:  # no server is to start there as if nothing had been wanted: FORMAT stays
            (path / DATA_FILE).unlink(missing_ok=True)
            raise
    finally:
        directory.close()


def compact(path: Path, max_spaces: int) -> tuple[int, int]:
    """Write the data file anew without its free pages. Returns its size before and after. Raises StartError."""
    DirectoryToRead(path)
    directory = DataDirectory(path)
    compacted = path / "compacted"
    try:
        with _without_readers(path), Snapshot(path, max_spaces, is_alone=True) as before:
            size = (path / DATA_FILE).stat().st_size
            copy = DataDirectory(compacted)
            try:
                with _filled(copy, before.tx().used_pages() * before.page_bytes):
                    before.compact_to(compacted / DATA_FILE)
                _compare(before, compacted, max_spaces)
                # It counts the commits of the old file: nobody may find it beside the new one.
                (path / LOCK_FILE).unlink(missing_ok=True)
                (compacted / DATA_FILE).rename(path / DATA_FILE)
                sync_directory(path)
            finally:
                copy.close()
                _clear(compacted)
                compacted.rmdir()
        return size, (path / DATA_FILE).stat().st_size
    finally:
        directory.close()


def _compare(before: Snapshot, compacted: Path, max_spaces: int) -> None:
    """Raises StartError unless the copy is sound and has as many records of each kind."""
    with Snapshot(compacted, max_spaces, is_alone=True) as after:
        findings = after.structure()
        if not findings and _counts(before.tx()) != _counts(after.tx()):
            findings = ["it has not all records"]
        if findings:
            raise StartError(f"The compacted copy is not sound ({findings[0]}); nothing was changed.", EXIT_DATA)


def _counts(tx: Tx) -> dict[str, int]:
    return {name: tx.space(name).count() for name in tx.spaces()}


@contextmanager
def _filled(directory: DataDirectory, size: int) -> Iterator[None]:
    """Complete a directory around what fills it. Raises StartError when the disk is too small or fails."""
    try:
        directory.begin_creation(COPYING)
        free = directory.disk_free_bytes()
        if free < size:
            has, needed = f"{free // _MIB:,} MiB of free disk", f"{-(-size // _MIB):,} MiB"
            raise StartError(f"{directory.path.parent} has {has} and {needed} are needed.", EXIT_DATA)
        yield
        directory.end_creation()
    except OSError as error:
        raise StartError(f"{directory.path} cannot be written ({error.strerror or error}).", EXIT_DATA) from error


def _clear(path: Path) -> None:
    """Remove the files of a directory that was not completed: FORMAT behind what it is about, and then the lock."""
    for name in (DATA_FILE, LOCK_FILE, "FORMAT.new", "FORMAT", "server.lock"):
        (path / name).unlink(missing_ok=True)


@contextmanager
def _without_readers(path: Path) -> Iterator[None]:
    """Keep other processes from opening the file with LMDB, by the lock with which each of them says that it has."""
    file = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError as error:
            raise StartError(
                f"The data directory {path} is being read by another command; let that end first.", EXIT_DATA
            ) from error
        yield
    finally:
        os.close(file)
