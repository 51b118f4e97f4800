"""`tq dump` and `tq load`: what goes out comes in again, once, however often it is cut off."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.commands import COMMAND_SECONDS, command, fill, killed, refused, tq, well
from tests.engines import open_engine, put
from tests.harness import ROOT, Server, findings, open_store, wait_until
from tq import keys, lifecycle, model
from tq.clock import JUMP_MS, boot_id, elapsed_ms, wall_ms
from tq.model import (
    Ack,
    Attribute,
    Boot,
    CreateQueue,
    DeadLetter,
    Draft,
    QueueSettings,
    Receive,
    Reject,
    Send,
    SetClock,
    Settle,
)
from tq.store.directory import DataDirectory
from tq.store.lmdb import LmdbStore

AHEAD_MS = 3_600_000
GONE_AGAIN = {"id"}  # of a message: a load gives new ones


def parsed(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def comparable(text: str) -> list[Any]:
    """The lines of a dump without what is documented to change by a load: its identity, and the ids of messages."""
    lines = parsed(text)
    assert lines[0]["line"] == "dump"
    assert lines[-1]["line"] == "end"
    return [{name: value for name, value in line.items() if name not in GONE_AGAIN} for line in lines[1:]]


@pytest.fixture
def varied(tmp_path: Path) -> Path:
    """A directory with a message of every kind, in every state. Its timers are an hour ahead; no server holds it."""
    path = tmp_path / "data"
    now_ms = wall_ms() - 10_000 + AHEAD_MS
    store = open_store(path)
    letter = DeadLetter("dead", 1)
    store.commit(
        [
            SetClock(AHEAD_MS),
            CreateQueue("dead"),
            CreateQueue("jobs", QueueSettings(dead_letter=letter, retention=1e6), {"Tag:a": "b", "Policy": "{}"}),
            CreateQueue("once.fifo", QueueSettings(fifo=True, dedup_scope="group", delay=5)),
            Send("jobs", DRAFTS),
            Send("once.fifo", tuple(Draft(b"%d" % n, group="gh"[n % 2], dedup_id=f"é{n // 2}") for n in range(6))),
        ],
        now_ms,
    )
    [received] = store.commit([Receive(("jobs",), 3, 600_000)], now_ms + 1)
    receipts = [message.receipt for message in received.messages]
    store.commit([Settle("jobs", (Reject(receipts[0], "bad"), Ack(receipts[1])))], now_ms + 2)
    [received] = store.commit([Receive(("once.fifo",), 2, 600_000)], now_ms + 6_000)
    assert len(received.messages) == 2
    store.commit([Settle("once.fifo", (Ack(received.messages[0].receipt or ""),))], now_ms + 6_001)
    store.close()
    assert findings(path) == []
    return path


DRAFTS = (
    Draft(b'{"json" : [1, 2.50, "\\u00e9\xc3\xa9"]}', priority=3),
    Draft(b"to be acked", "text/plain", priority=2, dedup_id="acked"),
    Draft(b'["leased"]', priority=1, ttl_ms=900_000_000),
    Draft(b'{\n "of": "two lines"\n}'),
    Draft("text 漢字".encode(), model.TEXT, headers={"name": "value", "ä": ""}),
    Draft(bytes(range(256)) * 40, "application/octet-stream", headers={"large": "x"}, notes={"n": "m"}),
    Draft(b"1", delay_ms=500_000_000, dedup_id="d"),
    Draft(b"2", group="g", attributes={"N": Attribute("Number", "1.5"), "B": Attribute("Binary", b"\xff\0")}),
    Draft(b"3", group="g", priority=9),
    Draft(b"4", group="g", delay_ms=500_000_000),
    Draft(b"not json"),
    Draft(b"\xff", model.TEXT),
)


def test_a_dump_that_is_loaded_and_dumped_is_the_same(varied: Path, tmp_path: Path) -> None:
    """Also where the timers' clock is ahead of the wall clock by something else."""
    well("dump", "--data-dir", varied, "--output", tmp_path / "dump")
    store = open_store(tmp_path / "new")
    store.commit([SetClock(2 * AHEAD_MS)], wall_ms() + 2 * AHEAD_MS)
    store.close()
    said = well("load", "--data-dir", tmp_path / "new", tmp_path / "dump")
    assert re.fullmatch(r"16 messages; [0-9.]+ s, [0-9,]+ a second\n", said)
    assert findings(tmp_path / "new") == []
    first = (tmp_path / "dump").read_text()
    assert comparable(well("dump", "--data-dir", tmp_path / "new")) == comparable(first)
    assert first.count('"line":"message"') == 16
    assert first.count('"line":"id"') == 2
    assert (tmp_path / "dump").stat().st_mode & 0o777 == 0o600


