"""A real server whose data file is damaged under it, or that a signal kills, and the starts after that."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT, START_SECONDS, Server, findings, open_store
from tq import lifecycle
from tq.errors import EXIT_DAMAGED, EXIT_DATA
from tq.store.directory import DATA_FILE, FAULT_FILE
from tq.store.faults import FaultNote
from tq.store.lmdb.copies import back_up, restore
from tq.store.lmdb.snapshot import Snapshot, untold

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Starts servers on one directory, one after the other."""
    servers: list[Server] = []

    def start() -> Server:
        servers.append(Server(tmp_path / "data"))
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


def fill(server: Server) -> None:
    server.request("POST", "/queues", {"name": "q"})
    server.request("POST", "/queues/q/messages", [{"content": "x" * 1_000}] * 50)


def why_refused(path: Path) -> str:
    """The one sentence that a start ends with."""
    command = [sys.executable, "-m", "tq", "serve", "--port", "0", "--data-dir", str(path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_SECONDS)
    assert (ran.returncode, ran.stdout) == (EXIT_DATA, "")
    *log, sentence = ran.stderr.splitlines()
    assert all(" WARNING tq.store: " in line for line in log), ran.stderr
    assert re.fullmatch(r"tq: [A-Z].*\.", sentence)
    return sentence


def damage_all(data: Path) -> bytes:
    """Overwrite all pages but the first two; what was there."""
    sound = data.read_bytes()
    with data.open("r+b") as file:
        file.seek(2 * PAGE_BYTES)
        file.write(b"\xa5" * (len(sound) - 2 * PAGE_BYTES))
    return sound


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/queues/q/messages", {"content": 1}), ("GET", "/queues", None)],
    ids=["a commit", "a look"],
)
def test_damage_found_while_serving_ends_the_server(
    run: Callable[[], Server], tmp_path: Path, method: str, path: str, body: object
) -> None:
    """The next one verifies the file and is refused, until it is restored."""
    server = run()
    fill(server)
    data = tmp_path / "data" / DATA_FILE
    sound = damage_all(data)
    reply = server.request(method, path, body)
    assert (reply.status, reply.json["code"]) == (503, "storage_damaged")
    assert server.process.wait(START_SECONDS) == EXIT_DAMAGED
    sentence = server.errors().splitlines()[-1]
    assert re.fullmatch(r"tq: The data file is damaged \(.+\): run `tq check`, and restore a backup\.", sentence)
    for _ in range(2):
        assert "is damaged" in why_refused(tmp_path / "data")
    data.write_bytes(sound)
    server = run()
    assert server.request("GET", "/queues/q").json["messages"]["ready"] == 50
    assert server.stop() == 0
    assert findings(tmp_path / "data") == []


def test_a_file_cut_under_a_server_is_refused_by_the_next(run: Callable[[], Server], tmp_path: Path) -> None:
    server = run()
    fill(server)
    os.truncate(tmp_path / "data" / DATA_FILE, 2 * PAGE_BYTES)
    with pytest.raises((ConnectionError, OSError)):
        server.request("GET", "/queues/q/messages")
    assert server.process.wait(START_SECONDS) == -signal.SIGBUS
    assert "was cut short" in why_refused(tmp_path / "data")


def test_after_a_death_by_signal_the_file_is_verified_once(run: Callable[[], Server], tmp_path: Path) -> None:
    """It may have been its damage. Where none is found tq goes on, but not for ever."""
    path = tmp_path / "data"
    server = run()
    fill(server)
    server.process.send_signal(signal.SIGSEGV)
    assert server.process.wait(START_SECONDS) == -signal.SIGSEGV
    server = run()  # verified, and sound
    assert server.request("GET", "/queues/q").json["messages"]["ready"] == 50
    server.kill()
    assert "verifying" in server.errors()
    server = run()  # SIGKILL is no sign of damage
    assert server.stop() == 0
    assert "verifying" not in server.errors()

    for expected in ("", "verifying"):  # a stop in order begins anew
        server = run()
        server.process.send_signal(signal.SIGABRT)
        assert server.process.wait(START_SECONDS) == -signal.SIGABRT
        assert expected in server.errors()
    sentence = why_refused(path)
    assert "has ended two servers, though its structure is sound" in sentence
    assert "Aborted" in sentence
    (path / FAULT_FILE).unlink()
    server = run()
    assert server.request("GET", "/queues/q").json["messages"]["ready"] == 50


def test_a_death_by_signal_and_damage_are_refused(run: Callable[[], Server], tmp_path: Path) -> None:
    server = run()
    fill(server)
    server.process.send_signal(signal.SIGBUS)
    server.process.wait(START_SECONDS)
    damage_all(tmp_path / "data" / DATA_FILE)
    assert "is damaged" in why_refused(tmp_path / "data")


# --- the note ---------------------------------------------------------------------------


def read(path: Path) -> tuple[str, bool]:
    note = FaultNote(path)
    found = note.read()
    note.close()
    return found, note.was_verified


def test_what_is_noted_is_read_by_the_next(tmp_path: Path) -> None:
    assert read(tmp_path) == ("", False)
    assert (tmp_path / FAULT_FILE).read_bytes() == bytes(4096)
    note = FaultNote(tmp_path)
    note.read()
    note.note("x" * 10_000)
    note.close()
    assert read(tmp_path) == ("x" * 496, False)
    note = FaultNote(tmp_path)
    note.read()
    note.verified()
    note.close()
    assert read(tmp_path) == ("", True)
    note = FaultNote(tmp_path)
    note.read()
    note.note("again")
    note.close()
    assert read(tmp_path) == ("again", True)
    note = FaultNote(tmp_path)
    note.read()
    note.stopped_in_order()
    note.close()
    assert read(tmp_path) == ("", False)


def test_a_note_does_not_count_for_another_data_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was moved away after two faults, and a backup came in its place."""
    path = tmp_path / "data"
    open_store(path).close()
    with Snapshot(path, lifecycle.MAX_SPACES) as snapshot:
        back_up(snapshot, tmp_path / "backup", untold)
    note = FaultNote(path)
    note.read()
    note.verified()
    note.note("gone wrong")
    note.close()
    for name in ("data.mdb", "FORMAT"):
        (path / name).unlink()
    with Snapshot(tmp_path / "backup", lifecycle.MAX_SPACES) as snapshot:
        restore(snapshot, path, untold)
    open_store(path).close()
    assert "verifying" not in caplog.text


def test_a_note_takes_no_room_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert read(tmp_path) == ("", False)
    note = FaultNote(tmp_path)
    note.read()
    note.note("lost")  # the server ends all the same
    note.close()


def test_a_failed_store_leaves_its_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    store._fail("the disk is gone")
    store.close()
    assert read(tmp_path) == ("the disk is gone", False)
    open_store(tmp_path).close()
    assert read(tmp_path) == ("", False)
