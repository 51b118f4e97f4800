"""Lines on stderr: none of them holds up the server, and a fault that comes back does not flood them."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from tests.guarded import create
from tests.harness import ROOT, START_SECONDS, Server, open_store
from tq.logs import FLUSH_S, MAX_ALIKE, MAX_LINES, JsonFormatter, StderrHandler, timestamp

Log = tuple[logging.Logger, StderrHandler, int]


@pytest.fixture
def log() -> Iterator[Log]:
    """A logger, its handler, and the end of a pipe where its lines come out."""
    reading, writing = os.pipe()
    handler = StderrHandler(writing)
    logger = logging.Logger("tq.test")
    logger.addHandler(handler)
    yield logger, handler, reading
    handler.close()
    os.close(reading)
    os.close(writing)


def fill(writing: int) -> None:
    """Write into a pipe until it takes no more."""
    flags = fcntl.fcntl(writing, fcntl.F_GETFL)
    fcntl.fcntl(writing, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    for size in (4_096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * size)
    fcntl.fcntl(writing, fcntl.F_SETFL, flags)


def lines_of(reading: int) -> list[str]:
    return os.read(reading, 1 << 20).decode().splitlines()


def test_a_line_says_when_how_bad_who_and_what(log: Log) -> None:
    logger, handler, reading = log
    logger.warning("%d is %s", 1, "one")
    logger.error("half a \ud800")
    handler.close()
    first, second = lines_of(reading)
    assert first.endswith(" WARNING tq.test: 1 is one")
    assert second.endswith(" ERROR tq.test: half a \\ud800")


def test_what_is_written_past_the_log_comes_behind_it(log: Log) -> None:
    logger, handler, reading = log
    for number in range(MAX_LINES // 2):
        logger.error(f"line {number}")
    handler.drain()
    os.write(handler._descriptor, b"the end")
    assert [line.rpartition(": ")[2] for line in lines_of(reading)][-2:] == [f"line {MAX_LINES // 2 - 1}", "the end"]


def test_lines_that_are_alike_are_written_some_times_a_second(log: Log) -> None:
    logger, handler, reading = log
    began_s = int(time.time())
    for number in range(1_000):
        logger.error("failed %d", number)
    logger.error("another")
    seconds = int(time.time()) - began_s + 1
    handler.close()
    lines = lines_of(reading)
    failed = [line for line in lines if ": failed " in line]
    assert MAX_ALIKE <= len(failed) <= MAX_ALIKE * seconds
    assert any(line.endswith(": another") for line in lines)
    left_out = [int(found[1]) for line in lines if (found := re.search(r"(\d+) more lines like these were left", line))]
    assert sum(left_out) == 1_000 - len(failed)


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK], ids=["blocking", "not blocking"])
def test_a_pipe_that_nobody_reads_holds_up_nobody(log: Log, flags: int) -> None:
    logger, handler, reading = log
    writing = handler._descriptor
    fill(writing)
    fcntl.fcntl(writing, fcntl.F_SETFL, flags)
    began_s = time.monotonic()
    for number in range(MAX_LINES * 2):
        logger.error(f"line {number}")
    assert handler._lines.full()
    handler.close()
    assert time.monotonic() - began_s < FLUSH_S + 5
    os.read(reading, 1 << 20)  # now it is read again
    read = b""
    while b"left out" not in read:
        read += os.read(reading, 1 << 20)
    assert b": line 0\n" in read
    assert f"{MAX_LINES * 2 - read.count(b': line ')} more lines" in read.decode()


def test_a_server_whose_stderr_is_blocked_goes_on(tmp_path: Path, start: Callable[..., Server]) -> None:
    """Each SIGHUP logs that the tokens cannot be read."""
    tokens = tmp_path / "tokens"
    create(tokens, "anyone", "*:*")
    reading, writing = os.pipe()
    fill(writing)
    server = start("--tokens", str(tokens), stderr=writing)
    tokens.unlink()
    for _ in range(20):
        server.process.send_signal(signal.SIGHUP)
        assert server.request("GET", "/healthz").status == 200
    assert server.stop() == 0
    os.close(writing)
    read = b"".join(iter(lambda: os.read(reading, 1 << 16), b""))
    os.close(reading)
    assert set(read.splitlines()[0]) == {ord("x")}


# --- descriptors that are closed or take nothing -----------------------------------------------


def run_shell(line: str) -> subprocess.CompletedProcess[str]:
    """A command with what the shell closes or redirects; `tq ` is what it begins with."""
    command = ["sh", "-c", line.replace("tq ", f"exec {shlex.quote(sys.executable)} -m tq ", 1)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 2>&-"])
def test_a_server_without_stderr_stops_in_order(tmp_path: Path, closed: str) -> None:
    with Server(tmp_path / "data", wrapper=("sh", "-c", f'exec "$0" "$@" {closed}')) as server:
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        assert (descriptors / "2").readlink() == Path("/dev/null")
        assert server.request("GET", "/healthz").status == 200
        assert server.stop() == 0


def test_commands_without_stdout_or_stderr(tmp_path: Path) -> None:
    data = tmp_path / "data"
    open_store(data).close()
    dumped = tmp_path / "dumped"
    assert run_shell(f"tq dump --data-dir {data} --output {dumped} 2>&-").returncode == 0
    for closed in ("2>&-", "1>&-", "0<&- 1>&- 2>&-"):
        for words in ("check", f"load {dumped}", "compact"):
            assert run_shell(f"tq {words} --data-dir {data} {closed}").returncode == 0
    done = run_shell(f"tq dump --data-dir {data} 1>&-")
    assert (done.returncode, done.stderr) == (4, "tq: The stdout is closed; name a file with --output.\n")


def test_a_server_whose_stdout_takes_nothing_serves(tmp_path: Path) -> None:
    """The log is the only place where its address is said then."""
    command = [sys.executable, "-m", "tq", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr
    with process.stderr:
        assert b"stdout takes nothing (No space left on device): tq " in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_SECONDS) == 0
        assert all(b" INFO tq.cli: " in line for line in process.stderr)


# --- as JSON, and what is written in one line ------------------------------------------------


def test_an_event_is_one_object_with_its_traceback(log: Log) -> None:
    logger, handler, reading = log
    handler.setFormatter(JsonFormatter())
    logger.warning("%(number)d is %(name)s", {"event": "counted", "number": 1, "name": "o\nne", "time": "mine"})
    try:
        raise ValueError("two\nlines \ud800")
    except ValueError:
        logger.exception("failed at %s", "a\nb")
    for number in range(MAX_ALIKE + 5):
        logger.error("again %d", number)
    handler.close()
    first, second, *alike, last = [json.loads(line) for line in lines_of(reading)]
    assert first.items() >= {"event": "counted", "number": 1, "name": "o\nne", "message": "1 is o\nne"}.items()
    assert (first["level"], first["logger"]) == ("warning", "tq.test")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert second["message"] == "failed at a\nb"
    assert second["traceback"].startswith("Traceback")
    assert second["traceback"].endswith("two\nlines \ud800")
    assert {each["message"] for each in alike} <= {f"again {number}" for number in range(MAX_ALIKE + 5)}
    assert (last["event"], last["lines"]) == ("lines_left_out", MAX_ALIKE + 5 - len(alike))


def test_nobody_can_forge_a_line_or_move_the_cursor(log: Log) -> None:
    logger, handler, reading = log
    logger.error("who wrote %s", "this?\n2026-01-01 ERROR\r\x1b[2J\x85\u2028\x00")
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logger.exception("failed")
    handler.close()
    first, *rest = lines_of(reading)
    assert first.endswith("ERROR tq.test: who wrote this?\\n2026-01-01 ERROR\\r\\x1b[2J\\x85\\u2028\\x00")
    assert rest[-1] == "ValueError: \\x1b[2J"


@pytest.mark.parametrize("seconds", [0.0, 1.0009, 1_750_000_000.123, 1_999_999_999.9999])
def test_times_are_utc_with_milliseconds(seconds: float) -> None:
    assert datetime.fromisoformat(timestamp(seconds)).timestamp() == pytest.approx(seconds, abs=0.001)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp(seconds))
