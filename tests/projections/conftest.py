"""Fixtures for tests of projections: given events, then rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.consumer import OrderedConsumer
from infrastructure.store import Connection
from projections.projection import Projection, ProjectionEffect

Fold = Callable[..., Connection]


@pytest.fixture
def connection(pool: ConnectionPool[Connection]) -> Iterator[Connection]:
    with pool.connection() as connection:
        yield connection


@pytest.fixture
def fold(log: EventLog, pool: ConnectionPool[Connection], connection: Connection) -> Fold:
    """Bring projections up to the end of the log, and return a connection to read them."""

    def run(*projections: Projection) -> Connection:
        for projection in projections:
            OrderedConsumer(ProjectionEffect(projection, pool.connection), log).catch_up()
        return connection

    return run