def test_what_was_loaded_works_on(varied: Path, tmp_path: Path) -> None:
    """Order, groups, deduplication ids of what is there and of what is gone, counts of receives."""
    dumped = well("dump", "--data-dir", varied)
    well("load", "--data-dir", tmp_path / "new", "-", stdin=dumped.encode())
    store = open_store(tmp_path / "new")
    now_ms = wall_ms() + 20_000
    send = Send("jobs", (Draft(b"x", dedup_id="acked"), Draft(b"x", dedup_id="d")))
    [sent] = store.commit([send], now_ms)
    assert sent.duplicates == (0, 1)
    taken = []
    while (received := store.commit([Receive(("jobs",), 1, 600_000)], now_ms)[0]).messages:
        taken.append(received.messages[0])
    assert [message.content for message in taken] == [
        b"3" if draft.content == b"3" else draft.content
        for draft in sorted(DRAFTS, key=lambda draft: -draft.priority)
        if draft.content not in (DRAFTS[0].content, b"to be acked", b"1", b"2", b"4")
    ]
    assert [message.receive_count for message in taken][:2] == [1, 2]
    [dead] = store.commit([Receive(("dead",), 1, 600_000)], now_ms)
    assert dead.messages[0].dead_letter == model.DeadLetterOrigin("jobs", "bad", 1)
    [repeated] = store.commit([Send("once.fifo", (Draft(b"x", group="g", dedup_id="é0"),))], now_ms)
    [other] = store.commit([Send("once.fifo", (Draft(b"x", group="i", dedup_id="é0"),))], now_ms)
    assert (repeated.duplicates, other.duplicates) == ((0,), ())
    order = []
    for _ in range(9):
        [received] = store.commit([Receive(("once.fifo",), 1, 600_000)], now_ms + 6_000)
        order += [message.content for message in received.messages]
        receipts = tuple(Ack(message.receipt or "") for message in received.messages)
        store.commit([Settle("once.fifo", receipts)], now_ms + 6_000)
    assert sorted(order) == [b"1", b"2", b"3", b"4", b"5", b"x"]
    assert [one for one in order if one in b"135"] == [b"1", b"3", b"5"]
    assert [one for one in order if one in b"24"] == [b"2", b"4"]
    store.close()
    assert findings(tmp_path / "new") == []


def test_messages_are_added_where_the_settings_are_the_same(varied: Path, tmp_path: Path) -> None:
    dumped = well("dump", "--data-dir", varied, "o*", "dead").encode()
    assert [line["name"] for line in parsed(dumped.decode()) if line["line"] == "queue"] == ["dead", "once.fifo"]
    store = open_store(tmp_path / "new")
    store.commit([CreateQueue("dead"), Send("dead", (Draft(b"first", priority=4),))], 0)
    store.close()
    well("load", "--data-dir", tmp_path / "new", "-", stdin=dumped)
    first, second = parsed(well("dump", "--data-dir", tmp_path / "new", "dead"))[2:-1]
    assert (first["base64"], second["content"]) == ("Zmlyc3Q=", json.loads(DRAFTS[0].content))
    store = open_store(tmp_path / "other")
    store.commit([CreateQueue("dead", QueueSettings(delay=1))], 0)
    store.close()
    (tmp_path / "dump").write_bytes(dumped)
    sentence = refused(4, "load", "--data-dir", tmp_path / "other", tmp_path / "dump")
    assert sentence == "tq: Line 2 cannot be loaded: The queue 'dead' exists with other settings.\n"


def lines_of(number: int) -> list[bytes]:
    """A dump of a queue, made by hand."""
    head = {"line": "dump", "format": 1, "version": "0", "id": "0" * 32, "snapshot": "", "queues": []}
    lines: list[Any] = [head, {"line": "queue", "name": "q", "settings": {}}]
    lines += [{"line": "message", "queue": "q", "id": n, "sent_at_ms": n, "content": n} for n in range(number)]
    lines.append({"line": "end", "queues": 1, "messages": number})
    return [json.dumps(line).encode() for line in lines]


