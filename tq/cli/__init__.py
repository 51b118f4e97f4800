"""The command line. Each module here has the commands of one kind; this one has the list of them."""

from __future__ import annotations

import os

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
    _take_standard_descriptors()


def _take_standard_descriptors() -> None:
    """Open those that whoever started this had closed (`2>&-`).

    Else another file would get the number, and whatever is said on stderr would be written into that; libuv takes
    it for a bug of its own and ends the process when it is to close one.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


for command in (serve, token, backup, restore_backup, check, compact_data, dump, load):
    main.add_command(command)
