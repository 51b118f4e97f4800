"""The bytes of records, as they lie in the data directories of every version since 0.1."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tq import model
from tq.codec import ChunkedBody, MessageRecord, QueueRecord
from tq.model import Attribute, DeadLetter, DeadLetterOrigin, MoveTask, QueueSettings

NOW_MS = 1_700_000_000_000

WHOLE = MessageRecord(
    sent_at_ms=0,
    body=b"\xff",
    media_type=model.TEXT,
    group="g",
    headers={"h": "ä"},
    dead_letter=DeadLetterOrigin("q", "why", 2),
    dedup_id="d",
    attributes={"n": Attribute("Number", "1"), "b": Attribute("Binary", b"\xff")},
    notes={"k": "v"},
    uuid=bytes(range(16)),
)
FIFO_QUEUE = QueueRecord(
    1,
    1,
    NOW_MS,
    QueueSettings(
        dead_letter=DeadLetter("b", 1, on_receive=True),
        dedup_scope="group",
        content_dedup=True,
        fifo=True,
        max_in_flight=2,
        receive_wait=1,
    ),
)

OLD_MESSAGES = [
    (
        MessageRecord(NOW_MS, b'{"a":1}'),
        "01 98 cf0000018bcfe56800 00 00 00 00 c0 c407 7b2261223a317d c0 ad208ce0",
    ),
    (
        MessageRecord(NOW_MS, b"", "text/plain", 3, 4, NOW_MS + 1, NOW_MS + 2),
        "01 98 cf0000018bcfe56800 03 04 cf0000018bcfe56801 cf0000018bcfe56802 aa746578742f706c61696e c400 c0 6b97dc94",
    ),
    (
        MessageRecord(NOW_MS, ChunkedBody(10_240, 3_150_855_069, 7)),
        "01 98 cf0000018bcfe56800 00 00 00 00 c0 93 cd2800 cebbce3b9d 07 c0 538fc242",
    ),
    (
        MessageRecord(0, b"\xff", group="g", headers={"h": "ä"}, dead_letter=DeadLetterOrigin("q", "why", 2)),
        "01 98 00 00 00 00 00 c0 c401 ff 83 a567726f7570 a167 a768656164657273 81 a168 a2c3a4"
        " ab646561645f6c6574746572 93 a171 a3776879 02 9a0f1a54",
    ),
    (
        MessageRecord(NOW_MS, b'{"a":1}'),
        "02 99 cf0000018bcfe56800 00 00 00 00 c0 c407 7b2261223a317d 00 c0 76b2b3d3",
    ),
    (
        MessageRecord(NOW_MS, b"", "text/plain", 3, 4, NOW_MS + 1, NOW_MS + 2, first_received_at_ms=NOW_MS + 3),
        "02 99 cf0000018bcfe56800 03 04 cf0000018bcfe56801 cf0000018bcfe56802 aa746578742f706c61696e c400"
        " cf0000018bcfe56803 c0 4bcae8b6",
    ),
    (
        MessageRecord(NOW_MS, ChunkedBody(10_240, 3_150_855_069, 7)),
        "02 99 cf0000018bcfe56800 00 00 00 00 c0 93 cd2800 cebbce3b9d 07 00 c0 764f496b",
    ),
    (
        WHOLE,
        "02 99 00 00 00 00 00 a0 c401 ff 00 87 a567726f7570 a167 a768656164657273 81 a168 a2c3a4"
        " ab646561645f6c6574746572 93 a171 a3776879 02 a864656475705f6964 a164"
        " aa61747472696275746573 82 a16e 92 a64e756d626572 a131 a162 92 a642696e617279 c401ff"
        " a56e6f746573 81 a16b a176 a475756964 c410 000102030405060708090a0b0c0d0e0f 79c3f4a1",
    ),
]
GOLDEN_MESSAGES = [
    (
        MessageRecord(NOW_MS, b'{"a":1}'),
        "03 9b cf0000018bcfe56800 00 00 00 00 c0 c407 7b2261223a317d 00 c0 00 00 d9c833b9",
    ),
    (
        MessageRecord(NOW_MS, b"", "text/plain", 3, 4, NOW_MS + 1, NOW_MS + 2, first_received_at_ms=NOW_MS + 3),
        "03 9b cf0000018bcfe56800 03 04 cf0000018bcfe56801 cf0000018bcfe56802 aa746578742f706c61696e c400"
        " cf0000018bcfe56803 c0 00 00 04054fb6",
    ),
    (
        MessageRecord(NOW_MS, ChunkedBody(10_240, 3_150_855_069, 7)),
        "03 9b cf0000018bcfe56800 00 00 00 00 c0 93 cd2800 cebbce3b9d 07 00 c0 00 00 32bf7ea8",
    ),
    (
        replace(WHOLE, ahead_ms=-5, received_at_ms=7, receives_before=1),
        "03 9b 00 00 00 00 00 a0 c401 ff 00 88 a567726f7570 a167 a768656164657273 81 a168 a2c3a4"
        " ab646561645f6c6574746572 93 a171 a3776879 02 a864656475705f6964 a164"
        " aa61747472696275746573 82 a16e 92 a64e756d626572 a131 a162 92 a642696e617279 c401ff"
        " a56e6f746573 81 a16b a176 a475756964 c410 000102030405060708090a0b0c0d0e0f"
        " af72656365697665735f6265666f7265 01 fb 07 09e2eecc",
    ),
]
OLD_QUEUES = [
    (
        QueueRecord(1, 1, NOW_MS, QueueSettings()),
        "01 99 01 01 cf0000018bcfe56800 80 00 00 00 00 80 4a6dba00",
    ),
    (
        QueueRecord(
            7, 1_001, NOW_MS, QueueSettings(max_message_bytes=65_536), 1_000, 9, 50, 5, {"sent": 1_000, "acked": 9}
        ),
        "01 99 07 cd03e9 cf0000018bcfe56800 81 b16d61785f6d6573736167655f6279746573 ce00010000"
        " cd03e8 09 32 05 82 a473656e74 cd03e8 a561636b6564 09 50c93a52",
    ),
    (
        FIFO_QUEUE,
        "01 99 01 01 cf0000018bcfe56800 86 ab646561645f6c6574746572 84 a57175657565 a162"
        " ac6d61785f7265636569766573 01 a96f6e5f657870697279 c2 aa6f6e5f72656365697665 c3"
        " ab64656475705f73636f7065 a567726f7570 ad636f6e74656e745f6465647570 c3 a46669666f c3"
        " ad6d61785f696e5f666c69676874 02 ac726563656976655f77616974 01 00 00 00 00 80 a83ab3cf",
    ),
]
GOLDEN_QUEUES = [
    (
        QueueRecord(1, 1, NOW_MS, QueueSettings()),
        "02 9a 01 01 cf0000018bcfe56800 80 00 00 00 00 80 00 deb74954",
    ),
    (
        QueueRecord(
            7,
            1_001,
            NOW_MS,
            QueueSettings(retention=60, max_message_bytes=65_536),
            1_000,
            9,
            50,
            5,
            {"sent": 1_000, "acked": 9},
            NOW_MS + 60_000,
        ),
        "02 9a 07 cd03e9 cf0000018bcfe56800 82 a9726574656e74696f6e 3c b16d61785f6d6573736167655f6279746573 ce00010000"
        " cd03e8 09 32 05 82 a473656e74 cd03e8 a561636b6564 09 cf0000018bcfe65260"
        " 1fc2dd07",
    ),
    (
        FIFO_QUEUE,
        "02 9a 01 01 cf0000018bcfe56800 86 ab646561645f6c6574746572 84 a57175657565 a162"
        " ac6d61785f7265636569766573 01 a96f6e5f657870697279 c2 aa6f6e5f72656365697665 c3"
        " ab64656475705f73636f7065 a567726f7570 ad636f6e74656e745f6465647570 c3 a46669666f c3"
        " ad6d61785f696e5f666c69676874 02 ac726563656976655f77616974 01 00 00 00 00 80 00 9440615e",
    ),
]
GOLDEN_NOTES = ({"k": "ä"}, "01 81 a16b a2c3a4 a407bfe1")
GOLDEN_MOVE = (
    MoveTask("m", "q", None, 5, NOW_MS, 3, "failed", 2, "why", b"\x09", 7, 1),
    "01 8c a26964 a16d a57175657565 a171 a2746f c0 aa7065725f7365636f6e64 05"
    " ad737461727465645f61745f6d73 cf0000018bcfe56800 a7746f5f6d6f7665 03 a6737461747573 a66661696c6564"
    " a56d6f766564 02 a76661696c757265 a3776879 a56166746572 c401 09 a66265666f7265 07"
    " ac6d6f7665645f6265666f7265 01 42daaa32",
)
GOLDEN: list[tuple[Any, str]] = [
    *OLD_MESSAGES,
    *GOLDEN_MESSAGES,
    *OLD_QUEUES,
    *GOLDEN_QUEUES,
    GOLDEN_NOTES,
    GOLDEN_MOVE,
]