def bad(**fields: Any) -> bytes:
    """The line of a message."""
    return json.dumps({"line": "message", "queue": "q", "id": 1, "sent_at_ms": 1, **fields}).encode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "Line 1,503 cannot be loaded"),
        (b'{"line":"message","queue":"q","id":1,"sent_at_ms":-1,"content":1}', "sent_at_ms"),
        (b'{"line":"message","queue":"q","id":1,"sent_at_ms":1}', "one of content, text and base64"),
        (b'{"line":"message","queue":"q","id":1,"sent_at_ms":1,"text":"","content":1}', "one of content"),
        (b'{"line":"message","queue":"r","id":1,"sent_at_ms":1,"content":1}', "no queue named 'r'"),
        (
            b'{"line":"message","queue":"q","id":1,"sent_at_ms":1,"content":1,"group":"' + b"x" * 129 + b'"}',
            "128 bytes",
        ),
        (bad(base64="AAAA", content_type="x\r\nSet-Cookie: evil"), "printable ASCII"),
        (bad(base64="AAAA", content_type="x/\u4e2d"), "printable ASCII"),
        (bad(content=1, sent_at_ms=1 << 48), "sent_at_ms"),
        (bad(content=1, dead_letter={"source": "x", "reason": "y", "receive_count": 1 << 70}), "dead_letter"),
        (bad(content=1, receive_count=1, receives_before=2), "receives_before"),
        (bad(content=1, uuid="AAAA"), "16 bytes"),
        (b'{"line":"queue","name":"q.fifo","settings":{}}', "'.fifo'"),
        (b'{"line":"queue","name":"/","settings":{}}', "A queue name"),
        (b'{"line":"queue","name":"z","settings":{"fifo":1}}', "fifo"),
    ],
)
def test_a_bad_line_is_named_and_what_is_before_its_batch_stays(tmp_path: Path, line: bytes, why: str) -> None:
    lines = lines_of(2_000)
    good = b"\n".join(lines) + b"\n"
    lines[1_502] = line
    (tmp_path / "dump").write_bytes(b"\n".join(lines))
    sentence = refused(4, "load", "--data-dir", tmp_path / "new", tmp_path / "dump")
    assert "Line 1,503 cannot be loaded: " in sentence
    assert why in sentence
    is_queue = why in ("'.fifo'", "A queue name")  # which can be read, and ends the batch before it
    store = open_store(tmp_path / "new")
    there = store.read(lambda tx: lifecycle.answer(tx, model.GetTotals(), 0)).messages.ready
    store.close()
    assert there == (1_500 if is_queue else 1_000)
    if why == "no queue named 'r'":
        assert f"behind {there + 2:,} lines" in well("load", "--data-dir", tmp_path / "new", "-", stdin=good)
        assert comparable(well("dump", "--data-dir", tmp_path / "new")) == comparable(good.decode())


def test_a_part_of_a_dump_and_what_is_none(tmp_path: Path) -> None:
    lines, new, file = lines_of(5), tmp_path / "new", tmp_path / "dump"
    file.write_bytes(b"\n".join(lines[:-1]))
    sentence = "tq: The dump breaks off behind line 7; what is before was loaded.\n"
    assert refused(4, "load", "--data-dir", new, file) == sentence
    assert refused(4, "load", "--data-dir", new, file) == sentence
    file.write_bytes(b"\n".join(lines))
    with Server(new):
        assert "is held by another" in refused(4, "load", "--data-dir", new, file)
    for loaded in (7, 8):
        said = well("load", "--data-dir", new, file)
        assert said.startswith(f"0 messages behind {loaded} lines that were loaded before; ")
    for first in (lines[1], b"", b"\xff"):
        file.write_bytes(first)
        assert "Line 1 cannot be loaded" in refused(4, "load", "--data-dir", tmp_path / "none", file)
    assert not (tmp_path / "none").exists()


