"""Cheap changes to bytes, drawn from a seed: what a search without coverage can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

WORDS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"\xff",
    b"%00",
    b"%",
    b"\xc3\xa9",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b"&",
    b".",
]
WORDS += [b"-1", b"0", b"1e999", b"NaN", b"9007199254740993", b"9223372036854775808", b"18446744073709551616"]
WORDS += [b"\xd9\xa3", b"null", b"[", b"]", b"{", b"}", b'"', b"\\ud800", b"chunked", b"Content-Length: 5\r\n"]
WORDS += [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc7\x0c\xff", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\x1b[31m"]


def changed(corpus: Sequence[bytes], number: int, seed: int) -> Iterator[bytes]:
    """So many inputs, each made of one of the corpus by a few changes."""
    random = Random(seed)
    for _ in range(number):
        data = random.choice(corpus)
        for _ in range(random.randint(1, 4)):
            data = _change(data, random.choice(corpus), random)
        yield data


def _change(data: bytes, other: bytes, random: Random) -> bytes:
    begin = random.randint(0, len(data))
    end = min(len(data), begin + random.choice([0, 1, 1, 2, 8, 64]))
    match random.randrange(6):
        case 0:
            middle = random.choice(WORDS)
        case 1:
            middle = random.choice(WORDS) * random.randint(1, 100)
        case 2:
            middle = data[begin:end] * random.randint(0, 20)
        case 3:
            middle = random.randbytes(random.randint(1, 4))
        case 4:
            at = random.randint(0, len(other))
            middle = other[at : at + random.choice([1, 8, 64, 1_000])]
        case _:
            return data[:begin]
    return data[:begin] + middle + data[end:]
