"""`tq backup`, `restore`, `check` and `compact`: what is done with a data directory as a whole.

Here too is what the commands on data have in common: the option, and how they show how far they are.
Findings and figures go to stdout; progress is shown on a terminal only, on stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tq import codec, keys, lifecycle
from tq.audit import audit
from tq.cli.output import count, ending_in_a_sentence
from tq.errors import EXIT_DATA, EXIT_FINDINGS, EXIT_USAGE, StartError
from tq.settings import Settings
from tq.store import Space, Tx
from tq.store.lmdb.copies import back_up, compact, restore
from tq.store.lmdb.snapshot import Snapshot, Tell, untold

TOLD_RECORDS = 1_000  # read between two looks of the progress bar

MORE = "(further errors suppressed)"  # is what `lmdb.verify` ends with when there are too many
BAR_UPDATES = 200  # each is written to the terminal

_MIB = 1 << 20


def on_data(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the option --data-dir, that says in one sentence why it failed."""

    @click.option(
        "--data-dir",
        envvar="TQ_DATA_DIR",
        show_envvar=True,
        default=Settings().data_dir,
        show_default=True,
        help="Directory of the messages.",
    )
    @wraps(command)
    def run(data_dir: str, **arguments: Any) -> None:
        with ending_in_a_sentence(data_dir):
            if data_dir in ("", "memory:"):
                raise StartError(f"There is no directory with --data-dir {data_dir!r}.", EXIT_USAGE)
            command(data_dir=Path(data_dir), **arguments)

    return run


@contextmanager
def progress(label: str, length: int) -> Iterator[Tell]:
    """A bar on a terminal, of what has a length; yields what is called with every step."""
    if sys.stderr is None or not sys.stderr.isatty() or not length:  # None where it was closed
        yield untold
        return
    steps = max(1, length // BAR_UPDATES)
    with click.progressbar(length=length, label=label, file=sys.stderr, update_min_steps=steps) as bar:
        yield bar.update
        bar.update(length - bar.pos)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@on_data
def backup(data_dir: Path, directory: Path) -> None:
    """Copy the data to a new directory.

    DIRECTORY must not exist yet. A server may go on meanwhile.
    """
    began_s = time.monotonic()
    with Snapshot(data_dir, lifecycle.MAX_SPACES) as snapshot:
        with progress("backup", snapshot.bytes) as tell:
            back_up(snapshot, directory, tell)
        click.echo(f"{directory}: {mebibytes(snapshot.bytes)}, {time.monotonic() - began_s:.1f} s")


@click.command("restore")
@click.argument("backup", type=click.Path(path_type=Path))
@on_data
def restore_backup(data_dir: Path, backup: Path) -> None:
    """Make a data directory of a backup.

    BACKUP is verified first, and the data directory must hold no data.
    """
    began_s = time.monotonic()
    with Snapshot(backup, lifecycle.MAX_SPACES) as snapshot:
        findings = _findings(snapshot)
        for finding in findings:
            click.echo(finding)
        if findings:
            raise StartError(
                f"The backup {backup} is damaged, and nothing was restored; "
                f"`tq dump --data-dir {backup}` writes what can be read, for `tq load`.",
                EXIT_DATA,
            )
        with progress("restore", snapshot.bytes) as tell:
            restore(snapshot, data_dir, tell)
        click.echo(f"{data_dir}: {mebibytes(snapshot.bytes)}, {time.monotonic() - began_s:.1f} s")


@click.command()
@on_data
def check(data_dir: Path) -> None:
    """Verify all data.

    That is every page, and every record against every other. A server may go on meanwhile.
    """
    began_s = time.monotonic()
    with Snapshot(data_dir, lifecycle.MAX_SPACES) as snapshot:
        findings = _findings(snapshot)
        for finding in findings:
            click.echo(finding)
        verdict = _number(findings) if findings else _contents(snapshot.tx())
        click.echo(f"{verdict}; {mebibytes(snapshot.bytes)}, {time.monotonic() - began_s:.1f} s")
    if findings:
        sys.exit(EXIT_FINDINGS)


@click.command("compact")
@on_data
def compact_data(data_dir: Path) -> None:
    """Give free pages back to the disk.

    No server may run.
    """
    before, after = compact(data_dir, lifecycle.MAX_SPACES)
    click.echo(f"{data_dir}: {mebibytes(before)} before, {mebibytes(after)} after")


def _findings(snapshot: Snapshot) -> list[str]:
    """What is wrong with the structure; only where that is sound, with the records."""
    with progress("pages", snapshot.bytes) as tell:
        findings = snapshot.structure(tell)
    if findings:
        return [f"structure: {finding}" for finding in (*snapshot.missing(), *findings)]
    tx = snapshot.tx()
    with progress("records", sum(tx.space(name).count() for name in tx.spaces())) as tell:
        return audit(_ToldTx(tx, tell))


def _contents(tx: Tx) -> str:
    """What a sound directory holds; what is set aside is told by name."""
    queues = messages = 0
    for _, value in tx.space(keys.QUEUES).scan():
        record = codec.unpack_queue(value)
        queues += 1
        messages += tx.space(keys.ready_space(record.id)).count() + record.in_flight + record.delayed + record.blocked
    for key, _ in tx.space(keys.QUARANTINE).scan():
        name = tx.space(keys.NAMES).get(key[:4])
        if name:
            click.echo(f"set aside: message {keys.sequence_of(key[4:])} of {name.decode()}, which was found damaged")
    return f"sound: {count(queues, 'queue')}, {count(messages, 'message')}"


def _number(findings: list[str]) -> str:
    """The last may say that there are more."""
    if findings[-1].endswith(MORE):
        return f"more than {len(findings) - 1:,} findings"
    return count(len(findings), "finding")


def mebibytes(size: int) -> str:
    return f"{size / _MIB:,.1f} MiB"


class _ToldTx:
    """A transaction that tells how many records were read in scans."""

    def __init__(self, tx: Tx, tell: Tell) -> None:
        self._tx = tx
        self._tell = tell

    def space(self, name: str) -> Any:
        return _ToldSpace(self._tx.space(name), self._tell)

    def spaces(self) -> list[str]:
        return self._tx.spaces()

    def drop(self, name: str) -> None:
        self._tx.drop(name)


class _ToldSpace:
    def __init__(self, space: Space, tell: Tell) -> None:
        self._space = space
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        for number, item in enumerate(self._space.scan(start, stop), 1):
            if number % TOLD_RECORDS == 0:
                self._tell(TOLD_RECORDS)
            yield item
