"""Servers in processes of their own, and a client for the requests that are not measured."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.load import ROOT, Failed

START_SECONDS = 30  # a hundred times what a start takes, for a machine that is busy
FOREIGN_START_SECONDS = 120  # Erlang takes 10 to 20 seconds for a start
LOOK_SECONDS = 0.02  # between two looks whether a port is open
STOP_SECONDS = 30  # then it is killed
REQUEST_SECONDS = 60  # a batch of 10,000 messages takes a fraction of a second


class Process:
    """A command from the start to the end of a `with`; ended by its own process id."""

    def __init__(
        self, directory: Path, command: Sequence[str], environment: dict[str, str], cwd: Path, stdout: int
    ) -> None:
        """`directory` takes what it writes on stderr."""
        self._errors = directory / "stderr"
        with self._errors.open("wb") as errors:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=errors,
                cwd=cwd,
                env={**os.environ, **environment},
            )

    def fail(self, printed: str) -> Failed:
        return Failed(f"A server did not start: {printed}{self._errors.read_text(errors='replace')[-2000:]}")

    @property
    def pid(self) -> int:
        return self._popen.pid

    def processor_seconds(self) -> tuple[float, float]:
        """What it has used so far, in the program and in the kernel. The format of /proc/<pid>/stat is in proc(5)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        return int(fields[11]) / ticks, int(fields[12]) / ticks

    def cpu_seconds(self) -> float:
        return sum(self.processor_seconds())

    def end(self) -> None:
        """SIGTERM, and SIGKILL when that does not help."""
        self._popen.terminate()
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        finally:
            if self._popen.stdout:
                self._popen.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class ServerProcess(Process):
    """`python -m <module> <arguments>`, a server of this project, which prints its address."""

    def __init__(self, directory: Path, module: str, *arguments: str, root: Path = ROOT) -> None:
        """`root` is where the module is. Raises Failed when it prints no address."""
        super().__init__(directory, [sys.executable, "-m", module, *arguments], {}, root, subprocess.PIPE)
        try:
            self.port = self._read_port()
        except BaseException:
            self.end()
            raise

    def _read_port(self) -> int:
        assert self._popen.stdout is not None
        ready, _, _ = select.select([self._popen.stdout], [], [], START_SECONDS)
        banner = self._popen.stdout.readline().decode() if ready else ""
        found = re.search(r"http://127\.0\.0\.1:(\d+)", banner)
        if not found:
            raise self.fail(banner)
        return int(found[1])


class ForeignProcess(Process):
    """A server of others, which is there when its port is. What it prints goes nowhere."""

    def __init__(self, directory: Path, port: int, command: Sequence[str], environment: dict[str, str]) -> None:
        """Raises Failed when it ends, or its port is not open in time."""
        super().__init__(directory, command, environment, directory, subprocess.DEVNULL)
        self.port = port
        give_up_at = time.monotonic() + FOREIGN_START_SECONDS
        try:
            while not _is_open(port):
                if self._popen.poll() is not None or time.monotonic() > give_up_at:
                    raise self.fail("")
                time.sleep(LOOK_SECONDS)
        except BaseException:
            self.end()
            raise


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Client:
    """One connection that is kept, for one thread."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECONDS)

    def json(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        more: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's JSON, None when there is none. Raises Failed for a status that is not 2xx."""
        headers = ({"Content-Type": content_type} if body is not None else {}) | dict(more or {})
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if not 200 <= response.status < 300:
            raise Failed(f"{method} {path} answered {response.status}: {answer[:500].decode(errors='replace')}")
        return json.loads(answer) if answer else None

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