def test_a_load_counts_time_as_a_server_would(tmp_path: Path) -> None:
    """The wall clock was set an hour forward since the last one stopped."""
    new, file = tmp_path / "new", tmp_path / "dump"
    began_ms = wall_ms() - AHEAD_MS - elapsed_ms()
    store = open_store(new)
    store.commit([SetClock(0, Boot(boot_id(), began_ms))], began_ms + elapsed_ms())
    store.close()
    lines = lines_of(1)
    visible_at_ms = wall_ms() + AHEAD_MS
    lines[2] = lines[2][:-1] + b',"visible_at_ms":%d}' % visible_at_ms
    file.write_bytes(b"\n".join(lines))
    well("load", "--data-dir", new, file)
    store = open_store(new)
    clock = store.read(lambda tx: lifecycle.answer(tx, model.GetClock(), 0))
    [(key, _)] = store.read(lambda tx: list(tx.space(keys.DUE).scan()))
    store.close()
    assert abs(clock.offset_ms + AHEAD_MS) < JUMP_MS
    assert keys.due_time_ms(key) == visible_at_ms + clock.offset_ms


def test_a_load_that_finds_the_disk_full_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, file = tmp_path / "new", tmp_path / "dump"
    lines = lines_of(2_500)
    file.write_bytes(b"\n".join(lines))
    commit = LmdbStore.commit

    def fill_up(store: LmdbStore, commands: Sequence[model.Command], now_ms: int) -> list[Any]:
        if isinstance(commands[0], model.Load) and commands[0].upto > 2_000:
            monkeypatch.setattr(DataDirectory, "disk_free_bytes", lambda _: 0)
        return commit(store, commands, now_ms)

    with monkeypatch.context() as patch:
        patch.setattr(LmdbStore, "commit", fill_up)
        patch.setattr("tq.store.lmdb.DISK_CHECK_S", 0)
        sentence = refused(4, "load", "--data-dir", new, file)
    assert sentence == "tq: The disk is full; lines up to 1,002 were loaded: load again to go on behind them.\n"
    monkeypatch.undo()
    assert well("load", "--data-dir", new, file).startswith("1,500 messages behind 1,002 lines")
    assert findings(new) == []


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_kills_neither_lose_nor_double_what_is_loaded(tmp_path: Path, kills: int) -> None:
    fill(tmp_path / "data", 1_000 * kills, 100)
    well("dump", "--data-dir", tmp_path / "data", "--output", tmp_path / "dump")
    arguments: list[str | Path] = ["load", "--data-dir", tmp_path / "new", tmp_path / "dump"]
    moments_s = [time.perf_counter()]
    for _ in range(2):  # one that loads all, and one that finds it loaded
        well("load", "--data-dir", tmp_path / "whole", tmp_path / "dump")
        moments_s.append(time.perf_counter())
    whole_s, start_s = moments_s[1] - moments_s[0], moments_s[2] - moments_s[1]
    share_s = (whole_s - start_s) / kills
    chance = Random(7)
    assert sum(killed(arguments, start_s * 0.8 + chance.uniform(0, 2 * share_s)) for _ in range(kills)) > 0
    well("load", "--data-dir", tmp_path / "new", tmp_path / "dump")
    assert comparable(well("dump", "--data-dir", tmp_path / "new")) == comparable((tmp_path / "dump").read_text())
    assert findings(tmp_path / "new") == []


def test_an_output_that_is_no_file_of_its_own(tmp_path: Path) -> None:
    """A pipe and a device are written to, a link leads to the file that is replaced, and - is stdout."""
    path = fill(tmp_path / "data", 10, 100)
    lines = comparable(well("dump", "--data-dir", path))
    assert comparable(well("dump", "--data-dir", path, "--output", "-")) == lines
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        well("dump", "--data-dir", path, "--output", pipe)
        assert comparable(reader.communicate()[0]) == lines
    assert pipe.is_fifo()
    assert refused(4, "dump", "--data-dir", path, "--output", "/dev/full").endswith("No space left on device.\n")
    assert Path("/dev/full").is_char_device()
    file.write_text("old")
    link.symlink_to(file)
    said = well("dump", "--data-dir", path, "--output", link)
    assert re.fullmatch(re.escape(f"{link}: ") + r"0\.0 MiB, [0-9.]+ s\n", said)
    assert link.is_symlink()
    assert comparable(file.read_text()) == lines
    assert tq("dump", "--data-dir", path, "--output", pipe, "--resume").returncode == 2


def test_a_queue_that_is_not_there_is_not_left_out_without_a_word(tmp_path: Path) -> None:
    path, output = fill(tmp_path / "data", 1), tmp_path / "dump"
    for name in ("nosuch", "no*"):
        said = refused(2, "dump", "--data-dir", path, "q", name, "--output", output)
        assert said == f"tq: There is no queue {name!r}.\n"
    assert not output.exists()


