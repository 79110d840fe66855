"""The health of EcoLink: consumers, leaders, seals, disk, GPU pools and running jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from domain.capacity.availability import PoolLoad
from domain.jobs.lifecycle import JobStatus
from gateway.backend import Backend
from gateway.catalog.availability import pool_loads, waits_of
from gateway.jobs.names import names_by_id
from gateway.schemas import Money
from infrastructure.accounts.profiles import account_names
from infrastructure.postgres.leads import Lead, leads
from infrastructure.postgres.store import scalar
from infrastructure.postgres.upgrade import UpgradeStatus, upgrade_status
from infrastructure.process.disk_space import DiskSpace, disk_space
from infrastructure.seals.archive import SealArchive, SealDamaged
from projections.consumers import (
    CONSUMERS,
    ConsumerLag,
    consumer_lags,
    lag_problems,
    parked_problems,
)
from projections.job_detail import running_jobs
from projections.projection import Row

LISTED_JOBS = 200

UNSEALED: LiteralString = "SELECT count(*) FROM ecolink_events WHERE notification_id > %s"


@dataclass(frozen=True)
class ConsumerHealth:
    """A consumer with its process, which has never started if `lag` is None."""

    process: str
    consumer: str
    lag: ConsumerLag | None
    seconds: float
    late: bool


@dataclass(frozen=True)
class Seals:
    """The newest tree head, and the events after it."""

    sealed_at: datetime | None
    """None if nothing is sealed."""
    age_seconds: float | None
    events: int
    unsealed: int
    """Events of the log without a seal."""
    problem: str | None = None
    """A sentence if the stored seals are damaged."""


@dataclass(frozen=True)
class PoolHealth:
    """A GPU pool with its queue. Waits are None if they are unknown."""

    load: PoolLoad
    held: int
    longest_queued_seconds: float | None
    """Seconds that the first queued job has waited. None without a queue."""
    new_job_seconds: float | None
    """Expected wait of a new job on one GPU."""


@dataclass(frozen=True)
class RunningJob:
    """An unfinished job of any account that is not paused."""

    id: UUID
    title: str
    account_id: UUID
    account: str | None
    status: JobStatus
    phase: str
    gpus: str
    rate_per_hour: Money
    is_billed: bool
    """True while the job holds running GPUs."""
    step: int
    total_steps: int | None
    reported_at: datetime | None
    """Time of the last step that its trainer reported."""
    wait_seconds: float | None
    """Expected wait for GPUs. None if the job is not queued, or if the wait is unknown."""
    waiting_since: datetime | None


@dataclass(frozen=True)
class Health:
    """The state of EcoLink at one moment."""

    now: datetime
    problems: list[str]
    consumers: list[ConsumerHealth]
    leads: list[Lead]
    upgrade: UpgradeStatus
    seals: Seals
    disk: DiskSpace
    pools: list[PoolHealth]
    jobs: list[RunningJob]
    job_count: int
    rate_per_hour: Money
    """Rate of the listed jobs that are billed."""


def health(backend: Backend) -> Health:
    """Read the state of EcoLink from the database, the artifact store and the disk."""
    now, disk = backend.clock.now(), disk_space(backend.settings)
    full = disk.problem(backend.settings.home)
    with backend.pool.connection() as connection:
        found, upgrade = leads(connection), upgrade_status(connection)
        started = {each.name for each in found}
        known = [each for name, own in CONSUMERS.items() if name in started for each in own]
        lags = {each.consumer: each for each in consumer_lags(connection, known)}
        problems = [*lag_problems(lags.values(), now), *parked_problems(connection)]
        rows = running_jobs(connection, LISTED_JOBS)
        names = account_names(connection)
    jobs = _jobs(backend, rows, names)
    return Health(
        now=now,
        problems=[*([full] if full else []), *problems],
        consumers=[
            _consumer(process, consumer, lags.get(consumer), now)
            for process, own in CONSUMERS.items()
            for consumer in own
        ],
        leads=found,
        upgrade=upgrade,
        seals=_seals(backend, now),
        disk=disk,
        pools=[_pool(load, rows, now) for load in pool_loads(backend)],
        jobs=jobs,
        job_count=rows[0]["jobs"] if rows else 0,
        rate_per_hour=Money.of(sum(each.rate_per_hour.micros for each in jobs if each.is_billed)),
    )


def _consumer(
    process: str, consumer: str, lag: ConsumerLag | None, now: datetime
) -> ConsumerHealth:
    seconds, late = (0.0, False) if lag is None else (lag.seconds(now), lag.is_late(now))
    return ConsumerHealth(process, consumer, lag, seconds, late)


def _seals(backend: Backend, now: datetime) -> Seals:
    archive = SealArchive(backend.artifacts)
    try:
        key = archive.public_key()
        head = None if key is None else archive.last_head(key)
    except SealDamaged as damage:
        return Seals(None, None, 0, 0, str(damage))
    with backend.pool.connection() as connection:  # only now, because the archive may be slow
        unsealed = scalar(connection, UNSEALED, [0 if head is None else head.last_event])
    if head is None:
        return Seals(None, None, 0, unsealed)
    age = max(0.0, (now - head.sealed_at).total_seconds())
    return Seals(head.sealed_at, age, head.size, unsealed)


def _pool(load: PoolLoad, jobs: Sequence[Row], now: datetime) -> PoolHealth:
    place = (load.region, load.gpu_type)
    queued = [
        (now - job["waiting_since"]).total_seconds()
        for job in jobs
        if job["waiting_since"] is not None
        and job["relaunch_at"] is None  # otherwise it joins the queue later
        and (job["region"], job["gpu_type"]) == place
    ]
    held = sum(each.count for each in load.running)
    return PoolHealth(load, held, max(queued, default=None), load.wait_seconds(1))


def _jobs(backend: Backend, rows: Sequence[Row], names: Mapping[UUID, str]) -> list[RunningJob]:
    waits, titles = waits_of(backend, rows), names_by_id(backend, [row["job_id"] for row in rows])
    return [
        RunningJob(
            id=row["job_id"],
            title=titles[row["job_id"]].title,
            account_id=row["account_id"],
            account=names.get(row["account_id"]),
            status=JobStatus(row["status"]),
            phase=row["phase"],
            gpus=f"{row['gpu_count']} × {row['gpu_type']}, {row['region']}",
            rate_per_hour=Money.price(row["rate_micros_per_hour"]),
            is_billed=row["bound_at"] is not None and row["waiting_since"] is None,
            step=max(row["step"], row["measured_step"] or 0),
            total_steps=row["total_steps"],
            reported_at=row["reported_at"],
            wait_seconds=waits.get(row["job_id"]),
            waiting_since=row["waiting_since"],
        )
        for row in rows
    ]
