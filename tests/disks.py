"""A disk whose power can be cut: ext4 on a loop device on a file that records what is written to it.

What a cut leaves behind: all writes before the last flush, and of those after it any subset in any order, each whole or
any of its 512-byte sectors. What a sector may hold then is any of its versions since that flush.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.disk_recorder import DISK, Record, read_log
from tests.harness import ROOT, START_SECONDS, wait_until

DISK_BYTES = 128 << 20
SECTOR_BYTES = 512
_SPARSE_BYTES = 64 << 10  # a run of zeros of this length is left a hole

TOOLS = ("mkfs.ext4", "mount", "umount", "losetup", "fusermount3")


def why_not() -> str:
    """Why there can be no such disk here; empty where there can."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"these are not installed: {', '.join(missing)}"
    if os.geteuid():
        return "only root may mount a disk"
    absent = [device for device in ("/dev/fuse", "/dev/loop-control") if not os.access(device, os.R_OK | os.W_OK)]
    if absent:
        return f"the machine has no {' and no '.join(absent)}"
    for command in ([sys.executable, "-c", "import mfusepy"], ["losetup", "--find"]):
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode:
            return tried.stderr.strip().splitlines()[-1]
    return ""


@contextmanager
def work_place(path: Path) -> Iterator[Path]:
    """A directory in memory, where a sync costs nothing. Skips where nothing may be mounted."""
    path.mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    try:
        yield path
    finally:
        run("umount", "--lazy", path)


def make_image(path: Path) -> None:
    """An empty ext4, with nothing left to be done in the background."""
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    later = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", later, path)


class RecordedDisk:
    """Mounted at `path` until `close`, which returns what was recorded."""

    def __init__(self, image: Path, work: Path) -> None:
        self.path, self._below, self._log = work / "disk", work / "below", work / "log"
        for directory in (self.path, self._below):
            directory.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.disk_recorder", image, self._below, self._log]
        self._recorder = subprocess.Popen(command, cwd=ROOT)  # ends when what it serves is unmounted
        file = self._below / DISK
        wait_until(lambda: self._recorder.poll() is not None or file.exists(), START_SECONDS)
        # Past the page cache, so that the recorder sees each write when the file system above makes it.
        self._device = run("losetup", "--find", "--show", "--direct-io=on", file)
        run("mount", "-t", "ext4", self._device, self.path)

    def close(self) -> list[Record]:
        run("umount", self.path)
        run("losetup", "--detach", self._device)
        run("fusermount3", "-u", self._below)
        assert self._recorder.wait(START_SECONDS) == 0
        return read_log(self._log)


@contextmanager
def mounted(image: Path, path: Path) -> Iterator[Path]:
    """The image as a disk that has power again."""
    path.mkdir(exist_ok=True)
    run("mount", "-t", "ext4", "-o", "loop", image, path)
    try:
        yield path
    finally:
        run("umount", path)


def run(*command: str | Path) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not ran.returncode, f"{' '.join(map(str, command))}: {ran.stderr.strip()}"
    return ran.stdout.strip()


# --- what a cut leaves -------------------------------------------------------------


def cut_off(
    image: bytes, records: Sequence[Record], moments_ns: Sequence[int], chance: random.Random
) -> Iterator[bytearray]:
    """What the disk may hold after a cut at each of the moments, which rise."""
    durable, in_cache = bytearray(image), list[Record]()
    left = iter(records)
    record = next(left, None)
    for moment_ns in moments_ns:
        while record and record.at_ns < moment_ns:
            if record.is_flush:
                for write in in_cache:
                    _put(durable, write, range(0, len(write.data), SECTOR_BYTES))
                in_cache.clear()
            else:
                in_cache.append(record)
            record = next(left, None)
        disk = bytearray(durable)
        for write in chance.sample(in_cache, len(in_cache)):
            _put(disk, write, _survivors(write, chance))
        yield disk


def _survivors(write: Record, chance: random.Random) -> Sequence[int]:
    """Where the sectors of a write begin that reached the disk: all, none or some of them."""
    sectors = range(0, len(write.data), SECTOR_BYTES)
    return chance.sample(sectors, chance.choice((0, chance.randint(0, len(sectors)), len(sectors))))


def _put(disk: bytearray, write: Record, sectors: Sequence[int]) -> None:
    for at in sectors:
        sector = write.data[at : at + SECTOR_BYTES]
        disk[write.offset + at : write.offset + at + len(sector)] = sector


def write_image(path: Path, disk: bytearray) -> None:
    zeros = bytes(_SPARSE_BYTES)
    with path.open("wb") as file:
        file.truncate(len(disk))
        for at in range(0, len(disk), _SPARSE_BYTES):
            part = disk[at : at + _SPARSE_BYTES]
            if part != zeros:
                file.seek(at)
                file.write(part)
