"""What the data directory's files may look like at a start, row by row, and that a refused one is left as it is."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.engines import Do, dump, open_engine
from tests.harness import ROOT, findings, open_store
from tq import keys
from tq.errors import EXIT_DATA, StartError
from tq.model import CreateQueue, Draft, Send, Sent
from tq.store import directory as directory_module
from tq.store.directory import CREATING, DATA_FILE, FORMAT, DataDirectory

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def no_zeros_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files end where their data does, as on a disk that is nearly full; one test at the end is about zeros."""
    monkeypatch.setattr(directory_module, "EXTENT_BYTES", 0)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A directory with a hundred messages, closed."""
    store = open_store(tmp_path / "data")
    for number in range(10):
        store.commit([CreateQueue("q"), Send("q", (Draft(b"%d" % number), Draft(b"x" * 5_000)) * 5)], 0)
    store.close()
    return tmp_path / "data"


def files(path: Path) -> dict[str, bytes]:
    """All that is in a directory, but for what a start may make to take its lock."""
    return {p.name: p.read_bytes() for p in path.iterdir() if p.is_file() and p.name != "server.lock"}


def why_refused(path: Path) -> str:
    """The sentence that a start ends with."""
    with pytest.raises(StartError) as caught:
        open_store(path)
    assert caught.value.exit_code == EXIT_DATA
    sentence = str(caught.value)
    assert re.fullmatch(r"[A-Z][^\n]+\.", sentence)
    assert str(path) in sentence
    assert "--data-dir" in sentence
    return sentence


# --- new directories ---------------------------------------------------------------------------


def is_new_and_works(path: Path) -> bool:
    store = open_store(path)
    was_empty = store.read(dump) == {}
    works = store.commit([CreateQueue("q"), Send("q", (Draft(b"1"),))], 0)[1] == Sent((1,))
    store.close()
    return was_empty and works and findings(path) == []


def test_an_absent_directory_is_made(tmp_path: Path) -> None:
    assert is_new_and_works(tmp_path / "a" / "b" / "data")
    made = {p.name for p in (tmp_path / "a" / "b" / "data").iterdir()}
    assert made == {"FORMAT", "data.mdb", "lock.mdb", "server.lock", "reserve", "fault"}
    assert (tmp_path / "a" / "b" / "data" / "FORMAT").read_text() == FORMAT + "\n"


def test_an_empty_directory_is_used(tmp_path: Path) -> None:
    assert is_new_and_works(tmp_path)


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert is_new_and_works(tmp_path / "data")
    finally:
        os.umask(old)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / DATA_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data", [None, b"", b"\0" * 10_000, b"half a page", "complete"])
def test_a_creation_that_was_cut_off_is_made_again(data_dir: Path, data: Any) -> None:
    (data_dir / "FORMAT").write_text(CREATING + "\n")
    if data is None:
        (data_dir / DATA_FILE).unlink()
    elif data != "complete":
        (data_dir / DATA_FILE).write_bytes(data)
    assert is_new_and_works(data_dir)


class Crash(BaseException):
    """Ends a start in its middle."""


@pytest.mark.parametrize(
    ("owner", "step", "times"),
    [(os, "fsync", 5), (Path, "rename", 2), (lmdb, "open", 1), (DataDirectory, "end_creation", 1)],
)
def test_creation_may_be_cut_off_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, times: int
) -> None:
    real = getattr(owner, step)
    for done in range(times):
        left = iter(range(done))

        def crash(*args: Any, left: Iterator[int] = left, **options: Any) -> Any:
            if next(left, None) is None:
                raise Crash
            return real(*args, **options)

        path = tmp_path / str(done)
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, crash)
            with pytest.raises(Crash):
                open_store(path)
        assert is_new_and_works(path)


def test_a_disk_without_room_for_a_new_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "data").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in why_refused(tmp_path / "data")


# --- names on disk ---------------------------------------------------------------------------


def test_every_name_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    data = tmp_path / "a" / "data"
    open_store(data).close()
    assert synced == [
        *map(str, (tmp_path, tmp_path / "a", data / "FORMAT.new", data)),  # made
        *map(str, (data, tmp_path / "a", data / "FORMAT.new", data)),  # complete
    ]


def test_the_data_is_on_disk_before_the_directory_is_called_complete(tmp_path: Path) -> None:
    """LMDB's own calls, seen from outside."""
    trace = tmp_path / "trace"
    program = f"from tests.harness import open_store; from pathlib import Path; open_store(Path({str(tmp_path)!r}))"
    wanted = "trace=pwrite64,fdatasync,fsync,rename,renameat,renameat2"
    try:
        command = ["strace", "-f", "-y", "-o", trace, "-e", wanted, sys.executable, "-c", program]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    if "ptrace" in ran.stderr.lower():
        pytest.skip(f"strace may not trace here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    calls = trace.read_text().splitlines()
    last_write = max(n for n, call in enumerate(calls) if "pwrite64" in call and "data.mdb>" in call)
    data_synced = max(n for n, call in enumerate(calls) if re.search(r"f(data)?sync\(\d+<[^>]*data\.mdb>", call))
    named = max(n for n, call in enumerate(calls) if "rename" in call and "FORMAT" in call)
    name_synced = max(n for n, call in enumerate(calls) if re.search(rf"fsync\(\d+<{tmp_path}>", call))
    assert last_write < data_synced < named < name_synced


# --- what is refused ---------------------------------------------------------------------------


def cut(data: Path, size: int) -> None:
    os.truncate(data, size)


def overwrite(data: Path, at: int, new: bytes) -> None:
    with data.open("r+b") as file:
        file.seek(at)
        file.write(new)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILT_DATA: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda data: data.unlink(), "has lost its data.mdb"),
    "0 bytes": (lambda data: cut(data, 0), "of only 0 bytes"),
    "100 bytes": (lambda data: cut(data, 100), "of only 100 bytes"),
    "one page": (lambda data: cut(data, PAGE_BYTES), f"of only {PAGE_BYTES} bytes"),
    "both meta pages alone": (lambda data: cut(data, 2 * PAGE_BYTES), "was cut short"),
    "half": (lambda data: cut(data, data.stat().st_size // 2), "was cut short"),
    "half and a bit": (lambda data: cut(data, data.stat().st_size // 2 + 77), "was cut short"),
    "first page zero": (lambda data: overwrite(data, 0, bytes(PAGE_BYTES)), "damaged data.mdb"),
    "second meta zero": (lambda data: overwrite(data, PAGE_BYTES, bytes(PAGE_BYTES)), "damaged data.mdb"),
    "another magic": (lambda data: overwrite(data, 16, b"\xff"), "damaged data.mdb"),
    "another version": (lambda data: overwrite(data, PAGE_BYTES + 20, b"\2"), "damaged data.mdb"),
    "garbage": (lambda data: data.write_bytes(random.Random(1).randbytes(1 << 20)), "damaged data.mdb"),
    "zeros": (lambda data: data.write_bytes(bytes(1 << 20)), "damaged data.mdb"),
    "a directory": (make_directory, "Is a directory"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILT_DATA.values(), ids=SPOILT_DATA.keys())
def test_a_spoilt_data_file_is_refused_and_left_alone(data_dir: Path, spoil: Callable[[Path], Any], why: str) -> None:
    sound = files(data_dir)
    spoil(data_dir / DATA_FILE)
    before = files(data_dir)
    assert why in why_refused(data_dir)
    assert files(data_dir) == before
    if (data_dir / DATA_FILE).is_dir():
        (data_dir / DATA_FILE).rmdir()
    (data_dir / DATA_FILE).write_bytes(sound[DATA_FILE])
    assert findings(data_dir) == []  # restored, it opens


SPOILT_FORMAT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda form: form.unlink(), "no FORMAT file"),
    "another version": (
        lambda form: form.write_text("tq 2\n"),
        "was made by a newer version of tq: it has the format 'tq 2'",
    ),
    "an older version": (lambda form: form.write_text("tq 0\n"), "data has the format 'tq 0', and this version"),
    "a longer version": (lambda form: form.write_text("tq 10\n"), "has the format 'tq 10'"),
    "binary": (lambda form: form.write_bytes(bytes(range(256))), "has the format"),
    "empty": (lambda form: form.write_bytes(b""), "has the format ''"),
    "a directory": (make_directory, "cannot be read (Is a directory)"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILT_FORMAT.values(), ids=SPOILT_FORMAT.keys())
def test_a_spoilt_format_is_refused_and_left_alone(data_dir: Path, spoil: Callable[[Path], Any], why: str) -> None:
    spoil(data_dir / "FORMAT")
    before = files(data_dir)
    assert why in why_refused(data_dir)
    assert files(data_dir) == before


def test_a_file_cut_at_any_page_is_refused_or_complete(data_dir: Path, tmp_path: Path) -> None:
    """A file that is opened although it misses a page that counts would end this process with SIGBUS."""
    whole = (data_dir / DATA_FILE).read_bytes()
    store = open_store(data_dir)
    contents = store.read(dump)
    store.close()
    refused = 0
    for pages in range(2, len(whole) // PAGE_BYTES):
        copy = tmp_path / str(pages)
        shutil.copytree(data_dir, copy)
        cut(copy / DATA_FILE, pages * PAGE_BYTES)
        try:
            store = open_store(copy)
        except StartError:
            refused += 1
            continue
        assert store.read(dump) == contents
        store.close()
    assert refused > 10


# --- a file that is short and sound -----------------------------------------------------------


def make_short_file(path: Path) -> dict[str, Any]:
    """Transactions of random puts and deletes, until the file misses pages that were taken and freed in one of them."""
    for seed in range(100):
        shutil.rmtree(path, ignore_errors=True)
        chance = random.Random(seed)
        store = open_engine("lmdb", path)
        for _ in range(10):
            store.commit([Do(lambda tx, chance=chance: change(tx.space("s"), chance))], 0)
        missing, contents = store._directory.missing_pages(), store.read(dump)
        store.close()
        if missing:
            return contents
    raise AssertionError("no file came out short")


def change(space: Any, chance: random.Random) -> None:
    for _ in range(20):
        key = bytes([chance.randrange(40)])
        if not space.delete(key):
            space.put(key, bytes(chance.choice([10, 3_000, 9_000])))


def test_a_short_but_sound_file_is_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = make_short_file(tmp_path / "data")
    caplog.clear()
    store = open_engine("lmdb", tmp_path / "data")
    assert "pages early" in caplog.text
    assert store.read(dump) == contents
    store.commit([Do(lambda tx: change(tx.space("s"), random.Random(0)))], 0)
    store.close()
    assert open_and_check(tmp_path / "data") == []


def open_and_check(path: Path) -> list[str]:
    store = open_engine("lmdb", path)
    found = store.check()
    store.close()
    return found


def test_missing_pages_are_counted(data_dir: Path) -> None:
    directory = DataDirectory(data_dir)
    size = (data_dir / DATA_FILE).stat().st_size
    assert directory.missing_pages() == 0
    cut(data_dir / DATA_FILE, size - 1)
    assert directory.missing_pages() == 1
    cut(data_dir / DATA_FILE, size - 3 * PAGE_BYTES)
    assert directory.missing_pages() == 3
    directory.close()


# --- zeros ahead of the data -----------------------------------------------------------------

EXTENT_BYTES = directory_module.EXTENT_BYTES


def used_bytes(store: Any) -> int:
    return int((store._env.info()["last_pgno"] + 1) * PAGE_BYTES)


def test_zeros_are_written_ahead_and_never_over_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits of all sizes, below and above an extent, with the store opened again in between."""
    monkeypatch.setattr(directory_module, "EXTENT_BYTES", EXTENT_BYTES)
    data, chance = tmp_path / "data" / DATA_FILE, random.Random(7)
    store = open_engine("lmdb", tmp_path / "data")
    written = 0
    for number in range(120):
        size = chance.choice([10, 1_000, 100_000, EXTENT_BYTES // 2, 3 * EXTENT_BYTES])

        def fill(tx: Any, number: int = number, size: int = size) -> None:
            tx.space("s").put(b"%d" % (number % 7), bytes([number]) * size)

        length = data.stat().st_size
        store.commit([Do(fill)], 0)
        written += length < data.stat().st_size <= length + EXTENT_BYTES and size < 100_000
        if number % 10 == 0:
            contents = store.read(dump)
            assert store._directory.missing_pages() == 0
            store.close()
            store = open_engine("lmdb", tmp_path / "data")
            assert store.read(dump) == contents
        if size < EXTENT_BYTES // 4:
            assert data.stat().st_size > used_bytes(store)
    assert written > 1
    assert store.check() == []
    store.close()


def test_zeros_that_do_not_fit_are_left(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory_module, "EXTENT_BYTES", EXTENT_BYTES)
    monkeypatch.setattr(os, "pwrite", fail)
    length = (data_dir / DATA_FILE).stat().st_size
    store = open_store(data_dir)
    assert isinstance(store.commit([Send("q", (Draft(b"x"),))], 0)[0], Sent)
    store.close()
    assert (data_dir / DATA_FILE).stat().st_size - length < EXTENT_BYTES


def test_a_reserve_that_does_not_fit_is_given_back(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate_half(descriptor: int, at: int, size: int) -> None:
        os.ftruncate(descriptor, size // 2)
        raise OSError(28, "No space left on device")

    directory = DataDirectory(data_dir)
    directory.empty_reserve()
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", allocate_half)
        directory.fill_reserve(1 << 20)
    assert (data_dir / "reserve").stat().st_size == 0
    assert not directory.empty_reserve()
    directory.fill_reserve(1 << 20)
    assert (data_dir / "reserve").stat().st_blocks * 512 >= 1 << 20
    assert directory.empty_reserve()
    directory.close()


# --- who may use it ---------------------------------------------------------------------------


def test_a_directory_has_one_server(data_dir: Path) -> None:
    first = open_store(data_dir)
    before, descriptors = files(data_dir), len(list(Path("/proc/self/fd").iterdir()))
    assert "is held by another tq server" in why_refused(data_dir)
    assert (files(data_dir), len(list(Path("/proc/self/fd").iterdir()))) == (before, descriptors)
    first.commit([CreateQueue("after")], 0)
    first.close()
    store = open_store(data_dir)
    assert store.read(lambda tx: tx.space(keys.QUEUES).count()) == 2
    store.close()


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds it removes it between another's open and flock; a third would make a new one, and hold that too."""
    flock = fcntl.flock

    def removed_before(descriptor: int, operation: int) -> None:
        (tmp_path / "server.lock").unlink()
        flock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", removed_before)
        assert "is held by another tq server" in why_refused(tmp_path)
    DataDirectory(tmp_path).close()


def test_a_refused_start_holds_nothing(data_dir: Path) -> None:
    (data_dir / "FORMAT").write_text("tq 2\n")
    why_refused(data_dir)
    (data_dir / "FORMAT").write_text(FORMAT + "\n")
    assert findings(data_dir) == []


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    assert "File exists" in why_refused(path)
    assert "Not a directory" in why_refused(path / "below")
    assert path.read_text() == "mine"


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "unwritable"
    path.mkdir()
    if os.geteuid():
        path.chmod(0o500)
        yield path
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"root writes anywhere, and nothing can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_directory_that_cannot_be_written(unwritable: Path) -> None:
    assert "cannot be used" in why_refused(unwritable)
    assert "cannot be used" in why_refused(unwritable / "data")


def test_a_data_file_that_cannot_be_read(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *args: Any, **options: Any) -> Any:
        if self.name == DATA_FILE:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in why_refused(data_dir)


# --- who may read it -------------------------------------------------------------


def modes(path: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.iterdir()}


def test_all_of_it_is_for_its_owner_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also files that an earlier version has made for all to read; but the directory is the user's to open."""
    path = tmp_path / "a" / "data"
    before = os.umask(0)
    try:
        open_store(path).close()
    finally:
        os.umask(before)
    private = dict.fromkeys(("FORMAT", "data.mdb", "lock.mdb", "server.lock", "reserve", "fault"), 0o600)
    assert modes(path) == private
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert caplog.text == ""
    for each in path.iterdir():
        each.chmod(0o644)
    path.chmod(0o755)
    open_store(path).close()
    assert modes(path) == private
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert f"chmod 700 {path}" in caplog.text
