"""Where everything is kept: the name of every sub-database and the bytes of every key.

    sub-database    key                                                     value
    meta            b"next_queue_id", b"probed_at"                          an integer, 8 bytes
                    b"clock"                                                two integers, 8 bytes each, and their CRC-32
                    b"boot"                                                 the start of the machine (codec)
                    b"loaded/" + id of a dump                               how many of its lines were loaded (8)
    queues          queue name, ASCII                                       queue record (codec)
    names           queue id (4)                                            queue name
    notes           queue name                                              texts that a protocol keeps (codec)
    queue/<id>      message key                                             message record (codec): ready messages
    in_flight       queue id (4) + message key (8)                          message record: leased messages
    delayed         queue id (4) + message key (8)                          message record: not yet to be received
    blocked         queue id (4) + message key (8)                          message record: behind another of its group
    groups          queue id (4) + length (1) + group                       message key (8) of its head
                    … + message key (8)                                     empty: blocked behind the head
                    queue id (4) + 255 (1) + length (1) + group + key (8)   empty: in flight beside the head (FIFO)
    attempts        queue id (4) + receive attempt id                       until when, ms (8), and keys and attempts
    due             time ms (8) + kind (1) + queue id (4) + message key (8) empty, or the deduplication id
                    time ms (8) + kind (1) + queue id (4)                   empty: the queue's oldest may be too old
    dedup           queue id (4) + deduplication id                         message key (8) + until when, ms (8)
                    queue id (4) + 255 (1) + length (1) + group + id        the same, of an id that is its group's
    chunks          queue id (4) + message key (8) + number (2)             up to 4,080 bytes of a large body
    quarantine      queue id (4) + message key (8)                          a message record that could not be read
    moves           queue name + 0 (1) + number (8)                         a task that moves messages (codec)
    garbage         queue id (4)                                            empty: its records wait to be swept

    message key     +------------+---------------------------+
                    | rank (1)   | sequence number (7)       |    rank is 9 - priority
                    +------------+---------------------------+

All integers are big-endian, so that the order of bytes is the order of numbers and the first key of `queue/<id>` is
always the next message. The sequence number is the message's id; it begins at 1 in each queue and none is used twice.
A message keeps its key for life, wherever it is, so a lease that is over puts it back at its own old place.
A queue's id is internal: `purge` gives the queue a new one, and the records under the old id are garbage from then on.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from enum import IntEnum

META = "meta"
QUEUES = "queues"
NAMES = "names"
NOTES = "notes"
IN_FLIGHT = "in_flight"
DELAYED = "delayed"
BLOCKED = "blocked"
GROUPS = "groups"
ATTEMPTS = "attempts"
DUE = "due"
DEDUP = "dedup"
CHUNKS = "chunks"
QUARANTINE = "quarantine"
MOVES = "moves"
GARBAGE = "garbage"

BY_QUEUE = (IN_FLIGHT, DELAYED, BLOCKED, GROUPS, DEDUP, ATTEMPTS, CHUNKS, QUARANTINE)
"""The sub-databases that queues share, and whose keys begin with the queue's id."""

NEXT_QUEUE_ID = b"next_queue_id"
PROBED_AT = b"probed_at"
CLOCK = b"clock"
LOADED = b"loaded/"
BOOT = b"boot"

LOWEST_RANK = 9
MAX_QUEUE_ID = (1 << 32) - 1


class DueKind(IntEnum):
    """What is over when an entry of `due` is."""

    LEASE = 1
    DELAY = 2
    TTL = 3
    DEDUP = 4
    ATTEMPT = 5
    RETENTION = 6


def ready_space(queue_id: int) -> str:
    """The sub-database that holds this queue's ready messages."""
    return f"queue/{queue_id}"


def is_message_key(key: bytes) -> bool:
    """Whether it can be one; what is not, a disk has made of it."""
    return len(key) == 8 and key[0] <= LOWEST_RANK


def message_key(sequence: int, priority: int = 0) -> bytes:
    return ((LOWEST_RANK - priority) << 56 | sequence).to_bytes(8)


def parse_message_key(key: bytes) -> tuple[int, int]:
    """Priority and sequence number."""
    return LOWEST_RANK - key[0], int.from_bytes(key[1:8])


def sequence_of(key: bytes) -> int:
    """The sequence number in a message key."""
    return int.from_bytes(key[1:8])


def priority_of(key: bytes) -> int:
    return LOWEST_RANK - key[0]


def queue_prefix(queue_id: int) -> bytes:
    """What every key of this queue begins with in the sub-databases that queues share."""
    return queue_id.to_bytes(4)


