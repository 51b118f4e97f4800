"""Lines of a file or a pipe, in batches for one send each, in constant memory.

What a pipe has so far is a batch: nothing waits for more lines to come. Blank lines are no messages, but are counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from msgspec import Struct

READ_BYTES = 1 << 20
BATCH_LINES = 1_000
BATCH_BYTES = 1 << 20  # or one line; a server takes 16 MiB, if it was not told to take less
MAX_LINE_BYTES = 256 << 20  # a message has at most half as many, so this is no line of one


class LineTooLong(Exception):
    """`number` is the line's."""

    def __init__(self, number: int) -> None:
        super().__init__(f"Line {number:,} has more than {MAX_LINE_BYTES >> 20} MiB")
        self.number = number


class Batch(Struct, frozen=True):
    """Some lines that are not blank, with their numbers, which begin with 1. All lines up to `upto` have been read."""

    lines: list[bytes]
    numbers: list[int]
    upto: int

    def halves(self) -> tuple[Batch, Batch]:
        middle = len(self.lines) // 2
        last = self.numbers[middle - 1]
        return (
            Batch(self.lines[:middle], self.numbers[:middle], last),
            Batch(self.lines[middle:], self.numbers[middle:], self.upto),
        )


def batches(fd: int, after: int, tell: Callable[[int], object]) -> Iterator[Batch]:
    """What is behind the first `after` lines; `tell` is called with the bytes that were read. Raises LineTooLong."""
    lines: list[bytes] = []
    numbers: list[int] = []
    size = upto = 0
    for number, line, is_more in _lines(fd, tell):
        if number <= after:
            continue
        upto = number
        if not line.isspace() and line:
            if lines and (len(lines) == BATCH_LINES or size + len(line) > BATCH_BYTES):
                yield Batch(lines, numbers, number - 1)
                lines, numbers, size = [], [], 0
            lines.append(line)
            numbers.append(number)
            size += len(line)
        if lines and not is_more:
            yield Batch(lines, numbers, upto)
            lines, numbers, size = [], [], 0
    if lines:
        yield Batch(lines, numbers, upto)


def _lines(fd: int, tell: Callable[[int], object]) -> Iterator[tuple[int, bytes, bool]]:
    """Number, line, and whether another one is there already. Raises LineTooLong."""
    number = 0
    begun: list[bytes] = []  # parts of a line whose end was not read yet
    begun_size = 0
    while data := os.read(fd, READ_BYTES):
        tell(len(data))
        first, *others = data.split(b"\n")
        begun.append(first)
        begun_size += len(first)
        if begun_size > MAX_LINE_BYTES:
            raise LineTooLong(number + 1)
        if not others:
            continue
        rest = others.pop()
        for at, line in enumerate([b"".join(begun), *others]):
            number += 1
            yield number, line, at < len(others)
        begun, begun_size = [rest], len(rest)
    if begun_size:
        yield number + 1, b"".join(begun), False
