"""A real server in a process of its own, and a client that speaks bytes."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tq import lifecycle
from tq.audit import audit
from tq.store.lmdb import LmdbStore

ROOT = Path(__file__).parent.parent
HOSTS = "tq,x"  # what tests that write their own heads call the server
START_SECONDS = 30  # a hundred times what a start takes, for a machine that is busy


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"Reply({self.status}, {self.body[:200]!r})"


class NotStarted(AssertionError):
    """A server ended before it served."""

    def __init__(self, exit_code: int, errors: str) -> None:
        super().__init__(f"the server did not start: {errors}")
        self.exit_code = exit_code
        self.errors = errors


class Server:
    """Starts on a free port of the loopback; `stop`, `kill` or the end of a `with` ends it."""

    def __init__(
        self,
        data_dir: Path | str,
        *flags: str,
        wrapper: tuple[str, ...] = (),
        program: tuple[str | Path, ...] = (sys.executable, "-m", "tq"),
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
        stderr: int = subprocess.PIPE,
    ) -> None:
        self.data_dir = data_dir
        command = [*wrapper, *program, "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(data_dir), *flags],
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=cwd,
            env={"TQ_ALLOWED_HOST": HOSTS, **os.environ, **(env or {})},
        )
        self.banner = self._read_banner()
        found = re.search(r"https?://127\.0\.0\.1:(\d+)", self.banner)
        if not found:
            self.kill()
            raise AssertionError(f"no address in {self.banner!r}")
        self.port = int(found[1])
        self.url = found[0]

    def _read_banner(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line:
            if not ready:
                self.process.kill()
            _, errors = self.process.communicate()
            raise NotStarted(self.process.returncode, errors.decode())
        return line

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_SECONDS)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()
        self.process.wait()

    def errors(self) -> str:
        """What it wrote on stderr; only after it ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def line(self) -> str:
        """The next line that it writes on stderr, but for those that tell of its start."""
        assert self.process.stderr is not None
        lines = iter(self.process.stderr.readline, b"")
        return next(line.decode() for line in lines if b" INFO tq.cli: started" not in line)

    def complaints(self) -> str:
        """Of that, all but what it only tells, and what says no more than that the machine was slow."""
        lines = self.errors().splitlines(keepends=True)
        return "".join(line for line in lines if not re.search(r" INFO tq\.| WARNING tq\.writer: a commit of ", line))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One request on a connection of its own. A body that is not bytes is sent as JSON."""
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, raw, headers or {})
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()

    def raw(self, data: bytes, timeout: float = 10) -> bytes:
        """Send bytes, say that there are no more, and read until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65_536), b""))


def settle(server: Server) -> None:
    """Go through the server's event loop and its writer twice: what was sent before is done by then."""
    for _ in range(2):
        assert server.request("GET", "/readyz").status == 200


def cpu_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024


def p99_s(server: Server, seconds: float, method: str, path: str, body: bytes | None = None) -> float:
    """How long one request in a hundred takes at least, of those that are asked on one connection for some seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    took_s: list[float] = []
    over_s = time.monotonic() + seconds
    while time.monotonic() < over_s:
        began_s = time.monotonic()
        connection.request(method, path, body)
        response = connection.getresponse()
        response.read()
        assert response.status < 300
        took_s.append(time.monotonic() - began_s)
    connection.close()
    return sorted(took_s)[len(took_s) * 99 // 100]


@contextmanager
def sound_server(data_dir: Path, *flags: str) -> Iterator[Server]:
    """A server that must serve at the end, stop in order, have logged no traceback and leave sound data."""
    with Server(data_dir, *flags) as running:
        yield running
        assert running.request("GET", "/readyz").status == 200
        assert running.stop() == 0
        errors = running.errors()
        assert "Traceback" not in errors, errors
    assert findings(data_dir) == []


def open_store(path: Path, **options: Any) -> LmdbStore:
    """The engine on disk as the server opens it, with a small reserve."""
    options = {"max_spaces": lifecycle.MAX_SPACES, "reserve_bytes": 1 << 20, **options}
    return LmdbStore(path, lifecycle.apply, **options)


def findings(path: Path) -> list[str]:
    """All that is wrong in a data directory that no server holds."""
    store = open_store(path)
    try:
        return store.check() + store.read(audit)
    finally:
        store.close()


def fill_disk(disk: Path) -> Path:
    """Let another file take every byte that is left."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0
    return filler


def wait_until(condition: Any, seconds: float = 10) -> None:
    """Wait for a condition that another process or thread brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.005)
