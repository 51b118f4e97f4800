"""`tq dump` and `tq load`: messages out as lines of JSON, and in again."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

import click
from msgspec import Struct, field
from msgspec.structs import replace

from tq import __version__, lifecycle, model
from tq import dump as format_
from tq.cli.data import mebibytes, on_data, progress
from tq.clock import TimerClock
from tq.dump import End, Head, IdLine, Line, MessageLine, Part, QueueLine
from tq.errors import EXIT_DATA, EXIT_FINDINGS, EXIT_STORAGE_FAILED, EXIT_USAGE, StartError, StorageFailed, StorageFull
from tq.settings import Settings
from tq.store.directory import open_private, sync_directory
from tq.store.lmdb import LmdbStore
from tq.store.lmdb.snapshot import Snapshot, Tell

BATCH_LINES = 1_000  # loaded in one commit …
BATCH_BYTES = 4 << 20  # … or so many bytes of them
TOLD_LINES = 1_000  # written between two looks of the progress bar


# --- dump -------------------------------------------------------------


@click.command()
@click.argument("queues", nargs=-1)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; - or none is stdout.")
@click.option("--resume", is_flag=True, help="Go on with an --output that was interrupted, if the data is the same.")
@on_data
def dump(data_dir: Path, queues: tuple[str, ...], output: Path | None, resume: bool) -> None:
    """Write queues as lines of JSON.

    Those whose names match one of the patterns QUEUES, or all. A server may go on meanwhile.
    """
    output = None if str(output) == "-" else output
    is_file = output is not None and (output.is_file() or not output.exists())
    if resume and not is_file:
        raise click.UsageError("--resume needs an --output that is a file.")
    began_s = time.monotonic()
    damaged: list[str] = []
    with Snapshot(data_dir, lifecycle.MAX_SPACES) as snapshot:
        head = Head(1, __version__, token_hex(16), snapshot.number, queues)
        tx = snapshot.tx()
        for pattern in queues:
            if not format_.matching(tx, (pattern,)):
                raise StartError(f"There is no queue {pattern!r}.", EXIT_USAGE)
        lines = format_.lines(tx, queues, damaged.append)
        is_seen = output is None and _stdout().isatty()  # then a bar would be in the midst of it
        with progress("dump", 0 if is_seen else sum(tx.space(name).count() for name in tx.spaces())) as tell:
            if output is not None and is_file:
                _write_file(Path(os.path.realpath(output)), head, lines, tell, resume)
            else:
                with output.open("wb") if output else nullcontext(_stdout()) as file:
                    _write(file, [head], tell)
                    _write(file, lines, tell)
    if is_file and output is not None:
        click.echo(f"{output}: {mebibytes(output.stat().st_size)}, {time.monotonic() - began_s:.1f} s")
    for sentence in damaged:
        click.echo(f"tq: Left out, because it is damaged: {sentence}.", err=True)
    if damaged:
        sys.exit(EXIT_FINDINGS)


def _stdout() -> BinaryIO:
    """Raises StartError."""
    if sys.stdout is None:
        raise StartError("The stdout is closed; name a file with --output.", EXIT_DATA)
    return sys.stdout.buffer


def _write(file: BinaryIO, lines: Iterable[Line], tell: Tell) -> None:
    for number, line in enumerate(lines, 1):
        file.write(format_.encode(line) + b"\n")
        if number % TOLD_LINES == 0:
            tell(TOLD_LINES)
    file.flush()


def _write_file(output: Path, head: Head, lines: Iterator[Line], tell: Tell, resume: bool) -> None:
    """Write a file that gets its name when it is complete and on disk. Raises StartError."""
    part = output.with_name(output.name + ".part")
    try:
        written = _whole_lines(part, head) if resume else 0
        with os.fdopen(open_private(part, os.O_RDWR | os.O_NOFOLLOW | (0 if written else os.O_TRUNC)), "r+b") as file:
            os.fchmod(file.fileno(), 0o600)
            if written:
                file.seek(0, os.SEEK_END)
                _write(file, islice(lines, written - 1, None), tell)
            else:
                _write(file, [head], tell)
                _write(file, lines, tell)
            os.fsync(file.fileno())
        part.rename(output)
        sync_directory(output.absolute().parent)
    except OSError as error:
        raise StartError(f"{part} cannot be written ({error.strerror}).", EXIT_DATA) from error


def _whole_lines(part: Path, head: Head) -> int:
    """How many lines were written of this very dump; a half one behind them is cut off. Raises StartError."""
    if not part.exists():
        return 0
    with os.fdopen(open_private(part, os.O_RDWR | os.O_NOFOLLOW), "r+b") as file:
        count = size = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            if count == 0 and not _is_same(line, head):
                raise StartError(
                    f"{part} is of another dump or another state of the data; dump anew without --resume.", EXIT_DATA
                )
            count += 1
            size += len(line)
        file.truncate(size)
    return count


def _is_same(line: bytes, head: Head) -> bool:
    try:
        found = format_.decode(line)
    except ValueError:
        return False
    return isinstance(found, Head) and replace(found, id=head.id) == head


# --- load -------------------------------------------------------------


class Batch(Struct):
    """Lines up to `upto`, for one commit; `numbers` are those of its parts."""

    upto: int = 0
    parts: list[Part] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    size: int = 0


@click.command()
@click.argument("file", type=click.File("rb"))
@on_data
def load(data_dir: Path, file: BinaryIO) -> None:
    """Add a dump to the data.

    FILE is a dump, or - for stdin. No server may run. A load that was interrupted goes on where it was.
    """
    began_s = time.monotonic()
    head = _read_head(file)
    store = LmdbStore(
        data_dir, lifecycle.apply, max_spaces=lifecycle.MAX_SPACES, reserve_bytes=Settings().reserve_bytes
    )
    with closing(store), progress("load", _size(file)) as tell:
        clock = _clock(store)
        before = after = store.read(lambda tx: lifecycle.answer(tx, model.GetLoaded(head.id), 0))
        messages = 0
        for batch in _batches(file, before, tell):
            _commit(store, clock, model.Load(head.id, after, batch.upto, tuple(batch.parts)), batch.numbers)
            after = batch.upto
            messages += sum(isinstance(part, model.LoadedMessage) for part in batch.parts)
    went_on = f" behind {before:,} lines that were loaded before" if before else ""
    took_s = time.monotonic() - began_s
    click.echo(f"{messages:,} messages{went_on}; {took_s:.1f} s, {messages / took_s:,.0f} a second")


def _read_head(file: BinaryIO) -> Head:
    """Raises StartError."""
    head = _decode(1, file.readline())
    if not isinstance(head, Head):
        raise _bad_line(1, "it is not the first line of a dump")
    return head


def _decode(number: int, line: bytes) -> Line:
    """Raises StartError."""
    try:
        return format_.decode(line)
    except ValueError as error:  # of msgspec too
        raise _bad_line(number, str(error)) from error


def _bad_line(number: int, why: str) -> StartError:
    return StartError(f"Line {number:,} cannot be loaded: {why.rstrip('.')}.", EXIT_DATA)


def _size(file: BinaryIO) -> int:
    """0 of a pipe."""
    figures = os.fstat(file.fileno())
    return figures.st_size if stat.S_ISREG(figures.st_mode) else 0


def _clock(store: LmdbStore) -> TimerClock:
    """The timers' clock, as a server that starts now would have it."""
    stored = store.read(lambda tx: lifecycle.answer(tx, model.GetClock(), 0))
    clock = TimerClock.resumed(stored)
    if clock.offset_ms != stored.offset_ms:
        store.commit([clock.to_store()], clock.now_ms())
    return clock