def queue_id_of(key: bytes) -> int:
    """The queue id in a key of a shared sub-database."""
    return int.from_bytes(key[:4])


def shared_key(queue_id: int, message: bytes) -> bytes:
    """A message's key in the sub-databases that queues share."""
    return queue_id.to_bytes(4) + message


def chunk_key(queue_id: int, message: bytes, number: int) -> bytes:
    return queue_id.to_bytes(4) + message + number.to_bytes(2)


def group_prefix(queue_id: int, group: str) -> bytes:
    """What the keys of a group's messages begin with in `groups`."""
    encoded = group.encode()
    return queue_id.to_bytes(4) + len(encoded).to_bytes(1) + encoded


_MARK = b"\xff"  # begins what is no text in UTF-8, and no length of a group


def beside_prefix(prefix: bytes) -> bytes:
    """From a group's prefix to that of its messages which are in flight beside the head."""
    return prefix[:4] + _MARK + prefix[4:]


def group_prefix_of(entry: bytes) -> bytes:
    """The group's prefix in the key of one of its messages in `groups`."""
    return entry[:4] + entry[5:-8] if entry[4:5] == _MARK else entry[:-8]


def dedup_key(queue_id: int, dedup_id: str, group: str | None = None) -> bytes:
    """With a group for an id that is known in its group only."""
    if group is None:
        return queue_id.to_bytes(4) + dedup_id.encode()
    return beside_prefix(group_prefix(queue_id, group)) + dedup_id.encode()


def parse_dedup(key: bytes) -> tuple[str, str | None]:
    """The deduplication id in a key of `dedup`, and its group where it is known in that only."""
    if key[4:5] != _MARK:
        return key[4:].decode(), None
    end = 6 + key[5]
    return key[end:].decode(), key[6:end].decode()


def attempt_key(queue_id: int, attempt_id: str) -> bytes:
    return queue_id.to_bytes(4) + attempt_id.encode()


def moves_prefix(queue: str) -> bytes:
    """What the keys of a queue's tasks begin with."""
    return queue.encode() + b"\0"


def uuid_prefix(queue_id: int, created_at_ms: int) -> bytes:
    """What the uuids of all messages begin with that come into being in a queue, 9 bytes.

    A uuid is a message's identity over all queues of all servers: of version 8 (RFC 9562, 5.8), with the id of the
    queue (32 bits), the end of the time when that was created (34), and the message's sequence number (56).
    """
    created = created_at_ms & (1 << 34) - 1
    parts = (queue_id, 4), (created >> 18, 2), (0x8000 | created >> 6 & 0xFFF, 2), (0x80 | created & 0x3F, 1)
    return b"".join([part.to_bytes(size) for part, size in parts])


def message_uuid(prefix: bytes, sequence: int) -> bytes:
    return prefix + sequence.to_bytes(7)


def due_key(time_ms: int, kind: DueKind, queue_id: int, message: bytes) -> bytes:
    return time_ms.to_bytes(8) + kind.to_bytes(1) + queue_id.to_bytes(4) + message


def due_time_ms(key: bytes) -> int:
    """The time in a key of `due`; of one that is too short, the time that it is in order with."""
    return int.from_bytes(key[:8].ljust(8, b"\0"))


def parse_due(key: bytes) -> tuple[int, DueKind, int, bytes]:
    """The parts of a key of `due`: time (ms), kind, queue id, message key. Raises ValueError when it is none."""
    return due_time_ms(key), DueKind(int.from_bytes(key[8:9])), int.from_bytes(key[9:13]), key[13:]


_RECEIPT = re.compile("r[A-Za-z0-9_-]{21}[AQgw]")  # 16 bytes in base64url: the last 4 bits are unused, and zero


def receipt(queue_id: int, message: bytes, attempt: int) -> str:
    """What a consumer shows to settle a message it leased: good for this attempt only, and told from an id by its r."""
    return "r" + urlsafe_b64encode(queue_id.to_bytes(4) + message + attempt.to_bytes(4)).decode().rstrip("=")


def parse_receipt(text: str) -> tuple[int, bytes, int] | None:
    """Queue id, message key and attempt; None when it is not a receipt at all."""
    if not _RECEIPT.fullmatch(text):
        return None
    packed = urlsafe_b64decode(text[1:] + "==")
    return int.from_bytes(packed[:4]), packed[4:12], int.from_bytes(packed[12:])


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key behind all that begin with `prefix`; None when there is no such key."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
