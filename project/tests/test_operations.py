"""docs/operations.md speaks of what there is: its metrics and log lines, its settings and commands."""

import re

from project.tests.operations import DOCUMENT
from project.tests.service import ROOT

TEXT = DOCUMENT.read_text()
SOURCE = "".join(file.read_text() for file in (ROOT / "project").rglob("*.py") if "tests" not in file.parts)


def test_every_alert_is_told_by_a_metric_a_log_line_or_the_doctor() -> None:
    alerts = TEXT.split("## Alerts", 1)[1].split('<a id="backup">', 1)[0].split("\n### ")[1:]
    assert len(alerts) > 20
    for alert in alerts:
        shown = alert.split("- **Shown by**", 1)[1].split("- **", 1)[0]
        told = set(re.findall(r"`([a-z]+_[a-z_]+)", shown))
        unknown = [name for name in told if f'"{name}"' not in SOURCE]
        assert unknown == [], alert.split("\n", 1)[0]
        by_rules = re.search(r"`[A-Z]\w+` \((page|ticket)[:)]", shown)  # test_watching holds them to the alert rules
        assert told or by_rules or "`doctor`" in shown, alert.split("\n", 1)[0]


def test_every_setting_that_it_names_is_one() -> None:
    settings = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:`|=)", TEXT))
    of_this_document = {"OLD_ID", "REDRIVE_NO"}
    assert [name for name in sorted(named - of_this_document) if f"{name}=" not in settings] == []
