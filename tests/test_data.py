"""`tq backup`, `restore`, `check` and `compact`: with a busy server or without one, killed, and of what is damaged."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pytest
from lmdb import verify

from tests.commands import busy, command, fill, flip, one_sentence, refused, tq, well
from tests.engines import delete, dump, open_engine, put
from tests.harness import ROOT, Server, findings, open_store, wait_until
from tq import codec, keys, lifecycle
from tq.codec import MessageRecord
from tq.errors import StartError
from tq.keys import DueKind
from tq.model import CreateQueue, Draft, PurgeQueue, Receive, Send, Sweep
from tq.store.directory import COPYING, DATA_FILE, FORMAT, LOCK_FILE, DataDirectory
from tq.store.lmdb.copies import back_up, compact, restore
from tq.store.lmdb.snapshot import Snapshot, Tell, untold


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    return fill(tmp_path / "data", 2_000)


def contents(path: Path) -> dict[str, list[tuple[bytes, bytes]]]:
    """All records of a directory that nobody else reads."""
    with Snapshot(path, lifecycle.MAX_SPACES) as snapshot:
        return dump(snapshot.tx())


def modes(path: Path) -> set[str]:
    return {oct(entry.stat().st_mode & 0o777) for entry in path.iterdir() if entry.name != "FORMAT"}


# --- backup and restore -------------------------------------------------------------


def test_beside_a_busy_server(start: Callable[..., Server], tmp_path: Path, filled: Path) -> None:
    """A check finds nothing; backups and dumps are those of sound stores."""
    server = start()
    backups = [tmp_path / f"backup {number}" for number in range(3)]
    dumps = [tmp_path / f"dump {number}" for number in range(3)]
    with busy(server) as requests:
        for backup, dumped in zip(backups, dumps, strict=True):
            before = len(requests)
            wait_until(lambda before=before: len(requests) >= before + 50, 60)
            said = well("check", "--data-dir", filled)
            assert said.startswith("sound: 8 queues, ")
            assert said.count("\n") == 1
            assert well("backup", "--data-dir", filled, backup).startswith(f"{backup}: ")
            well("dump", "--data-dir", filled, "--output", dumped)
    assert server.stop() == 0
    for backup, dumped in zip(backups, dumps, strict=True):
        assert sorted(entry.name for entry in backup.iterdir()) == ["FORMAT", DATA_FILE]
        assert (backup / "FORMAT").read_text() == FORMAT + "\n"
        assert modes(backup) == {"0o600"}
        assert backup.stat().st_mode & 0o777 == 0o700
        assert findings(backup) == []
        well("load", "--data-dir", tmp_path / f"from {dumped.name}", dumped)
        assert findings(tmp_path / f"from {dumped.name}") == []
    assert not list(tmp_path.glob(".*"))


def test_a_backup_without_a_server_holds_the_same(filled: Path, tmp_path: Path) -> None:
    well("backup", "--data-dir", filled, tmp_path / "made" / "backup")
    assert contents(tmp_path / "made" / "backup") == contents(filled)


def test_a_restored_store_serves_on(start: Callable[..., Server], tmp_path: Path) -> None:
    """Leases go on, so that their receipts are good; ids go on behind those of the backup."""
    with Server(tmp_path / "old") as old:
        old.request("POST", "/queues", {"name": "q"})
        for number in range(3):
            old.request("POST", "/queues/q/messages", {"content": number})
        kept = old.request("GET", "/queues/q/messages?visibility_timeout=600").json
        well("backup", "--data-dir", tmp_path / "old", tmp_path / "backup")
        later = old.request("GET", "/queues/q/messages?visibility_timeout=600").json
        old.request("POST", "/queues/q/messages", {"content": "later"})
    (tmp_path / "data").mkdir(0o700)
    assert well("restore", "--data-dir", tmp_path / "data", tmp_path / "backup").startswith(f"{tmp_path / 'data'}: ")
    new = start()
    assert new.request("POST", "/queues/q/messages", {"content": "new"}).json["id"] == 4
    assert new.request("DELETE", f"/queues/q/messages/{kept['receipt']}").status == 204
    assert new.request("DELETE", f"/queues/q/messages/{later['receipt']}").status == 409
    assert [new.request("GET", "/queues/q/messages").json["content"] for _ in range(3)] == [1, 2, "new"]


def test_nothing_is_overwritten(filled: Path, tmp_path: Path) -> None:
    before = contents(filled)
    assert f"{tmp_path} exists already" in refused(4, "backup", "--data-dir", filled, tmp_path)
    well("backup", "--data-dir", filled, tmp_path / "backup")
    assert "holds data, which is never overwritten" in refused(4, "restore", "--data-dir", filled, tmp_path / "backup")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / DATA_FILE).write_bytes(b"x")
    assert "no FORMAT" in refused(4, "restore", "--data-dir", tmp_path / "strange", tmp_path / "backup")
    assert (tmp_path / "strange" / DATA_FILE).read_bytes() == b"x"
    assert contents(filled) == before
    with Server(filled):
        assert "is held by another" in refused(4, "restore", "--data-dir", filled, tmp_path / "backup")
        assert "is held by another" in refused(4, "compact", "--data-dir", filled)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    for arguments in (("check",), ("compact",), ("backup", tmp_path / "b")):
        sentence = refused(4, *arguments, "--data-dir", nothing)
        assert sentence == f"tq: The directory {nothing} does not exist.\n"
    assert "does not exist" in refused(4, "restore", "--data-dir", nothing, tmp_path / "b")
    nothing.mkdir()
    assert "holds no data" in refused(4, "check", "--data-dir", nothing)
    assert "memory:" in refused(2, "check", "--data-dir", "memory:")
    assert list(tmp_path.iterdir()) == [nothing]
    assert list(nothing.iterdir()) == []


@pytest.mark.parametrize("spoil", ["a page", "a record", "its end", "FORMAT"])
def test_a_damaged_backup_is_not_restored(filled: Path, tmp_path: Path, spoil: str) -> None:
    well("backup", "--data-dir", filled, tmp_path / "backup")
    if spoil == "a page":
        flip(tmp_path / "backup", 10, 0)
    elif spoil == "a record":
        flip_content(tmp_path / "backup")
    elif spoil == "its end":
        os.truncate(tmp_path / "backup" / DATA_FILE, 40 * 4096)
    else:
        (tmp_path / "backup" / "FORMAT").unlink()
    ran = tq("restore", "--data-dir", tmp_path / "new", tmp_path / "backup")
    assert ran.returncode == 4
    assert ran.stderr.count("\n") == 1
    assert bool(ran.stdout) == (spoil != "FORMAT")
    assert not (tmp_path / "new").exists()


def flip_content(path: Path) -> None:
    """Change a byte in the middle of a message, which no page's structure depends on."""
    data = (path / DATA_FILE).read_bytes()
    at = data.rindex(b"1234 ") + 500
    (path / DATA_FILE).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def killed_at_each_step(run: Callable[[Tell], object]) -> Iterator[bool]:
    """Run in a process that is killed before its first step, then in one before its second, and so on; True at the end.

    Steps are what changes names or makes something durable, and every piece that is copied.
    """
    is_over = False
    for step in count(1):
        child = os.fork()
        if child == 0:
            _run_steps(run, step)
        is_over = os.waitpid(child, 0)[1] == 0
        yield is_over
        if is_over:
            assert step > 10
            return


