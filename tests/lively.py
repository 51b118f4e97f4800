"""A small store that has everything in it: every kind of record that `keys` draws, and free pages in between.

What is damaged on purpose (`tests/damage.py`) and what is kept of each format (`tests/make_format.py`) is made here,
with commands alone, but for the one message that is spoilt so that there is a quarantine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.engines import Do, open_engine
from tq import keys, model
from tq.model import Attribute, CreateQueue, DeadLetter, Draft, QueueSettings, Receive, Send
from tq.store.lmdb import LmdbStore

NOW_MS = 1_750_000_000_000  # 2025-06-15: all that ends is over by now
HOUR_MS = 3_600_000

QUEUES = {
    "plain": QueueSettings(visibility_timeout=60),
    "dead": QueueSettings(),
    "orders": QueueSettings(dead_letter=DeadLetter("dead", 1, on_expiry=True), ttl=30 * 86_400),
    "limited": QueueSettings(max_messages=50, max_bytes=10_000, overflow="drop_oldest", max_in_flight=7, paused=True),
    "kept": QueueSettings(retention=30 * 86_400, receive_wait=0.01, max_message_bytes=5_000),
    "grouped": QueueSettings(dedup_scope="group", content_dedup=True, dedup_window=3_600, delay=0.5),
    "strict.fifo": QueueSettings(fifo=True, content_dedup=True, dead_letter=None),
    "sqs-dead": QueueSettings(),
    "sqs": QueueSettings(dead_letter=DeadLetter("sqs-dead", 2, on_receive=True)),
    "purged": QueueSettings(),
    "gone": QueueSettings(),
}
NOTES = {"tag:team": "payments", "Policy": '{"Version":"2012-10-17"}'}


def body(queue: str, number: int, size: int = 40) -> bytes:
    """JSON text that is like no other."""
    return b'"%s %d %s"' % (queue.encode(), number, b"x" * size)


def fill(store: Any) -> None:
    """Run the commands that make the store what it is. Every result must be one."""

    def run(at_ms: int, *commands: model.Command) -> list[Any]:
        results: list[Any] = store.commit([model.Tick(50), *commands, model.Tick(0)], NOW_MS + at_ms)
        assert not [result for result in results if isinstance(result, Exception)], results
        return results[1:-1]

    for name, settings in QUEUES.items():
        run(0, CreateQueue(name, settings, NOTES if name.startswith("sqs") else {}))
    _send(run)
    _lease(run)
    _end(run)


def _send(run: Any) -> None:
    for number in range(60):
        run(number, Send("plain", (Draft(body("plain", number)),)))
    run(100, Send("plain", tuple(Draft(body("plain", 100 + n, size=9_000 * n)) for n in range(4))))
    run(110, Send("plain", (Draft(b"text", ""), Draft(bytes(range(256)), "application/octet-stream"))))
    run(120, Send("plain", tuple(Draft(body("plain", 200 + n), priority=n) for n in range(1, 10))))
    run(130, Send("plain", (Draft(body("plain", 300), headers={"trace": "é"}, delay_ms=HOUR_MS),)))
    run(140, Send("plain", (Draft(body("plain", 301), ttl_ms=HOUR_MS), Draft(body("plain", 302), dedup_id="one"))))
    large = {"large": "h" * 3_000}
    attributes = {"a": Attribute("Number", "1.5"), "b": Attribute("Binary", b"\0\xff")}
    run(150, Send("sqs", (Draft(body("sqs", 1), attributes=attributes, notes={"trace": "1-2"}),)))
    run(160, Send("sqs", (Draft(body("sqs", 2), headers=large, attributes=attributes, notes={"trace": "3-4"}),)))
    run(170, *[Send("sqs", (Draft(body("sqs", 3 + n)),)) for n in range(3)])
    for number in range(12):
        group = f"g{number % 3}"
        run(200 + number, Send("grouped", (Draft(body("grouped", number), group=group),)))
        run(200 + number, Send("strict.fifo", (Draft(body("strict", number), group=group),)))
    for name in ("orders", "limited", "kept", "purged", "gone"):
        run(300, Send(name, tuple(Draft(body(name, number), group="g" * (number % 2)) for number in range(8))))
    run(310, Send("purged", (Draft(body("purged", 9, size=6_000), dedup_id="purged", delay_ms=HOUR_MS),)))


def _lease(run: Any) -> None:
    [orders] = run(1_000, Receive(("orders",), 3, visibility_ms=HOUR_MS))
    acked, rejected, released = [message.receipt for message in orders.messages]
    run(1_010, model.Settle("orders", (model.Ack(acked), model.Reject(rejected, "no such customer"))))
    run(1_020, model.Settle("orders", (model.Release(released, HOUR_MS),)))
    run(1_030, Receive(("orders",), 1, visibility_ms=500))
    run(2_000)  # its lease is over: that was its last chance
    run(2_010, Send("orders", (Draft(body("orders", 20), ttl_ms=10),)))
    run(2_100)  # it expired
    run(2_200, Receive(("plain",), 5, visibility_ms=2 * HOUR_MS))
    run(2_210, Receive(("plain",), 3))  # removed
    [plain] = run(2_212, Receive(("plain",), 1, visibility_ms=HOUR_MS))
    run(2_214, model.Settle("plain", (model.Reject(plain.messages[0].receipt),)), model.Cancel("plain", 50))
    run(2_216, Send("plain", (Draft(body("plain", 302), dedup_id="one"),)))  # a duplicate
    run(2_218, Send("plain", (Draft(body("plain", 303), ttl_ms=10),)))  # it expires
    run(2_220, Receive(("sqs",), 1, visibility_ms=10))
    run(2_300)
    run(2_310, Receive(("sqs",), 1, visibility_ms=10, attempt_id="soon over"))
    run(2_400)
    run(2_410, Receive(("sqs",), 2, visibility_ms=HOUR_MS, attempt_id="again"))  # the first becomes a dead letter
    run(2_500, Receive(("strict.fifo",), 3, visibility_ms=HOUR_MS))
    run(2_510, Receive(("grouped",), 1, visibility_ms=HOUR_MS))
    run(2_520, Receive(("kept",), 1, visibility_ms=HOUR_MS))


def _end(run: Any) -> None:
    run(3_000, Send("dead", (Draft(body("dead", 1)), Draft(body("dead", 2)))))
    run(3_010, Do(lambda tx: _spoil(tx, keys.ready_space(2), 1)), Receive(("dead",), 1, visibility_ms=1))
    run(3_100)
    run(3_110, model.StartMove("sqs-dead", "done", "kept"), model.MoveSome("sqs-dead", "done", 100))
    run(3_120, model.MoveSome("sqs-dead", "done", 100))
    run(3_130, model.StartMove("sqs-dead", "stopped", None, 1), model.CancelMove("sqs-dead", "stopped"))
    run(3_140, model.StartMove("dead", "running", "kept", 100), model.MoveSome("dead", "running", 1))
    run(3_150, model.PurgeQueue("purged"), model.DeleteQueue("gone"))
    run(3_160, Send("purged", (Draft(body("purged", 10)),)))
    run(3_162, model.StartMove("purged", "homeless"), model.MoveSome("purged", "homeless", 9))  # it fails
    for at_ms in (3_170, 3_190, 3_210):  # the last one makes it a dead letter, which stays
        run(at_ms, Receive(("sqs",), 1, visibility_ms=10))
    run(3_230, model.SetClock(0, model.Boot("another machine", NOW_MS)), model.Probe())
    run(3_240, model.Load("of another store", 0, 1, ()))


def _spoil(tx: Any, space: str, number: int) -> None:
    """Flip a bit of a record, as a disk might."""
    [(key, value)] = list(tx.space(space).scan())[number - 1 : number]
    tx.space(space).put(key, value[:-1] + bytes([value[-1] ^ 1]))


def make(path: Path) -> LmdbStore:
    """The store, open."""
    store = open_engine("lmdb", path)
    fill(store)
    assert isinstance(store, LmdbStore)
    return store
