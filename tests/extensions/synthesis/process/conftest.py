"""A database with an account, and a scripted model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from tests.extensions.synthesis.process.bench import Bench
from tests.scripted_model import Scripted, scripted


@pytest.fixture
def bench(log: EventLog, pool: ConnectionPool[Connection], settings: Settings) -> Bench:
    """An account with $5, and an empty artifact store."""
    bench = Bench(log, pool, Artifacts(settings.artifacts), settings)
    bench.open_account()
    return bench


@pytest.fixture
def model() -> Iterator[Scripted]:
    """A model that always answers well, unless a test changes its script."""
    with scripted() as found:
        yield found
