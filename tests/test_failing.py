"""The k-th write or sync fails, while a directory is made, at a start on an old one, and under requests.

strace lets a system call of a real server fail, which then is not made. A script of requests goes on until the end,
whatever is answered. What got a 2xx must be there afterwards, what got anything else may be; a server that met a failed
sync or meta page says 2xx no more and exits with 5, one whose disk was only full goes on, and a start that cannot be
ends with a sentence and 4. FAILING_SEED repeats the choices of a run.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.harness import START_SECONDS, NotStarted, Server, open_store
from tq import lifecycle, model
from tq.audit import audit
from tq.errors import EXIT_DATA, EXIT_STORAGE_FAILED, StartError

CALLS = ("pwrite64", "writev", "fdatasync", "fsync", "ftruncate", "fallocate", "write", "rename", "mkdir", "unlink")
"""All by which tq and LMDB change what is on the disk; LMDB writes pages in a row with writev."""
LMDB_CALLS = ("pwrite64", "writev", "fdatasync")
FILES = ("", "data.mdb", "lock.mdb", "FORMAT", "FORMAT.new", "reserve", "fault")
EXTENT_BYTES = 1 << 20  # zeros ahead of the data, without which tq can be
OTHERS = 2  # than those that are tried in each run
AT_ONCE = 3

State = dict[str, tuple[str, ...]]
"""The contents in each queue that exists, in order, whoever has leased them."""


Effect = Callable[[State], Iterable[State]]
"""What may become of a state."""


class Answered(Struct):
    """A request's status, 0 where there was no answer, and what it does."""

    status: int
    effect: Effect


class Case(Struct, frozen=True):
    """The k-th of a system call fails; with `is_lasting` each from then on. strace counts for each thread by itself."""

    call: str
    number: int
    error: str
    is_lasting: bool = False


# --- the script -------------------------------------------------------------


class Script:
    """Requests to a server, one after the other, each of its own kind. Contents are unique."""

    def __init__(self, server: Server, chance: random.Random) -> None:
        self._server = server
        self._chance = chance
        self.answers: list[Answered] = []
        self.has_failed = False

    def run(self) -> list[Answered]:
        for queue in ("a", "b"):
            self._ask("POST", "/queues", {"name": queue}, lambda s, queue=queue: [{queue: (), **s}])
        for _ in range(2):
            self._send("a", 1, 10)
            self._send("a", 3, 5_000)
            self._send("b", 2, 1_000)
            self._remove("a")
            if leased := self._lease("a"):
                self._ask("DELETE", f"/queues/a/messages/{leased['receipt']}", None, taken("a", leased["content"]))
            if leased := self._lease("a"):
                self._transact(leased)
            self._ask("DELETE", "/queues/b/messages", None, on("b", lambda _: [()]))
            self._send("b", 1, 100)
        return self.answers

    def _send(self, queue: str, number: int, size: int) -> None:
        contents = self._contents(number, size)
        body = [{"content": content} for content in contents]
        self._ask("POST", f"/queues/{queue}/messages", body, sent(queue, contents))

    def _remove(self, queue: str) -> None:
        answer = self._ask("GET", f"/queues/{queue}/messages", None, any_taken(queue))
        if answer:
            self.answers[-1].effect = taken(queue, answer["content"])

    def _lease(self, queue: str) -> Any:
        return self._ask("GET", f"/queues/{queue}/messages?visibility_timeout=600", None, lambda s: [s])

    def _transact(self, leased: Any) -> None:
        contents = self._contents(1, 3_000)
        body = {"ack": [{"queue": "a", "receipt": leased["receipt"]}], "send": [{"queue": "b", "content": contents[0]}]}
        take, send = taken("a", leased["content"]), sent("b", contents)
        self._ask("POST", "/transactions", body, lambda s: [after for between in take(s) for after in send(between)])

    def _contents(self, number: int, size: int) -> tuple[str, ...]:
        return tuple(f"{self._chance.getrandbits(64):x} {'.' * size}" for _ in range(number))

    def _ask(self, method: str, path: str, body: Any, effect: Effect) -> Any:
        """What an answer with success says."""
        status, answer = 0, b""
        try:
            reply = self._server.request(method, path, body)
            status, answer = reply.status, reply.body
        except ConnectionRefusedError:  # it has ended, and nothing was asked
            self.has_failed = True
            return None
        except (OSError, http.client.HTTPException):
            pass
        self.has_failed |= status in (0, 503)
        self.answers.append(Answered(status, effect))
        return json.loads(answer) if status in (200, 201) else None


