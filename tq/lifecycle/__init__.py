"""What a message may do: the only code that changes its state.

                    send                          receive                      ack
    (draft) ──┬────────────────▶ ready ◀─────────────────────▶ in flight ─────────────▶ (gone)
              │                  ▲   ▲ │    release, timeout     │ │ │
              │  delay           │   │ │ receive without lease   │ │ └─ release with a delay ─▶ delayed
              ├─────▶ delayed ───┘   │ └────────────────▶ (gone) │ │
              │       time is over   │                           │ └─ reject, or the last of `max_receives`
              │  group is busy       │                           │          └─▶ ready in the dead-letter queue
              └─────▶ blocked ───────┘                           └─ TTL over when it comes back ─▶ (expired)
                      the one before is gone

    Ready, delayed and blocked messages expire when their time to live is over; purge, cancel and `drop_oldest` end them
    too. A message that is found damaged goes to quarantine. `redrive` leads back out of a dead-letter queue.

`apply` runs a group of commands on one transaction, `answer` looks something up. Both are deterministic: no clock, no
chance, no input or output but the transaction. The rules that make a group safe to run, and to run again:

- **Validate first, write last.** A command that is refused has written nothing, so its neighbours in the group stand.
- **A queue's record is kept in memory while a group runs and written once**, when the group is done.
- **Bounded work.** No command touches more than a bounded number of messages; what is longer goes in slices.

The phases of a message's life each have a module: `sending`, `receiving`, `settling`, `timers`, `moving`; `queues`,
`looking` and `loading` beside them; `places` moves messages and `group` is what one transaction shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tq import model
from tq.errors import StorageDamaged, TqError
from tq.lifecycle import loading, looking, moving, queues, receiving, sending, settling, timers
from tq.lifecycle.group import Group
from tq.store import Tx

MAX_SPACES = model.MAX_QUEUES + queues.MAX_GARBAGE + 16  # the 16: those that queues share


def apply(tx: Tx, commands: Sequence[model.Command], now_ms: int, *, max_queues: int = model.MAX_QUEUES) -> list[Any]:
    """Run the commands in order. Each gives its result or the TqError it was refused with.

    `max_queues` may be another one at another start: a queue that is there stays.
    """
    group = Group(tx, now_ms, max_queues)
    results: list[Any] = []
    for command in commands:
        try:
            results.append(_APPLY[type(command)](group, command))
        except StorageDamaged:
            raise
        except TqError as refusal:
            results.append(refusal)
    group.write_records()
    return results


def answer(tx: Tx, query: model.Query, now_ms: int) -> Any:
    """The result of a query. Raises the TqErrors that its class names."""
    return _ANSWER[type(query)](Group(tx, now_ms), query)


_APPLY: dict[type, Callable[[Group, Any], Any]] = {
    model.CreateQueue: queues.create,
    model.PutQueue: queues.put,
    model.PatchQueue: queues.patch,
    model.DeleteQueue: queues.delete,
    model.PurgeQueue: queues.purge,
    model.Sweep: queues.sweep,
    model.Probe: queues.probe,
    model.Send: sending.send,
    model.Receive: receiving.receive,
    model.Unreceive: receiving.unreceive,
    model.Settle: settling.settle,
    model.Cancel: settling.cancel,
    model.Redrive: moving.redrive,
    model.StartMove: moving.start,
    model.CancelMove: moving.cancel,
    model.MoveSome: moving.move_some,
    model.Transaction: settling.transact,
    model.Tick: timers.tick,
    model.SetClock: timers.set_clock,
    model.Load: loading.load,
}

_ANSWER: dict[type, Callable[[Group, Any], Any]] = {
    model.GetQueue: looking.get_queue,
    model.ListQueues: looking.list_queues,
    model.GetTotals: looking.get_totals,
    model.GetFigures: looking.get_figures,
    model.GetMessage: looking.get_message,
    model.Peek: looking.peek,
    model.GetClock: looking.get_clock,
    model.GetLoaded: loading.get_loaded,
    model.ListMoves: moving.list_moves,
    model.ListSources: looking.list_sources,
}
