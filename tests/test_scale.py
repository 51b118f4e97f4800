"""The benchmarks of scale, of room, of parts and of the program alone, small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.footprint import SIZES
from benchmarks.own import OPERATIONS
from benchmarks.profile import PARTS, shares_of
from tests.harness import ROOT


def test_a_small_run_of_scale(tmp_path: Path) -> None:
    sizes = ["--messages=3000", "--memory-messages=2000", "--waiters=50", "--sends=20", "--starts=2", "--duration=0.3"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", f"--dir={tmp_path}", *sizes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    figures = dict(re.findall(r"^  (.+): ([\d.,-]+)$", run.stdout, re.MULTILINE))
    assert figures["messages"] == "3,000"  # the later of two
    assert figures["waiters"] == "50"
    assert int(figures["accepted"].replace(",", "")) > 0
    assert int(figures["refused with 503 and Retry-After"].replace(",", "")) > 0
    assert figures["anything else"] == "0"
    assert list(tmp_path.iterdir()) == []


def test_a_small_run_of_footprint(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.footprint", f"--dir={tmp_path}", "--total-bytes=300000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    rows = [
        [int(cell.replace(",", "")) for cell in re.findall(r"[\d,]+", line)] for line in run.stdout.splitlines()[2:]
    ]
    assert [row[0] for row in rows] == list(SIZES)
    for size, plain, with_ttl, with_dedup_id, leased in rows:
        assert size < plain < with_ttl < with_dedup_id < 4 * size  # a timer and a remembered id take room too
        assert size < leased < 3 * size
    assert list(tmp_path.iterdir()) == []


def test_samples_count_for_the_innermost_part_of_tq() -> None:
    root = "<module> (benchmarks/own.py:150);run (uvloop/__init__.py:92)"
    raw = "\n".join(
        [
            f"{root} 4",
            f"{root};Connection._flush (tq/web/connection.py:430) 3",
            f"{root};Writer._run (tq/writer.py:1);send (tq/lifecycle/sending.py:2);replace (msgspec/structs.py:1) 2",
            f"{root};Writer._run (tq/writer.py:1);LmdbStore._commit_txn (tq/store/lmdb.py:189) 5",
            "Thread.run (threading.py:982);_worker (concurrent/futures/thread.py:81) 9",
        ]
    )
    by_name = dict(PARTS)
    assert shares_of(raw) == {
        by_name[r"tq/web/(connection|stream|traffic)\.py"]: 3,
        by_name[r"tq/(lifecycle/|codec|keys|model)"]: 2,
        by_name[r"_commit_txn \("]: 5,
    }


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_program_alone(operation: str) -> None:
    command = [sys.executable, "-m", "benchmarks.own", operation, "--connections=2", "--seconds=0.2"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(rf"ready\n\d+\.\d\d microseconds of processor time for a {operation}\n", run.stdout)
