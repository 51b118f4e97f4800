"""The Python client next to the raw loader: the same work on the same server, in messages a second.

Both are one process. The loader sends requests that were made beforehand and only scans the answers; what the client
does more is to make each request, to read each answer, and all that keeps a message from being lost or doubled.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.client_load import LEASE_S, ClientFound, ClientWork
from benchmarks.load import Failed, HttpRequest, Loader, output, run_raw
from benchmarks.loader import Work
from benchmarks.measure import Plan, Spread, Step, new_setup, spread
from benchmarks.server import Client
from benchmarks.sqs import with_receipts
from benchmarks.systems import Setup, Tq, start_tq
from benchmarks.wires import TOKEN
from benchmarks.wires import Step as Exchange

IN_FLIGHT = 32
PAGE = 100  # messages that the loader takes and acknowledges together, as `consume` does
PRELOAD_PER_SECOND = 60_000  # messages that can be received for each second; should they be too few, the cell fails
RAW = "raw loader"


class Cell(Struct, frozen=True):
    """What is done by the loader, over so many connections with so many messages in a request, and by which of
    `client_load.LOADS`, with so many at a time."""

    name: str
    connections: int
    size: int
    loads: dict[str, str]


CELLS = (
    Cell("send", 1, 1, {"Client": "send"}),
    Cell("send, 32 in flight", IN_FLIGHT, 1, {"AsyncClient": "async send"}),
    Cell("receive, ack", 1, 1, {"Client": "receive"}),
    Cell("receive, ack, 32 in flight", IN_FLIGHT, 1, {"AsyncClient": "async receive"}),
    Cell("consume", 1, PAGE, {"Client.consume": "consume", "AsyncClient.consume": "async consume"}),
    Cell("send_many of 100", 1, 100, {"Client": "send_many", "AsyncClient": "async send_many"}),
    Cell("send_many of 1,000", 1, 1_000, {"Client": "send_many", "AsyncClient": "async send_many"}),
)


class ClientFigures(Struct, frozen=True):
    """A cell by one of those who do it. `cores` is what its process used; `ratio` is of messages/s to the loader's."""

    cell: str
    who: str
    messages_per_s: Spread
    cores: Spread
    ratio: Spread | None


class _Rate(Struct, frozen=True):
    messages_per_s: float
    cores: float


def client_steps(plan: Plan) -> int:
    return 1 + plan.repeats * sum(1 + len(cell.loads) for cell in CELLS)


def compare_client(plan: Plan, loader: Loader, directory: Path, step: Step) -> list[ClientFigures]:
    """Raises Failed."""
    rates: dict[tuple[str, str], list[_Rate]] = defaultdict(list)
    with start_tq(new_setup(plan, loader, directory, "client")) as tq:
        with step("warming up"):
            tq.fill("warm", int(PRELOAD_PER_SECOND * plan.warm_up_s))
        for _ in range(plan.repeats):
            for cell in CELLS:
                for who, load in ((RAW, None), *cell.loads.items()):
                    with step(f"{cell.name}, {who}"):
                        rates[cell.name, who].append(_measure(tq, cell, load, plan.duration_s))
    return [
        ClientFigures(
            cell,
            who,
            spread(one.messages_per_s for one in found),
            spread(one.cores for one in found),
            None if who == RAW else _ratio(found, rates[cell, RAW]),
        )
        for (cell, who), found in rates.items()
    ]


def _ratio(ours: list[_Rate], theirs: list[_Rate]) -> Spread:
    return spread(our.messages_per_s / their.messages_per_s for our, their in zip(ours, theirs, strict=True))


def _measure(tq: Tq, cell: Cell, load: str | None, duration_s: float) -> _Rate:
    """One cell by the loader or by a client, checked against the queue's own count."""
    is_send = cell.name.startswith("send")
    queue = "sent" if is_send else "taken"
    tq.fill(queue, 0 if is_send else int(PRELOAD_PER_SECOND * duration_s))
    counter = "sent" if is_send else "acked"
    with Client(tq.port) as client:
        before = client.json("GET", f"/queues/{queue}")["totals"][counter]
        rate, messages = _run(tq, cell, load, queue, duration_s)
        done = client.json("GET", f"/queues/{queue}")["totals"][counter] - before
        if done != messages:
            raise Failed(f"{messages} messages were said to be done and the queue counts {done} ({cell.name}, {load})")
        if is_send:
            client.json("DELETE", f"/queues/{queue}/messages")
    return rate


def _run(tq: Tq, cell: Cell, load: str | None, queue: str, duration_s: float) -> tuple[_Rate, int]:
    """What came of it, and how many messages it was."""
    if load is None:
        exchanges = _exchanges(tq.setup, f"http://127.0.0.1:{tq.port}/queues/{queue}", cell)
        sample = run_raw(Work(tq.port, "HTTP", exchanges, cell.connections, duration_s))
        messages = sample.requests // len(exchanges) * cell.size
        return _Rate(messages / sample.seconds, sample.loader_cores or 0), messages
    size = max(cell.connections, cell.size)
    work = ClientWork(load, tq.port, queue, size, tq.setup.content_bytes, duration_s)
    command = [sys.executable, "-m", "benchmarks.client_load"]
    text, _ = output(command, duration_s, msgspec.json.encode(work).decode())
    found = msgspec.json.decode(text, type=ClientFound)
    return _Rate(found.messages / found.seconds, found.cpu_s / found.seconds), found.messages


def _exchanges(setup: Setup, url: str, cell: Cell) -> list[Exchange]:
    """The requests of a round of the loader."""
    if cell.name.startswith("send"):
        body = "\n".join([setup.envelope] * cell.size)
        media_type = "application/json" if cell.size == 1 else "application/x-ndjson"
        return [HttpRequest("POST", f"{url}/messages", body, media_type).as_step()]
    lease = f"{url}/messages?visibility_timeout={LEASE_S}"
    if cell.size == 1:
        steps = (HttpRequest("GET", lease), HttpRequest("DELETE", f"{url}/messages/{TOKEN.decode()}"))
        return [step.as_step() for step in steps]
    acks = msgspec.json.encode({"receipts": [TOKEN.decode()] * cell.size}).decode()
    requests = (HttpRequest("GET", f"{lease}&max={cell.size}"), HttpRequest("POST", f"{url}/acks", acks))
    return [with_receipts(requests[0], cell.size), with_receipts(requests[1], 0)]
