"""Programs that send and `consume` with the client, while all around them fails: kill -9 of the server and of programs,
a network that cuts, is late and falls silent, and work that raises or outlives its lease.

`tests.leases` judges what was asked of the server, `tests.consumed` what became of the work. The order of events comes
from a seed, which is printed; CONSUMING_SEED repeats it (the machine's own timing it cannot repeat).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import pytest

from tests.consumed import Program, check_work
from tests.consuming import QUEUE
from tests.harness import ROOT, START_SECONDS, NotStarted, Server, findings, wait_until
from tests.history import NEVER, Kill
from tests.leases import Lives, check_lives
from tests.leasing import counters
from tests.proxy import Plan, Proxy
from tests.recorded import read_log

ROLES = ("producer", "async producer", "consumer", "consumer", "threads", "async consumer")
ACKS = 150  # between two kills
MAX_BACKLOG = 150  # then sends are refused, and tried again
AT_ANY_TIME = Kill(0, NEVER, NEVER)  # the network may have cut off any request

Victim = Literal["server", "program"]


class Running:
    """A program of `tests.consuming`."""

    def __init__(self, directory: Path, role: str, number: int, url: str) -> None:
        self.name = f"{role} {number}"
        self.role = role
        self.is_killed = False
        self._log = directory / f"{self.name}.log"
        self._errors = directory / f"{self.name}.err"
        command = [sys.executable, "-m", "tests.consuming", role, url, str(self._log), self.name]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=errors)

    def kill(self) -> None:
        self.is_killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM: it must finish what it has in hand, and end in order."""
        wait_until(self._log.exists, START_SECONDS)
        self.process.terminate()
        code = self.process.wait(START_SECONDS)
        assert code == 0, self.errors()

    def errors(self) -> str:
        return f"{self.name}: {self._errors.read_text()[-3000:]}"

    def told(self) -> Program:
        """Nothing, where it was killed before it could begin."""
        lines = read_log(self._log) if self._log.exists() else ()
        return Program(self.name, tuple(lines), self.is_killed)


class World:
    """A server, a proxy before it, and programs, of which every other one goes through the proxy."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.server = Server(directory / "data")
        self.server_errors = ""
        self.proxy = Proxy(self.server.port, self._any_plan)
        self.programs: list[Running] = []
        self.kills: Counter[str] = Counter()
        settings = {"name": QUEUE, "max_messages": MAX_BACKLOG}
        assert self.server.request("POST", "/queues", settings).status == 201
        for role in ROLES:
            self._start(role)

    def _any_plan(self) -> Plan:
        """Most connections live for some requests. One in ten falls silent at some point."""
        most = self.chance.randrange(1, 20_000)
        return Plan(
            request_bytes=most if self.chance.random() < 0.5 else None,
            answer_bytes=self.chance.randrange(0, 20_000),
            ending=self.chance.choice(("fin", "reset") * 4 + ("hole",)),
            piece_bytes=self.chance.choice((1 << 20, 1_000)),
        )

    def _start(self, role: str) -> None:
        number = len(self.programs)
        port = self.proxy.port if number % 2 else self.server.port
        self.programs.append(Running(self.directory, role, number, f"http://127.0.0.1:{port}"))

    def running(self) -> list[Running]:
        return [program for program in self.programs if not program.is_killed]

    def acked(self) -> int:
        return int(counters(self.server, QUEUE)["acked"])

    def suffer(self, victim: Victim) -> None:
        """Wait until something was done, and kill at a moment after it."""
        enough = self.acked() + ACKS
        wait_until(lambda: self.acked() >= enough, 60)
        time.sleep(self.chance.uniform(0, 0.1))
        if victim == "server":
            self._kill_server()
            self.server = self._server_again()
        else:
            killed = self.chance.choice(self.running())
            killed.kill()
            self.kills[killed.role] += 1
            self._start(killed.role)
        self.kills[victim] += 1

    def _server_again(self) -> Server:
        """On the same port, which others may have for a moment."""
        deadline = monotonic() + START_SECONDS
        while True:
            try:
                return Server(self.directory / "data", "--port", str(self.server.port))
            except NotStarted as error:
                if "in use" not in error.errors or monotonic() > deadline:
                    raise

    def end(self) -> dict[str, Any]:
        """Stop sending, have everything consumed, and stop in order: what the queue says then."""
        for program in self.running():
            if "producer" in program.role:
                program.stop()
        wait_until(lambda: counters(self.server, QUEUE)["messages"] == 0, 60)
        for program in self.running():
            if "producer" not in program.role:
                program.stop()
        return counters(self.server, QUEUE)

    def close(self) -> None:
        """Whatever has happened."""
        for program in self.running():
            program.process.kill()
            program.process.wait()
        self.proxy.__exit__()
        self._kill_server()

    def _kill_server(self) -> None:
        self.server.kill()
        self.server_errors += self.server.errors()
        self.server.__exit__()


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("CONSUMING_SEED") or time.time_ns() % 1_000_000)
    print(f"CONSUMING_SEED={chosen}")
    return chosen


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_nothing_is_lost_or_doubled_whatever_is_killed_or_cut(tmp_path: Path, seed: int, kills: int) -> None:
    world = World(tmp_path, seed)
    try:
        victims: list[Victim] = ["server", "program"] * kills
        world.chance.shuffle(victims)
        for victim in victims:
            world.suffer(victim)
        ended = world.end()
    finally:
        world.close()
    assert findings(tmp_path / "data") == []
    programs = [program.told() for program in world.programs]
    lives = Lives(tuple(request for one in programs for request in one.requests()), (AT_ANY_TIME,), {}, {QUEUE: ended})
    told = figures(programs, lives)
    print({**told, **world.kills, "sent": ended["sent"], "received": ended["received"]})
    wrong = check_lives(lives) + check_work(programs)
    assert not wrong, "\n".join(wrong[:20])
    for errors in (world.server_errors, *(program.errors() for program in world.programs)):
        assert "Traceback" not in errors
    assert ended["sent"] >= 2 * kills * ACKS
    for name, least in ENOUGH.items():
        assert told[name] >= least * kills, (name, told)


ENOUGH = {
    "handled": 250,
    "failed": 1,
    "ok extend": 1,
    "ok release": 1,
    "unknown send": 0.5,
    "unknown receive": 0.5,
    "unknown settle": 0.5,
    "received again": 1,
}
"""Of what must have happened for the test to mean anything: how often for each kill of a kind at least."""


def figures(programs: list[Program], lives: Lives) -> Counter[str]:
    counted = Counter(line.kind for one in programs for line in one.lines if line.kind in ("handled", "failed"))
    for request in lives.requests:
        counted[f"{request.outcome} {request.operation}"] += 1
        counted["received again"] += sum(lease.receive_count > 1 for lease in request.leases)
        counted["repeated"] += any(sent.is_repeated for sent in request.sent)
        for step in request.steps:
            counted[f"{step.status} {step.verb}"] += 1
    return counted