def _batches(file: BinaryIO, loaded: int, tell: Tell) -> Iterator[Batch]:
    """What is behind the lines that were loaded; a queue is a batch of its own. Raises StartError."""
    batch = Batch()
    number, line = 1, b""
    for number, line in enumerate(file, 2):
        tell(len(line))
        if number <= loaded:
            continue
        read = _decode(number, line)
        is_queue = isinstance(read, QueueLine)
        if batch.upto and (is_queue or len(batch.parts) == BATCH_LINES or batch.size >= BATCH_BYTES):
            yield batch
            batch = Batch()
        batch.upto = number
        batch.size += len(line)
        if isinstance(read, QueueLine | MessageLine | IdLine):
            batch.parts.append(_part(number, read))
            batch.numbers.append(number)
        if is_queue:
            yield batch
            batch = Batch()
    if batch.upto:
        yield batch
    if not isinstance(_decode(number, line), End):
        raise StartError(f"The dump breaks off behind line {number:,}; what is before was loaded.", EXIT_DATA)


def _part(number: int, line: QueueLine | MessageLine | IdLine) -> Part:
    """Raises StartError."""
    try:
        return format_.part_of(line)
    except ValueError as error:
        raise _bad_line(number, str(error)) from error


def _commit(store: LmdbStore, clock: TimerClock, command: model.Load, numbers: list[int]) -> None:
    """Raises StartError."""
    try:
        [result] = store.commit([command], clock.now_ms())
    except StorageFailed as error:
        raise StartError(f"{error}.", EXIT_STORAGE_FAILED) from error
    if isinstance(result, model.Refused):
        raise _bad_line(numbers[result.index], str(result.error))
    if isinstance(result, StorageFull):
        raise StartError(
            f"The disk is full; lines up to {command.after:,} were loaded: load again to go on behind them.", EXIT_DATA
        )
    if isinstance(result, Exception):
        raise result
