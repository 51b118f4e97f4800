"""`tq completion`, and the names of queues that a shell is given.

While somebody types, nothing may be slow or say anything: the server has half a second, and no name is the answer to
any failure. So this speaks HTTP by the standard library, which is there at once, and not by the client.
"""

from __future__ import annotations

import http.client
import json
import os
from urllib.parse import quote, urlsplit

import click
from click.shell_completion import CompletionItem, get_completion_class

ANSWER_SECONDS = 0.5  # longer than that nobody waits for a Tab
MAX_NAMES = 100

DEFAULT_URL = "http://localhost:8000"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what a shell needs to complete commands and queues."""
    kind = get_completion_class(shell)
    assert kind
    click.echo(kind(context.find_root().command, {}, "tq", "_TQ_COMPLETE").source())


def queue_names(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of the server's queues that begin so."""
    url = context.params.get("url") or os.environ.get("TQ_URL") or DEFAULT_URL
    token = context.params.get("token") or os.environ.get("TQ_TOKEN")
    try:
        return [CompletionItem(name) for name in _names(url, token, begun)]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return []


def _names(url: str, token: str | None, begun: str) -> list[str]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        target = f"{parts.path.rstrip('/')}/queues?prefix={quote(begun)}&limit={MAX_NAMES}"
        connection.request("GET", target, headers=headers)
        return [queue["name"] for queue in json.loads(connection.getresponse().read())["queues"]]
    finally:
        connection.close()
