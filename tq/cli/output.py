"""What commands print: tables and lines for people on a terminal, JSON for programs, and the sentence of a failure.

Names and contents come from others: whatever could drive a terminal is escaped before people are shown it. rich is
imported where it is used, because few commands need it and all would wait for it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from tq.errors import EXIT_DATA, EXIT_INTERRUPTED, StartError

if TYPE_CHECKING:
    from rich.table import Table

NAME_CHARACTERS = 16  # of a name that a table shows before it goes without a column


@contextmanager
def ending_in_a_sentence(place: str) -> Iterator[None]:
    """End the process with a sentence on stderr and an exit code; `place` is where a failure of the system was."""
    try:
        yield
    except StartError as error:
        fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):  # the latter at a question
        fail("Interrupted.", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Nobody reads on, which is no failure of tq's.
        give_up_stdout()
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        is_full = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        where = "stdout" if is_full else error.filename or place  # all other writing says where it was
        fail(f"{where}: {error.strerror or error}.", EXIT_DATA)


def fail(sentence: str, exit_code: int) -> NoReturn:
    say(sentence)
    sys.exit(exit_code)


def say(sentence: str) -> None:
    """To people, on stderr."""
    click.echo(f"tq: {escaped(sentence)}", err=True)


def give_up_stdout() -> None:
    """What is still in its buffer must go somewhere, or the end of the process would fail of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_for_people(as_json: bool) -> bool:
    """Whether stdout is a terminal, and --json was not said."""
    return not as_json and sys.stdout is not None and sys.stdout.isatty()


def print_json(value: Any) -> None:
    """One line; it is written at once, for whoever reads it in a pipe."""
    print_lines([msgspec.json.encode(value)])


def print_lines(lines: Iterable[bytes]) -> None:
    out = sys.stdout.buffer
    for line in lines:
        out.write(line + b"\n")
    out.flush()


def escaped(text: str) -> str:
    """The text without anything that a terminal obeys, or that shows other text than there is."""
    return text if text.isprintable() else "".join([one if one.isprintable() else _escape(one) for one in text])


def _escape(one: str) -> str:
    return one.encode("unicode_escape").decode()


def span(seconds: float | None) -> str:
    """A length of time in its two largest units, or nothing where there is none."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller}"
    return f"{whole} s"


def count(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"


def size(number: int) -> str:
    """Bytes, in the unit that makes it short."""
    figure, unit = float(number), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if figure < 1_000:
            break
        figure, unit = figure / 1024, bigger
    return f"{figure:.0f} {unit}" if unit == "B" else f"{figure:.1f} {unit}"


def table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], width: int, spared: Sequence[str], folds: bool
) -> Table:
    """A table whose first column is a name, and the others figures.

    Where it is too wide it goes without the columns `spared`, the first of them first. A name that is too long then
    `folds` into several lines, or is cut.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    widths[0] = min(widths[0], NAME_CHARACTERS)
    kept = list(range(len(titles)))
    for title in spared:
        if sum(widths[index] + 2 for index in kept) - 2 > width:
            kept.remove(titles.index(title))
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index in kept:
        # A name that folds is whole, and can be copied.
        made.add_column(
            titles[index],
            justify="right" if index else "left",
            overflow="fold" if folds and not index else "ellipsis",
            no_wrap=index > 0 or not folds,
            min_width=widths[index],
        )
    for row in cells:
        made.add_row(*[Text(row[index]) for index in kept])
    return made


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], spared: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(table(titles, rows, console.width, spared, folds=True))
