"""`python -m benchmarks.chart RESULT.json CHART.svg`: a run of `peers` as bars.

The colours are those of the reader's light or dark mode; the numbers stand beside the bars, so nothing hangs on colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import click
import msgspec

from benchmarks.adapters import PEERS
from benchmarks.peers import PeerFigures, describe
from benchmarks.report import Report

PANELS = ("send", "receive", "lease, ack")
CONNECTIONS = 128

WIDTH = 880
BAR_LEFT = 160
BAR_WIDTH = 300  # of the longest; its number and durability stand behind it
LINE = 24
BAR = 15
PANEL_HEAD = 34
HEAD = 48
FOOT = 30

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.panel { font-weight: 600; }
.quiet { fill: #59636e; font-size: 12px; }
.bar { fill: #8c959f; }
.tq { fill: #0969da; }
.undurable { fill: none; stroke: #8c959f; stroke-dasharray: 3 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .quiet { fill: #9198a1; }
  .bar { fill: #6e7681; }
  .tq { fill: #4493f8; }
  .undurable { fill: none; stroke: #9198a1; }
}
"""


def draw(report: Report) -> str:
    """Raises ValueError when the run has no peers."""
    if report.results.peers is None:
        raise ValueError("The run has no figures of `peers`.")
    panels = [list(_of(report.results.peers.figures, operation)) for operation in PANELS]
    top = HEAD
    lines: list[str] = []
    for panel in filter(None, panels):
        lines += _panel(panel, top)
        top += PANEL_HEAD + LINE * len(panel)
    height = top + FOOT
    about = f"{report.plan.content_bytes:,} bytes each; {report.header.machine}; {report.header.disk}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<style>{STYLE}</style>",
            '<text class="title" x="0" y="20">Messages per second, each on disk before it is confirmed</text>',
            *lines,
            f'<text class="quiet" x="0" y="{height - 8}">{escape(about)}</text>',
            "</svg>\n",
        ]
    )


def _of(figures: Sequence[PeerFigures], operation: str) -> Iterator[PeerFigures]:
    """Those of one panel, in the order of `PEERS`."""
    for row in PEERS:
        for one in figures:
            cell = one.cell
            is_plain = cell.operation == operation and cell.connections == CONNECTIONS and cell.batch == 1
            if one.system == row.name and is_plain and not cell.is_open:
                yield one


def _panel(figures: Sequence[PeerFigures], top: int) -> Iterator[str]:
    yield f'<text class="panel" x="0" y="{top + 16}">{escape(describe(figures[0].cell))}</text>'
    most = max(one.messages_per_s.median for one in figures)
    for index, one in enumerate(figures):
        base = top + PANEL_HEAD + LINE * index
        width = max(1, round(BAR_WIDTH * one.messages_per_s.median / most))
        kind = "tq" if one.system == "tq" else "undurable" if one.durability.startswith("none") else ""
        number = f"{'≥ ' if one.is_loader_bound else ''}{one.messages_per_s.median:,.0f}"
        yield f'<text x="0" y="{base}">{escape(one.system)}</text>'
        yield f'<rect class="bar {kind}" x="{BAR_LEFT}" y="{base - 12}" width="{width}" height="{BAR}" rx="2"/>'
        yield (
            f'<text x="{BAR_LEFT + width + 8}" y="{base}">{number}'
            f'<tspan class="quiet" dx="8">{escape(one.durability)}</tspan></text>'
        )


@click.command()
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("chart", type=click.Path(dir_okay=False, path_type=Path))
def main(result: Path, chart: Path) -> None:
    """Draw the run of `peers` in the file RESULT, which `python -m benchmarks peers --json RESULT` wrote."""
    try:
        chart.write_text(draw(msgspec.json.decode(result.read_bytes(), type=Report)), encoding="utf-8")
    except (ValueError, msgspec.MsgspecError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
