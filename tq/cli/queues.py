"""`tq queues`, `create`, `purge`, `redrive` and `delete`: what is done with queues as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from tq.cli.completion import queue_names
from tq.cli.output import count, is_for_people, print_json, print_table, size, span
from tq.cli.remote import Place, on_server, queue_argument
from tq.cli.showing import timestamp

if TYPE_CHECKING:
    from tq.client import Queue

# What `tq create` can say of a queue, by the names of the API; the server knows the bounds.
SETTINGS: dict[str, tuple[Any, str]] = {
    "visibility_timeout": (float, "Seconds that a lease lasts when a receive does not say."),
    "delay": (float, "Seconds before a message can be received."),
    "ttl": (float, "Seconds after which a message expires that nobody has received."),
    "retention": (float, "Seconds after which a message is dropped wherever it is."),
    "max_messages": (int, "Messages that the queue may hold."),
    "max_bytes": (int, "Bytes of content that the queue may hold."),
    "overflow": (click.Choice(["reject", "drop_oldest"]), "What happens when it holds as much."),
    "max_message_bytes": (int, "Largest content of a message."),
    "dedup_window": (float, "Seconds that a deduplication id is remembered."),
    "dedup_scope": (click.Choice(["queue", "group"]), "Where a deduplication id is known."),
    "content_dedup": (bool, "The content is the deduplication id of a message that has none."),
    "fifo": (bool, "Make a FIFO queue; its name, and no other's, ends with .fifo."),
    "max_in_flight": (int, "Messages that may be leased at a time."),
    "receive_wait": (float, "Seconds that a receive over SQS waits when it does not say."),
    "paused": (bool, "Receives find nothing."),
}


def _setting_options(command: Callable[..., None]) -> Callable[..., None]:
    for name, (kind, text) in reversed(SETTINGS.items()):
        flag = "--" + name.replace("_", "-")
        command = click.option(flag, type=kind, is_flag=kind is bool, default=None, help=text)(command)
    return command


@click.command()
@click.argument("prefix", default="", shell_complete=queue_names)
@on_server
def queues(place: Place, prefix: str, as_json: bool) -> None:
    """List the queues.

    All, or those whose names begin with PREFIX.
    """
    with place.client() as client:
        found = list(client.queues(prefix=prefix))
    if not is_for_people(as_json):
        for queue in found:
            print_json(_said(queue))
        return
    if not found:
        click.echo(f"No queue has a name that begins with {prefix!r}." if prefix else "There are no queues.")
        return
    titles = ("queue", "ready", "in flight", "delayed", "blocked", "oldest", "size", "dead letters to")
    print_table(titles, map(_row, found), spared=("dead letters to", "size", "blocked", "delayed", "in flight"))


def _said(queue: Queue) -> dict[str, Any]:
    """As the server says it."""
    return {"name": queue.name, **to_builtins(queue), "created_at": timestamp(queue.created_at)}


def _row(queue: Queue) -> tuple[str, ...]:
    held = queue.messages
    name = f"{queue.name} (paused)" if queue.paused else queue.name
    age = span(queue.oldest_message_age_seconds)
    dead = queue.dead_letter.queue if queue.dead_letter else ""
    figures = [f"{figure:,}" for figure in (held.ready, held.in_flight, held.delayed, held.blocked)]
    return name, *figures, age, size(queue.bytes), dead


@click.command()
@queue_argument
@_setting_options
@click.option("--dead-letter", metavar="QUEUE", shell_complete=queue_names, help="Where messages go that fail.")
@click.option("--max-receives", type=int, default=3, show_default=True, help="Receives after which one has failed.")
@click.option("--on-expiry", is_flag=True, help="One that expires has failed too.")
@click.option("--on-receive", is_flag=True, help="It moves when it would be received once more, as in SQS.")
@on_server
def create(
    place: Place,
    queue: str,
    as_json: bool,
    dead_letter: str | None,
    max_receives: int,
    on_expiry: bool,
    on_receive: bool,
    **settings: Any,
) -> None:
    """Make a queue.

    One that is there with the same settings stays as it is; with others it is refused.
    """
    said = {name: value for name, value in settings.items() if value is not None}
    if dead_letter is not None:
        limits = {"max_receives": max_receives, "on_expiry": on_expiry, "on_receive": on_receive}
        said["dead_letter"] = {"queue": dead_letter, **limits}
    with place.client() as client:
        made = client.create_queue(queue, **said)
    if is_for_people(as_json):
        click.echo(f"{made.name} is there, with {count(sum_of(made), 'message')}.")
    else:
        print_json(_said(made))


def sum_of(queue: Queue) -> int:
    held = queue.messages
    return held.ready + held.in_flight + held.delayed + held.blocked


@click.command()
@queue_argument
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@on_server
def purge(place: Place, queue: str, as_json: bool, yes: bool) -> None:
    """Drop all messages of a queue, in every state."""
    with place.client() as client:
        if is_for_people(as_json) and not yes:
            held = sum_of(client.queue(queue))
            click.confirm(f"Drop {count(held, 'message')} of {queue}?", abort=True)
        purged = client.purge(queue)
    if is_for_people(as_json):
        click.echo(f"{count(purged, 'message')} of {queue} dropped.")
    else:
        print_json({"purged": purged})


@click.command()
@queue_argument
@click.option("--to", metavar="QUEUE", shell_complete=queue_names, help="Where to, instead of where each came from.")
@click.option("--limit", type=click.IntRange(min=1), help="Messages to move at the most; all by default.")
@on_server
def redrive(place: Place, queue: str, as_json: bool, to: str | None, limit: int | None) -> None:
    """Move messages out of a dead-letter queue.

    Those that are ready, as new messages, to where each came from. What came from nowhere stays, unless --to is given.
    """
    with place.client() as client:
        moved = client.redrive(queue, to=to, limit=limit)
    if is_for_people(as_json):
        click.echo(f"{count(moved, 'message')} moved out of {queue}.")
    else:
        print_json({"moved": moved})


@click.command()
@queue_argument
@click.option("--if-empty", is_flag=True, help="Refuse when there are messages.")
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@on_server
def delete(place: Place, queue: str, as_json: bool, if_empty: bool, yes: bool) -> None:
    """Delete a queue with its messages."""
    with place.client() as client:
        if is_for_people(as_json) and not (yes or if_empty):
            held = sum_of(client.queue(queue))
            click.confirm(f"Delete {queue} with {count(held, 'message')}?", abort=True)
        client.delete_queue(queue, if_empty=if_empty)
    if is_for_people(as_json):
        click.echo(f"{queue} deleted.")
    else:
        print_json({"deleted": queue})
