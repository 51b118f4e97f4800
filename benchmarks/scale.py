"""`python -m benchmarks.scale`: what many messages, many who wait and too many requests cost one server.

memory    of the process with a long queue, against an empty one; anonymous pages, the data file is not among them
start     from the start of the process to the first answer, with the long queue
waiters   idle long polls: memory each, processor time, and the time from a send to the delivery
overload  more requests than may wait: what is accepted, how fast, and what is refused
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from benchmarks.loader import percentile
from benchmarks.server import Client, ServerProcess

CONTENT = "x" * 98  # 100 bytes as JSON
BATCH = 10_000
OVERLOAD_CONNECTIONS = 1_000
OVERLOAD_WAITING = 200  # commands that may wait
SPARE_FILES = 200
SEND = b'POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{"content":1}'


def serve(directory: Path, *flags: str) -> ServerProcess:
    return ServerProcess(directory, "tq", "serve", "--port", "0", "--data-dir", str(directory / "data"), *flags)


def allow_files(count: int) -> None:
    """Let this process, and the servers that it starts, open so many files. Raises ValueError when it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard)))


def anonymous_kb(pid: int) -> int:
    """Private memory of a process that no file is behind (proc(5), RssAnon)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def fill(client: Client, queue: str, messages: int) -> None:
    line = json.dumps({"content": CONTENT}).encode() + b"\n"
    with click.progressbar(length=messages, label=f"{messages:,} messages") as bar:
        for begin in range(0, messages, BATCH):
            count = min(BATCH, messages - begin)
            client.json("POST", f"/queues/{queue}/messages", line * count, "application/x-ndjson")
            bar.update(count)


def measure_queue(directory: Path, messages: int, starts: int) -> dict[str, Any]:
    """Memory and start of a server with a long queue; the median of several starts."""
    with serve(directory) as server:
        client = Client(server.port)
        client.json("POST", "/queues", b'{"name":"q"}')
        _exercise(client)
        empty_kb = anonymous_kb(server.pid)
        fill(client, "q", messages)
        filled_kb = anonymous_kb(server.pid)
    took_s: list[float] = []
    for _ in range(starts):
        begun = time.monotonic()
        with serve(directory) as server:
            client = Client(server.port)
            assert client.json("GET", "/queues/q")["messages"]["ready"] >= messages - 1_000
            took_s.append(time.monotonic() - begun)
            _exercise(client)
            started_kb = anonymous_kb(server.pid)
    interpreter = min(_seconds_to_run("import tq.cli.serving") for _ in range(starts))
    return {
        "messages": messages,
        "memory of an empty server, KiB": empty_kb,
        "more right after the fill, KiB": filled_kb - empty_kb,
        "more after a start, KiB": started_kb - empty_kb,
        "start to first answer, s": round(sorted(took_s)[starts // 2], 3),
        "Python and its imports alone, s": round(interpreter, 3),
    }


def _exercise(client: Client) -> None:
    """Some of every hot request, so that what they keep is there."""
    for _ in range(100):
        client.json("POST", "/queues/q/messages", b'{"content":1}')
        client.json("GET", "/queues/q/messages")


def _seconds_to_run(statement: str) -> float:
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.monotonic() - begun


def measure_waiters(directory: Path, waiters: int, sends: int, idle_s: float) -> dict[str, Any]:
    allow_files(waiters + SPARE_FILES)
    with serve(directory) as server:
        client = Client(server.port)
        client.json("POST", "/queues", b'{"name":"q"}')
        _exercise(client)
        return asyncio.run(_wait(server, waiters, sends, idle_s))


async def _wait(server: ServerProcess, waiters: int, sends: int, idle_s: float) -> dict[str, Any]:
    before_kb = anonymous_kb(server.pid)
    arrived: asyncio.Queue[float] = asyncio.Queue()
    held = []
    for _ in range(waiters):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2_048)
        writer.write(b"GET /queues/q/messages?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        held.append((writer, asyncio.ensure_future(_first_byte(reader, arrived))))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"}")
    each_kb = (anonymous_kb(server.pid) - before_kb) / waiters
    idle_cpu = server.cpu_seconds()
    await asyncio.sleep(idle_s)
    idle_cpu = (server.cpu_seconds() - idle_cpu) / idle_s
    took: list[float] = []
    for _ in range(sends):
        begun = time.perf_counter()
        writer.write(SEND)
        took.append(await arrived.get() - begun)
        await reader.readuntil(b"}")
    for waiting, task in held:
        task.cancel()
        waiting.close()
    took.sort()
    return {
        "waiters": waiters,
        "memory each, KiB": round(each_kb, 1),
        "processor while idle, cores": round(idle_cpu, 3),
        "send to delivery p50, ms": round(percentile(took, 50) * 1000, 2),
        "send to delivery p99, ms": round(percentile(took, 99) * 1000, 2),
    }


async def _first_byte(reader: asyncio.StreamReader, arrived: asyncio.Queue[float]) -> None:
    if await reader.read(1):
        arrived.put_nowait(time.perf_counter())


def measure_overload(directory: Path, duration_s: float) -> dict[str, Any]:
    """Each connection sends when it has its answer: five times as many at a time as may wait."""
    allow_files(OVERLOAD_CONNECTIONS + SPARE_FILES)
    with serve(directory, "--max-waiting-commands", str(OVERLOAD_WAITING)) as server:
        Client(server.port).json("POST", "/queues", b'{"name":"q"}')
        statuses, took = asyncio.run(_overload(server.port, duration_s))
    accepted = sorted(took)
    return {
        "connections": OVERLOAD_CONNECTIONS,
        "commands that may wait": OVERLOAD_WAITING,
        "accepted": statuses["201"],
        "refused with 503 and Retry-After": statuses["503"],
        "anything else": sum(statuses.values()) - statuses["201"] - statuses["503"],
        "accepted p50, ms": round(percentile(accepted, 50) * 1000, 1),
        "accepted p99, ms": round(percentile(accepted, 99) * 1000, 1),
    }


async def _overload(port: int, duration_s: float) -> tuple[Counter[str], list[float]]:
    statuses: Counter[str] = Counter()
    took: list[float] = []
    end = time.perf_counter() + duration_s

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            begun = time.perf_counter()
            writer.write(SEND)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            status = head[9:12].decode()
            statuses[status if status != "503" or b"Retry-After: " in head else "503 without Retry-After"] += 1
            if status == "201":
                took.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(one() for _ in range(OVERLOAD_CONNECTIONS)))
    return statuses, took


@click.command()
@click.option("--messages", default=10_000_000, show_default=True, help="In the long queue.")
@click.option("--memory-messages", default=1_000_000, show_default=True, help="For the measure of memory.")
@click.option("--waiters", default=10_000, show_default=True)
@click.option("--sends", default=1_000, show_default=True, help="To those who wait.")
@click.option("--starts", default=5, show_default=True, help="Of a server with the long queue.")
@click.option("--duration", default=5.0, show_default=True, help="Seconds of overload, and of waiting for nothing.")
@click.option("--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(
    messages: int,
    memory_messages: int,
    waiters: int,
    sends: int,
    starts: int,
    duration: float,
    parent: Path | None,
) -> None:
    """Print the cost of many messages, many who wait, and too many requests."""
    for name, measure in (
        ("memory", lambda d: measure_queue(d, memory_messages, starts)),
        ("start", lambda d: measure_queue(d, messages, starts)),
        ("waiters", lambda d: measure_waiters(d, waiters, sends, duration)),
        ("overload", lambda d: measure_overload(d, duration)),
    ):
        with tempfile.TemporaryDirectory(prefix="tq-scale-", dir=parent) as made:
            click.echo(name)
            for label, value in measure(Path(made)).items():
                click.echo(f"  {label}: {value:,}" if isinstance(value, int) else f"  {label}: {value}")


if __name__ == "__main__":
    main()
