"""The command line. Each module here has the commands of one kind; this one has the list of them."""

from __future__ import annotations

import click

from tq import __version__
from tq.cli.data import backup, check, compact_data, restore_backup
from tq.cli.dumping import dump, load
from tq.cli.serving import serve
from tq.cli.tokens import token


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tq")
def main() -> None:
    """tq: a durable message queue that speaks HTTP."""


for command in (serve, token, backup, restore_backup, check, compact_data, dump, load):
    main.add_command(command)
