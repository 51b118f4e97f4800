"""The checkers of histories are complete: docs/testing.md says of each invariant what shows that it is checked."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests import endings, history, leases, test_endings, test_history, test_leases
from tests.harness import ROOT

ROWS = re.findall(r"^\|.*\| `(\w+)\.(_\w+)` \| (.+) \|$", (ROOT / "docs/testing.md").read_text(), re.MULTILINE)
BAD: dict[str, dict[str, Any]] = {
    "history": test_history.BAD,
    "leases": test_leases.BAD,
    "endings": test_endings.BAD,
}


def complaints(module: str, rule: str, name: str) -> list[str]:
    """What one rule finds in a bad history."""
    bad, _ = BAD[module][name]
    if module == "history":
        return list(getattr(history, rule)(history._view(bad, "q")))
    if module == "leases":
        return list(getattr(leases, rule)(leases._view(bad)))
    if rule == "_counters":
        return list(endings._counters(bad))
    queues = {act.queue for act in bad.acts} - {"d"}
    return [found for queue in sorted(queues) for found in getattr(endings, rule)(endings._view(bad, queue))]


@pytest.mark.parametrize(("module", "rule", "name"), ROWS)
def test_a_rule_finds_what_the_table_says(module: str, rule: str, name: str) -> None:
    assert complaints(module, rule, name)


def test_no_rule_is_missing_in_the_table() -> None:
    rules = {("history", rule.__name__) for rule in history._RULES}
    rules |= {("leases", rule.__name__) for rule in leases._RULES}
    rules |= {("endings", rule.__name__) for rule in (*endings._RULES, endings._counters)}
    assert {(module, rule) for module, rule, _ in ROWS} == rules
