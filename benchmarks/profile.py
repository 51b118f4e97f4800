"""`python -m benchmarks.profile`: where the time of a send and of a receive goes.

Two looks at each. A server under the load of `wrk` tells how much of a request's time its processor spends in the
kernel, how much in the program, and how much it waits. What the program does is looked at in `benchmarks.own`, which
leaves sockets and the disk out: py-spy samples it a few hundred times a second, and each sample counts for the
innermost part of tq that it was in. (Under load py-spy finds a server mostly in the system calls of its sockets, and
says nothing true of the rest.)
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click

from benchmarks.load import ROOT, Failed, HttpRequest, choose_loader
from benchmarks.own import ENVELOPE, FILL
from benchmarks.server import Client, ServerProcess

RATE = 500  # samples a second
LOAD_S = 6
PROFILE_S = 8
SPARE_S = 4  # that the program runs longer than it is looked at
BATCHES = 60  # of messages, before the receives
OPERATIONS = ("send", "receive")

# The first pattern that matches a frame, from the innermost outwards.
PARTS = (
    (r"_commit_txn \(", "write pages (LMDB)"),
    (r"tq/web/parser\.py", "bytes to a request"),
    (r"tq/web/(connection|stream|traffic)\.py", "the turn on the connection"),
    (r"tq/web/server\.py", "the route, head of the answer"),
    (r"tq/web/", "request to command, result to answer"),
    (r"tq/(broker|writer|waiters|clock)\.py", "broker and writer"),
    (r"tq/store/", "reads and writes of LMDB"),
    (r"tq/(lifecycle/|codec|keys|model)", "lifecycle: apply the command"),
)


@click.command()
@click.option("--connections", default=128, show_default=True)
@click.option("--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(connections: int, parent: Path | None) -> None:
    """Print where the time of a send and of a receive goes."""
    if not shutil.which("py-spy"):
        raise click.ClickException("py-spy is not installed; pip install '.[bench]' brings it.")
    with tempfile.TemporaryDirectory(prefix="tq-profile-", dir=parent) as made:
        whole = under_load(Path(made), connections)
        parts = {operation: own_parts(Path(made), operation, connections) for operation in OPERATIONS}
    _print("microseconds of a request under load", list(whole["send"]), whole)
    _print("microseconds of the program alone", [name for _, name in PARTS], parts)


def _print(title: str, rows: list[str], columns: dict[str, Any]) -> None:
    click.echo(f"| {title} | {' | '.join(OPERATIONS)} |\n| --- | ---: | ---: |")
    for row in rows:
        click.echo(f"| {row} | {' | '.join(f'{columns[operation][row]:.1f}' for operation in OPERATIONS)} |")
    sums = (f"{sum(columns[operation].values()):.1f}" for operation in OPERATIONS)
    click.echo(f"| all | {' | '.join(sums)} |\n")


def under_load(directory: Path, connections: int) -> dict[str, dict[str, float]]:
    """Microseconds per request, by operation and by what the server's process does."""
    flags = ("serve", "--port", "0", "--data-dir", str(directory / "data"))
    with ServerProcess(directory, "tq", *flags) as server, Client(server.port) as client:
        client.json("POST", "/queues", b'{"name":"q"}')
        url = f"http://127.0.0.1:{server.port}/queues/q/messages"
        requests = {"send": HttpRequest("POST", url, ENVELOPE), "receive": HttpRequest("GET", url)}
        found = {"send": _load(server, directory, requests["send"], connections)}
        for _ in range(BATCHES):
            line = f"{ENVELOPE}\n".encode()
            client.json("POST", "/queues/q/messages", line * FILL, "application/x-ndjson")
        found["receive"] = _load(server, directory, requests["receive"], connections)
        if client.json("GET", "/queues/q")["messages"]["ready"] == 0:
            raise Failed("the queue ran empty: some of the answers were none")
    return found


def _load(server: ServerProcess, directory: Path, request: HttpRequest, connections: int) -> dict[str, float]:
    before = server.processor_seconds()
    sample = choose_loader("auto", directory).run(request, connections, LOAD_S)
    program, kernel = (after - was for after, was in zip(server.processor_seconds(), before, strict=True))
    waiting = sample.seconds - program - kernel
    found = {"in the program": program, "in the kernel: sockets and files": kernel, "waiting for the disk": waiting}
    return {name: seconds / sample.requests * 1_000_000 for name, seconds in found.items()}


def own_parts(directory: Path, operation: str, connections: int) -> dict[str, float]:
    """Microseconds per request of each part of the program."""
    command = [sys.executable, "-m", "benchmarks.own", operation, f"--connections={connections}"]
    program = subprocess.Popen(
        [*command, f"--seconds={PROFILE_S + SPARE_S}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with program:
        assert program.stdout
        if program.stdout.readline() != "ready\n":
            raise Failed(f"{operation}: it did not start")
        output = directory / operation
        look = ["py-spy", "record", "--pid", str(program.pid), "--format", "raw", "--output", str(output)]
        looked = subprocess.run(
            [*look, "--duration", str(PROFILE_S), "--rate", str(RATE)], capture_output=True, text=True, check=False
        )
        told = re.match(r"([\d.]+) microseconds", program.stdout.read())
    if looked.returncode or not told:
        raise Failed(f"py-spy failed: {looked.stderr[-500:]}")
    shares = shares_of(output.read_text())
    return {name: shares[name] / shares.total() * float(told[1]) for _, name in PARTS}


def shares_of(raw: str) -> Counter[str]:
    """How many samples fell into each part; those that were in none of them are left out."""
    shares: Counter[str] = Counter()
    for stack, count in (line.rsplit(" ", 1) for line in raw.splitlines()):
        inner = next((frame for frame in reversed(stack.split(";")) if " (tq/" in frame), "")
        part = next((name for pattern, name in PARTS if re.search(pattern, inner)), None)
        if part:
            shares[part] += int(count)
    return shares


if __name__ == "__main__":
    main()
