"""`python -m benchmarks.footprint`: how many bytes of the data file a message takes, by its size and by what it has."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.scale import serve
from benchmarks.server import Client

SIZES = 100, 1_000, 3_000, 10_000, 100_000
TOTAL_BYTES = 100_000_000  # of content in a queue, so that what a queue itself takes is nothing beside it
MAX_MESSAGES = 100_000
REQUEST_BYTES = 4_000_000
QUOTES = 2  # of the content, which is a JSON string
KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "with a ttl": {"ttl": 86_400},
    "with a dedup_id": {"dedup_id": ""},  # to which a number is added
    "leased": {},
}


def bytes_each(client: Client, kind: str, size: int, total_bytes: int) -> float:
    """Of the messages of a queue that is made for it and deleted again."""
    client.json("POST", "/queues", b'{"name":"q"}')
    empty = used_bytes(client)
    messages = max(1, min(MAX_MESSAGES, total_bytes // size))
    batch = max(1, min(1_000, REQUEST_BYTES // size))
    for begin in range(0, messages, batch):
        lines = [
            json.dumps({"content": "x" * (size - QUOTES), **with_number(KINDS[kind], number)})
            for number in range(begin, min(begin + batch, messages))
        ]
        client.json("POST", "/queues/q/messages", "\n".join(lines).encode(), "application/x-ndjson")
    left = messages if kind == "leased" else 0
    while left:
        taken = client.json("GET", f"/queues/q/messages?max={batch}&visibility_timeout=3600")
        left -= len(taken["messages"])
    used = used_bytes(client) - empty
    client.json("DELETE", "/queues/q")
    while used_bytes(client) > empty + used // 100:  # swept in slices, in other requests' commits
        client.json("GET", "/readyz")
    return used / messages


def with_number(options: dict[str, Any], number: int) -> dict[str, Any]:
    return {**options, "dedup_id": f"{number:020}"} if "dedup_id" in options else options


def used_bytes(client: Client) -> int:
    used: int = client.json("GET", "/status")["storage"]["used_bytes"]
    return used


@click.command()
@click.option("--total-bytes", default=TOTAL_BYTES, show_default=True, help="Of content in each queue.")
@click.option("--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(total_bytes: int, parent: Path | None) -> None:
    """Print the bytes of the data file for a message of each size and kind."""
    with tempfile.TemporaryDirectory(prefix="tq-footprint-", dir=parent) as made, serve(Path(made)) as server:
        client = Client(server.port)
        click.echo("| bytes of content | " + " | ".join(KINDS) + " |\n" + "| ---: " * (len(KINDS) + 1) + "|")
        for size in SIZES:
            each = (f"{bytes_each(client, kind, size, total_bytes):,.0f}" for kind in KINDS)
            click.echo(f"| {size:,} | " + " | ".join(each) + " |")


if __name__ == "__main__":
    main()
