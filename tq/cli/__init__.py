"""The command line: the list of the commands, and in which module each is.

A module is imported when a command of it is run, so that none waits for what only others need. What commands are made
of has modules of its own:

    output               text, tables and JSON on stdout, and how a command fails
    remote               the server that a command speaks to; beside `data`, which works on a directory
    showing              messages as they are printed: for `receive` and `peek`
    leasing, executing   messages that are leased while somebody works on them, and `--exec`: for `receive`
    envelopes, lines, streaming    contents as they come, many in batches, each sent once: for `send`
    load                 the requests of `bench`
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from importlib import import_module

import click

from tq import __version__

# The sections of `tq --help`: where each command is.
COMMANDS = {
    "Server": {
        "serve": "serving:serve",
        "token": "tokens:token",
        "bench": "bench:bench",
        "top": "top:top",
    },
    "Queues": {
        "queues": "queues:queues",
        "create": "queues:create",
        "purge": "queues:purge",
        "redrive": "queues:redrive",
        "delete": "queues:delete",
    },
    "Messages": {
        "send": "sending:send",
        "receive": "receiving:receive",
        "peek": "peeking:peek",
    },
    "Data directory": {
        "backup": "data:backup",
        "restore": "data:restore_backup",
        "check": "data:check",
        "compact": "data:compact_data",
        "dump": "dumping:dump",
        "load": "dumping:load",
    },
    "Shell": {"completion": "completion:completion"},
}
_PLACES = {name: place for section in COMMANDS.values() for name, place in section.items()}


class _Commands(click.Group):
    """Those of the list."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_PLACES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _PLACES:
            return None
        module, _, attribute = _PLACES[name].partition(":")
        command: click.Command = getattr(import_module(f"tq.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = get_close_matches(args[0], _PLACES, n=1)
        if args[0] not in _PLACES and near:
            context.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            commands = [(name, self.get_command(context, name)) for name in section]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(100)) for name, command in commands if command])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
