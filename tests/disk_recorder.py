"""A file system that offers one file, the disk of a loop device, and keeps a log of what is written to it and flushed.

    python -m tests.disk_recorder IMAGE MOUNTPOINT LOG

It serves requests one at a time, so the log has them in the order in which the "disk" saw them. The content is kept in
memory and IMAGE is left as it was: with the log it gives the disk at any moment.
"""

from __future__ import annotations

import errno
import stat
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

DISK = "disk"  # the name of the file

_HEAD = struct.Struct("<?QQI")  # whether it is a flush, when (monotonic ns), offset, length


class Record(Struct):
    """A write, or a flush, which has no bytes and makes all writes before it durable."""

    is_flush: bool
    at_ns: int
    offset: int
    data: bytes


def read_log(path: Path) -> list[Record]:
    return list(_records(path.read_bytes()))


def _records(log: bytes) -> Iterator[Record]:
    at = 0
    while at < len(log):
        is_flush, at_ns, offset, length = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        yield Record(is_flush, at_ns, offset, log[at : at + length])
        at += length


def main(image: str, mount_point: str, log_path: str) -> None:
    import mfusepy

    content = bytearray(Path(image).read_bytes())

    class Recorder(mfusepy.Operations):  # type: ignore[misc]
        """What FUSE asks. A call that is not here is refused with ENOSYS or ENOENT by the base."""

        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
            if path == f"/{DISK}":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": len(content)}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", DISK]

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return bytes(content[offset : offset + size])

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            log.write(_HEAD.pack(False, time.monotonic_ns(), offset, len(data)) + data)
            content[offset : offset + len(data)] = data
            return len(data)

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            log.write(_HEAD.pack(True, time.monotonic_ns(), 0, 0))
            return 0

    with Path(log_path).open("wb") as log:
        mfusepy.FUSE(Recorder(), mount_point, foreground=True, nothreads=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
