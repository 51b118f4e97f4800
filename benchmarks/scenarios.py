"""The scenarios that `python -m benchmarks` knows, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from benchmarks.client import ClientFigures, client_steps, compare_client
from benchmarks.hidden import HiddenFigures, compare_hidden, hidden_steps
from benchmarks.load import Loader
from benchmarks.measure import (
    BacklogFigures,
    Comparison,
    Plan,
    Step,
    backlog_steps,
    compare_backlogs,
    compare_systems,
    system_steps,
)
from benchmarks.peers import PeerResults, compare_peers, peer_steps
from benchmarks.sqs import SqsFigures, compare_sqs, sqs_steps
from benchmarks.storm import StormFigures, storm_steps, weather_storms


class Results(Struct, frozen=True):
    """What each scenario found, under its name; None for one that was not run."""

    systems: Comparison | None = None
    backlog: list[BacklogFigures] | None = None
    hidden: list[HiddenFigures] | None = None
    storm: list[StormFigures] | None = None
    peers: PeerResults | None = None
    sqs: list[SqsFigures] | None = None
    client: list[ClientFigures] | None = None


class Scenario(Struct, frozen=True):
    """`run` raises Failed. `steps` is how often it enters its `Step`."""

    run: Callable[[Plan, Loader, Path, Step], Any]
    steps: Callable[[Plan], int]


SCENARIOS = {
    "systems": Scenario(compare_systems, system_steps),
    "backlog": Scenario(compare_backlogs, backlog_steps),
    "hidden": Scenario(compare_hidden, hidden_steps),
    "storm": Scenario(weather_storms, storm_steps),
    "peers": Scenario(compare_peers, peer_steps),
    "sqs": Scenario(compare_sqs, sqs_steps),
    "client": Scenario(compare_client, client_steps),
}
DEFAULT = ("systems", "backlog")  # four minutes; the others take five to ten each


def run(names: Sequence[str], plan: Plan, loader: Loader, directory: Path, step: Step) -> Results:
    """Run scenarios with their files in `directory`. Raises Failed."""
    return Results(**{name: SCENARIOS[name].run(plan, loader, directory, step) for name in names})
