"""What LMDB itself gives for tq's records: puts in transactions, each synced, zeros written ahead, and nothing else.

`python -m benchmarks.raw_lmdb DIRECTORY CONTENT_BYTES BATCH SECONDS` prints a `Found` of the loader: how many commits
in how many seconds, and how long one took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import lmdb
import msgspec

from benchmarks.loader import Found, percentile
from tq.codec import MessageRecord, pack_message
from tq.store.directory import DataDirectory

MAP_BYTES = 1 << 40
KEY_BYTES = 8  # as long as those of tq
PAGE_BYTES = 4_096


def run(directory: str, content_bytes: int, batch: int, seconds: float) -> Found:
    content = b'"%b"' % (b"x" * (content_bytes - 2))
    record = pack_message(MessageRecord(sent_at_ms=int(time.time() * 1000), body=content))
    env = lmdb.open(directory, map_size=MAP_BYTES, max_dbs=1)
    database = env.open_db(b"messages")
    with env.begin(db=database) as txn:
        written = txn.stat(database)["entries"]
    took: list[float] = []
    data = DataDirectory(Path(directory))
    begun = last = time.perf_counter()
    while last - begun < seconds:
        data.write_ahead((env.info()["last_pgno"] + 1) * PAGE_BYTES)
        with env.begin(db=database, write=True) as txn:
            for number in range(written, written + batch):
                txn.put(number.to_bytes(KEY_BYTES), record)
        written += batch
        now = time.perf_counter()
        took.append(now - last)
        last = now
    env.close()
    took.sort()
    return Found(len(took), last - begun, percentile(took, 50) * 1000, percentile(took, 99) * 1000)


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(exist_ok=True)
    found = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    sys.stdout.buffer.write(msgspec.json.encode(found))
