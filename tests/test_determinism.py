"""The same commands leave the same bytes, in each engine, in each process and in groups of any size."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import compress, groupby
from pathlib import Path
from typing import Any

import pytest

from tests.engines import dump, open_engine
from tests.harness import ROOT
from tq import errors, keys, lifecycle, model
from tq.model import CreateQueue, DeleteQueue, Draft, PurgeQueue, Receive, Send, Sent, Sweep

NOW_MS = 1_700_000_000_000


class Author:
    """Writes a log of commands by chance, and shows in it what an engine handed out for those before."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.log: list[tuple[int, model.Command]] = []
        self.accepted: set[type] = set()
        self.receipts = [("a", "r" + "A" * 22)]
        self.received = [model.Received(queue="a")]
        self.sent = [("a", 1)]

    def write(self, length: int) -> None:
        store = open_engine("memory", Path())
        now_ms = NOW_MS
        for kind in self.chance.choices(list(MAKERS), [weight for weight, _ in MAKERS.values()], k=length):
            now_ms += self.chance.choice([0] * 9 + [1, 700, 1_000])
            command = MAKERS[kind][1](self, self.chance.choice(["a", "a", "b", "f.fifo"]))
            [result] = store.commit([command], now_ms)
            self.log.append((now_ms, command))
            if not isinstance(result, errors.TqError):
                self.accepted.add(kind)
            if isinstance(result, model.Received) and result.messages:
                self.received.append(result)
                self.receipts += [(result.queue, m.receipt) for m in result.messages if m.receipt]
            if isinstance(command, Send) and isinstance(result, Sent):
                self.sent += [(command.queue, message_id) for message_id in result.ids]

    def draft(self, name: str) -> Draft:
        choice = self.chance.choice
        is_fifo = name.endswith(".fifo")
        return Draft(
            self.chance.randbytes(choice([0, 9, 9, 5_000])),
            choice([None, "text/plain"]),
            delay_ms=None if is_fifo else choice([None, None, None, 700]),
            ttl_ms=choice([None, None, None, 1_500]),
            priority=0 if is_fifo else choice([0, 0, 9]),
            group=choice(["g", "h"] if is_fifo else [None, None, "g", "h"]),
            dedup_id=choice([None, None, "d", "e"]),
            headers=choice([None, {"h": "v", "i": "w"}]),
            attributes=choice([None, {"n": model.Attribute("Number", "1"), "b": model.Attribute("Binary", b"1")}]),
            notes=choice([None, {"k": "v", "l": "w"}]),
        )

    def drafts(self, name: str) -> tuple[Draft, ...]:
        return tuple(self.draft(name) for _ in range(self.chance.randint(1, 3)))

    def settings(self, name: str) -> model.QueueSettings:
        letter = model.DeadLetter("c", self.chance.randint(1, 2), on_expiry=True, on_receive=name != "a")
        return model.QueueSettings(
            fifo=name.endswith(".fifo"),
            content_dedup=name.endswith(".fifo"),
            delay=self.chance.choice([0, 0, 1]),
            max_messages=self.chance.choice([None, 9]),
            overflow="drop_oldest",
            dead_letter=letter if name != "c" else None,
            dedup_window=1,
        )

    def settle(self) -> model.Settle:
        name, receipt = self.chance.choice(self.receipts[-4:])
        some = [model.Ack(receipt), model.Extend(receipt, 700), model.Release(receipt, 700), model.Reject(receipt)]
        return model.Settle(name, tuple(self.chance.choices(some, k=2)), self.chance.choice([True, False]))

    def transaction(self, name: str) -> model.Transaction:
        return model.Transaction((self.chance.choice(self.receipts[-4:]),), ((name, self.draft(name)),))

    def patch(self, name: str) -> model.PatchQueue:
        notes: dict[str, str | None] = {"k": self.chance.choice([None, "v"])}
        return model.PatchQueue(name, model.SettingsChange(ttl=self.chance.choice([1, 2])), notes)

    def receive(self, name: str) -> Receive:
        choice = self.chance.choice
        visibility_ms = choice([None, 500, 5_000])
        return Receive((name,), self.chance.randint(1, 3), visibility_ms, attempt_id=choice([None, "x", "y"]))

    def load(self, name: str) -> model.Load:
        draft = self.draft(name)
        group, ids = draft.group, ("d", "e")
        message = model.Message(1, draft.content, None, NOW_MS, 1, 0, group, draft.headers, dedup_id=draft.dedup_id)
        forgotten_ms = NOW_MS + 100_000
        parts = (
            model.LoadedMessage(name, message, forgotten_ms),
            model.LoadedId(name, self.chance.choice(ids), forgotten_ms),
        )
        return model.Load(f"dump {self.chance.random()}", 0, 3, parts)

    def unreceive(self) -> model.Unreceive:
        received = self.received.pop() if len(self.received) > 1 else self.received[0]
        return model.Unreceive(received.queue, received.messages)


