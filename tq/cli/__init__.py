"""The command line. Each module here has the commands of one kind; this one has the list of them."""

from __future__ import annotations

import click

from tq import __version__
from tq.cli.serving import serve
from tq.cli.tokens import token


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tq")
def main() -> None:
    """tq: a durable message queue that speaks HTTP."""


main.add_command(serve)
main.add_command(token)
