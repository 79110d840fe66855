"""Fixtures for tests of projections: given events, then rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from projections.projection import Projection, ProjectionEffect
from projections.rebuilding import rebuild

Fold = Callable[..., Connection]


@dataclass
class OtherRelease:
    """The migration of a release whose read models have one column more, and another fold."""

    settings: Settings
    log: EventLog

    @staticmethod
    def of(projection: Projection) -> Projection:
        """Return the projection of that release."""
        wider = f"{projection.ddl}; ALTER TABLE {projection.tables[0]} ADD COLUMN note text"
        return replace(projection, ddl=wider, fold=projection.fold + 1)

    def rebuild(self, projection: Projection) -> None:
        """Rebuild the tables of a projection in the shape of that release."""
        self._rebuild(self.of(projection))

    def roll_back(self, projection: Projection) -> None:
        """Rebuild the tables of a projection in the shape of this release."""
        self._rebuild(projection)

    def _rebuild(self, projection: Projection) -> None:
        assert self.settings.owner_database_url is not None
        rebuild(self.settings.owner_database_url, [projection], lambda *_: None)


@pytest.fixture
def other_release(settings: Settings, log: EventLog) -> OtherRelease:
    return OtherRelease(settings, log)


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
