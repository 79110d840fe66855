"""Metrics of the platform, as Prometheus reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from psycopg_pool import ConnectionPool

from deploy.local.ports import free_port
from deploy.migrate import create_streams
from deploy.processes import PROCESSES, environment
from domain.core.event_log import EventLog
from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import SegmentEnd
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_step
from infrastructure.training.reports import StepMeasured
from services.projector.platform_metrics import PlatformMetrics
from tests.builders.commands import NOW
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


def test_metrics_show_the_use_of_gpus_at_the_newest_steps(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], history: History
) -> None:
    history.open_account(10_000_000)
    history.open_pool(4)
    busy, idle, on_cpu, crashed = jobs = history, *(history.another_job() for _ in range(3))
    for job in jobs:
        job.approve_job()
        job.allocate_segment(1)
        job.grant_lease(1)
        job.start_pod(1)
        job.start_training(1)
    crashed.end_segment(1, SegmentEnd.CRASHED, failure=FailureClass.NODE_LOST)
    with pool.connection() as connection:
        project(log, connection)
        add_step(connection, step_of(crashed, 1, gpu_utilization=1.0, gpu_memory_bytes=99))
        add_step(connection, step_of(busy, 1, gpu_utilization=0.1, gpu_memory_bytes=10))
        add_step(connection, step_of(busy, 2, gpu_utilization=0.9, gpu_memory_bytes=30))
        add_step(connection, step_of(idle, 1, gpu_utilization=0.5, gpu_memory_bytes=12))
        add_step(connection, step_of(on_cpu, 1))
    read = reader(settings)
    place = {"region": history.job.plan.region, "gpu_type": history.job.plan.gpu_type}
    assert read("gpu_utilization_ratio", **place) == pytest.approx(0.7)
    assert read("gpu_memory_used_bytes", **place) == 42


def step_of(history: History, step: int, **fields: Any) -> StepMeasured:
    return StepMeasured(
        account_id=history.account_id,
        job_id=history.job_id,
        segment=1,
        step=step,
        total_steps=9,
        train_loss=2.0,
        smoothed_loss=2.0,
        learning_rate=1e-4,
        tokens=100,
        tokens_per_second=50.0,
        elapsed_seconds=float(step),
        measured_at=NOW,
        **fields,
    )


def test_without_a_database_other_metrics_remain(settings: Settings) -> None:
    url = "postgresql://ecolink@127.0.0.1:1/none?connect_timeout=1"
    read = reader(settings.model_copy(update={"database_url": url}))
    assert (read("disk_free_bytes") or 0) > 0
    assert read("jobs", status="training") is None


@pytest.mark.full
def test_a_process_serves_its_metrics(settings: Settings) -> None:
    place = list(PROCESSES).index("projector")
    port = free_port(0)
    configured = settings.model_copy(update={"metrics_port": port - place})
    create_streams(settings)
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
