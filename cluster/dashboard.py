"""The Grafana dashboards, written down as panels and queries: `python -m cluster.dashboard` writes cluster/grafana.

What each shows is in dashboard_serving.py, dashboard_training.py and dashboard_data.py. Metrics reach Prometheus from
Ray's agents, which put `ray_` before every name. Knows names and PromQL; nothing of how they are counted.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cluster import dashboard_data, dashboard_serving, dashboard_training
from cluster.dashboard_panel import Panel

FOLDER = Path(__file__).parent / "grafana"
DASHBOARDS: dict[str, tuple[list[Panel], dict[str, str]]] = {
    "serving": (dashboard_serving.PANELS, dashboard_serving.VARIABLES),
    "training": (dashboard_training.PANELS, dashboard_training.VARIABLES),
    "data": (dashboard_data.PANELS, dashboard_data.VARIABLES),
}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(name: str = "serving") -> dict[str, Any]:
    """One of DASHBOARDS as Grafana imports it."""
    panels, variables = DASHBOARDS[name]
    return {
        "title": f"MTP {name}",
        "uid": f"mtp-{name}",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                *(_variable(*one) for one in variables.items()),
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    """What can be chosen at the top of the page; everything to begin with."""
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "includeAll": True,
        "multi": True,
        "refresh": 2,
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    """Three to a row."""
    title, unit, queries = panel
    return {
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": {"h": 8, "w": 8, "x": number % 3 * 8, "y": number // 3 * 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + place), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
            for place, (legend, query) in enumerate(queries)
        ],
    }


def main(folder: Path = FOLDER) -> None:
    """Write the files."""
    folder.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (folder / f"{name}.json").write_text(json.dumps(dashboard(name), indent=2) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
