"""The dashboard for Grafana and the alerts name what there is, and their text leads somewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from typing import Any

import pytest
import yaml

from tests.harness import ROOT
from tq.metrics import CONNECTIONS_CUT, CONNECTIONS_REFUSED, EVENTS, KINDS, OVERLOADS, STATES
from tq.web.metrics import FAMILIES

OPERATIONS = ROOT / "docs/operations"
DASHBOARD = json.loads((OPERATIONS / "grafana.json").read_text())
GROUPS = yaml.safe_load((OPERATIONS / "alerts.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DOCUMENT = (ROOT / "docs/metrics.md").read_text()

OF_THE_PROCESS = set(re.findall(r"^\| `(process_\w+)` \|", DOCUMENT, re.MULTILINE))
LABELS = {family.name: {*family.labels, "job", "instance"} for family in FAMILIES}
LABELS |= {name: {"job", "instance"} for name in (*OF_THE_PROCESS, "up")}
for _family in FAMILIES:
    if _family.kind == "histogram":
        LABELS |= {f"{_family.name}_{part}": LABELS[_family.name] for part in ("count", "sum")}
        LABELS[f"{_family.name}_bucket"] = LABELS.pop(_family.name) | {"le"}
VALUES = {
    "event": set(EVENTS),
    "state": set(STATES),
    "kind": set(KINDS),
    "reason": {*OVERLOADS, *CONNECTIONS_REFUSED, *CONNECTIONS_CUT},
}


def wrong_with(expression: str) -> list[str]:
    """Metrics, labels and values in an expression that there are not."""
    wrong = []
    for name, braces in re.findall(r"\b((?:tq|process)_\w+|up)\b(?:\{(.*?)\})?", expression):
        if name not in LABELS:
            wrong.append(name)
            continue
        for label, value in re.findall(r'(\w+)(?:=~|!~|!=|=)"(.*?)"', braces):
            if label not in LABELS[name]:
                wrong.append(f"{name}: {label}")
            wrong += [f"{label}={each}" for each in value.split("|") if label in VALUES and each not in VALUES[label]]
    for grouped in re.findall(r"\bby \((.*?)\)", expression):
        known = set().union(
            *(LABELS[name] for name in re.findall(r"\b(?:tq|process)_\w+", expression) if name in LABELS)
        )
        wrong += [label for label in re.findall(r"\w+", grouped) if label not in known]
    return wrong


def test_what_is_wrong_is_found() -> None:
    assert wrong_with('sum by (queue) (tq_queue_messages{state="ready"})') == []
    assert wrong_with("rate(tq_nothing_total[5m])") == ["tq_nothing_total"]
    assert wrong_with('tq_queue_messages{status="1"}') == ["tq_queue_messages: status"]
    assert wrong_with('tq_queue_messages{state=~"ready|gone"}') == ["state=gone"]
    assert wrong_with("sum by (color) (tq_messages)") == ["color"]
    assert wrong_with("rate(tq_commit_duration_seconds[5m])") == ["tq_commit_duration_seconds"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_shows_what_there_is(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert wrong_with(target["expr"]) == []
        assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
        assert 'job=~"$job",instance=~"$instance"' in target["expr"]
        assert ("rate(" in target["expr"]) == ("$__rate_interval" in target["expr"])
        labels = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        assert all(re.search(rf"\bby \([^)]*\b{label}\b", target["expr"]) for label in labels)


def test_the_dashboard_hangs_together() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert DASHBOARD["panels"][0]["title"] == "Overview"
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for name in ("job", "instance", "queue"):
        assert wrong_with(variables[name]["definition"]) == []
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == variables.keys()
    for one, other in combinations((panel["gridPos"] for panel in DASHBOARD["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert one["x"] + one["w"] <= 24
    assert all(wrong_with(each["expr"]) == [] for each in DASHBOARD["annotations"]["list"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert wrong_with(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "action", "runbook"}
    assert len(rule["annotations"]["action"]) > 40
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    titles = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert not anchor or anchor in anchors
    assert f"| `{rule['alert']}`, {rule['labels']['severity']} |" in DOCUMENT
    for name in re.findall(r"\btq_\w+", rule["annotations"]["action"]):
        assert name in {family.name for family in FAMILIES}


def test_expressions_of_the_document_name_what_there_is() -> None:
    watched = DOCUMENT.partition("## What to watch")[2].partition("\n## ")[0]
    expressions = [line.split(" | ", 1)[1].replace("\\|", "|") for line in watched.splitlines() if "? | " in line]
    assert len(expressions) > 5
    assert [wrong for expression in expressions for wrong in wrong_with(expression)] == []


def test_prometheus_takes_the_alerts() -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed; the package is called prometheus")
    command = ["promtool", "check", "rules", str(OPERATIONS / "alerts.yaml")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(RULES)} rules found" in ran.stdout