MAKERS: dict[type, tuple[int, Callable[[Author, str], model.Command]]] = {
    CreateQueue: (4, lambda by, name: CreateQueue("c")),
    model.PutQueue: (3, lambda by, name: model.PutQueue(name, by.settings(name))),
    model.PatchQueue: (1, lambda by, name: by.patch(name)),
    DeleteQueue: (1, lambda by, name: DeleteQueue(name, by.chance.choice([True, False]))),
    PurgeQueue: (1, lambda by, name: PurgeQueue(name)),
    Sweep: (3, lambda by, name: Sweep(5)),
    model.Probe: (1, lambda by, name: model.Probe()),
    Send: (16, lambda by, name: Send(name, by.drafts(name))),
    Receive: (16, lambda by, name: by.receive(name)),
    model.Unreceive: (2, lambda by, name: by.unreceive()),
    model.Settle: (8, lambda by, name: by.settle()),
    model.Cancel: (3, lambda by, name: model.Cancel(*by.chance.choice(by.sent[-4:]))),
    model.Redrive: (3, lambda by, name: model.Redrive("c", by.chance.choice([None, name]), 2)),
    model.StartMove: (4, lambda by, name: model.StartMove("c", "m", by.chance.choice([None, name]))),
    model.CancelMove: (2, lambda by, name: model.CancelMove("c", "m")),
    model.MoveSome: (4, lambda by, name: model.MoveSome("c", "m", by.chance.randint(1, 3))),
    model.Transaction: (8, lambda by, name: by.transaction(name)),
    model.Tick: (8, lambda by, name: model.Tick(by.chance.choice([1, 100]))),
    model.Load: (2, lambda by, name: by.load(name)),
    model.SetClock: (1, lambda by, name: model.SetClock(by.chance.choice([0, 1_500]))),
}


def a_log(seed: int) -> list[tuple[int, model.Command]]:
    author = Author(seed)
    author.write(800)
    assert author.accepted == lifecycle._APPLY.keys(), "a log must have every command in it"
    return author.log


def replay(kind: str, path: Path, log: list[tuple[int, model.Command]], group_size: int) -> tuple[Any, list[Any]]:
    """Everything an empty engine holds after the log, and its results; what happens at one time goes in such groups."""
    store = open_engine(kind, path)
    results: list[Any] = []
    for now_ms, entries in groupby(log, lambda entry: entry[0]):
        commands = [command for _, command in entries]
        for first in range(0, len(commands), group_size):
            results += store.commit(commands[first : first + group_size], now_ms)
    contents = store.read(dump)
    store.close()
    return contents, [str(result) if isinstance(result, Exception) else result for result in results]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_commands_leave_the_same_bytes(tmp_path: Path, seed: int) -> None:
    """In each engine and, as long as they are at the same times, in groups of any size."""
    log = a_log(seed)
    first, results = replay("lmdb", tmp_path / "1", log, 1_000)
    assert {keys.CHUNKS, keys.DUE, keys.DEDUP, keys.GROUPS, keys.MOVES} <= first.keys()
    assert replay("lmdb", tmp_path / "2", log, 1_000) == (first, results)
    assert replay("memory", tmp_path, log, 1_000) == (first, results)
    # How many became ready is counted for the group, and only that tells the groups apart.
    is_told = [not isinstance(command, model.Tick) for _, command in log]
    for group_size in (1, 3):
        regrouped, regrouped_results = replay("lmdb", tmp_path / f"of {group_size}", log, group_size)
        assert regrouped == first
        assert list(compress(regrouped_results, is_told)) == list(compress(results, is_told))


def test_another_process_leaves_the_same_bytes(tmp_path: Path) -> None:
    """Python orders sets of strings otherwise in each process."""
    code = "from tests import test_determinism as t; print(t.replay('memory', None, t.a_log(7), 3))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert len(outputs[0]) > 10_000
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("path", sorted((ROOT / "tq" / "lifecycle").glob("*.py")), ids=lambda path: path.stem)
def test_lifecycle_can_see_no_clock_and_no_chance(path: Path) -> None:
    allowed = {"__future__", "collections", "collections.abc", "contextlib", "heapq", "itertools", "re", "typing", "tq"}
    allowed |= {"msgspec", "msgspec.structs", "hashlib"}
    tree = ast.parse(path.read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name if not name.startswith("tq.") else "tq" for name in found if name} <= allowed
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "id", "hash", "eval", "exec", "__import__", "globals"}
