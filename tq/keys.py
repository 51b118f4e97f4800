"""Where everything is kept: the name of every sub-database and the bytes of every key.

    sub-database    key                                             value
    meta            b"next_queue_id", b"probed_at"                  8-byte integer
    queues          queue name, ASCII                               queue record (codec)
    queue/<id>      message key                                     message record (codec), ready messages only
    chunks          queue id (4) + message key (8) + number (2)     up to 4,080 bytes of a large body
    quarantine      queue id (4) + message key (8)                  a message record that could not be read
    garbage         queue id (4)                                    empty: this id's records wait to be swept

    message key     +------------+---------------------------+
                    | rank (1)   | sequence number (7)       |    rank is 9
                    +------------+---------------------------+

All integers are big-endian, so that the order of bytes is the order of numbers and the first key of `queue/<id>` is
always the next message. The sequence number is the message's id; it begins at 1 in each queue and none is used twice.
A queue's id is internal: `purge` gives the queue a new one, and the records under the old id are garbage from then on.
"""

from __future__ import annotations

META = "meta"
QUEUES = "queues"
CHUNKS = "chunks"
QUARANTINE = "quarantine"
GARBAGE = "garbage"

NEXT_QUEUE_ID = b"next_queue_id"
PROBED_AT = b"probed_at"

MAX_SEQUENCE = (1 << 56) - 1

_RANK = 9 << 56


def ready_space(queue_id: int) -> str:
    """The sub-database that holds this queue's ready messages."""
    return f"queue/{queue_id}"


def message_key(sequence: int) -> bytes:
    return (_RANK | sequence).to_bytes(8)


def sequence_of(key: bytes) -> int:
    """The sequence number in a message key."""
    return int.from_bytes(key[1:8])


def queue_prefix(queue_id: int) -> bytes:
    """What every key of this queue begins with in the sub-databases that queues share."""
    return queue_id.to_bytes(4)


def queue_id_of(key: bytes) -> int:
    """The queue id in a key of a shared sub-database."""
    return int.from_bytes(key[:4])


def chunk_key(queue_id: int, message: bytes, number: int) -> bytes:
    return queue_id.to_bytes(4) + message + number.to_bytes(2)


def shared_key(queue_id: int, message: bytes) -> bytes:
    """A message's key in the sub-databases that queues share."""
    return queue_id.to_bytes(4) + message


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key behind all that begin with `prefix`; None when there is no such key."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
