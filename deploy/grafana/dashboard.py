"""Makes the Grafana dashboard: `python deploy/grafana/dashboard.py > deploy/grafana/dashboards/claim_process.json`.

Run by who changes `panels`; a test holds the file to what this makes.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from panels import ROWS, RUNBOOK, Panel

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 24, 7


def steps(panel: Panel) -> list[dict[str, Any]]:
    """The colours: what is left is well above its limits, everything else below them."""
    colours = ("red", "orange", "green") if panel.title == "Budget left" else ("green", "orange", "red")
    if len(panel.limits) == 1:
        colours = ("green", "red", "red")
    return [{"color": colours[at], "value": limit} for at, limit in enumerate((None, *panel.limits))]


def options(panel: Panel) -> dict[str, Any]:
    """How a kind of panel shows its series."""
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value"}
    return {"showHeader": True}


def drawn(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """A panel as Grafana stores it."""
    instant = panel.kind != "timeseries"
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "fillOpacity": 20 if panel.stacked else 0,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "line" if panel.limits else "off"},
        }
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "custom": custom,
        "thresholds": {"mode": "absolute", "steps": steps(panel)},
    }
    if panel.least is not None:
        defaults["min"] = panel.least
    shown = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"h": HEIGHT, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": DATASOURCE,
                "editorMode": "code",
                "expr": expression,
                "legendFormat": legend,
                "format": "table" if panel.kind == "table" else "time_series",
                "instant": instant,
                "range": not instant,
            }
            for at, (expression, legend) in enumerate(panel.targets)
        ],
    }
    if panel.kind == "table":  # names and labels are all that it tells
        columns = {"excludeByName": {"Time": True, "Value": True}}
        shown["transformations"] = [{"id": "organize", "options": columns}]
    return shown


def laid_out(rows: Iterable[tuple[str, tuple[Panel, ...]]]) -> Iterator[dict[str, Any]]:
    """Each row's title, and its panels from left to right."""
    number, y = 0, 0
    for title, panels in rows:
        number, x = number + 1, 0
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
            "panels": [],
        }
        y += 1
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + HEIGHT
            number += 1
            yield drawn(panel, number, x, y)
            x += panel.width
        y += HEIGHT


def dashboard() -> dict[str, Any]:
    """The whole dashboard, in the form that Grafana takes since 11."""
    return {
        "uid": "claim-process",
        "title": "claim_process",
        "description": f"Claims from their intake to their payment. What to do about what it shows: {RUNBOOK}.",
        "tags": ["claims"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timepicker": {},
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {"text": "Prometheus", "value": "prometheus"},
                    "hide": 0,
                    "includeAll": False,
                    "multi": False,
                    "options": [],
                    "refresh": 1,
                    "regex": "",
                }
            ]
        },
        "panels": list(laid_out(ROWS)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")
