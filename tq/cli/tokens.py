"""`tq token`: makes the tokens that clients show."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tq import tokens
from tq.errors import StartError


@click.group()
def token() -> None:
    """Tokens, with which clients show who they are."""


@token.command()
@click.option("--tokens", "file", envvar="TQ_TOKENS", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Whose it is; over SQS the access key.")
@click.option("--allow", multiple=True, required=True, help="A right, as send:orders.* or *:*; can be repeated.")
def create(file: Path, name: str, allow: tuple[str, ...]) -> None:
    """Make a token and print it, once.

    Rights are send, receive, manage and observe, each for the queues whose names match a pattern.
    """
    try:
        shown, made = tokens.create(file, name, allow)
    except StartError as error:
        click.echo(f"tq: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(f"token:                 {shown}")
    click.echo(f"SQS access key id:     {made.name}")
    click.echo(f"SQS secret access key: {made.sqs_secret}")