def test_a_dump_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path, output, part = fill(tmp_path / "data", 1_500, 100), tmp_path / "dump", tmp_path / "dump.part"
    well("dump", "--data-dir", path, "--output", output)
    whole = output.read_bytes()
    for size in (len(whole) // 2, 300, 20):
        part.write_bytes(whole[:size])
        well("dump", "--data-dir", path, "--output", output, "--resume")
        assert not part.exists()
        assert comparable(output.read_text()) == comparable(whole.decode())
        assert (output.read_bytes() == whole) == (size > 20)
    part.write_bytes(whole[: len(whole) // 2])
    assert "another state" in refused(4, "dump", "--data-dir", path, "q", "--output", output, "--resume")
    store = open_store(path)
    store.commit([Receive(("q",))], 0)
    store.close()
    assert "another state" in refused(4, "dump", "--data-dir", path, "--output", output, "--resume")
    assert part.read_bytes() == whole[: len(whole) // 2]
    assert tq("dump", "--data-dir", path, "--resume").returncode == 2


def test_what_is_damaged_is_left_out_and_told(tmp_path: Path) -> None:
    path = fill(tmp_path / "data", 10)
    store = open_engine("lmdb", path)
    spoiled = [put(keys.ready_space(1), keys.message_key(5), b"?"), put(keys.QUEUES, b"r", b"?")]
    spoiled += [put(keys.NOTES, b"q", b"?"), put(keys.DEDUP, keys.queue_prefix(1) + b"\xfe", bytes(16))]
    store.commit(spoiled, 0)
    store.close()
    ran = tq("dump", "--data-dir", path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        f"tq: Left out, because it is damaged: {what}."
        for what in (
            "The notes of the queue 'q' cannot be read: record version 3f is unknown",
            "queue r: record version 3f is unknown",
            "queue q: message 5: record version 3f is unknown",
            "queue q: the deduplication id fe",
        )
    ]
    assert [line["id"] for line in parsed(ran.stdout)[2:-1]] == [1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_a_dump_and_a_load_hold_little_in_memory(tmp_path: Path) -> None:
    """27 MB go through both; Python and its modules take 14."""
    fill(tmp_path / "data", 5_000, 4_000)
    output = tmp_path / "dump"
    assert peak_bytes("dump", "--data-dir", tmp_path / "data", "--output", output) < 20 << 20
    assert output.stat().st_size > 25 << 20
    assert peak_bytes("load", "--data-dir", tmp_path / "new", output) < 26 << 20


def peak_bytes(*arguments: str | Path) -> int:
    """The most that a command's Python had allocated; the data file is mapped, and the kernel may drop its pages."""
    script = (
        "import atexit, sys, tracemalloc; tracemalloc.start(); from tq.cli import main; "
        "atexit.register(lambda: print(tracemalloc.get_traced_memory()[1], file=sys.stderr)); main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(ran.stderr)


def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    fill(tmp_path / "data", 5_000)
    with subprocess.Popen(
        command("dump", "--data-dir", tmp_path / "data"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        assert ran.stdout.readline().startswith(b'{"line":"dump"')
        ran.stdout.close()
        assert ran.stderr.read() == b""
        ran.wait(COMMAND_SECONDS)


def test_a_link_that_lies_in_wait_leads_nowhere(tmp_path: Path) -> None:
    data, victim = tmp_path / "data", tmp_path / "victim"
    open_store(data).close()
    victim.write_text("mine")
    (tmp_path / "out.part").symlink_to(victim)
    for more in ((), ("--resume",)):
        why = refused(4, "dump", "--data-dir", data, "--output", tmp_path / "out", *more)
        assert "Too many levels of symbolic links" in why
    assert victim.read_text() == "mine"


def test_ctrl_c_is_one_sentence(tmp_path: Path) -> None:
    """Of a load that waits for its next line."""
    with subprocess.Popen(
        command("load", "--data-dir", tmp_path / "new", "-"), cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        assert ran.stdin is not None
        assert ran.stderr is not None
        ran.stdin.write(lines_of(0)[0] + b"\n")
        ran.stdin.flush()
        wait_until((tmp_path / "new" / "reserve").exists, COMMAND_SECONDS)
        ran.send_signal(2)
        assert ran.wait(COMMAND_SECONDS) == 130
        assert ran.stderr.read() == b"tq: Interrupted.\n"
