"""`tq token`: makes, lists and revokes the tokens that clients show."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tq import tokens
from tq.errors import StartError


@click.group()
def token() -> None:
    """Tokens, with which clients show who they are."""


_FILE = click.Path(dir_okay=False, path_type=Path)
_in_file = click.option(
    "--tokens", "file", envvar="TQ_TOKENS", show_envvar=True, required=True, type=_FILE, help="The file of tokens."
)


@contextmanager
def _refusing() -> Iterator[None]:
    """Say in one sentence why it cannot be done."""
    try:
        yield
    except StartError as error:
        click.echo(f"tq: {error}", err=True)
        sys.exit(error.exit_code)


@token.command()
@_in_file
@click.option("--name", required=True, help="Whose it is; over SQS the access key.")
@click.option("--allow", multiple=True, required=True, help="A right, as send:orders.* or *:*; can be repeated.")
def create(file: Path, name: str, allow: tuple[str, ...]) -> None:
    """Make a token and print it, once.

    Rights are send, receive, manage and observe, each for the queues whose names match a pattern.
    """
    with _refusing():
        shown, made = tokens.create(file, name, allow)
    click.echo(f"token:                 {shown}")
    click.echo(f"SQS access key id:     {made.name}")
    click.echo(f"SQS secret access key: {made.sqs_secret}")


@token.command("list")
@_in_file
def show(file: Path) -> None:
    """Print the names of all tokens and their rights."""
    with _refusing():
        for each in tokens.load(file).named.values():
            click.echo(f"{each.name}  {' '.join(each.allow)}")


@token.command()
@_in_file
@click.argument("name")
def revoke(file: Path, name: str) -> None:
    """Take a token out of the file. A server that runs forgets it at its next SIGHUP."""
    with _refusing():
        tokens.revoke(file, name)
