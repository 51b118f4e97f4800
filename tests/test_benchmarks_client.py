"""The client's benchmark counts what is so. How fast anything is, is not asserted anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks import client
from benchmarks.client import CELLS, RAW, Cell, compare_client
from benchmarks.client_load import LOADS, ClientWork
from benchmarks.load import Failed, OwnLoader
from benchmarks.measure import Plan
from benchmarks.report import _client
from benchmarks.systems import Setup, Tq, start_tq

CONTENT_BYTES = 100
PLAN = Plan(repeats=1, duration_s=0.1, warm_up_s=0, content_bytes=CONTENT_BYTES)


@pytest.fixture(scope="module")
def tq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tq]:
    with start_tq(Setup(tmp_path_factory.mktemp("client"), OwnLoader(), CONTENT_BYTES)) as running:
        yield running


def test_each_load_is_some_cell_s() -> None:
    assert {load for cell in CELLS for load in cell.loads.values()} == LOADS.keys()


@pytest.mark.parametrize("load", LOADS)
def test_a_load_counts_what_the_queue_counts(tq: Tq, load: str) -> None:
    """And leaves nothing leased."""
    is_send, queue = "send" in load, load.replace(" ", "-")
    tq.fill(queue, 0 if is_send else 5_000)
    work = ClientWork(load, tq.port, queue, 10, CONTENT_BYTES, 0.1)
    found = LOADS[load](work)
    with client.Client(tq.port) as asking:
        told = asking.json("GET", f"/queues/{queue}")
    assert found.messages == told["totals"]["sent" if is_send else "acked"] > 0
    assert told["messages"]["in_flight"] == 0
    assert found.seconds > 0
    if is_send:
        assert told["bytes"] == found.messages * CONTENT_BYTES


def test_a_run_has_each_cell_by_each_of_those_who_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = (
        Cell("send, 2 in flight", 2, 1, {"AsyncClient": "async send"}),
        Cell("consume", 1, 10, {"Client.consume": "consume"}),
    )
    monkeypatch.setattr(client, "CELLS", cells)
    entered: list[str] = []

    def step(doing: str) -> nullcontext[None]:
        entered.append(doing)
        return nullcontext()

    found = compare_client(PLAN, OwnLoader(), tmp_path, step)
    assert [(one.cell, one.who) for one in found] == [
        ("send, 2 in flight", RAW),
        ("send, 2 in flight", "AsyncClient"),
        ("consume", RAW),
        ("consume", "Client.consume"),
    ]
    assert len(entered) == client.client_steps(PLAN)
    assert all(one.messages_per_s.median > 0 and (one.ratio is None) == (one.who == RAW) for one in found)
    assert len(_client(found)) == 6


def test_a_load_that_counts_what_is_not_so_fails(tq: Tq, monkeypatch: pytest.MonkeyPatch) -> None:
    run = client._run

    def one_more(*args: Any) -> Any:
        rate, messages = run(*args)
        return rate, messages + 1

    monkeypatch.setattr(client, "_run", one_more)
    with pytest.raises(Failed, match="messages were said to be done"):
        client._measure(tq, Cell("send", 1, 1, {}), None, 0.1)
