"""Makes `tests/formats/tq-1.tar.xz` and `tq-1.json`: a data directory of this version, and what must come out of it.

    python -m tests.make_format tests/formats/tq-1

It is run once for each format, by hand, and what it made is committed and never made again: every later version is
tested against it (`tests/test_old_data.py`). When `codec` or `keys` change what is written, keep the old files
and make new ones beside them, under another name.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from tests import lively
from tests.damage import LATER_MS, look
from tq import lifecycle, model
from tq.store import directory as directory_module
from tq.store.directory import DATA_FILE

KEPT = ("FORMAT", DATA_FILE)  # the other files of a directory are made anew where they are missing
LONG = 150  # characters
LOOKED_AT_MS = lively.NOW_MS + 10_000  # nothing more is due by then


def describe(store: Any) -> dict[str, Any]:
    """All that can be seen of a store without changing it, as JSON has it."""

    def ask(query: model.Query) -> Any:
        return store.read(lambda tx: lifecycle.answer(tx, query, LOOKED_AT_MS))

    queues = ask(model.ListQueues(limit=1_000)).queues
    seen = {
        "spaces": store.read(lambda tx: {name: tx.space(name).count() for name in tx.spaces()}),
        "clock": ask(model.GetClock()),
        "totals": ask(model.GetTotals()),
        "queues": {info.name: info for info in queues},
        "moves": {info.name: ask(model.ListMoves(info.name)) for info in queues},
        "messages": {
            info.name: {state: ask(model.Peek(info.name, state, limit=1_000)).messages for state in model.STATES}
            for info in queues
        },
    }
    described: dict[str, Any] = _short(json.loads(msgspec.json.encode(seen)))
    return described


def _short(value: Any) -> Any:
    """Without what says nothing, and long texts by their SHA-256."""
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items() if each not in (None, 0, "", [], {})}
    if isinstance(value, list):
        return [_short(each) for each in value]
    if isinstance(value, str) and len(value) > LONG:
        return f"sha256 {sha256(value.encode()).hexdigest()}"
    return value


def described_contents(contents: list[str]) -> list[str]:
    """Contents in hexadecimal, in order, as a manifest has them."""
    described: list[str] = sorted(_short(contents))
    return described


def _make(target: Path) -> None:
    directory_module.EXTENT_BYTES = 0  # zeros ahead of the data are of no use here
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        store = lively.make(data)
        manifest = describe(store)
        store.close()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(f"{target}.tar.xz", "w:xz", preset=9) as archive:
            for name in KEPT:
                content = (data / name).read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        manifest["drained"] = {name: described_contents(out) for name, out in look(data, LATER_MS)["out"].items()}
    Path(f"{target}.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
