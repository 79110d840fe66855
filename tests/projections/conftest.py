"""Given events, then rows: what the tests of projections share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.consumer import OrderedConsumer
from infrastructure.store import Connection
from projections.projection import Projection, ProjectionEffect
from tests.builders.history import History

Fold = Callable[..., None]


@pytest.fixture
def history(log: EventLog) -> History:
    return History(log)


@pytest.fixture
def fold(log: EventLog, pool: ConnectionPool[Connection]) -> Fold:
    """Brings some projections up to the end of the log."""

    def run(*projections: Projection) -> None:
        for projection in projections:
            OrderedConsumer(ProjectionEffect(projection, pool.connection), log).catch_up()

    return run
