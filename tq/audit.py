"""Every record against every other: what `lifecycle` keeps true, checked by reading everything.

It shares no code with `lifecycle`, only the layout. Its time grows with the data, so it is for tests and for looking at
a store that is in doubt, never for a request.
"""

from __future__ import annotations

from collections.abc import Iterator

from tq import codec, keys
from tq.codec import ChunkedBody, CorruptRecord, QueueRecord
from tq.store import Tx


def audit(tx: Tx) -> list[str]:
    """What is wrong, one sentence each; empty when all is well."""
    return list(_findings(tx))


def _findings(tx: Tx) -> Iterator[str]:
    next_queue_id = int.from_bytes(tx.space(keys.META).get(keys.NEXT_QUEUE_ID) or b"\x01")
    garbage = {keys.queue_id_of(key) for key, _ in tx.space(keys.GARBAGE).scan()}
    owners: dict[int, str] = {}
    chunks: set[bytes] = set()
    for key, value in tx.space(keys.QUEUES).scan():
        name = key.decode()
        try:
            record = codec.unpack_queue(value)
        except CorruptRecord as error:
            yield f"queue {name}: {error}"
            continue
        if record.id in owners or record.id in garbage or record.id >= next_queue_id:
            yield f"queue {name}: its id {record.id} is not its own"
        owners[record.id] = name
        yield from _queue_findings(tx, name, record, chunks)
    yield from _orphans(tx, owners, garbage, chunks)


def _queue_findings(tx: Tx, name: str, record: QueueRecord, chunks: set[bytes]) -> Iterator[str]:
    ready = tx.space(keys.ready_space(record.id))
    scanned = 0
    for key, value in ready.scan():
        scanned += 1
        sequence = keys.sequence_of(key)
        if key != keys.message_key(sequence) or not 1 <= sequence < record.next_sequence:
            yield f"queue {name}: the key {key.hex()} is not one that was given out"
        try:
            body = codec.unpack_message(value).body
            if isinstance(body, ChunkedBody):
                wanted = [keys.chunk_key(record.id, key, number) for number in range(body.chunks)]
                chunks.update(wanted)
                codec.join_body(body, [tx.space(keys.CHUNKS).get(chunk) or b"" for chunk in wanted])
        except CorruptRecord as error:
            yield f"queue {name}: message {sequence}: {error}"
    if scanned != ready.count():
        yield f"queue {name}: {scanned} messages are there and {ready.count()} are counted"
    gone = record.received + record.purged + record.quarantined
    if record.sent != scanned + gone or record.next_sequence != record.sent + 1:
        yield (
            f"queue {name}: {record.sent} sent, {scanned} there and {gone} gone do not add up "
            f"(next is {record.next_sequence})"
        )


def _orphans(tx: Tx, owners: dict[int, str], garbage: set[int], chunks: set[bytes]) -> Iterator[str]:
    """Records that belong to nothing."""
    quarantined: set[bytes] = set()
    for key, _ in tx.space(keys.QUARANTINE).scan():
        quarantined.add(key)
        if keys.queue_id_of(key) not in owners.keys() | garbage:
            yield f"quarantine: {key.hex()} belongs to no queue"
    for key, _ in tx.space(keys.CHUNKS).scan():
        if key not in chunks and key[:12] not in quarantined and keys.queue_id_of(key) not in garbage:
            yield f"chunks: {key.hex()} belongs to no message"
    for space in tx.spaces():
        kind, _, number = space.partition("/")
        if kind == "queue" and int(number) not in owners.keys() | garbage:
            yield f"{space} belongs to no queue"
