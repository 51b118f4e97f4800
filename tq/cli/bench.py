"""`tq bench`: a small load test of a running server, on a queue of its own that is deleted again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from secrets import token_hex

import click
import uvloop

from tq.cli.completion import DEFAULT_URL
from tq.cli.load import Found, LoadFailed, Wire, fills, leases_and_acks, load, receives, sends
from tq.cli.output import is_for_people, print_json
from tq.cli.remote import Place, Seconds, talking
from tq.errors import EXIT_REFUSED, StartError

PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "max": 100}
FULL_CORE = 0.9  # of a core; a load that takes as much is what limits the rate
BATCH = 1_000  # messages in one send of those that are to be received
MAX_BATCH_BYTES = 4 << 20


@click.command()
@click.argument("url", envvar="TQ_URL", default=DEFAULT_URL)
@click.option("--token", envvar="TQ_TOKEN", show_envvar=True, help="Shown to a server that asks for one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as where stdout is no terminal.")
@click.option("--connections", type=click.IntRange(1, 1_000), default=32, show_default=True, help="Requests at a time.")
@click.option("--seconds", type=Seconds(0.1, 600), default=3.0, show_default=True, help="Time for each part.")
@click.option("--size", type=click.IntRange(0, 1 << 20), default=100, show_default=True, help="Bytes of a content.")
def bench(url: str, token: str | None, as_json: bool, connections: int, seconds: float, size: int) -> None:
    """Load a running server, and print how fast it is.

    Messages are sent, leased and acknowledged, and received, one in a request, on a queue that is made for it and
    deleted at the end.
    """
    place = Place(url, token)
    found: dict[str, Found] = {}
    is_seen = is_for_people(as_json)

    def take(name: str, part: Found) -> None:
        if is_seen and not found:
            click.echo(f"{'':<12}{'a second':>10}" + "".join([f"{title:>9}" for title in PERCENTILES]))
        found[name] = part
        if is_seen:
            click.echo(_row(name, part))

    with talking(place):
        _load_a_queue(place, connections, seconds, size, take)
        if is_seen:
            click.echo(_account(found, connections, size))
        else:
            figures = {name: _figures(part) for name, part in found.items()}
            print_json({"connections": connections, "bytes": size} | figures)


def _load_a_queue(
    place: Place, connections: int, seconds: float, size: int, take: Callable[[str, Found], None]
) -> None:
    """Raises StartError, TqError, KeyboardInterrupt; the queue is deleted in any case."""
    queue = f"tq-bench-{token_hex(6)}"
    wire = Wire(place.url, place.token, queue)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    client = place.client()
    with client:
        client.create_queue(queue, max_message_bytes=size + 2)  # the quotes
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_measure(wire, connections, seconds, size, take))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except LoadFailed as failure:
            raise StartError(str(failure), EXIT_REFUSED) from failure
        finally:
            client.delete_queue(queue)


async def _measure(wire: Wire, connections: int, seconds: float, size: int, take: Callable[[str, Found], None]) -> None:
    """Each part is handed over when it is done. Raises LoadFailed, and CancelledError at a signal."""
    task = asyncio.current_task()
    assert task
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    envelope = b'{"content":"' + b"x" * size + b'"}'
    sent = await load(wire, partial(sends, wire, envelope), connections, seconds)
    take("send", sent)
    held = len(sent.rising_ns)
    wanted = 2 * held  # more than are taken in the time; else a part ends when there are no more
    batch = max(1, min(BATCH, MAX_BATCH_BYTES // len(envelope)))
    for name, ask, answers in (
        ("lease, ack", partial(leases_and_acks, wire), 2),
        ("receive", partial(receives, wire), 1),
    ):
        count = max(0, wanted - held) // batch + 1
        await load(wire, partial(fills, wire, envelope, batch, count), 1)
        part = await load(wire, ask, connections, seconds, answers)
        take(name, part)
        held += count * batch - len(part.rising_ns)


def _row(name: str, part: Found) -> str:
    figures = "".join([f"{part.percentile_ms(percent):>6.1f} ms" for percent in PERCENTILES.values()])
    return f"{name:<12}{part.per_second:>10,.0f}{figures}"


def _figures(part: Found) -> dict[str, float]:
    times = {f"{name}_ms": round(part.percentile_ms(percent), 3) for name, percent in PERCENTILES.items()}
    return {"per_second": round(part.per_second, 1), **times, "load_cores": round(part.cores, 3)}


def _account(found: dict[str, Found], connections: int, size: int) -> str:
    """What was asked, and what part this process had in the figures."""
    most = max(part.cores for part in found.values())
    said = f"{connections} connections, contents of {size:,} bytes. The load took up to {most:.2f} of a core"
    if most >= FULL_CORE:
        return f"{said}, all that one process can: the server may be faster than this."
    return f"{said}, which the server had to do without if it runs on this machine."
