"""Connections and use cases of the gateway: event log, read models and artifacts."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from domain.estimating.estimate import Calibration, Precision
from domain.use_cases.accounts import EcoLink
from domain.use_cases.deployments import Deploying
from domain.use_cases.jobs import Launching
from domain.use_cases.quoting import MachineUse, Quoting
from domain.use_cases.spending_limits import SpendingLimits
from gateway.catalog.pool_claims import ClaimsCache
from gateway.http.errors import RateLimited
from gateway.http.quotas import BUSY_SECONDS, Quotas
from infrastructure.artifacts.store import Artifacts
from infrastructure.datasets.wanted_counts import want_count
from infrastructure.http.limits import Limits
from infrastructure.payments.provider import card_provider
from infrastructure.postgres.store import EXCLUSIVE, Connection, open_log, open_pool, scalar
from infrastructure.process.clock import Clock, clock_of
from infrastructure.process.machine_load import load_of
from infrastructure.settings import Settings
from projections.datasets import wanted_ahead
from projections.estimates import calibration
from projections.job_detail import active_jobs, job_named
from projections.job_requests import unfinished_jobs
from projections.models import model_of

CACHED_AGGREGATES = 500
"""Number of cached aggregates, such as pools and keys. Reads apply newer events."""


SECONDS_PER_COUNT, BYTES_PER_SECOND = 4, 250_000
"""Usual duration of a token count: the start of its process, and the speed on two cores."""


LOCK_TRIES, LOCK_PAUSE_SECONDS = 500, 0.02
"""Number of attempts to take a lock that others hold for a save, and the pause between them."""


@dataclass(frozen=True)
class Backend:
    """Open connections of one gateway process."""

    settings: Settings
    log: EventLog
    pool: ConnectionPool[Connection]
    artifacts: Artifacts
    clock: Clock
    quotas: Quotas
    pool_claims: ClaimsCache = field(default_factory=ClaimsCache)

    @property
    def ecolink(self) -> EcoLink:
        return EcoLink(self.log)

    @property
    def quoting(self) -> Quoting:
        use = MachineUse(load_of, self._active_jobs, self.clock.now)
        return Quoting(self.log, self._calibration, use, self._job_of_model, self.want_count)

    @property
    def launching(self) -> Launching:
        retention = timedelta(days=self.settings.checkpoint_retention_days)
        limits = self.spending_limits
        factor = self.settings.guarantee_factor
        return Launching(self.log, self.quoting, limits, retention, self._room_for_job, factor)

    @contextmanager
    def _room_for_job(self, account_id: UUID) -> Generator[None]:
        with self.alone("jobs", account_id) as connection:
            self.quotas.require_room("jobs", unfinished_jobs(connection, account_id))
            yield

    @contextmanager
    def alone(self, quota: str, owner_id: UUID) -> Generator[Connection]:
        """Run the block, a transaction, while no other request adds to a quota of an owner."""
        for _ in range(LOCK_TRIES):
            with self.pool.connection() as connection, connection.transaction():
                if scalar(connection, EXCLUSIVE, [f"{quota}:{owner_id}"]):
                    yield connection
                    return
            time.sleep(LOCK_PAUSE_SECONDS)  # without a connection, which others need
        raise RateLimited(
            "Your account sends many such requests at the same time. Try again.", BUSY_SECONDS, {}
        )

    @property
    def spending_limits(self) -> SpendingLimits:
        return SpendingLimits(self.log, self.settings.meter_minute_seconds)

    @property
    def deploying(self) -> Deploying:
        return Deploying(self.log)

    def _job_of_model(self, account_id: UUID, model: str) -> UUID | None:
        with self.pool.connection() as connection:
            row = model_of(connection, account_id, model)
            if row is not None:
                return row["job_id"]
            return job_named(connection, account_id, model)

    def want_count(self, dataset_id: UUID, base_model: str) -> str:
        """Let a dataset's count for a base model come first. Say when to try again."""
        with self.pool.connection() as connection:
            want_count(connection, dataset_id, base_model)
            pairs, size = wanted_ahead(connection, dataset_id, base_model)
        seconds = max(1, pairs) * SECONDS_PER_COUNT + size // BYTES_PER_SECOND
        return f"It is number {max(1, pairs):,} in the queue. Try again in about {seconds:,} s."

    def _active_jobs(self, region: str, gpu_type: str, but: UUID | None) -> dict[int, int]:
        with self.pool.connection() as connection:
            return active_jobs(connection, region, gpu_type, but)

    def _calibration(
        self, base_model: str, gpu_type: str, precision: Precision, gpu_count: int
    ) -> Calibration:
        with self.pool.connection() as connection:
            return calibration(connection, base_model, gpu_type, precision, gpu_count)


@contextmanager
def open_backend(settings: Settings) -> Generator[Backend]:
    """Open the connections, and close them on exit."""
    with (
        open_pool(settings) as pool,
        open_log(settings, pool=pool, cached=CACHED_AGGREGATES) as log,
    ):
        quotas = Quotas(Limits(settings.limits))
        artifacts = Artifacts(settings.artifacts)
        card_provider()  # load the client before the first request
        yield Backend(settings, log, pool, artifacts, clock_of(settings), quotas)


async def backend_of(request: Request) -> Backend:
    """Return the backend of the application that serves this request."""
    return request.app.state.backend


BackendOf = Annotated[Backend, Depends(backend_of)]
