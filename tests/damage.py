"""Damage to a data file, and what a broker makes of it: each case in a process of its own, which may die of it.

`python -m tests.damage DIRECTORY` reads cases from its input, a JSON list of edits `[offset, hex]` in each line, and
answers each with a line of JSON: what the first server found, and as long as that was its end, what the next one found.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.harness import open_store
from tests.lively import NOW_MS, QUEUES
from tq import model
from tq.broker import Broker
from tq.clock import TimerClock
from tq.errors import EXIT_DATA, StartError, StorageDamaged, TqError
from tq.settings import Settings

LATER_MS = NOW_MS + 40 * 86_400_000  # every lease, delay and lifetime is over
MAX_ASKED = 300  # receives of one queue; a sound one is empty after a tenth of them
ROUNDS = 3  # what expires when another is received goes to the dead letters of another queue
HANG_SECONDS = 20
SERVERS = 4  # one after the other, until one is refused or served to the end


async def _drain(broker: Broker, name: str, seen: dict[str, Any]) -> None:
    """Take everything out of a queue."""
    out = seen["out"].setdefault(name, [])
    for _ in range(MAX_ASKED):
        received = await broker.call(model.Receive((name,), 3))
        if not received.messages and not received.is_cut_short:
            break
        out += [message.content.hex() for message in received.messages]
    else:
        seen["endless"].append(name)
    info = await broker.call(model.GetQueue(name))
    seen["left"][name] = sum(info.messages.__getattribute__(state) for state in model.STATES)
    seen["quarantined"][name] = info.counters.quarantined


async def _serve(path: Path, at_ms: int) -> dict[str, Any]:
    seen: dict[str, Any] = {"out": {}, "left": {}, "quarantined": {}, "errors": {}, "endless": []}
    try:
        store = open_store(path, watches_faults=True)
    except StartError as refusal:
        return {"refused": str(refusal), "code": refusal.exit_code}
    try:
        broker = Broker(store, Settings(), TimerClock(0, 0, lambda: at_ms, lambda: at_ms))
    except StorageDamaged as damage:
        return {"refused": damage.detail, "code": EXIT_DATA}
    try:
        await broker.call(model.ListQueues())
        await broker.call(model.GetStatus())
        await broker.call(model.PatchQueue("limited", model.SettingsChange(paused=False)))
    except TqError as error:
        seen["errors"][""] = error.code
    for name in [*QUEUES] * ROUNDS:
        try:
            await _drain(broker, name, seen)
        except TqError as error:
            seen["errors"][name] = error.code
    seen["failed"] = broker.failed.is_set()
    await broker.close()
    return seen


def look(path: Path, at_ms: int = LATER_MS) -> dict[str, Any]:
    """Drain every queue of a data directory at a time, in this process."""
    return asyncio.run(_serve(path, at_ms))


def contents(found: dict[str, Any]) -> Counter[str]:
    return Counter(content for out in found["out"].values() for content in out)


def untold(found: dict[str, Any], sound: dict[str, Any]) -> list[str]:
    """What nobody was told of, where `sound` is what came out of an undamaged copy."""
    wrong = [f"{name} never ends" for name in found["endless"]]
    invented = contents(found).keys() - contents(sound).keys()
    missing = (contents(sound) - contents(found)).total()
    quarantined = sum(found["quarantined"].values()) - sum(sound["quarantined"].values())
    is_told = found["failed"] or found["errors"] != sound["errors"]
    if invented:
        wrong.append(f"never sent: {invented}")
    if missing > quarantined + sum(found["left"].values()) and not is_told:
        wrong.append(f"{missing} are missing, {quarantined} in quarantine")
    return wrong


def _try(sound: Path, copy: Path, edits: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """Damage a copy and look at it."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sound, copy)
    with (copy / "data.mdb").open("r+b") as file:
        for offset, new in edits:
            file.seek(offset)
            file.write(bytes.fromhex(new))
    founds: list[dict[str, Any]] = []
    while len(founds) < SERVERS:
        founds.append(_look_apart(copy))
        if not ("signal" in founds[-1] or founds[-1].get("failed")):
            break
    return founds


def _look_apart(copy: Path) -> dict[str, Any]:
    """`look` in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(HANG_SECONDS)
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            try:
                json.dump(look(copy), pipe)
            except BaseException as error:
                json.dump({"raised": repr(error)}, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"signal": signal.Signals(os.WTERMSIG(status)).name}
    found: dict[str, Any] = json.loads(text)
    return found


if __name__ == "__main__":
    logging.disable()
    directory = Path(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(_try(directory / "sound", directory / "copy", json.loads(line))), flush=True)
