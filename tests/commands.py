"""Commands on a data directory as processes of their own, and a server that is busy meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from click.testing import CliRunner

from tests import leasing, removing
from tests.clients import Place
from tests.harness import ROOT, Server, open_store
from tests.history import Recorder
from tests.leases import Request
from tq.cli import main
from tq.model import CreateQueue, Draft, Receive, Send
from tq.store.directory import DATA_FILE

COMMAND_SECONDS = 120  # a hundred times what one takes
NOW_MS = 1_700_000_000_000


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tq", *map(str, arguments)]


def tq(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, to its end."""
    ran = subprocess.run(
        command(*arguments), cwd=ROOT, input=stdin, capture_output=True, timeout=COMMAND_SECONDS, check=False
    )
    return subprocess.CompletedProcess(ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def well(*arguments: str | Path, stdin: bytes = b"") -> str:
    """What a command prints that must go well, and say nothing on stderr."""
    ran = tq(*arguments, stdin=stdin)
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout


def refused(exit_code: int, *arguments: str | Path) -> str:
    """The one sentence on stderr with which a command ends. It runs in this process, which is quicker."""
    ran = CliRunner().invoke(main, list(map(str, arguments)))
    assert isinstance(ran.exception, SystemExit), ran.exception
    assert ran.exit_code == exit_code, ran
    return one_sentence(ran.stderr)


def one_sentence(stderr: str) -> str:
    assert stderr.startswith("tq: ")
    assert stderr.endswith(".\n")
    assert stderr.count("\n") == 1
    return stderr


def killed(arguments: list[str | Path], after_s: float) -> bool:
    """Start a command and kill it; False when it had ended before."""
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        time.sleep(after_s)
        is_over = running.poll() is not None
        running.kill()
    return not is_over


def fill(path: Path, messages: int, size: int = 1_000) -> Path:
    """A data directory with a queue q that holds messages, the first of them leased; no server holds it."""
    store = open_store(path)
    store.commit([CreateQueue("q")], NOW_MS)
    content = Random(1).randbytes(size)
    for first in range(0, messages, 1_000):
        drafts = tuple(Draft(b"%d " % n + content, "x") for n in range(first, min(messages, first + 1_000)))
        store.commit([Send("q", drafts)], NOW_MS)
    store.commit([Receive(("q",), 1, 3_600_000)], NOW_MS)
    store.close()
    return path


def flip(path: Path, page: int, at: int = 20) -> None:
    """Change a byte of a page of the data file."""
    with (path / DATA_FILE).open("r+b") as file:
        file.seek(page * os.sysconf("SC_PAGE_SIZE") + at)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


@contextmanager
def busy(server: Server) -> Iterator[list[int]]:
    """Clients that send, remove, lease, settle and dead-letter as fast as they can. Yields a list of requests so far:
    its length is how many were answered."""
    place, recorder = Place(), Recorder()
    requests: list[Request] = []
    for name in removing.QUEUES:
        server.request("POST", "/queues", {"name": name})
    for name, settings in leasing.QUEUES.items():
        server.request("POST", "/queues", {"name": name, **settings})
    clients = [*removing.removers(1, place, recorder), *leasing.leasers(1, place, requests)]
    for client in clients:
        client.start()
    place.announce(server.port)
    try:
        yield requests  # type: ignore[misc]
    finally:
        place.end()
        for client in clients:
            client.finish()
