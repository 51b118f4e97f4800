"""What went wrong in the last server of a data directory, for the next one to know: the file `fault`.

    offset 0      "verified", or zeros: since then the structure of the data file was verified, and no server has
                  stopped in order after that
    offset 16     what a server has found wrong with the storage, a sentence
    offset 512    what the interpreter writes when a signal kills it, as LMDB does on some damage

All zeros while all is well. Something noted is a reason to verify before the data file is opened again. When it happens
again although nothing was found, the file is not opened any more: or a supervisor would try for ever.
"""

from __future__ import annotations

import faulthandler
import os
from contextlib import suppress
from pathlib import Path

from tq.store.directory import FAULT_FILE

_SIZE = 4096  # allocated in advance, because a disk may be full when there is something to note
_VERIFIED = b"verified"
_SENTENCE_AT = 16
_SIGNAL_AT = 512


class FaultNote:
    """Holds the file for one server, from `read` to `close`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FAULT_FILE
        self._file = -1
        self._is_watching = False
        self.was_verified = False

    def read(self) -> str:
        """What has gone wrong, one line; empty when nothing has. Raises OSError."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < _SIZE:
            with suppress(OSError):  # on a full disk it must do without
                os.pwrite(self._file, bytes(_SIZE), 0)
        found = os.pread(self._file, _SIZE, 0)
        self.was_verified = found.startswith(_VERIFIED)
        return _first_line(found[_SENTENCE_AT:_SIGNAL_AT]) or _first_line(found[_SIGNAL_AT:])

    def watch(self) -> None:
        """Have the interpreter note a signal that kills this process."""
        os.lseek(self._file, _SIGNAL_AT, os.SEEK_SET)
        faulthandler.enable(self._file)
        self._is_watching = True

    def note(self, sentence: str) -> None:
        """Say durably that the data file is not to be trusted."""
        with suppress(OSError):  # the server ends all the same
            os.pwrite(self._file, sentence.encode()[: _SIGNAL_AT - _SENTENCE_AT], _SENTENCE_AT)
            os.fsync(self._file)

    def verified(self) -> None:
        """Go on in spite of what was noted. Raises OSError."""
        self._write(_VERIFIED)
        self.was_verified = True

    def stopped_in_order(self) -> None:
        if self.was_verified:
            with suppress(OSError):  # then the next fault is taken for the second
                self._write(b"")

    def close(self) -> None:
        if self._is_watching:
            faulthandler.disable()
        if self._file >= 0:
            os.close(self._file)

    def _write(self, head: bytes) -> None:
        os.pwrite(self._file, head.ljust(_SIZE, b"\0"), 0)
        os.ftruncate(self._file, _SIZE)
        os.fsync(self._file)


def _first_line(noted: bytes) -> str:
    return noted.rstrip(b"\0").decode(errors="replace").partition("\n")[0]
