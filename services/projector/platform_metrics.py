"""Metrics of the whole platform, read from the read models when Prometheus asks for them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import psycopg
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from domain.core.event_format import NewerFormat
from infrastructure.bus.event_handlers import HANDLERS
from infrastructure.postgres.store import Connection, connect
from infrastructure.postgres.upgrade import upgrade_status
from infrastructure.process.disk_space import disk_space
from infrastructure.settings import Settings
from projections.consumers import consumer_lags
from projections.gpu_pools import all_gpu_pools

PLACE = ("region", "gpu_type")
CONSUMER = ("consumer",)

_registered: Collector | None = None


class PlatformMetrics(Collector):
    """Jobs, GPUs, accounts, and the lag of consumers.

    If the database fails, the metrics that need it are missing, and the log says why.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of now."""
        free = {(): disk_space(self._settings).free_bytes}
        yield _gauge(
            "disk_free_bytes", "Free bytes on the disk of EcoLink's home.", (), free.items()
        )
        try:
            with connect(self._settings) as connection:
                connection.execute("SET statement_timeout = '5s'")
                yield from (*_jobs(connection), *_pools(connection), *_accounts(connection))
                yield from _gpu_use(connection)
                yield from (*_consumers(connection), *_upgrade(connection))
        except (psycopg.Error, NewerFormat) as error:
            logging.getLogger("metrics").warning("cannot read the platform's metrics: %s", error)


def _jobs(connection: Connection) -> Iterator[Metric]:
    rows = connection.execute("SELECT status, count(*) AS jobs FROM job_detail GROUP BY status")
    jobs = {(row["status"],): row["jobs"] for row in rows}
    yield _gauge("jobs", "Jobs by status.", ("status",), jobs.items())


def _pools(connection: Connection) -> Iterator[Metric]:
    pools = all_gpu_pools(connection)
    for column, name, text in (
        ("capacity", "gpus", "GPUs of a pool."),
        ("held", "gpus_held", "GPUs of a pool that jobs hold."),
        ("waiting", "queued_jobs", "Jobs that wait for GPUs of a pool."),
    ):
        values = {(each["region"], each["gpu_type"]): each[column] for each in pools}
        yield _gauge(name, text, PLACE, values.items())


def _gpu_use(connection: Connection) -> Iterator[Metric]:
    """Yield the use of the GPUs that training jobs hold, at the newest step of each."""
    rows = connection.execute(
        "SELECT gpu_pools.region, gpu_pools.gpu_type, "
        "sum(gpu_utilization * held.count) / sum(held.count) AS busy, "
        "sum(gpu_memory_bytes)::bigint AS used "
        "FROM gpu_claims AS held JOIN gpu_pools USING (pool_id) JOIN job_detail USING (job_id) "
        "CROSS JOIN LATERAL (SELECT gpu_utilization, gpu_memory_bytes FROM step_measurements "
        "AS each WHERE each.job_id = held.job_id AND each.segment = held.segment "
        "ORDER BY step DESC LIMIT 1) AS newest "
        "WHERE state = 'held' AND status = 'training' AND gpu_utilization IS NOT NULL GROUP BY 1, 2"
    ).fetchall()
    for column, name, text in (
        ("busy", "gpu_utilization_ratio", "Share of time in which the GPUs of jobs compute."),
        ("used", "gpu_memory_used_bytes", "Memory in use on the GPUs of jobs."),
    ):
        values = {(each["region"], each["gpu_type"]): each[column] for each in rows}
        yield _gauge(name, text, PLACE, values.items())


def _accounts(connection: Connection) -> Iterator[Metric]:
    rows = connection.execute(
        "SELECT CASE WHEN depleted THEN 'depleted' WHEN low THEN 'low' ELSE 'ok' END AS balance, "
        "count(*) AS accounts FROM accounts GROUP BY 1"
    )
    accounts = {(balance,): 0 for balance in ("ok", "low", "depleted")}
    accounts |= {(row["balance"],): row["accounts"] for row in rows}
    yield _gauge(
        "accounts", "Accounts by the state of their balance.", ("balance",), accounts.items()
    )


def _consumers(connection: Connection) -> Iterator[Metric]:
    now, lags = datetime.now(UTC), consumer_lags(connection)
    events = {(each.consumer,): each.events for each in lags}
    text = "Events that a consumer has not processed."
    yield _gauge("consumer_lag_events", text, CONSUMER, events.items())
    ages = {(each.consumer,): each.seconds(now) for each in lags}
    text = "Age of the oldest event that a consumer has not processed."
    yield _gauge("consumer_lag_seconds", text, CONSUMER, ages.items())
    parked = {(each.consumer,): each.parked for each in lags if each.consumer in HANDLERS}
    yield _gauge("parked_events", "Events that a handler parked.", CONSUMER, parked.items())


def _upgrade(connection: Connection) -> Iterator[Metric]:
    status = upgrade_status(connection)
    unfinished = {(): float(status.unfinished)}
    text = "1 if the event log does not use the newest format of the running processes."
    yield _gauge("upgrade_unfinished", text, (), unfinished.items())
    running = Counter((each.service, each.version, str(each.format)) for each in status.processes)
    labels = ("process", "version", "format")
    yield _gauge("processes", "Running processes.", labels, running.items())


def _gauge(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[Sequence[str], float]],
) -> Metric:
    family = GaugeMetricFamily(f"ecolink_{name}", text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def register(settings: Settings) -> None:
    """Add the metrics of the platform to those of this process, also if it has them already."""
    global _registered  # one per process, although its role can start again
    if _registered is not None:
        REGISTRY.unregister(_registered)
    _registered = PlatformMetrics(settings)
    REGISTRY.register(_registered)
