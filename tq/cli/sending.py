"""`tq send`: one message, or one for each line."""

from __future__ import annotations

import os
import sys
from typing import Any, BinaryIO

import click

from tq.cli.envelopes import Form
from tq.cli.lines import MAX_LINE_BYTES
from tq.cli.output import is_for_people, print_json, say
from tq.cli.remote import Place, on_server, queue_argument
from tq.errors import EXIT_USAGE, StartError


def _headers(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Raises BadParameter."""
    pairs = [value.partition("=") for value in values]
    if not all(name and equals for name, equals, _ in pairs):
        raise click.BadParameter("A header is given as NAME=VALUE.")
    return {name: value for name, _, value in pairs}


@click.command()
@queue_argument
@click.argument("content", required=False)
@click.option("--file", "-f", type=click.File("rb"), help="Send what is in a file; - is stdin.")
@click.option("--lines", is_flag=True, help="Each line of the input is a message.")
@click.option("--ndjson", is_flag=True, help='Each line of the input is an envelope, as {"content": 1, "priority": 9}.')
@click.option("--content-json", is_flag=True, help="The content, or each line, is JSON and not text.")
@click.option("--content-type", metavar="TYPE", help="The input is bytes of this media type.")
@click.option("--delay", type=float, help="Seconds before it can be received.")
@click.option("--ttl", type=float, help="Seconds after which it expires.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 is received first.")
@click.option("--group", help="Messages of a group are received one at a time, in order.")
@click.option("--dedup-id", help="A second message with it is not stored.")
@click.option("--header", "headers", multiple=True, callback=_headers, metavar="NAME=VALUE", help="Can be repeated.")
@click.option("--resume", metavar="RUN:LINE", help="Go on behind a line, as an interrupted run has said.")
@on_server
def send(
    place: Place,
    queue: str,
    as_json: bool,
    content: str | None,
    file: BinaryIO | None,
    lines: bool,
    ndjson: bool,
    content_json: bool,
    content_type: str | None,
    resume: str | None,
    **options: Any,
) -> None:
    """Send a message, or one for each line.

    The message is CONTENT, or what is in --file, or what comes on stdin. It is text, or bytes where it is no UTF-8,
    unless something else is said.
    """
    if sum((content is not None, file is not None)) > 1:
        raise click.UsageError("Either CONTENT or --file.")
    if (lines or ndjson) and (content is not None or options["dedup_id"] or content_type or lines is ndjson):
        raise click.UsageError("--lines or --ndjson take --file or stdin, and no --dedup-id or --content-type.")
    said = {name: value for name, value in options.items() if value is not None and value != {}}
    if ndjson and (said or content_json):
        raise click.UsageError("With --ndjson each line says for itself what is said of its message.")
    if resume and not (lines or ndjson):
        raise click.UsageError("--resume is for --lines and --ndjson.")
    if content_json and content_type:
        raise click.UsageError("--content-json is for what has no --content-type.")
    if content is None and file is None:
        if sys.stdin is None:
            raise StartError("The stdin is closed, and there is neither CONTENT nor --file.", EXIT_USAGE)
        file = sys.stdin.buffer
        if file.isatty():
            say("Type what is to be sent, and end it with Ctrl-D.")
    form = Form(content_json, said)
    if file and (lines or ndjson):
        from tq.cli.streaming import send_lines

        send_lines(place, queue, file, None if ndjson else form, resume, as_json)
    else:
        raw = _read(file) if file else os.fsencode(content or "")
        _send_one(place, queue, raw, form, content_type, said, as_json)


def _send_one(
    place: Place, queue: str, raw: bytes, form: Form, content_type: str | None, said: dict[str, Any], as_json: bool
) -> None:
    """Raises StartError for what cannot be sent."""
    from tq.cli.streaming import Sender
    from tq.client.sending import JSON, Envelope, one

    try:
        if content_type or not (form.is_json or _is_text(raw)):
            body, media_type, query = one(Envelope(content=raw, **said), content_type)
        else:
            body, media_type, query = form.envelope(raw), JSON, ""
    except ValueError as error:
        raise StartError(f"This cannot be sent: {str(error).rstrip('.')}.", EXIT_USAGE) from error
    client = place.make(Sender)
    with client:
        sent = client.send_form(queue, body, media_type, query, "dedup_id" in said)
    if not is_for_people(as_json):
        print_json(sent)
    elif sent.get("duplicate"):
        click.echo(f"Message {sent['id']} was there with this deduplication id; nothing was stored.")
    else:
        click.echo(f"Sent as message {sent['id']}.")


def _read(file: BinaryIO) -> bytes:
    """Raises StartError for what never ends, or is too long."""
    raw = file.read(MAX_LINE_BYTES + 1)
    if len(raw) > MAX_LINE_BYTES:
        raise StartError(f"This cannot be sent: it has more than {MAX_LINE_BYTES >> 20} MiB.", EXIT_USAGE)
    return raw


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
