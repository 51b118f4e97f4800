"""`tq peek`: looks at messages, and leaves them where they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from tq.cli.output import is_for_people, say
from tq.cli.remote import Place, on_server, queue_argument
from tq.cli.showing import form_for
from tq.errors import EXIT_EMPTY

if TYPE_CHECKING:
    from tq.client import Client, Message
    from tq.model import State

PAGE = 100
PEEKED_CHARACTERS = 1_000  # of a content that a terminal gets


@click.command()
@queue_argument
@click.option(
    "--state",
    type=click.Choice(["ready", "in_flight", "delayed", "blocked"]),
    default="ready",
    show_default=True,
    help="The state of the messages to show.",
)
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Messages at the most.")
@click.option("--raw", is_flag=True, help="Print the contents alone.")
@on_server
def peek(place: Place, queue: str, as_json: bool, state: State, limit: int, raw: bool) -> None:
    """Show messages, and leave them where they are.

    In the order in which they would be received. A terminal gets the beginning of long contents.
    """
    is_seen = is_for_people(as_json)
    form = form_for(as_json, raw, is_many=True, most=PEEKED_CHARACTERS)
    out = sys.stdout.buffer
    has_any = False
    with place.client() as client:
        for message in _messages(client, queue, state, limit):
            out.write(form(message))
            has_any = True
    out.flush()
    if not has_any:
        if is_seen:
            say(f"There is no such message in {queue}.")
        sys.exit(EXIT_EMPTY)


def _messages(client: Client, queue: str, state: State, limit: int) -> Iterator[Message]:
    after: str | None = None
    while limit:
        page = client.peek(queue, state=state, after=after, limit=min(limit, PAGE))
        yield from page.messages
        limit -= len(page.messages)
        after = page.next
        if after is None:
            return
