"""The example files for Prometheus and Grafana."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from deploy.processes import PROCESSES, grouped, metrics_place
from infrastructure.extensions import installed
from infrastructure.process import metrics
from infrastructure.settings import Settings
from services.projector.platform_metrics import PlatformMetrics

FOLDER = Path(__file__).parents[2] / "deploy/monitoring"
FIRST_PORT = 9400

NAME = re.compile(r"\becolink_\w+")
PARTS = {"histogram": ("_bucket", "_count", "_sum")}


@pytest.fixture
def exported(settings: Settings) -> set[str]:
    """The names of all series of EcoLink."""
    registry = CollectorRegistry()
    registry.register(PlatformMetrics(settings))
    assert metrics.HTTP_SECONDS  # the import registered the metrics of processes
    for extension in installed():
        for process in extension.processes.values():
            extension.load(process.run)
    text = (generate_latest(REGISTRY) + generate_latest(registry)).decode()
    kinds = re.findall(r"^# TYPE (ecolink_\w+) (\w+)$", text, re.MULTILINE)
    return {f"{name}{part}" for name, kind in kinds for part in PARTS.get(kind, ("",))}


def expressions() -> list[str]:
    """Return the expressions of all rules and panels."""
    rules = yaml.safe_load((FOLDER / "alert-rules.yml").read_text())
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    return [
        *(rule["expr"] for group in rules["groups"] for rule in group["rules"]),
        *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]),
    ]


def test_rules_and_panels_use_only_metrics_that_exist(exported: set[str]) -> None:
    used = {name for each in expressions() for name in NAME.findall(each)}
    assert used - exported == set()
    unused = {name for name in exported - used if not name.endswith(("_sum", "_count", "_created"))}
    assert unused <= {"ecolink_consumer_lag_events", "ecolink_sealed_events"}


def test_a_log_without_a_known_seal_raises_an_alert() -> None:
    (seals,) = (each for each in expressions() if "> 120" in each)
    assert "absent(ecolink_sealed_timestamp_seconds > 0)" in seals


def test_prometheus_reads_the_port_of_every_process() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    targets: dict[str, Any] = {
        each["labels"]["process"]: each["targets"] for each in job["static_configs"]
    }
    assert targets == {
        name: [f"127.0.0.1:{FIRST_PORT + metrics_place(name, roles)}"]
        for name, roles in grouped(PROCESSES, ()).items()
    }


def test_panels_do_not_overlap() -> None:
    panels = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (each["gridPos"] for each in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
