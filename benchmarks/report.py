"""The results as tables for people (Markdown, so that they can be pasted into a document) and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from benchmarks.client import RAW, ClientFigures
from benchmarks.hidden import HiddenFigures
from benchmarks.machine import Disturbance, Header
from benchmarks.measure import BacklogFigures, Figures, Plan, Speed, Spread
from benchmarks.peers import PeerFigures, PeerResults, describe
from benchmarks.scenarios import Results
from benchmarks.sqs import SqsFigures
from benchmarks.storm import Latencies, StormFigures
from benchmarks.systems import BASE, OPERATIONS

SPEED_COLUMNS = ("requests/s >", "p50 ms >", "p99 ms >")


class Report(Struct, frozen=True):
    """All that a run found, and what it was run with."""

    command: str
    header: Header
    loader: str
    plan: Plan
    disturbance: Disturbance | None
    results: Results


def as_json(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def as_text(report: Report) -> str:
    """The header, then a table for each comparison."""
    plan, results = report.plan, report.results
    cells = f"{plan.content_bytes} bytes of content, {plan.duration_s:g} s each, median of {plan.repeats} (low–high)"
    tables = [
        *([_comparison(results.systems.figures)] if results.systems else []),
        *([_backlog(results.backlog, plan.backlog_levels)] if results.backlog else []),
        *([_hidden(results.hidden)] if results.hidden else []),
        *([_storm(results.storm)] if results.storm else []),
        *([_sqs(results.sqs)] if results.sqs else []),
        *([_client(results.client)] if results.client else []),
        *([_peers(results.peers), _peer_ratios(results.peers), results.peers.absent] if results.peers else []),
    ]
    syncs = f", {_text(results.systems.syncs_per_s, 0)} fdatasyncs/s of 4 KiB" if results.systems else ""
    return "\n".join(
        [
            f"command:   {report.command}",
            f"machine:   {report.header.machine}",
            f"disk:      {report.header.disk}{syncs}",
            f"versions:  {', '.join([report.header.versions, *(results.peers.versions if results.peers else [])])}",
            f"commit:    {report.header.commit}",
            f"loader:    {report.loader}",
            f"others:    {_others(report.disturbance)}",
            f"cells:     {cells}",
            "",
            *(line for table in tables for line in [*table, ""]),
        ]
    )


def _others(disturbance: Disturbance | None) -> str:
    if disturbance is None:
        return "unknown"
    return f"other processes used {disturbance.others:.2f} cores on average, the host took {disturbance.stolen:.2f}"


def _comparison(figures: Sequence[Figures]) -> list[str]:
    rows = [
        [one.operation, f"{one.connections}", one.system, *_speed(one.speed), _ratio(one.ratio)]
        for one in sorted(figures, key=lambda one: OPERATIONS.index(one.operation))
    ]
    return _table(["", "connections >", "system", *SPEED_COLUMNS, f"to {BASE.name} >"], rows)


def _backlog(figures: Sequence[BacklogFigures], levels: tuple[int, int]) -> list[str]:
    rows = []
    for one in figures:
        operation, connections = f"tq {one.operation}", f"{one.connections}"
        rows.append([operation, connections, f"{levels[0]:,}", *_speed(one.low), "1"])
        rows.append([operation, connections, f"{levels[1]:,}", *_speed(one.high), _text(one.ratio, 2)])
    return _table(["", "connections >", "queued >", *SPEED_COLUMNS, f"to {levels[0]:,} queued >"], rows)


def _hidden(figures: Sequence[HiddenFigures]) -> list[str]:
    rows = [
        [
            f"tq {one.round}",
            f"{one.connections}",
            _held(one),
            *_speed(one.speed),
            _ratio(one.ratio),
            _text(one.cpu_us, 0),
            _ratio(one.cpu_ratio),
        ]
        for one in sorted(figures, key=lambda one: one.round, reverse=True)
    ]
    ratios = ("to an empty queue >", "CPU µs >", "to an empty queue >")
    return _table(["", "connections >", "in the queue >", *SPEED_COLUMNS, *ratios], rows)


def _held(one: HiddenFigures) -> str:
    return f"{one.messages:,} {one.hiding}" if one.messages else "none"


def _storm(figures: Sequence[StormFigures]) -> list[str]:
    rows = []
    for one in figures:
        ended = f"{one.messages:,} {one.kind}"
        rows.append([ended, "just before", "", *_latencies(one.quiet)])
        rows.append([ended, "meanwhile", f"{one.seconds:.0f}", *_latencies(one.storm)])
    return _table(["that end together", "", "seconds >", "requests >", "p50 ms >", "p99 ms >", "max ms >"], rows)


def _sqs(figures: Sequence[SqsFigures]) -> list[str]:
    rows = [[one.cell, one.api, *_speed(one.speed), _ratio(one.ratio)] for one in figures]
    return _table(["", "API", *SPEED_COLUMNS, "to tq's own API >"], rows)


def _client(figures: Sequence[ClientFigures]) -> list[str]:
    rows = [
        [one.cell, one.who, _text(one.messages_per_s, 0), _text(one.cores, 2), _ratio(one.ratio)] for one in figures
    ]
    return _table(["", "by", "messages/s >", "its cores >", f"to the {RAW} >"], rows)


def _peers(found: PeerResults) -> list[str]:
    rows = [
        [
            describe(one.cell),
            f"{one.cell.content_bytes:,}",
            one.system,
            one.durability,
            ("≥ " if one.is_loader_bound else "") + _text(one.messages_per_s, 0),
            _text(one.p50_ms, 2),
            _text(one.p99_ms, 2),
            _text(one.p999_ms, 2) if one.p999_ms else "",
            f"{one.loader_cores.median:.2f}" if one.loader_cores else "",
        ]
        for one in sorted(found.figures, key=lambda one: _place(one, found.figures))
    ]
    columns = ("", "bytes >", "system", "durability", "messages/s >", "p50 ms >", "p99 ms >", "p99.9 ms >")
    return _table([*columns, "loader cores >"], rows)


def _place(one: PeerFigures, all_figures: Sequence[PeerFigures]) -> int:
    """All systems of a cell together, the cells in the order in which they ran."""
    return [other.cell for other in all_figures].index(one.cell)


def _peer_ratios(found: PeerResults) -> list[str]:
    rows = [[one.what, one.to, ("≤ " if one.is_at_most else "") + _ratio(one.ratio)] for one in found.ratios]
    return _table(["tq's", "to that of", "ratio >"], rows)


def _latencies(found: Latencies) -> list[str]:
    return [f"{found.requests:,}", f"{found.p50_ms:.1f}", f"{found.p99_ms:.1f}", f"{found.max_ms:.1f}"]


def _speed(speed: Speed) -> list[str]:
    return [_text(speed.requests_per_s, 0), _text(speed.p50_ms, 2), _text(speed.p99_ms, 2)]


def _ratio(ratio: Spread | None) -> str:
    """That of a base to itself is None."""
    return _text(ratio, 2) if ratio else "1"


def _text(spread: Spread, digits: int) -> str:
    return f"{spread.median:,.{digits}f} ({spread.low:,.{digits}f}–{spread.high:,.{digits}f})"


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table that also reads well in a terminal. A column whose name ends with `>` is set to the right."""
    is_right = [column.endswith(">") for column in columns]
    lines = [[column.removesuffix(" >") for column in columns], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rulers = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, is_right, strict=True)]
    lines.insert(1, rulers)
    return ["| " + " | ".join(map(_align, line, widths, is_right)) + " |" for line in lines]


def _align(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)
