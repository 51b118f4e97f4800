"""kill -9 at any moment, under load: what was acknowledged is there once, whole and in order, and nothing else is.

Clients in threads work as fast as they can while the server is killed and started again on the same directory; before
many kills it is stopped with SIGSTOP for a while, and goes on or not. Some clients send and remove messages
(`tests.removing`), others take them through leases, transactions and dead letters (`tests.leasing`), others purge,
cancel, reject and redrive them or let them expire (`tests.ending`), each on queues of their own. `tests.history`,
`tests.leases` and `tests.endings` judge what they saw. The moments of the kills and what each client does come from a
seed, which is printed; CRASH_SEED repeats one (the machine's own timing it cannot repeat).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from time import monotonic, monotonic_ns
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from tests import ending, leasing, removing
from tests.clients import Client, Place
from tests.endings import Act, Endings, check_endings
from tests.harness import ROOT, START_SECONDS, Server, findings, wait_until
from tests.history import History, Kill, Recorder, check
from tests.leases import Lives, Request, check_lives

ROUND_MESSAGES = 60  # sent and removed at least, before most kills
ROUND_ACKS = 25
EARLY_KILLS = 0.2  # of them do not wait for that
MAX_PAUSE_S = 0.2  # and then the kill comes at a moment within this
AIMS = ("/transactions", "/transactions", "/acks", "/acks", "")  # what a kill waits to be under way; "": for nothing
MAX_AIM_S = 0.003  # about as long as those take
STOPS_S = (0, 0, 0, 0, 0.1, 0.7, 0.7, 2.5)  # and then it may be stopped for up to so long: some or all leases run out
RESTART_S = 4  # ten times as long as a restart takes; nine of ten must be within it, on a machine that is busy

ENOUGH = {
    "acks: ok": 12,
    "acks: unknown": 1,
    "acks: stale_receipt": 2,
    "acks: message_not_found": 1,
    "extends: ok": 1,
    "releases: ok": 1,
    "leases after the first": 8,
    "leases of dead letters": 0.5,
    "ok transacts": 1,
    "unknown receives": 1,
    "unknown sends": 0.25,
    "unknown settles": 0.5,
    "unknown transacts": 0.1,
    "delayed": 1,
    "grouped": 5,
    "sends found to be repeated": 0.25,
    "cancel: ok": 1,
    "purge: ok": 1,
    "delete: ok": 1,
    "redrive: ok": 1,
    "reject: ok": 2,
    "messages of take: ok": 20,
    "lease: fail": 0.25,
    "reject: unknown": 0.05,
}
"""Of what leasers and enders must have done for the test to mean anything: how often for each kill at least. What was
too rare is waited for with more kills: how many requests a kill cuts off is up to the machine."""
MORE_KILLS = 3  # times as many at the most


class Suffered(Struct):
    """`wrong`: what was found in the store itself, between the servers. `restarts_s`: from the start of a process until
    it had committed something."""

    history: History
    lives: Lives
    endings: Endings
    wrong: list[str]
    restarts_s: list[float]

    def mistakes(self) -> list[str]:
        return self.wrong + check(self.history) + check_lives(self.lives) + check_endings(self.endings)

    def answered(self) -> Suffered:
        """The same, had nobody asked what got no answer."""

        def known(requests: Any) -> tuple[Any, ...]:
            return tuple(one for one in requests if one.outcome != "unknown")

        return replace(
            self,
            history=replace(self.history, operations=known(self.history.operations), kills=()),
            lives=replace(self.lives, requests=known(self.lives.requests), kills=()),
            endings=replace(self.endings, acts=known(self.endings.acts), kills=()),
        )


Fell = Callable[[Server, random.Random, Sequence[Client]], tuple[int, int]]
"""Ends a server under load. When that began, and when it was over."""


def strike(server: Server, chance: random.Random, clients: Sequence[Client]) -> tuple[int, int]:
    """Kill it at some moment; before that it may stand still for a while."""
    time.sleep(chance.uniform(0, MAX_PAUSE_S))
    if aim := chance.choice(AIMS):
        wait_until(lambda: any(client.path.endswith(aim) or client.failure for client in clients), 60)
        time.sleep(chance.uniform(0, MAX_AIM_S))
    if stop_s := chance.choice(STOPS_S):
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0, stop_s))
        if chance.random() < 0.7:
            server.process.send_signal(signal.SIGCONT)
            time.sleep(chance.uniform(0, MAX_PAUSE_S))
    sent = monotonic_ns()
    server.kill()
    return sent, monotonic_ns()


def stop_gently(server: Server, chance: random.Random, _: Sequence[Client]) -> tuple[int, int]:
    """SIGTERM, and often more signals until it has ended."""
    time.sleep(chance.uniform(0, MAX_PAUSE_S))
    sent = monotonic_ns()
    server.process.send_signal(signal.SIGTERM)
    again = chance.choice((None, signal.SIGTERM, signal.SIGINT))
    while again and server.process.poll() is None:
        server.process.send_signal(again)
        time.sleep(0.001)
    assert server.process.wait(START_SECONDS) == 0
    assert server.complaints() == ""
    return sent, monotonic_ns()


def suffer(data_dir: Path | str, rounds: int, seed: int, most_rounds: int, fell: Fell = strike) -> Suffered:
    """Run clients through so many kills, and up to the most of them while something was too rare; then let them finish
    and take out what is left."""
    place, recorder, chance = Place(), Recorder(), random.Random(seed)
    requests: list[Request] = []
    acts: list[Act] = []
    clients = [
        *removing.removers(seed, place, recorder),
        *leasing.leasers(seed, place, requests),
        *ending.enders(seed, place, acts),
    ]
    for client in clients:
        client.start()
    wrong: list[str] = []
    restarts_s: list[float] = []
    try:
        fallen: tuple[int, int] | None = None
        is_last = False
        while not is_last:
            number = len(recorder.kills) + (fallen is not None)
            is_last = number >= most_rounds or (number >= rounds and not missing(requests, acts, rounds))
            is_last |= any(client.failure for client in clients)
            began_s = monotonic()
            with Server(data_dir) as server:
                assert server.request("GET", "/readyz").status == 200
                restarts_s.append(monotonic() - began_s)
                create_queues(server)
                back = place.announce(server.port)
                if fallen:
                    recorder.kills.append(Kill(*fallen, back))
                if not is_last:
                    is_early = number > 0 and chance.random() < EARLY_KILLS
                    if not is_early:
                        work(recorder, requests, clients)
                    fallen = fell(server, chance, clients)
                else:
                    end(place, clients)
                    left = removing.remove_all(server)
                    leasing.Leaser("the end", seed, place, requests).drain(server)
                    ended = {queue: leasing.counters(server, queue) for queue in leasing.QUEUES}
                    totals = ending.take_rest(server, seed, place, acts)
                    assert server.stop() == 0
                    assert server.complaints() == ""
            if isinstance(data_dir, Path):
                wrong += [f"after round {number}: {sentence}" for sentence in findings(data_dir)]
    finally:
        end(place, clients)
    kills = recorder.kills
    lives, endings = leasing.lives(requests, kills, ended), ending.endings(acts, kills, totals)
    return Suffered(recorder.history(left), lives, endings, wrong, restarts_s[1:])


def missing(requests: list[Request], acts: list[Act], rounds: int) -> list[str]:
    """What leasers and enders have done too rarely so far."""
    lived = leasing.life_figures(leasing.lives(list(requests), [], {})) + ending.ending_figures(list(acts))
    return [name for name, least in ENOUGH.items() if lived[name] < least * rounds]


def create_queues(server: Server) -> None:
    queues = [(name, {}) for name in removing.QUEUES] + list(leasing.QUEUES.items()) + list(ending.QUEUES.items())
    for name, settings in queues:
        assert server.request("POST", "/queues", {"name": name, **settings}).status in (200, 201)


def work(recorder: Recorder, requests: list[Request], clients: Sequence[Client]) -> None:
    """Wait until both kinds of clients have done a good deal."""
    operations, asked = len(recorder.operations), len(requests)
    wait_until(
        lambda: (
            any(client.failure for client in clients)
            or (
                removing.work_done(recorder.operations[operations:]) >= ROUND_MESSAGES
                and leasing.acks_done(requests[asked:]) >= ROUND_ACKS
            )
        ),
        60,
    )


def end(place: Place, clients: Sequence[Client]) -> None:
    """Let the clients finish what they do. Raises what one of them failed with."""
    place.end()
    for client in clients:
        client.finish()


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("CRASH_SEED") or time.time_ns() % 1_000_000)
    print(f"CRASH_SEED={chosen}")
    return chosen


@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_what_was_acknowledged_outlives_any_kill(tmp_path: Path, seed: int, rounds: int) -> None:
    began_s = monotonic()
    suffered = suffer(tmp_path / "data", rounds, seed, rounds * MORE_KILLS)
    counted, lived = removing.figures(suffered.history), leasing.life_figures(suffered.lives)
    print(f"{monotonic() - began_s:.0f} s")
    print(dict(counted))
    print(dict(sorted(lived.items())))
    print(dict(sorted(ending.ending_figures(list(suffered.endings.acts)).items())))
    *_, slow_s = quantiles(suffered.restarts_s, n=10)
    print(
        f"serving again after {median(suffered.restarts_s):.2f} s, nine of ten within {slow_s:.2f} s, "
        f"all within {max(suffered.restarts_s):.2f} s"
    )
    wrong = suffered.mistakes()
    assert not wrong, "\n".join(wrong[:20])
    assert slow_s < RESTART_S
    assert counted["kills"] >= rounds
    assert counted["kills that cut requests off"] >= 0.8 * counted["kills"]
    assert counted["unknown sends"] >= rounds
    assert counted["unknown receives"] >= rounds
    assert counted["messages of ok sends"] >= rounds * ROUND_MESSAGES / 2
    assert counted["messages of ok receives"] >= rounds * ROUND_MESSAGES / 2
    assert not missing(list(suffered.lives.requests), list(suffered.endings.acts), rounds)


def test_the_same_rounds_on_a_store_that_forgets_are_found_out(seed: int) -> None:
    suffered = suffer("memory:", 3, seed, 3)
    lost = [one for one in check(suffered.history) if "acknowledged to" in one and "is lost" in one]
    lost_lives = [one for one in check_lives(suffered.lives) if one.startswith("lost: ")]
    missed = [one for one in check_endings(suffered.endings) if "missing: " in one]
    print(f"{len(lost)}, {len(lost_lives)} and {len(missed)} messages that were acknowledged are missed")
    assert len(lost) >= 3
    assert len(lost_lives) >= 3
    assert len(missed) >= 3


def test_a_stop_under_load_loses_nothing_and_does_nothing_without_an_answer(tmp_path: Path, seed: int) -> None:
    suffered = suffer(tmp_path / "data", 3, seed, 3, stop_gently)
    counted = removing.figures(suffered.history)
    print(dict(counted))
    wrong = suffered.answered().mistakes()
    assert not wrong, "\n".join(wrong[:20])
    assert counted["kills"] == 3
    assert counted["messages of ok sends"] >= 3 * ROUND_MESSAGES / 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_until_it_is_gone_do_not_change_the_exit_code(start: Callable[..., Server], signum: int) -> None:
    server = start()
    server.process.send_signal(signal.SIGTERM)
    while server.process.poll() is None:
        server.process.send_signal(signum)
        time.sleep(0.0005)
    assert server.process.returncode == 0
    assert server.complaints() == ""


@pytest.mark.slow
def test_a_restart_takes_no_longer_with_a_backlog(tmp_path: Path) -> None:
    took_s: dict[int, float] = {}
    for backlog in (0, 1_000_000):
        data_dir = tmp_path / str(backlog)
        with Server(data_dir) as server:
            assert server.request("POST", "/queues", {"name": "q"}).status == 201
            for _ in range(backlog // 10_000):
                lines = b'{"content":1}\n' * 10_000
                headers = {"Content-Type": "application/x-ndjson"}
                assert server.request("POST", "/queues/q/messages", lines, headers).status == 201
            server.kill()
        took_s[backlog] = min(_restart_s(data_dir) for _ in range(5))
    print(took_s)
    assert took_s[1_000_000] < 2 * took_s[0]


def _restart_s(data_dir: Path) -> float:
    began_s = monotonic()
    with Server(data_dir) as server:
        assert server.request("POST", "/queues/q/messages", {"content": 1}).status == 201
        return monotonic() - began_s


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
