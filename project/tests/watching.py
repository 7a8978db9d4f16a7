"""What the alert rules and the dashboard in deploy/ say, for tests that hold them to the service and to its documents."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from project.tests.service import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DASHBOARD = GRAFANA / "dashboards" / "claim_process.json"
RATE_INTERVAL = "20s"  # what Grafana puts in for $__rate_interval: four scrapes


@dataclass(frozen=True)
class Selector:
    """A metric that an expression names, and what it wants of its labels, as Prometheus takes it."""

    metric: str
    text: str


def read(file: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(file.read_text())


@cache
def groups() -> list[dict[str, Any]]:
    """All groups of rules."""
    return [group for file in RULE_FILES for group in read(file)["groups"]]


def rules() -> list[dict[str, Any]]:
    """All rules, recording and alerting."""
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerting rules by name."""
    found = [rule for rule in rules() if "alert" in rule]
    named = {rule["alert"]: rule for rule in found}
    assert len(named) == len(found)
    return named


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the rows that they are in."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    """What the dashboard asks Prometheus, as Grafana sends it."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [expression.replace("$__rate_interval", RATE_INTERVAL) for expression in asked]


def selectors(expression: str) -> set[Selector]:
    """All series that an expression names, wherever they stand in it."""
    found: set[Selector] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, expression
            found.add(Selector(node.name, node.prettify()))

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    return found
