"""Read your writes: wait until the projections have processed the events of a request.

Every command waits after its commit, so that lists, balances and details show its effect. Reading
the aggregate instead would need code for each view, and does not work for lists. The wait is
limited. If the projector is down, the response is late, but the gateway still sends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from uuid import UUID

from domain.core.errors import NotFound
from gateway.backend import Backend
from gateway.http.errors import NotYetVisible
from infrastructure.postgres.store import Connection
from projections.projection import Projection, Row, lowest_position, newest_needed

WAIT_SECONDS = 2.0
POLL_SECONDS = 0.02


def caught_up(
    backend: Backend, *projections: Projection, patience_seconds: float = WAIT_SECONDS
) -> bool:
    """Wait until the projections have processed the events that the current request saved.

    If it has saved none, wait for the newest event in the log that the projections need, see
    `newest_needed`. Later events do not prolong the wait. Return False after a timeout.
    """
    wanted, deadline = backend.log.last_saved, time.monotonic() + patience_seconds
    while True:
        with backend.pool.connection() as connection:
            position = lowest_position(connection, projections)
            if wanted is None:
                wanted = newest_needed(connection, projections, position)
            if position >= wanted:
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)


@contextmanager
def room(
    backend: Backend,
    quota: str,
    owner_id: UUID,
    count: Callable[[Connection, UUID], int],
    *projections: Projection,
) -> Generator[Connection]:
    """Run the block, a transaction that adds one object, if a quota of its owner has room.

    `count` reads the used part from tables and from `projections`. Raise QuotaExceeded.
    """
    with backend.alone(quota, owner_id) as connection:
        if projections:
            caught_up(backend, *projections)
        backend.quotas.require_room(quota, count(connection, owner_id))
        yield connection


def found(
    backend: Backend,
    projection: Projection,
    query: Callable[[Connection], Row | None],
    missing: str,
) -> Row:
    """Return the row that a query of a projection finds.

    Raise NotFound with the message `missing` only if the projection has processed its events.
    Otherwise, raise NotYetVisible, because the object may be new.
    """
    with backend.pool.connection() as connection:
        row = query(connection)
    if row is None:
        current = caught_up(backend, projection)
        with backend.pool.connection() as connection:
            row = query(connection)
        if row is None and not current:
            raise NotYetVisible
    if row is None:
        raise NotFound(missing)
    return row