def _run_steps(run: Callable[[Tell], object], most: int) -> NoReturn:
    left = most

    def step(_: object = None) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def stepwise(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            step()
            return call(*arguments, **options)

        return called

    for name in ("fsync", "rename", "unlink", "mkdir", "rmdir", "ftruncate", "open"):
        setattr(os, name, stepwise(getattr(os, name)))
    try:
        run(step)
    finally:
        os._exit(sys.exc_info()[0] is not None)


def test_a_kill_leaves_no_backup_or_a_whole_one(filled: Path, tmp_path: Path) -> None:
    backup, before = tmp_path / "backup", contents(filled)

    def run(tell: Tell) -> None:
        with Snapshot(filled, lifecycle.MAX_SPACES) as snapshot:
            back_up(snapshot, backup, tell)

    for is_over in killed_at_each_step(run):
        assert backup.exists() or not is_over
        if backup.exists():
            assert contents(backup) == before
            shutil.rmtree(backup)
    assert not list(tmp_path.glob(".*"))


def test_of_two_backups_of_one_name_one_is_refused_to_the_end(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment, and least when the first is complete, may the second begin to fill its directory anew."""
    backup, rename, refusals = tmp_path / "backup", os.rename, []
    with Snapshot(filled, lifecycle.MAX_SPACES) as snapshot:

        def renamed(before: Path, after: Path) -> None:
            if after == backup:
                with pytest.raises(StartError, match="is held by another") as refusal:
                    back_up(snapshot, backup, untold)
                refusals.append(refusal)
            rename(before, after)

        monkeypatch.setattr(os, "rename", renamed)
        back_up(snapshot, backup, untold)
    assert len(refusals) == 1
    assert sorted(entry.name for entry in backup.iterdir()) == ["FORMAT", DATA_FILE]
    assert contents(backup) == contents(filled)


def test_a_kill_leaves_nothing_restored_or_all(filled: Path, tmp_path: Path) -> None:
    new, before = tmp_path / "new", contents(filled)
    well("backup", "--data-dir", filled, tmp_path / "backup")

    def run(tell: Tell) -> None:
        with Snapshot(tmp_path / "backup", lifecycle.MAX_SPACES) as snapshot:
            restore(snapshot, new, tell)

    for is_over in killed_at_each_step(run):
        state = (new / "FORMAT").read_text().strip() if (new / "FORMAT").exists() else None
        assert state == FORMAT or not is_over
        if state == COPYING:
            with pytest.raises(StartError, match="run that again"):
                open_store(new)
        elif state == FORMAT:
            assert contents(new) == before
            shutil.rmtree(new)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "^C"])
def test_what_fails_half_way_leaves_nothing(filled: Path, tmp_path: Path, error: BaseException) -> None:
    told = 0

    def fail(size: int) -> None:
        nonlocal told
        told += 1
        if told == 2:
            raise error

    expected = StartError if isinstance(error, OSError) else KeyboardInterrupt
    with Snapshot(filled, lifecycle.MAX_SPACES) as snapshot:
        with pytest.raises(expected):
            back_up(snapshot, tmp_path / "backup", fail)
        told = 0
        with pytest.raises(expected):
            restore(snapshot, tmp_path / "new", fail)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "new"]
    assert sorted(entry.name for entry in (tmp_path / "new").iterdir()) == ["FORMAT", "server.lock"]
    with pytest.raises(StartError, match="run that again"):
        open_store(tmp_path / "new")


def test_a_disk_that_is_too_small_is_left_alone(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands ask the disk first."""
    monkeypatch.setattr(DataDirectory, "disk_free_bytes", lambda _: 1 << 20)
    with Snapshot(filled, lifecycle.MAX_SPACES) as snapshot:
        for copy in (back_up, restore):
            with pytest.raises(StartError, match=r"1 MiB of free disk and [0-9]+ MiB are needed"):
                copy(snapshot, tmp_path / "new", untold)
    with pytest.raises(StartError, match="MiB are needed"):
        compact(filled, lifecycle.MAX_SPACES)
    assert findings(filled) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tq-test", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_is_said(filled: Path, small_disk: Path) -> None:
    assert "MiB are needed" in refused(4, "backup", "--data-dir", filled, small_disk / "backup")
    assert list(small_disk.iterdir()) == []
    sentence = refused(4, "dump", "--data-dir", filled, "--output", small_disk / "dump")
    assert sentence == f"tq: {small_disk / 'dump.part'} cannot be written (No space left on device).\n"
    assert [path.name for path in small_disk.iterdir()] == ["dump.part"]


def test_a_stdout_that_is_full_is_not_taken_for_the_data(filled: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            command("check", "--data-dir", filled), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (ran.returncode, ran.stderr) == (4, b"tq: stdout: No space left on device.\n")


def test_there_is_no_directory_without_a_name() -> None:
    for name in ("", "memory:"):
        assert refused(2, "check", "--data-dir", name) == f"tq: There is no directory with --data-dir {name!r}.\n"
    assert "is no directory" in refused(4, "check", "--data-dir", ROOT / "README.md")


# --- check -------------------------------------------------------------


def test_the_meta_pages_are_those_of_the_moment(start: Callable[..., Server], tmp_path: Path, filled: Path) -> None:
    """A copy with the meta page of a later commit would lack the pages that came with that."""
    server = start()
    with Snapshot(filled, lifecycle.MAX_SPACES) as snapshot:
        for _ in range(20):
            assert server.request("POST", "/queues/q/messages", {"content": "x" * 3_000}).status == 201
            assert server.request("GET", "/queues/q/messages").status == 200
        with (filled / DATA_FILE).open("rb") as file:
            assert file.read(len(snapshot._metas)) != snapshot._metas
        assert snapshot.structure() == []
        (tmp_path / "copy").mkdir()
        snapshot.copy_to(tmp_path / "copy" / DATA_FILE)
        before = dump(snapshot.tx())
    (tmp_path / "copy" / "FORMAT").write_text(FORMAT)
    assert contents(tmp_path / "copy") == before
    assert findings(tmp_path / "copy") == []
    assert codec.unpack_queue(dict(before[keys.QUEUES])[b"q"]).next_sequence == 2_001


def test_what_is_found_is_told(filled: Path) -> None:
    """One line for each finding, and a last one with their number."""
    store = open_engine("lmdb", filled)
    store.commit([CreateQueue("r"), Send("r", (Draft(bytes(9_000)), Draft(b"2", group="g"), Draft(b"3", "x")))], 0)
    store.commit(SPOILED, 0)
    store.close()
    ran = tq("check", "--data-dir", filled)
    assert ran.returncode == 1
    *found, last = ran.stdout.splitlines()
    for sentence in FOUND:
        assert [line for line in found if sentence in line], (sentence, found)
    assert last.startswith(f"{len(found)} findings; ")


R = 2  # the id of queue r
SPOILED = [
    put(keys.ready_space(R), keys.message_key(3), b"?"),
    put(keys.CHUNKS, keys.chunk_key(R, keys.message_key(1), 1), b"?"),
    put(keys.CHUNKS, keys.chunk_key(R, keys.message_key(7), 0), b"?"),
    put(keys.DUE, keys.due_key(5, DueKind.DELAY, R, keys.message_key(3)), b""),
    put(keys.DUE, b"short", b""),
    delete(keys.GROUPS, keys.group_prefix(R, "g")),
    put(keys.DEDUP, keys.dedup_key(9, "d"), codec.pack_dedup(keys.message_key(1), 5)),
    put(keys.NAMES, keys.queue_prefix(R), b"s"),
    put(keys.NOTES, b"r", b"?"),
    put(keys.MOVES, keys.moves_prefix("r") + bytes(8), b"?"),
    put(keys.META, keys.LOADED + b"d", b"?"),
    put(keys.IN_FLIGHT, keys.shared_key(9, keys.message_key(1)), codec.pack_message(MessageRecord(0, b"x"))),
    put(keys.GARBAGE, keys.queue_prefix(1), b""),
]
FOUND = [
    "queue r: message 3: record version 3f is unknown",
    "queue r: message 1: the chunks are not the body that was sent",
    "chunks: 000000020900000000000007" + "0000 belongs to no message",
    "is for nothing",
    f"due: {b'short'.hex()} is of no kind that is known",
    "and its messages do not agree",
    "dedup: 0000000964 belongs to no queue",
    "names: {1: 'q', 2: 's'} are not the queues",
    "notes of r: record version 3f is unknown",
    "a move out of r: record version 3f is unknown",
    "meta: loaded/d does not say how many lines were loaded",
    "in_flight: 000000090900000000000001 belongs to no queue",
    "queue q: its id 1 is not its own",
]


def test_a_terminal_sees_how_far_it_is(filled: Path) -> None:
    terminal, its_end = pty.openpty()
    with subprocess.Popen(command("check", "--data-dir", filled), cwd=ROOT, stdout=-1, stderr=its_end) as ran:
        os.close(its_end)
        shown = b""
        with suppress(OSError):  # when the other end is closed
            while piece := os.read(terminal, 4_096):
                shown += piece
        os.close(terminal)
        assert ran.stdout is not None
        assert ran.stdout.read().startswith(b"sound: 1 queue, 2,000 messages; ")
    for label in (b"pages", b"records"):
        assert re.search(label + rb" +\[#{36}\] +100%", shown)
    assert re.search(rb"pages +\[#+-+\] +[0-9]+%", shown)
    assert shown.count(b"\r") < 300


def test_counters_are_checked_and_what_is_set_aside_is_told(filled: Path) -> None:
    store = open_engine("lmdb", filled)
    store.commit([put(keys.ready_space(1), keys.message_key(2), b"?"), Receive(("q",))], 0)
    store.close()
    said = well("check", "--data-dir", filled).splitlines()
    assert said[0] == "set aside: message 2 of q, which was found damaged"
    assert said[1].startswith("sound: 1 queue, 1,998 messages; ")
    store = open_engine("lmdb", filled)
    record = codec.unpack_queue(dict(dump_queues(filled, store))[b"q"])
    record.in_flight += 1
    store.commit([put(keys.QUEUES, b"q", codec.pack_queue(record))], 0)
    store.close()
    ran = tq("check", "--data-dir", filled)
    assert ran.returncode == 1
    assert "queue q: 1 messages are in_flight and 2 are counted\n" in ran.stdout


def dump_queues(path: Path, store) -> list[tuple[bytes, bytes]]:
    return store.read(lambda tx: list(tx.space(keys.QUEUES).scan()))


def test_any_page_that_is_changed_is_noticed(tmp_path: Path) -> None:
    """Each page of a small store by its header, all but those that are free."""
    path = fill(tmp_path / "data", 40)
    sound = (path / DATA_FILE).read_bytes()
    verifier = verify._Verifier(BytesIO(sound), len(sound))
    assert verifier.verify() == []
    used = [page for page in range(2, verifier.next_pgno) if not verifier.free[page]]
    assert len(used) > 15
    for page in used:
        flip(path, page, 10)
        with Snapshot(path, lifecycle.MAX_SPACES, is_alone=True) as snapshot:
            assert snapshot.structure() != [], page
        (path / DATA_FILE).write_bytes(sound)


def test_a_damaged_structure_keeps_the_records_from_being_read(filled: Path) -> None:
    with Server(filled) as server:
        assert server.stop() == 0
    flip(filled, 30, 10)
    ran = tq("check", "--data-dir", filled)
    assert ran.returncode == 1
    assert all(line.startswith("structure: ") for line in ran.stdout.splitlines()[:-1])


def test_a_file_that_was_cut_short(filled: Path, tmp_path: Path) -> None:
    """LMDB would be killed by the kernel for reading on."""
    fill(tmp_path / "large", 20_000)
    os.truncate(tmp_path / "large" / DATA_FILE, 3_000 * 4096)
    ran = tq("check", "--data-dir", tmp_path / "large")
    first, *_, last = ran.stdout.splitlines()
    assert (ran.returncode, ran.stderr) == (1, "")
    assert re.fullmatch(r"structure: the file ends [0-9,]+ pages early", first)
    assert last.startswith("more than 201 findings; ")
    os.truncate(filled / DATA_FILE, 100 * 4096)
    assert "was cut short" in refused(4, "dump", "--data-dir", filled)
    assert "was cut short" in refused(4, "compact", "--data-dir", filled)
    os.truncate(filled / DATA_FILE, 100)
    assert "only 100 bytes" in refused(4, "check", "--data-dir", filled)


# --- compact -------------------------------------------------------------


def emptied(path: Path) -> Path:
    """A directory with many free pages, and its reserve."""
    store = open_store(fill(path, 5_000))
    store.commit([CreateQueue("kept"), Send("kept", tuple(Draft(b"%d" % n) for n in range(500)))], 0)
    store.commit([PurgeQueue("q")], 0)
    while store.commit([Sweep(500)], 0)[0]:
        pass
    store.close()
    return path


def test_compacting_gives_room_back(tmp_path: Path) -> None:
    path = emptied(tmp_path / "data")
    before, size = contents(path), (path / DATA_FILE).stat().st_size
    said = well("compact", "--data-dir", path)
    after = (path / DATA_FILE).stat().st_size
    assert f"{size / 2**20:,.1f} MiB before, {after / 2**20:,.1f} MiB after" in said
    assert after < size / 10
    assert (path / DATA_FILE).stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in path.iterdir()) == ["FORMAT", DATA_FILE, "fault", "reserve", "server.lock"]
    assert contents(path) == before
    with Server(path) as server:
        assert server.request("GET", "/queues/kept/messages").json["content"] == 0
        assert server.request("POST", "/queues/kept/messages", {"content": "new"}).status == 201
        assert server.stop() == 0
    assert findings(path) == []


def test_nothing_is_compacted_that_is_being_read(tmp_path: Path) -> None:
    """A reader would go on with the file that was, and a server with a table of readers that does not know it."""
    path = emptied(tmp_path / "data")
    before = contents(path)
    with Snapshot(path, lifecycle.MAX_SPACES) as snapshot:
        ran = tq("compact", "--data-dir", path)
        assert (ran.returncode, ran.stdout) == (4, "")
        assert "is being read by another command" in one_sentence(ran.stderr)
        assert dump(snapshot.tx()) == before
    assert contents(path) == before


@pytest.mark.parametrize("at", ["unlink", "rename"])
def test_a_check_that_comes_while_files_are_replaced_does_not_hang(tmp_path: Path, at: str) -> None:
    """It opens both files, and waits for the lock of the readers. LMDB's count of the old file is not the new one's."""
    path = emptied(tmp_path / "data")
    child = os.fork()
    if child == 0:
        call = getattr(os, at)

        def slow(place: Path, *more: Path) -> None:
            if path in (place.parent, *(other.parent for other in more)) and place.name in (LOCK_FILE, DATA_FILE):
                (tmp_path / "here").touch()
                time.sleep(1)
            call(place, *more)

        setattr(os, at, slow)
        try:
            compact(path, lifecycle.MAX_SPACES)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    wait_until(lambda: (tmp_path / "here").exists(), 30)
    checked = tq("check", "--data-dir", path)
    assert os.waitpid(child, 0)[1] == 0
    assert (checked.returncode, checked.stderr) == (0, "") or "it was replaced at this moment" in checked.stderr
    assert "sound" in well("check", "--data-dir", path)


def test_a_kill_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    path = emptied(tmp_path / "data")
    before, size = contents(path), (path / DATA_FILE).stat().st_size
    sizes = set()
    for _ in killed_at_each_step(lambda _: compact(path, lifecycle.MAX_SPACES)):
        assert contents(path) == before
        sizes.add((path / DATA_FILE).stat().st_size)
    assert max(sizes) == size
    assert len(sizes) > 1
    assert not (path / "compacted").exists()
    assert findings(path) == []


@pytest.mark.parametrize("spoil", ["it has not all records", "main DB"])
def test_a_compacted_copy_that_is_not_the_same_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    path = emptied(tmp_path / "data")
    before = contents(path)
    other = fill(tmp_path / "other", 10) if "records" in spoil else path

    def copy_another(_: Snapshot, target: Path) -> None:
        shutil.copy(other / DATA_FILE, target)
        if other == path:
            flip(target.parent, main_root(target), 10)

    monkeypatch.setattr(Snapshot, "compact_to", copy_another)
    with pytest.raises(StartError, match=spoil):
        compact(path, lifecycle.MAX_SPACES)
    assert contents(path) == before
    assert not (path / "compacted").exists()


def main_root(data_file: Path) -> int:
    """The page where the tree of trees begins."""
    with data_file.open("rb") as file:
        verifier = verify._Verifier(file, data_file.stat().st_size)
        assert verifier.verify() == []
        return int(verifier.meta.main.root)
