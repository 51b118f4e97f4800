"""What the figures were taken on: the machine, the versions, the commit, and what its disk can do.

Nothing here names the machine or its user, so that the header can be published.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from importlib import metadata
from pathlib import Path

import lmdb
from msgspec import Struct

import tq
from benchmarks.load import ROOT

IN_MEMORY = {"tmpfs", "ramfs"}  # file systems without a disk
SYNC_BYTES = 4_096  # a page of LMDB
SYNC_SLOTS = 256  # pages that are written in turn, made before, so that no sync is for a file that grows
SETTLE_SECONDS = 5.0  # on a machine that is never quiet
LOOK_SECONDS = 0.2
IDLE_CORES = 0.1
GIT_SECONDS = 30


class Header(Struct, frozen=True):
    machine: str
    disk: str
    versions: str
    commit: str


class Disturbance(Struct, frozen=True):
    """Cores that others had during a run, on average: processes that it did not start, and the host of the machine."""

    others: float
    stolen: float


class DisturbanceMeter:
    """Begins to measure when it is made. The format of /proc/stat is that of proc(5)."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._before = _cpu_seconds()

    def read(self) -> Disturbance | None:
        """From the beginning until now, when every process of the run has ended; None where the system cannot say."""
        now = _cpu_seconds()
        if not self._before or not now:
            return None
        passed = time.monotonic() - self._begun
        busy, ours, stolen = ((late - early) / passed for early, late in zip(self._before, now, strict=True))
        return Disturbance(max(0.0, busy - ours), stolen)


def header(directory: Path) -> Header:
    """Of this machine, and of the disk that `directory` is on."""
    library = ".".join(map(str, lmdb.version()))
    versions = [
        f"Python {platform.python_version()}",
        f"tq {tq.__version__}",
        f"Tornado {metadata.version('tornado')}",
        f"py-lmdb {lmdb.__version__} (LMDB {library})",
    ]
    kernel = f"{platform.system()} {platform.release()}"
    machine = f"{_cpu_model()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB, {kernel}"
    return Header(machine, " on ".join(file_system(directory)), ", ".join(versions), _commit())


def file_system(path: Path) -> tuple[str, str]:
    """Type and device of what `path` is on, as in ("ext4", "sda1"); "unknown" where the system does not say.

    The format is that of /proc/self/mountinfo in proc(5).
    """
    found = ("unknown", "unknown")
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    longest = -1
    for line in lines:
        mounted, _, source = line.partition(" - ")
        point = Path(mounted.split()[4].replace("\\040", " "))
        if path.resolve().is_relative_to(point) and len(point.parts) >= longest:
            longest = len(point.parts)
            kind, device = source.split()[:2]
            found = kind, Path(device).name
    return found


def settle() -> None:
    """Let what was loaded before come to rest, or it would be measured with the next: servers go on with what they were
    sent, and caches are written out (sync(2))."""
    os.sync()
    give_up_at = time.monotonic() + SETTLE_SECONDS
    busy_s = _cpu_seconds()
    while busy_s is not None and time.monotonic() < give_up_at:
        time.sleep(LOOK_SECONDS)
        before_s, busy_s = busy_s, _cpu_seconds()
        if busy_s and busy_s[0] - before_s[0] < IDLE_CORES * LOOK_SECONDS:
            return


def syncs_per_s(directory: Path, seconds: float) -> float:
    """How often a second one thread can write 4 KiB and have it on disk with fdatasync(2)."""
    times = sync_times_s(directory, seconds)
    return len(times) / sum(times)


def sync_times_s(directory: Path, seconds: float) -> list[float]:
    """How long each of them takes."""
    path = directory / "syncs"
    times: list[float] = []
    with path.open("wb", buffering=0) as file:
        file.write(bytes(SYNC_BYTES * SYNC_SLOTS))
        os.fsync(file.fileno())
        page = os.urandom(SYNC_BYTES)
        begun = last = time.perf_counter()
        while last - begun < seconds:
            os.pwrite(file.fileno(), page, len(times) % SYNC_SLOTS * SYNC_BYTES)
            os.fdatasync(file.fileno())
            now = time.perf_counter()
            times.append(now - last)
            last = now
    path.unlink()
    return times


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Of all processes, of this one and those it has waited for, and those that the host took."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(f) / os.sysconf("SC_CLK_TCK") for f in fields)
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ours = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return user + nice + system + irq + softirq, ours, steal


def _cpu_model() -> str:
    return _proc_field("/proc/cpuinfo", "model name") or platform.machine()


def _memory_gib() -> float:
    found = _proc_field("/proc/meminfo", "MemTotal")
    return int(found.split()[0]) / (1 << 20) if found else 0.0


def _proc_field(path: str, name: str) -> str | None:
    """The first value of this name in one of the kernel's lists of `name: value`; None where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _commit() -> str:
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    return f"{commit} + dirty" if _git("status", "--porcelain") else commit


def _git(*arguments: str) -> str | None:
    """What git prints about the source that is measured; None when it is no checkout or git is missing."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()
