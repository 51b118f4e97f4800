"""`python -m benchmarks`: measure tq on this machine, next to a Tornado handler that does nothing."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks import report
from benchmarks.load import ROOT, WRK_MISSING, Failed, Loader, OwnLoader, choose_loader
from benchmarks.machine import IN_MEMORY, DisturbanceMeter, file_system, header
from benchmarks.measure import Plan
from benchmarks.scenarios import DEFAULT, SCENARIOS, Results, run
from benchmarks.systems import LEAST_CONTENT_BYTES, MOST_CONTENT_BYTES

QUICK = Plan(
    connections=(4,), backlog_levels=(1_000, 10_000), backlog_connections=4, repeats=1, duration_s=0.2, warm_up_s=0
)
FULL = Plan()
RESULTS = ROOT / "benchmarks" / "results"
MAX_CONNECTIONS = 900  # a process may have 1,024 files open by default


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--connections", help="How many, separated by commas.  [default: 1,32,128]")
@click.option("--duration", type=click.FloatRange(0.1, 600), help="Seconds of a cell; wrk rounds up.  [default: 3]")
@click.option("--repeats", type=click.IntRange(1, 100), help="Runs of every cell.  [default: 3]")
@click.option(
    "--backlog", type=click.IntRange(2_000, 100_000_000), help="Messages of a long queue.  [default: 1000000]"
)
@click.option(
    "--content-bytes",
    type=click.IntRange(LEAST_CONTENT_BYTES, MOST_CONTENT_BYTES),
    help="Size of a message's content, a JSON string with its quotes.  [default: 100]",
)
@click.option("--loader", type=click.Choice(["auto", "wrk", "own"]), default="auto", show_default=True)
@click.option(
    "--dir",
    "parent",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where the temporary data directory is made; a place on the disk to measure.",
)
@click.option("--json", "json_file", type=click.File("wb", lazy=False), help="Also write the results to this file.")
@click.option("--keep", is_flag=True, help="Also write the results to benchmarks/results, under the time of the run.")
@click.option("--quick", is_flag=True, help="A few seconds, to see that it works; the figures mean nothing.")
def main(
    scenarios: tuple[str, ...], loader: str, parent: Path | None, json_file: Any, keep: bool, quick: bool, **wanted: Any
) -> None:
    """Run scenarios; without any, those of the first two lines.

    \b
    systems  send and receive at several numbers of connections, next to Tornado
    backlog  send and receive at a short and a long queue
    hidden   receive from a queue full of messages that are delayed, in flight or blocked
    storm    what others feel when all leases, delays or lifetimes of a long queue end at once
    sqs      the same work over SQS and over tq's own API
    client   the Python client next to the raw loader
    peers    tq next to other queues that are durable, as far as they are installed
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are ended
    plan = _plan(QUICK if quick else FULL, wanted)
    try:
        with tempfile.TemporaryDirectory(prefix="tq-benchmarks-", dir=parent or _disk()) as made:
            directory = Path(made)
            chosen = choose_loader(loader, directory)
            plan = msgspec.structs.replace(plan, duration_s=chosen.rounded(plan.duration_s))
            if loader == "auto" and isinstance(chosen, OwnLoader):
                click.echo(WRK_MISSING, err=True)
            if file_system(directory)[0] in IN_MEMORY:
                click.echo("The data directory is in memory: no disk is measured. See --dir.", err=True)
            head = header(directory)
            meter = DisturbanceMeter()
            results = _run(scenarios or DEFAULT, plan, chosen, directory)
            disturbance = meter.read()
    except Failed as error:
        raise click.ClickException(str(error)) from error
    found = report.Report(_command(), head, chosen.name, plan, disturbance, results)
    if json_file:
        json_file.write(report.as_json(found))
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json").write_bytes(report.as_json(found))
    click.echo(report.as_text(found), nl=False)


def _plan(base: Plan, wanted: dict[str, Any]) -> Plan:
    """The plan with what the command line says otherwise."""
    changes: dict[str, Any] = {
        "duration_s": wanted["duration"],
        "repeats": wanted["repeats"],
        "content_bytes": wanted["content_bytes"],
        "backlog_levels": (base.backlog_levels[0], wanted["backlog"]) if wanted["backlog"] else None,
        "connections": _connections(wanted["connections"]),
    }
    return msgspec.structs.replace(base, **{name: value for name, value in changes.items() if value is not None})


def _connections(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(1 <= number <= MAX_CONNECTIONS for number in numbers):
        raise click.BadParameter(
            f"numbers from 1 to {MAX_CONNECTIONS}, separated by commas", param_hint="--connections"
        )
    return numbers


def _disk() -> Path:
    """A directory for temporary data that is on a disk; the first choice when there is none."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    on_disk = (place for place in places if place.is_dir() and file_system(place)[0] not in IN_MEMORY)
    return next(on_disk, places[0])


def _run(names: Sequence[str], plan: Plan, loader: Loader, directory: Path) -> Results:
    """Run with a bar on stderr, which is there only on a terminal."""
    is_hidden = not sys.stderr.isatty()
    steps = sum(SCENARIOS[name].steps(plan) for name in names)
    with click.progressbar(length=steps, file=sys.stderr, hidden=is_hidden, item_show_func=lambda doing: doing) as bar:

        @contextmanager
        def step(doing: str) -> Iterator[None]:
            bar.current_item = doing
            bar.render_progress()
            yield
            bar.update(1)

        return run(names, plan, loader, directory, step)


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


if __name__ == "__main__":
    main()
