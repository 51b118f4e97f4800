"""The engine on disk: one LMDB environment, one writer, every group of commands one synced transaction.

LMDB is opened with its safe defaults and nothing else: a commit writes the pages, `fdatasync`s them, and then writes
the meta page through a descriptor opened with O_DSYNC. The map is huge and constant; it is address space, not memory
or disk.

*Room.* When LMDB runs out of disk even a delete fails, because it copies pages before it changes them. So commands
that grow the store are refused with StorageFull while less than the reserve is left (free disk and free pages in the
file together), and the data directory keeps as much again allocated in a file that is emptied when the disk is full
all the same. Leases, and whatever else takes a little room, may have three quarters of both together: the rest is for
what gives room back.

*Damage.* LMDB keeps no checksums, and looks at a page only when it needs it. What it calls damage ends the use of the
store: StorageDamaged, and a note in the directory. On some damage LMDB ends the process, by a signal that the
interpreter notes there too. At a start after either, the whole structure is verified before LMDB touches it. That takes
time that grows with the file, so it is not done at every start.

*Handles.* `mdb_dbi_open` may be in use by one transaction at a time, so only the writer opens sub-databases: all that
exist at the start, the others when they are made. A reader can therefore see a sub-database for which there is no
handle yet (LMDB shows a commit to readers a moment before it returns) or no more (it is just being dropped): it looks
again with a new snapshot. Dropping closes a handle, which no reader may be using at that moment: `_closing` sees to it.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import lmdb
from lmdb import verify

from tq.errors import EXIT_DATA, StartError, StorageDamaged, StorageFailed, StorageFull
from tq.model import Command, StorageInfo
from tq.store import Apply
from tq.store.directory import DATA_FILE, DataDirectory
from tq.store.faults import FaultNote
from tq.store.lmdb.tx import MAP_BYTES, LmdbTx, LookAgain

T = TypeVar("T")

MAX_READERS = 126  # LMDB's own default: this process uses one slot a thread, and tools a few more
READER_CHECK_S = 5.0  # how often the slots of readers that died are freed, and the reserve is filled again
DISK_CHECK_S = 1.0  # how often the room on the disk is looked at …
PLENTY = 64  # … while it is so many reserves; else at each commit
LOOK_AGAIN_FOR_S = 10.0  # after which it must not stop the event loop any more; it is damage while nothing is written
LOOK_AGAIN_S = 0.0005  # a reader's pause for the writer, who has what it waits for in a moment
WRITTEN = 32  # times what it costs to hold: a lease writes a record of up to 2 KB into pages that are half full

_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
    lmdb.ProblemError,
    lmdb.IncompatibleError,
    lmdb.BadDbiError,
    lmdb.NotFoundError,  # of what a cursor stands on, or a list has named
    lmdb.BadTxnError,  # after any of these
)

log = logging.getLogger("tq.store")


class LmdbStore:
    """Keeps the `Store` contract."""

    def __init__(
        self,
        path: Path,
        apply: Apply,
        *,
        max_spaces: int,
        reserve_bytes: int,
        max_store_bytes: int | None = None,
        watches_faults: bool = False,
    ) -> None:
        """Open the directory, or make it. Raises StartError.

        `watches_faults`: note the signal that kills the process; for one store of a process alone.
        """
        self._apply = apply
        self._max_spaces = max_spaces
        self._max_store_bytes = max_store_bytes
        self._handles: dict[bytes, Any] = {}
        self._closing = Lock()
        self._failure: StorageFailed | None = None
        self._is_committing = False
        self._is_full = False
        self.synced_s = 0.0
        self.recovered = ""
        self._directory = DataDirectory(path)
        self._fault = FaultNote(path)
        self._readers_checked_at = 0.0
        self._disk_checked_at = 0.0
        self._disk_free_bytes = 0
        try:
            self._env = self._open(watches_faults)
            self._page_bytes: int = self._env.stat()["psize"]
            # A small disk (a tmpfs of 8 MB) must not be all reserve.
            self._reserve_bytes = min(reserve_bytes, self._directory.disk_total_bytes() // 8)
            self._fill_reserve()
        except BaseException:
            self._fault.close()
            self._directory.close()
            raise

    def _open(self, watches_faults: bool) -> lmdb.Environment:
        """Raises StartError."""
        directory = self._directory
        try:
            is_new = directory.is_new()
            if is_new:
                directory.begin_creation()
            else:
                missing_pages = directory.missing_pages()
            fault = self._fault.read()
            if not is_new and (missing_pages or fault):
                self._verify_data_file(missing_pages, fault)
            if watches_faults:
                self._fault.watch()
            env = lmdb.open(
                str(directory.path),
                map_size=MAP_BYTES,
                max_dbs=self._max_spaces,
                max_readers=MAX_READERS,
                max_spare_txns=0,
                mode=0o600,
                lib_version=0,
            )
            with env.begin(write=True) as txn:
                for name in env.dbs(txn):
                    self._handles[name] = env.open_db(name, txn=txn, create=False)
            if is_new:
                env.sync(True)
                directory.end_creation()
        except _DAMAGE as error:
            raise self._refuse_data(f"is damaged ({error})") from error
        except (lmdb.Error, OSError) as error:
            raise StartError(
                f"The data directory {directory.path} cannot be opened ({error}); choose another with --data-dir.",
                EXIT_DATA,
            ) from error
        return env

    def _verify_data_file(self, missing_pages: int, fault: str) -> None:
        """Raises StartError, OSError."""
        left = {"event": "recovery", "pages": missing_pages, "fault": fault}
        if missing_pages:
            log.warning("data.mdb ends %(pages)d pages early: verifying its structure", left)
        else:
            log.warning("verifying the structure of data.mdb, for the last server ended with: %(fault)s", left)
        began_s = time.monotonic()
        findings = _verify(self._directory.path)
        if findings:
            raise self._refuse_data(f"{'was cut short' if missing_pages else 'is damaged'} ({findings[0]})")
        if fault and self._fault.was_verified:
            why = (
                f"has ended two servers, though its structure is sound ({fault}): remove the file `fault` to try again"
            )
            raise self._refuse_data(why)
        took_s = round(time.monotonic() - began_s, 3)
        log.warning("data.mdb is sound, which took %(seconds).1f s to see", {"event": "verified", "seconds": took_s})
        self.recovered = fault or f"{missing_pages} pages were missing"
        if fault:
            self._fault.verified()

    def _refuse_data(self, why: str) -> StartError:
        return StartError(
            f"The data.mdb in {self._directory.path} {why}; "
            f"restore it from a backup or choose another directory with --data-dir.",
            EXIT_DATA,
        )

    # --- the writer's side -------------------------------------------------------------

    def commit(self, commands: Sequence[Command], now_ms: int) -> list[Any]:
        if self._failure:
            raise self._failure
        self.synced_s = 0.0
        now = time.monotonic()
        self._check_readers(now)
        available = self._available_bytes(now)
        if (available < self._reserve_bytes) != self._is_full:
            self._tell_room(available)
        if available >= self._reserve_bytes:
            if self._has_plenty() and self._max_store_bytes is None:
                self._directory.write_ahead(self._file_bytes())
            return self._commit_group(commands, now_ms)
        fitting = list(self._fit(commands, available))
        results = iter(self._commit_group([command for command in fitting if command], now_ms))
        return [next(results) if command else StorageFull() for command in fitting]

    def _tell_room(self, available: int) -> None:
        """Say in the log that there is no room for messages, or again; not again where there is hardly any."""
        told = {"available_bytes": available, "reserve_bytes": self._reserve_bytes}
        if available < self._reserve_bytes:
            self._is_full = True
            log.error(
                "the storage is full: %(available_bytes)d bytes are left, below the reserve of %(reserve_bytes)d; "
                "sends are refused",
                {"event": "storage_full", **told},
            )
        elif available >= self._reserve_bytes + self._reserve_bytes // 64:
            self._is_full = False
            log.warning("there is room for messages again", {"event": "storage_has_room", **told})

    def _fit(self, commands: Sequence[Command], available: int) -> Iterator[Command | None]:
        """What may be done of each command when only the reserve is left."""
        spare = available + self._directory.reserve_bytes() - self._reserve_bytes // 2
        for command in commands:
            if command.takes_room or (command.takes_reserve and spare <= 0):
                yield None
                continue
            fitting = command
            while fitting.takes_reserve and fitting.cost_bytes * WRITTEN > spare and (smaller := fitting.smaller()):
                fitting = smaller
            spare -= fitting.cost_bytes * WRITTEN if fitting.takes_reserve else 0
            yield fitting

    def _commit_group(self, commands: Sequence[Command], now_ms: int) -> list[Any]:
        if len(commands) > 1:
            try:
                return self._transact(commands, now_ms)
            except StorageFailed:
                raise
            except StorageFull:
                pass  # one by one it will show for which there is no room
            except Exception:
                told = {"event": "group_failed", "commands": len(commands)}
                log.warning("a group of %(commands)d commands failed; running each alone", told, exc_info=True)
        return [self._commit_alone(command, now_ms) for command in commands]

    def _commit_alone(self, command: Command, now_ms: int) -> Any:
        try:
            return self._transact([command], now_ms)[0]
        except StorageFailed:
            raise
        except StorageFull as full:
            if command.takes_room:
                return full
            if self._directory.empty_reserve():
                log.warning("the disk is full: the reserve is released", {"event": "reserve_released"})
                return self._commit_alone(command, now_ms)
            smaller = command.smaller()
            return full if smaller is None else self._commit_alone(smaller, now_ms)
        except Exception as error:
            return error

    def _transact(self, commands: Sequence[Command], now_ms: int) -> list[Any]:
        """Raises StorageFull and StorageFailed, and whatever a culprit among the commands raises."""
        if not commands:
            return []
        try:
            txn = self._env.begin(write=True)
        except lmdb.Error as error:
            raise self._fail(f"LMDB cannot begin a transaction: {error}") from error
        tx = LmdbTx(self._env, txn, self._handles, self._closing)
        try:
            results = self._apply(tx, commands, now_ms)
        except lmdb.Error as error:
            self._abort(tx)
            if isinstance(error, (lmdb.MapFullError, *_DAMAGE)) or error.code in (*_FULL_CODES, errno.EIO):
                raise self._write_error(error) from error
            raise
        except StorageDamaged as damage:
            self._abort(tx)
            raise self._fail_damaged(damage) from damage
        except BaseException:
            self._abort(tx)
            raise
        self._is_committing = True
        began_s = time.perf_counter()
        try:
            self._commit_txn(txn)
        except lmdb.Error as error:
            failure = self._write_error(error)
            if isinstance(failure, StorageFull):
                self._reopen(tx)
                self._check_meta()
            raise failure from error
        finally:
            self._is_committing = False
            self.synced_s += time.perf_counter() - began_s
        self._handles |= tx.opened
        return results

    def _commit_txn(self, txn: Any) -> None:
        """Write and sync; the seam where tests make the disk fail."""
        txn.commit()

    def _abort(self, tx: LmdbTx) -> None:
        tx.txn.abort()
        self._reopen(tx)

    def _check_meta(self) -> None:
        """A full disk must not hide a meta page that could not be written: then LMDB begins nothing any more."""
        try:
            self._env.begin(write=True).abort()
        except lmdb.Error as error:
            raise self._fail(f"LMDB cannot begin a transaction: {error}") from error

    def _reopen(self, tx: LmdbTx) -> None:
        """Open again what a transaction dropped that was thrown away: LMDB closes the handle all the same."""
        if not tx.dropped:
            return
        try:
            with self._env.begin(write=True) as txn:
                for name in tx.dropped:
                    self._handles[name] = self._env.open_db(name, txn=txn, create=False)
        except lmdb.Error as error:
            raise self._fail(f"LMDB cannot begin a transaction: {error}") from error

    def _write_error(self, error: lmdb.Error) -> StorageFull | StorageFailed:
        """What a failed write or sync means.

        Only the disk knows whether it is full: LMDB says EIO for a write that was cut short by that, and a sync may say
        ENOSPC where there is room, of a volume that has promised more than it has. A user's quota is not in what
        the disk says. Carrying on is safe where it is only full: the transaction was aborted, and LMDB refuses to
        begin another when its meta page may be damaged.
        """
        if isinstance(error, _DAMAGE):
            return self._fail_damaged(error)
        is_quota = isinstance(error, lmdb.MapFullError) or error.code == errno.EDQUOT
        if is_quota or self._directory.disk_free_bytes() < self._reserve_bytes:
            return StorageFull()
        return self._fail(f"LMDB failed to write: {error}")

    def _fail(self, why: str) -> StorageFailed:
        self._failure = StorageFailed(why)
        self._fault.note(why)
        return self._failure

    def _fail_damaged(self, error: Exception) -> StorageDamaged:
        failure = StorageDamaged(f"The data file is damaged ({error}): run `tq check`, and restore a backup.")
        self._fault.note(failure.detail)
        self._failure = failure
        return failure

    def _check_readers(self, now: float) -> None:
        if now - self._readers_checked_at >= READER_CHECK_S:
            self._readers_checked_at = now
            self._env.reader_check()
            self._fill_reserve()

    def _fill_reserve(self) -> None:
        if self._directory.disk_free_bytes() >= self._reserve_bytes * 5 // 4:
            self._directory.fill_reserve(self._reserve_bytes)

    # --- anyone's side -------------------------------------------------------------

    def read(self, look: Callable[[Any], T]) -> T:
        give_up_at = time.monotonic() + LOOK_AGAIN_FOR_S
        while True:
            with self._closing:
                txn = self._env.begin()
                try:
                    return look(LmdbTx(self._env, txn, self._handles, None))
                except LookAgain as again:
                    if self._failure:  # then the writer will never have what is waited for
                        raise self._failure from None
                    if time.monotonic() > give_up_at:
                        if self._is_committing:  # the disk is slow
                            raise
                        raise self._fail_damaged(again) from again
                except _DAMAGE as error:
                    raise self._fail_damaged(error) from error
                finally:
                    txn.abort()
            time.sleep(LOOK_AGAIN_S)

    def info(self) -> StorageInfo:
        return StorageInfo(
            engine="lmdb",
            path=str(self._directory.path),
            file_bytes=self._file_bytes(),
            used_bytes=self._used_bytes(),
            available_bytes=max(0, self._room_bytes() - self._reserve_bytes),
            reserve_bytes=self._reserve_bytes,
        )

    def check(self) -> list[str]:
        return _verify(self._directory.path)

    def close(self) -> None:
        self._env.close()
        if self._failure is None:
            self._fault.stopped_in_order()
        self._fault.close()
        self._directory.close()

    # --- room -------------------------------------------------------------

    def _available_bytes(self, now: float) -> int:
        """What sends may fill; the exact figure only when room is scarce, because it costs a look at every space."""
        if not self._has_plenty() or now - self._disk_checked_at >= DISK_CHECK_S:
            self._disk_checked_at = now
            self._disk_free_bytes = self._directory.disk_free_bytes()
        disk_free = self._disk_free_bytes
        quota = self._max_store_bytes
        if disk_free >= self._reserve_bytes and (quota is None or self._file_bytes() < quota):
            return disk_free
        return self._room_bytes()

    def _has_plenty(self) -> bool:
        return self._disk_free_bytes >= PLENTY * self._reserve_bytes

    def _room_bytes(self) -> int:
        used = self._used_bytes()
        # What lies behind the last page is room too: written ahead, or left there by a write that a full disk cut off.
        room = self._directory.disk_free_bytes() + max(self._directory.data_bytes(), self._file_bytes()) - used
        if self._max_store_bytes is not None:
            # The reserve is for the disk: a quota may be used up to the last page.
            room = min(room, self._max_store_bytes - used + self._reserve_bytes)
        return room

    def _file_bytes(self) -> int:
        return int((self._env.info()["last_pgno"] + 1) * self._page_bytes)

    def _used_bytes(self) -> int:
        """Pages in use, counted by sub-database; LMDB's list of free pages itself is estimated."""
        used = 2 + self.read(LmdbTx.used_pages)  # the 2 meta pages
        free = self._file_bytes() // self._page_bytes - used
        return int((used + free // 256) * self._page_bytes)


def _verify(path: Path) -> list[str]:
    """What is wrong with the structure of a data file, found by reading it without LMDB."""
    try:
        return list(verify.verify(str(path / DATA_FILE)))  # type: ignore[no-untyped-call]
    except verify.VerifyError as error:
        return [str(error)]