def on(queue: str, change: Callable[[tuple[str, ...]], Iterable[tuple[str, ...]]]) -> Effect:
    """What may become of one queue; of a state without it nothing can."""
    return lambda state: [{**state, queue: contents} for contents in change(state[queue])] if queue in state else []


def sent(queue: str, contents: tuple[str, ...]) -> Effect:
    return on(queue, lambda there: [there + contents])


def taken(queue: str, content: str) -> Effect:
    return on(queue, lambda there: [tuple(one for one in there if one != content)])


def any_taken(queue: str) -> Effect:
    return on(queue, lambda there: [there, *(there[:at] + there[at + 1 :] for at in range(len(there)))])


def possible(before: State, answers: list[Answered]) -> list[State]:
    """The states that the answers allow. What was refused, as where a queue could not be made, did nothing."""
    states = [before]
    for answer in answers:
        done = [after for state in states for after in answer.effect(state)]
        if answer.status in (200, 201, 204):
            states = done
        elif answer.status in (0, 503, 507):
            states += [state for state in done if state not in states]
    return states


def look(data_dir: Path) -> tuple[list[str], State]:
    """What is wrong in a data directory, and what is there. It is opened once: while one server is started another
    thread's lock may be held for a moment by the process that becomes the server."""
    store = open_store(data_dir)
    try:
        return store.check() + store.read(audit), store.read(_state)
    finally:
        store.close()


def _state(tx: Any) -> State:
    found: State = {}
    for info in lifecycle.answer(tx, model.ListQueues(), 0).queues:
        pages = [lifecycle.answer(tx, model.Peek(info.name, state, limit=100), 0) for state in ("ready", "in_flight")]
        messages = sorted((m for page in pages for m in page.messages), key=lambda message: message.id)
        found[info.name] = tuple(json.loads(message.content) for message in messages)
    return found


# --- servers whose calls fail -------------------------------------------------------------


class Suffered(Struct):
    """`failed`: strace's lines about the calls that it let fail. `calls`: how many there were of each."""

    exit_code: int
    errors: str
    answers: list[Answered]
    has_served: bool
    failed: list[str]
    calls: Counter[str]


@pytest.fixture(scope="module")
def strace() -> str:
    path = shutil.which("strace")
    if not path:
        pytest.skip("strace is not installed")
    tried = subprocess.run([path, "-f", "--seccomp-bpf", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"strace cannot trace here: {tried.stderr.strip()}")
    return path


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("FAILING_SEED") or time.time_ns() % 1_000_000)
    print(f"FAILING_SEED={chosen}")
    return chosen


