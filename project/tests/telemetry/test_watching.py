"""Alert rules, objectives and dashboard agree with each other and with the documents. Needs no Prometheus."""

import re
import subprocess
import sys
from typing import Any

import promql_parser
import pytest

from project.tests.service import ROOT
from project.tests.test_docs import anchors
from project.tests.watching import (
    DASHBOARD,
    GRAFANA,
    PROMETHEUS,
    UNIT_TESTS,
    alerts,
    dashboard_expressions,
    groups,
    panels,
    read,
    rules,
    selectors,
)

OPERATIONS = ROOT / "docs" / "operations.md"
OBJECTIVES = (ROOT / "docs" / "slo.md").read_text()
FAULTS = ("PaymentsBreakerOpen", "NoWorker", "TargetDown", "BooksDiffer", "RefusalsRise", "ExhaustedRise")
# what no metric tells: the doctor does, or a log line
WITHOUT_ALERT = {"payments-disagree", "stuck", "disk-full"}


def seconds(duration: str) -> float:
    """A duration as Prometheus writes it."""
    return float(promql_parser.parse_duration(duration).total_seconds())


def sections() -> dict[str, str]:
    """The sections on alerts by their last anchor."""
    text = OPERATIONS.read_text().split("## Alerts", 1)[1].split('<a id="backup">', 1)[0]
    parts = re.split(r'<a id="([a-z-]+)"></a>\n(?=###)', text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def records(name: str) -> dict[str, str]:
    """What is recorded under this name, by objective."""
    return {rule["labels"]["slo"]: str(rule["expr"]) for rule in rules() if rule.get("record") == name}


@pytest.mark.parametrize("name", alerts())
def test_every_alert_says_how_urgent_it_is_and_what_to_do(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert alert["annotations"].keys() == {"summary", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert ROOT / page == OPERATIONS
    assert anchor in anchors(OPERATIONS)
    shown = sections()[anchor].split("- **Shown by**", 1)[1].split("\n- **", 1)[0]
    assert re.search(rf"`{name}` \({alert['labels']['severity']}[:)]", shown), shown


def test_every_section_is_led_to_by_an_alert_unless_no_metric_tells_of_it() -> None:
    led_to = {alert["annotations"]["runbook_url"].partition("#")[2] for alert in alerts().values()}
    assert sections().keys() - led_to == WITHOUT_ALERT
    assert set(re.findall(r"`(\w+)` \((?:page|ticket)", "".join(sections().values()))) == alerts().keys()


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    checks: dict[str, list[dict[str, Any]]] = {name: [] for name in alerts()}
    for file in UNIT_TESTS:
        for scenario in read(file)["tests"]:
            for check in scenario.get("alert_rule_test", []):
                checks[check["alertname"]].append(check)
    assert [name for name, found in checks.items() if not any(one["exp_alerts"] for one in found)] == []
    assert [name for name, found in checks.items() if all(one["exp_alerts"] for one in found)] == []


def test_the_faults_that_must_be_told_within_two_evaluation_intervals_wait_no_longer() -> None:
    intervals = read(PROMETHEUS / "prometheus.yml")["global"]
    assert seconds(intervals["scrape_timeout"]) < seconds(intervals["scrape_interval"])
    evaluation = seconds(intervals["evaluation_interval"])
    for group in groups():
        for rule in group["rules"]:
            if rule.get("alert") in FAULTS:
                looked_at = seconds(group.get("interval", intervals["evaluation_interval"]))
                waits = seconds(rule["for"]) if "for" in rule else 0
                assert seconds(intervals["scrape_interval"]) + looked_at + waits < 2 * evaluation


def test_the_sums_over_windows_count_in_the_interval_in_which_they_are_recorded() -> None:
    [group] = [one for one in groups() if one["name"] == "slo"]
    factors = re.findall(r"(\d+) \* sum_over_time", "".join(str(rule["expr"]) for rule in group["rules"]))
    assert factors == [str(int(seconds(group["interval"])))] * 3


def test_the_objectives_are_those_of_the_document() -> None:
    promised = re.findall(r"^\| [^|]+ \| `([a-z-]+)` \| ([\d.]+) %(?: within ([\d.]+) s)? \|", OBJECTIVES, re.MULTILINE)
    assert [slo for slo, _, _ in promised] == ["availability", "latency", "accepted-to-paid"]
    for slo, percent, within in promised:
        good = re.fullmatch(r"1 - (0\.9+)", records("slo:budget:ratio")[slo])
        assert good
        assert float(good[1]) == pytest.approx(float(percent) / 100)
        bounds = re.findall(r'le="([\d.]+)"', records("slo:bad:rate1m")[slo])
        assert [float(bound) for bound in bounds] == ([float(within)] if within else [])


def test_the_burn_rates_are_those_of_the_document() -> None:
    for name in ("BudgetBurnsFast", "BudgetBurns", "BudgetLeaks"):
        [row] = re.findall(rf"^\| `{name}` \| (\w+) \| (.*) \|$", OBJECTIVES, re.MULTILINE)
        severity, told = row
        assert alerts()[name]["labels"]["severity"] == severity
        expression = alerts()[name]["expr"]
        assert set(re.findall(r"over (\w+) and (\w+)", told)) == {tuple(re.findall(r"over(\w+) >", expression))}
        times = re.findall(r"([\d.]+) times", told)
        assert re.findall(r"> on \(slo\) ([\d.]+) \*", expression) == times * 2


def test_the_dashboard_is_what_its_source_makes() -> None:
    made = subprocess.run([sys.executable, GRAFANA / "dashboard.py"], capture_output=True, text=True, check=True)
    assert made.stdout == DASHBOARD.read_text()


def test_every_panel_says_what_it_shows() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels()) > 30
    for panel in panels():
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


def test_no_panel_covers_another() -> None:
    covered = [
        (x, y)
        for panel in panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(covered) == len(set(covered))
    assert {x for x, _ in covered} == set(range(24))


def test_counters_are_asked_for_their_rate_before_they_are_added_up() -> None:
    for expression in (*(str(rule["expr"]) for rule in rules()), *dashboard_expressions()):
        assert not re.search(r"(rate|increase)\(\s*sum", expression), expression
        for one in selectors(expression):
            if (
                one.metric.endswith(("_total", "_bucket", "_count", "_sum"))
                and f"absent({one.metric})" not in expression
            ):
                assert re.search(rf"(rate|increase)\({one.metric}[{{\[]", expression), expression


def test_grafana_is_told_of_the_dashboard_and_of_where_its_numbers_come_from() -> None:
    [datasource] = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    [provider] = read(GRAFANA / "provisioning" / "dashboards" / "claim_process.yml")["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana-dashboards"
    assert f'"value": "{datasource["uid"]}"' in DASHBOARD.read_text()
    scrape_interval = read(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    assert datasource["jsonData"]["timeInterval"] == scrape_interval
