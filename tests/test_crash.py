"""kill -9 at any moment, under load: what was acknowledged is there once, whole and in order, and nothing else is.

Clients in threads send and receive as fast as they can while the server is killed and started again on the same
directory. `tests.history` judges what they saw. The moments of the kills and what each client does come from a seed,
which is printed; CRASH_SEED repeats one (the machine's own timing it cannot repeat).
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from time import monotonic_ns
from typing import Literal

import msgspec
import pytest

from tests.harness import ROOT, Server, findings, wait_until
from tests.history import History, Kill, Message, Operation, Recorder, check, digest

QUEUES = ("deep", "even", "shallow")  # by how much waits in them
PRODUCERS = CONSUMERS = 5
ROUND_MESSAGES = 100  # sent and received at least, before most kills
EARLY_KILLS = 0.2  # of them do not wait for that
MAX_PAUSE_S = 0.2  # and then the kill comes at a moment within this
MAX_CHARACTERS = 15_000  # of a content, 20 KB; from 1,984 bytes on it is cut into chunks of 4,080
REQUEST_SECONDS = 30  # a server that hangs for so long is a failure

TEXT = "".join(random.Random(0).choices("abcdefg 0123456789 {}[],:/ äß€漢字🙂", k=2 * MAX_CHARACTERS))


class Handed(msgspec.Struct):
    id: int
    content: msgspec.Raw


class Page(msgspec.Struct):
    messages: list[Handed]


class Ids(msgspec.Struct):
    id: int | None = None
    ids: tuple[int, ...] = ()


class Request(msgspec.Struct):
    """What a client asks, and what of it goes into the history. `digests`: of what it sends."""

    operation: Literal["send", "receive"]
    queue: str
    method: str
    path: str
    body: bytes | None = None
    media_type: str = "application/json"
    digests: tuple[str, ...] = ()
    limit: int = 1


class Place:
    """Where the server is now. Clients that lost it wait here for its successor."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._generation = 0
        self._is_over = False
        self.port = 0

    def announce(self, port: int) -> int:
        """A new server is there; returns when. What was begun before cannot have reached it."""
        with self._changed:
            self._generation += 1
            self.port = port
            self._changed.notify_all()
            return monotonic_ns()

    def end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def after(self, generation: int) -> int:
        """Wait for a later generation; 0 when all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._generation > generation)
            return 0 if self._is_over else self._generation

    def begin(self, generation: int) -> int:
        """When a request to the server of this generation begins; 0 when it must not."""
        with self._changed:
            return 0 if self._is_over or self._generation != generation else monotonic_ns()


class Client(threading.Thread):
    """Makes one request after the other on a connection that it keeps, and records each."""

    def __init__(self, name: str, seed: int, place: Place, recorder: Recorder) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None
        self._chance = random.Random(f"{seed} {name}")
        self._place = place
        self._recorder = recorder
        self._sent = 0

    def run(self) -> None:
        next_request = self._send if self.name.startswith("producer") else self._receive
        generation = 0
        try:
            while generation := self._place.after(generation):
                connection = http.client.HTTPConnection("127.0.0.1", self._place.port, timeout=REQUEST_SECONDS)
                try:
                    connection.connect()
                except OSError:
                    continue  # killed again already, and nothing was asked
                while self._ask(connection, next_request(), generation):
                    pass
                connection.close()
        except BaseException as failure:
            self.failure = failure

    def _ask(self, connection: http.client.HTTPConnection, request: Request, generation: int) -> bool:
        """Make the request and record it; False when the connection is of no more use."""
        status, answer = 0, b""
        invoked = self._place.begin(generation)
        if not invoked:
            return False
        try:
            connection.request(request.method, request.path, request.body, {"Content-Type": request.media_type})
            response = connection.getresponse()
            answer = response.read()
            status = response.status
        except (OSError, http.client.HTTPException):
            pass  # whether any of it reached the server is not asked: it counts as possible
        is_known = 0 < status < 500
        returned = monotonic_ns()
        self._recorder.record(
            Operation(
                client=self.name,
                operation=request.operation,
                queue=request.queue,
                messages=learned(request, status, answer) if is_known else learned(request),
                invoked=invoked,
                returned=returned,
                outcome="ok" if is_known else "unknown",
                limit=request.limit,
            )
        )
        return status > 0

    def _send(self) -> Request:
        queue = self._chance.choice(QUEUES)
        contents = [self._content() for _ in range(self._chance.choice((1, 1, 1, 1, 1, 2, 4, 8)))]
        envelopes = [b'{"content":%b}' % content for content in contents]
        body, media_type = envelopes[0], "application/json"
        if len(contents) > 1 and self._chance.random() < 0.5:
            body = b"[%b]" % b",".join(envelopes)
        elif len(contents) > 1:
            body, media_type = b"\n".join(envelopes), "application/x-ndjson"
        digests = tuple(map(digest, contents))
        return Request("send", queue, "POST", f"/queues/{queue}/messages", body, media_type, digests)

    def _content(self) -> bytes:
        """JSON text that no one else sends. Few bytes, hundreds and thousands of them are equally likely."""
        self._sent += 1
        size = int(MAX_CHARACTERS ** self._chance.random())
        start = self._chance.randrange(MAX_CHARACTERS)
        return f'["{self.name}", {self._sent}, "{TEXT[start : start + size]}"]'.encode()

    def _receive(self) -> Request:
        queue = self._chance.choices(QUEUES, (1, 4, 8))[0]
        limit = self._chance.choice((1, 1, 1, 2, 5, 10))
        method, end = self._chance.choice((("GET", ""), ("GET", ""), ("POST", "/receive")))
        maximum = f"?max={limit}" if limit > 1 else ""
        return Request("receive", queue, method, f"/queues/{queue}/messages{end}{maximum}", limit=limit)


def learned(request: Request, status: int = 0, answer: bytes = b"") -> tuple[Message, ...]:
    """The messages of a request, as far as its answer tells."""
    if request.operation == "send":
        if not status:
            return tuple(Message(None, one) for one in request.digests)
        assert status == 201, answer
        told = msgspec.json.decode(answer, type=Ids)
        ids = told.ids if told.id is None else (told.id,)
        return tuple(Message(*pair) for pair in zip(ids, request.digests, strict=True))
    assert status in (0, 200, 204), answer
    if status != 200:
        return ()
    if request.limit == 1:
        handed = [msgspec.json.decode(answer, type=Handed)]
    else:
        handed = msgspec.json.decode(answer, type=Page).messages
    return tuple(Message(one.id, digest(bytes(one.content))) for one in handed)


# --- rounds ---------------------------------------------------------------------------


def suffer(data_dir: Path | str, rounds: int, seed: int) -> tuple[History, list[str]]:
    """Run clients through so many kills; what they saw and what was left, and what is wrong in the store itself."""
    place, recorder, chance = Place(), Recorder(), random.Random(seed)
    roles = [f"producer {n}" for n in range(PRODUCERS)] + [f"consumer {n}" for n in range(CONSUMERS)]
    clients = [Client(role, seed, place, recorder) for role in roles]
    for client in clients:
        client.start()
    left: dict[str, tuple[Message, ...]] = {}
    wrong: list[str] = []
    try:
        fallen: tuple[int, int] | None = None
        for number in range(rounds + 1):
            with Server(data_dir) as server:
                for queue in QUEUES:
                    assert server.request("POST", "/queues", {"name": queue}).status in (200, 201)
                back = place.announce(server.port)
                if fallen:
                    recorder.kills.append(Kill(*fallen, back))
                if number < rounds:
                    is_early = number > 0 and chance.random() < EARLY_KILLS
                    fallen = kill(server, recorder, clients, chance.uniform(0, MAX_PAUSE_S), is_early)
                else:
                    end(place, clients)
                    left = {queue: drain(server, queue) for queue in QUEUES}
                    assert server.stop() == 0
                    assert server.errors() == ""
            if isinstance(data_dir, Path):
                wrong += [f"after round {number}: {sentence}" for sentence in findings(data_dir)]
    finally:
        end(place, clients)
    return recorder.history(left), wrong


def kill(server: Server, recorder: Recorder, clients: list[Client], pause_s: float, is_early: bool) -> tuple[int, int]:
    """Kill the server after a good deal of work, unless early, and a pause; when it was sent and had effect."""
    begin = len(recorder.operations)

    def is_enough() -> bool:
        done = Counter[str]()
        for operation in recorder.operations[begin:]:
            done[operation.operation] += len(operation.messages) * (operation.outcome == "ok")
        return min(done["send"], done["receive"]) >= ROUND_MESSAGES or any(client.failure for client in clients)

    if not is_early:
        wait_until(is_enough, 60)
    time.sleep(pause_s)
    sent = monotonic_ns()
    server.kill()
    return sent, monotonic_ns()


def end(place: Place, clients: list[Client]) -> None:
    """Let the clients finish what they do. Raises what one of them failed with."""
    place.end()
    for client in clients:
        client.join(2 * REQUEST_SECONDS)
        assert not client.is_alive()
        if client.failure:
            raise client.failure


def drain(server: Server, queue: str) -> tuple[Message, ...]:
    request = Request("receive", queue, "GET", f"/queues/{queue}/messages?max=100", limit=100)
    messages: list[Message] = []
    while (reply := server.request(request.method, request.path)).status == 200:
        messages += learned(request, reply.status, reply.body)
    assert reply.status == 204
    return tuple(messages)


def figures(history: History) -> Counter[str]:
    """How much happened, so that a test can tell that it has tested something."""
    counted = Counter[str]()
    for one in history.operations:
        counted[f"{one.outcome} {one.operation}s"] += 1
        if one.outcome == "ok":
            counted[f"messages of ok {one.operation}s"] += len(one.messages)
    unknown = [one for one in history.operations if one.outcome == "unknown"]
    counted["kills"] = len(history.kills)
    counted["kills that cut requests off"] = sum(
        any(one.invoked < kill.sent < one.returned for one in unknown) for kill in history.kills
    )
    left = [message for messages in history.left.values() for message in messages]
    counted["messages left"] = len(left)
    known = {"send": set[str](), "receive": {message.digest for message in left}}
    for one in history.operations:
        known[one.operation].update(message.digest for message in one.messages if one.outcome == "ok")
    counted["messages whose receive was cut off"] = len(known["send"] - known["receive"])
    counted["messages whose send was cut off"] = len(known["receive"] - known["send"])
    return counted


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("CRASH_SEED") or time.time_ns() % 1_000_000)
    print(f"CRASH_SEED={chosen}")
    return chosen


@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_what_was_acknowledged_outlives_any_kill(tmp_path: Path, seed: int, rounds: int) -> None:
    history, wrong = suffer(tmp_path / "data", rounds, seed)
    counted = figures(history)
    print(dict(counted))
    wrong += check(history)
    assert not wrong, "\n".join(wrong[:20])
    assert counted["kills"] == rounds
    assert counted["kills that cut requests off"] >= 0.8 * rounds
    assert counted["unknown sends"] >= rounds
    assert counted["unknown receives"] >= rounds
    assert counted["messages of ok sends"] >= rounds * ROUND_MESSAGES / 2
    assert counted["messages of ok receives"] >= rounds * ROUND_MESSAGES / 2


def test_the_same_rounds_on_a_store_that_forgets_are_found_out(seed: int) -> None:
    history, _ = suffer("memory:", 3, seed)
    lost = [sentence for sentence in check(history) if "acknowledged to" in sentence and "is lost" in sentence]
    print(f"{len(lost)} messages that were acknowledged are missed")
    assert len(lost) >= 3


def test_a_kill_while_it_starts_does_no_harm(tmp_path: Path, seed: int) -> None:
    data_dir, chance = tmp_path / "data", random.Random(seed)
    command = [sys.executable, "-m", "tq", "serve", "--port", "0", "--data-dir", str(data_dir)]
    for round_number in range(12):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as starting:
            time.sleep(chance.uniform(0.05, 0.3))
            starting.send_signal(signal.SIGKILL)
        if round_number == 7:
            with Server(data_dir) as server:
                assert server.request("POST", "/queues", {"name": "q"}).status == 201
                assert server.request("POST", "/queues/q/messages", {"content": "kept"}).status == 201
                server.kill()
    with Server(data_dir) as server:
        assert server.request("GET", "/queues/q/messages").json["content"] == "kept"
    assert findings(data_dir) == []
