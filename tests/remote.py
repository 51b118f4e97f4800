"""Commands that speak to a server: in this process, which is quicker, in one of their own, or at a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.commands import COMMAND_SECONDS, command
from tests.harness import ROOT, Server, wait_until
from tq.cli import main


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    return {**kept, "TQ_URL": url, "TERM": "xterm-256color", **more}


class Ran:
    """How a command ended."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code, self.out, self.err = code, out, err.decode()

    @property
    def lines(self) -> list[Any]:
        """Its stdout, which is lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self) -> str:
        return f"Ran({self.code}, {self.out[:500]!r}, {self.err[:500]!r})"


def run(url: str, *arguments: str | Path, stdin: bytes = b"") -> Ran:
    """In this process: what needs no descriptors and sets no signal handlers."""
    ran = CliRunner().invoke(main, list(map(str, arguments)), input=stdin, env={"TQ_URL": url})
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return Ran(ran.exit_code, ran.stdout_bytes, ran.stderr_bytes)


def run_alone(url: str, *arguments: str | Path, stdin: bytes = b"", **more: str) -> Ran:
    """In a process of its own."""
    ran = subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(url, **more),
        input=stdin,
        capture_output=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def well(ran: Ran) -> Ran:
    """It must have gone well, and said nothing on stderr."""
    assert (ran.code, ran.err) == (0, ""), ran
    return ran


class Begun:
    """A command that runs; the end of a `with` kills it."""

    def __init__(self, url: str, *arguments: str | Path, stdout: int = subprocess.PIPE, **more: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env=environment(url, **more),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Begun:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def signal(self, signum: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(signum)

    def line(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.readline()

    def complaint(self) -> str:
        """The next line on stderr."""
        assert self.process.stderr
        return self.process.stderr.readline().decode()

    def end(self) -> Ran:
        out, err = self.process.communicate(timeout=COMMAND_SECONDS)
        return Ran(self.process.returncode, out or b"", err or b"")


class Terminal:
    """A command at a terminal of its own, of a size; what it shows is `shown`."""

    def __init__(self, url: str, *arguments: str | Path, columns: int = 80, lines: int = 24, **more: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env=environment(url, **more),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._shown = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    @property
    def shown(self) -> str:
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def _read(self, seconds: float) -> bool:
        """False at its end."""
        if select.select([self._master], [], [], seconds)[0]:
            try:
                self._shown += os.read(self._master, 65_536)
            except OSError:  # that is how Linux says it
                return False
        return True

    def until(self, text: str, seconds: float = 30) -> str:
        """What was shown by then."""
        over_s = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < over_s, self.shown
            assert self._read(0.1), self.shown
        return self.shown

    def forget(self) -> None:
        """What was shown so far is not looked at again."""
        self._shown = b""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> Ran:
        over_s = time.monotonic() + COMMAND_SECONDS
        while self._read(0.1):
            assert time.monotonic() < over_s, self.shown
        return Ran(self.process.wait(COMMAND_SECONDS), self._shown.replace(b"\r\n", b"\n"), b"")


def held(server: Server, queue: str) -> dict[str, int]:
    """How many messages of each state a queue holds."""
    counts: dict[str, int] = server.request("GET", f"/queues/{queue}").json["messages"]
    return counts


def wait_for(server: Server, queue: str, **wanted: int) -> None:
    """Until so many messages are in these states."""
    wait_until(lambda: held(server, queue).items() >= wanted.items(), 30)


def contents(server: Server, queue: str) -> list[Any]:
    """All that can be received, in order; it is gone then."""
    found: list[Any] = []
    while (reply := server.request("GET", f"/queues/{queue}/messages?max=1000")).status == 200:
        found += [message["content"] for message in reply.json["messages"]]
    return found
