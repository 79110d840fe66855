"""Fixtures of the datasets service."""

from __future__ import annotations

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.artifacts import Artifacts
from infrastructure.settings import Settings
from infrastructure.store import Connection
from tests.builders.commands import FixedClock
from tests.services.datasets.running_service import Service


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings.artifacts)


@pytest.fixture
def service(
    log: EventLog,
    pool: ConnectionPool[Connection],
    artifacts: Artifacts,
    clock: FixedClock,
    settings: Settings,
) -> Service:
    return Service(log, pool, artifacts, clock, settings.dataset_max_bytes)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()
