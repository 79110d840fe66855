"""Metrics of the platform, as Prometheus reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from psycopg_pool import ConnectionPool

from deploy.local.ports import free_port
from deploy.processes import PROCESSES, environment
from domain.core.event_log import EventLog
from infrastructure.settings import Settings
from infrastructure.store import Connection
from services.projector.platform_metrics import PlatformMetrics
from tests.builders.history import History
from tests.logs import ids
from tests.polling import eventually
from tests.projecting import project


def reader(settings: Settings) -> Callable[..., float | None]:
    """Return a function that reads a sample by its name and labels."""
    registry = CollectorRegistry()
    registry.register(PlatformMetrics(settings))

    def read(name: str, **labels: Any) -> float | None:
        return registry.get_sample_value(f"ecolink_{name}", labels)

    return read


def test_metrics_show_jobs_gpus_and_accounts(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.run_until("training")
    other = history.another_job()
    other.approve_job()
    with pool.connection() as connection:
        project(log, connection)
    read = reader(settings)
    plan = history.job.plan
    place = {"region": plan.region, "gpu_type": plan.gpu_type}
    assert read("jobs", status="training") == 2
    assert read("gpus_held", **place) == 1
    assert read("accounts", balance="ok") == 1
    assert read("accounts", balance="depleted") == 0
    assert (read("disk_free_bytes") or 0) > 0
    assert read("consumer_lag_events", consumer="projection-accounts") == 0
    assert read("consumer_lag_seconds", consumer="projection-accounts") == 0
    assert read("consumer_lag_events", consumer="billing") == len(ids(log))
    assert read("parked_events", consumer="billing") == 0


def test_without_a_database_other_metrics_remain(settings: Settings) -> None:
    url = "postgresql://ecolink@127.0.0.1:1/none?connect_timeout=1"
    read = reader(settings.model_copy(update={"database_url": url}))
    assert (read("disk_free_bytes") or 0) > 0
    assert read("jobs", status="training") is None


def test_a_process_serves_its_metrics(settings: Settings) -> None:
    place = list(PROCESSES).index("projector")
    port = free_port(0)
    configured = settings.model_copy(update={"metrics_port": port - place})
    command = [sys.executable, "-P", "-m", "deploy.run", "projector"]
    process = subprocess.Popen(command, env=os.environ | environment(configured))

    def text() -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.TransportError:
            return ""

    try:
        caught_up = 'ecolink_consumer_lag_events{consumer="projection-accounts"} 0.0'
        eventually(lambda: caught_up in text())
        assert "process_resident_memory_bytes" in text()
    finally:
        process.terminate()
        process.wait()
