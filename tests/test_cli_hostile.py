"""Arguments and inputs that are wrong on purpose: the commands refuse them in a sentence, and soon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Server, sound_server
from tests.remote import Begun, contents, run_alone
from tq.cli import lines, sending
from tq.errors import EXIT_DATA, EXIT_REFUSED, EXIT_USAGE, StartError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("hostile") / "data") as running:
        running.request("POST", "/queues", {"name": "q"})
        yield running


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["send", "q", "x", "--header", "a=\udcff"], "is no UTF-8"),
        (["send", "\udcff", "x"], "is no UTF-8"),
        (["receive", "\udcff"], "is no UTF-8"),
        (["send", "q", "--content-json"], "nested too deeply"),
        (["bench", "--seconds", "nan"], "no number of seconds"),
        (["receive", "q", "--wait", "nan"], "no number of seconds"),
        (["top", "--interval", "nan"], "no number of seconds"),
        (["queues", "--url", "http://[::1"], "no address"),
        (["queues", "--url", "http://a\rb"], "no address"),
        (["queues", "--url", f"http://{'a' * 70}.x"], "no address"),
        (["receive", "q", "--url", "http://xn--.\udcff"], "no address"),
    ],
    ids=ascii,
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(server: Server, arguments: list[str], why: str) -> None:
    ran = run_alone(server.url, *arguments, stdin=b"[" * 100_000)
    assert (ran.code, ran.out) == (EXIT_USAGE, b""), ran
    assert why in ran.err
    assert "Traceback" not in ran.err
    assert contents(server, "q") == []


def test_a_line_that_is_nested_too_deeply_is_named(server: Server) -> None:
    ran = run_alone(server.url, "send", "q", "--lines", "--content-json", stdin=b"1\n" + b"[" * 100_000)
    assert (ran.code, contents(server, "q")) == (EXIT_REFUSED, [1])
    assert "Line 2 is refused: It is nested too deeply" in ran.err


def test_a_file_without_an_end_is_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_LINE_BYTES", 1 << 20)
    assert lines.MAX_LINE_BYTES > 128 << 20  # a message of any size goes through
    with Path("/dev/zero").open("rb") as endless, pytest.raises(StartError, match="more than 1 MiB"):
        sending._read(endless)


def test_figures_for_a_full_disk_are_told_so(server: Server) -> None:
    arguments = ("bench", "--seconds", "0.1", "--connections", "1")
    with Path("/dev/full").open("wb") as full, Begun(server.url, *arguments, stdout=full.fileno()) as loading:
        ran = loading.end()
    assert (ran.code, ran.err) == (EXIT_DATA, "tq: stdout: No space left on device.\n")
