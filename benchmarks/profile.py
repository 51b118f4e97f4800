"""`python -m benchmarks.profile`: where the time of a send and of a receive goes, in microseconds of the event loop.

py-spy looks at the server a few hundred times a second while it is under load. Each sample counts for the innermost
part of tq that it was in; the share of a part, times the time per request, is what it costs.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click

from benchmarks.load import Failed, HttpRequest, choose_loader
from benchmarks.server import Client, ServerProcess

RATE = 250  # samples a second
LOAD_S = 12
PROFILE_S = 8
FILL = 10_000  # messages of a batch before the receives

# The first pattern that matches a frame, from the innermost outwards.
PARTS = (
    (r"Connection\._flush \(", "write the answer (uvloop and the kernel)"),
    (r"_commit_txn \(", "write pages and sync (LMDB and the kernel)"),
    (r"tq/web/parser\.py", "bytes to a request"),
    (r"tq/web/connection\.py", "the turn on the connection"),
    (r"tq/web/server\.py", "the route, head of the answer"),
    (r"tq/web/", "request to command, result to answer"),
    (r"tq/(broker|writer|waiters|clock)\.py", "broker and writer"),
    (r"tq/store/", "reads and writes of LMDB"),
    (r"tq/(lifecycle/|codec|keys|model)", "lifecycle: apply the command"),
    (r"", "read the request, wait for one (uvloop and the kernel)"),
)


@click.command()
@click.option("--connections", default=128, show_default=True)
@click.option("--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(connections: int, parent: Path | None) -> None:
    """Print where the time of a send and of a receive goes."""
    if not shutil.which("py-spy"):
        raise click.ClickException("py-spy is not installed; pip install '.[bench]' brings it.")
    with tempfile.TemporaryDirectory(prefix="tq-profile-", dir=parent) as made:
        directory = Path(made)
        flags = ("serve", "--port", "0", "--data-dir", str(directory / "data"))
        with ServerProcess(directory, "tq", *flags) as server:
            client = Client(server.port)
            client.json("POST", "/queues", b'{"name":"q"}')
            line = json.dumps({"content": "x" * 98})
            path = "/queues/q/messages"
            send = HttpRequest("POST", f"http://127.0.0.1:{server.port}{path}", line)
            receive = HttpRequest("GET", f"http://127.0.0.1:{server.port}{path}")
            sends = profile(server, directory, send, connections)
            for _ in range(40):
                client.json("POST", path, f"{line}\n".encode() * FILL, "application/x-ndjson")
            receives = profile(server, directory, receive, connections)
    click.echo("| microseconds | send | receive |\n| --- | ---: | ---: |")
    for _, part in PARTS:
        click.echo(f"| {part} | {sends[part]:.1f} | {receives[part]:.1f} |")
    click.echo(f"| all | {sum(sends.values()):.1f} | {sum(receives.values()):.1f} |")


def profile(server: ServerProcess, directory: Path, request: HttpRequest, connections: int) -> dict[str, float]:
    """Microseconds per request of each part."""
    output = directory / "profile"
    command = ["py-spy", "record", "--pid", str(server.pid), "--idle", "--format", "raw", "--output", str(output)]
    watching = subprocess.Popen(
        [*command, "--duration", str(PROFILE_S), "--rate", str(RATE)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    sample = choose_loader("auto", directory).run(request, connections, LOAD_S)
    _, errors = watching.communicate()
    if watching.returncode:
        raise Failed(f"py-spy failed: {errors.decode()[-500:]}")
    shares = shares_of(output.read_text())
    return {part: shares[part] / shares.total() * 1_000_000 / sample.requests_per_s for _, part in PARTS}


def shares_of(raw: str) -> Counter[str]:
    shares: Counter[str] = Counter()
    for stack, count in (line.rsplit(" ", 1) for line in raw.splitlines()):
        frames = stack.split(";")
        if any("serve (tq/cli.py" in frame for frame in frames):
            shares[_part(frames)] += int(count)
    return shares


def _part(frames: list[str]) -> str:
    inner: list[Any] = [frame for frame in reversed(frames) if "tq/" in frame and "tq/cli.py" not in frame][:1]
    return next(part for pattern, part in PARTS if re.search(pattern, inner[0] if inner else ""))


if __name__ == "__main__":
    main()