def suffer(strace: str, data_dir: Path, seed: int, case: Case | None = None) -> Suffered:
    """Run the script against a server in which calls fail."""
    log = data_dir.with_suffix(".log")
    wrapper = [strace, "-D", "-f", "--seccomp-bpf", "-y", "-s", "16", "-e", f"trace={','.join(CALLS)}"]
    for path in (data_dir.parent, *(data_dir / name for name in FILES)):
        wrapper += ["-P", str(path)]
    wrapper += ["-e", "signal=none", "-o", str(log)]
    if case:
        wrapper += ["-e", f"inject={case.call}:error={case.error}:when={case.number}{'+' * case.is_lasting}"]
    answers: list[Answered] = []
    has_served = True
    try:
        with Server(data_dir, wrapper=tuple(wrapper), env={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
            script = Script(server, random.Random(seed))
            answers = script.run()
            exit_code = server.process.wait(START_SECONDS) if script.has_failed else server.stop()
            errors = server.errors()  # ends when the tracer has ended
    except NotStarted as failure:
        exit_code, errors, has_served = failure.exit_code, failure.errors, False
    lines = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
    failed = [line for line in lines if line.endswith("(INJECTED)")]
    return Suffered(exit_code, errors, answers, has_served, failed, Counter(line.partition("(")[0] for line in lines))


def expected_exit(case: Case, suffered: Suffered) -> int:
    """The code that a server must exit with when these calls failed."""
    if not suffered.has_served:
        return EXIT_DATA
    of_data = [line for line in suffered.failed if "/data.mdb>" in line and f", {EXTENT_BYTES}, " not in line]
    return EXIT_STORAGE_FAILED if of_data else 0  # the disk has room, whatever the error says


def judge(case: Case, suffered: Suffered, before: State, data_dir: Path) -> list[str]:
    """What is wrong with what a server did, and with what it left."""
    found: list[str] = []
    expected = expected_exit(case, suffered)
    if suffered.exit_code != expected:
        found.append(f"it exited with {suffered.exit_code}, not {expected}.")
    if not suffered.has_served and not re.fullmatch(r"tq: The data directory [^\n]+ --data-dir\.\n", suffered.errors):
        found.append(f"a start ended with {suffered.errors!r}.")
    statuses = [answer.status for answer in suffered.answers]
    if 503 in statuses and any(200 <= status < 300 for status in statuses[statuses.index(503) :]):
        found.append(f"it went on after a failure: {statuses}.")
    try:
        wrong, state = look(data_dir)
        found += wrong
        if state not in possible(before, suffered.answers):
            found.append(f"what was answered and what is there differ: {statuses}.")
    except StartError as refusal:
        found.append(f"afterwards it is refused: {refusal}")
    return [f"{case}: {one} {suffered.failed}" for one in found]


# --- tests -------------------------------------------------------------


def all_cases(calls: Counter[str]) -> list[Case]:
    return [
        Case(call, number, *failure)
        for call in CALLS
        for number in range(1, calls[call] + 1)
        for failure in (("EIO",), ("ENOSPC",), ("ENOSPC", True))
    ]


def some_cases(calls: Counter[str], chance: random.Random) -> list[Case]:
    """Each of LMDB's calls, once for a disk that fails it and once for one that is full from then on; and others.

    LMDB is called by the event loop or by the writer's thread, and one of the two makes half of the calls at least.
    """
    cases = [
        Case(call, chance.randint(1, calls[call] // 2), *failure)
        for call in LMDB_CALLS
        for failure in (("EIO",), ("ENOSPC", True))
    ]
    cases += [Case("fallocate", 1, "ENOSPC") for _ in range(calls["fallocate"])]  # the reserve
    return [*cases, *chance.sample([case for case in all_cases(calls) if case.call not in LMDB_CALLS], OTHERS)]


@pytest.mark.parametrize("is_all", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("is_old", [False, True], ids=["new", "old"])
def test_the_kth_write_or_sync_fails(strace: str, tmp_path: Path, seed: int, is_old: bool, is_all: bool) -> None:
    """In a directory that is made, and in one with messages."""
    original, fine_dir = tmp_path / "original", tmp_path / "fine"
    original.mkdir()
    before: State = {}
    if is_old:
        with Server(original / "data") as server:
            Script(server, random.Random(seed)).run()
            assert server.stop() == 0
        _, before = look(original / "data")
    shutil.copytree(original, fine_dir)
    fine = suffer(strace, fine_dir / "data", seed + 1)
    assert fine.exit_code == 0
    assert look(fine_dir / "data") == ([], *possible(before, fine.answers))
    chosen = all_cases(fine.calls) if is_all else some_cases(fine.calls, random.Random(seed))

    def attack(number: int, case: Case) -> tuple[Suffered, list[str]]:
        data_dir = tmp_path / f"{number}" / "data"
        shutil.copytree(original, data_dir.parent)
        suffered = suffer(strace, data_dir, seed + 1, case)
        found = judge(case, suffered, before, data_dir)
        shutil.rmtree(data_dir.parent)
        return suffered, found

    with ThreadPoolExecutor(AT_ONCE) as threads:
        results = list(threads.map(attack, range(len(chosen)), chosen))
    wrong = [sentence for _, found in results for sentence in found]
    exits = Counter(suffered.exit_code for suffered, _ in results)
    statuses = Counter(answer.status for suffered, _ in results for answer in suffered.answers)
    reached = sum(bool(suffered.failed) for suffered, _ in results)
    print(f"{len(chosen)} cases, {reached} of them failed as asked, of {dict(fine.calls)}")
    print(f"exit codes {dict(exits)}, statuses {dict(statuses)}")
    assert not wrong, "\n".join(wrong[:20])
    assert reached >= 0.5 * len(chosen)
    assert exits[EXIT_STORAGE_FAILED]
    assert exits[0] or is_old  # which makes no reserve
