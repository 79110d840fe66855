"""Read your writes: wait until the projections have processed the event log.

Every command waits after its commit, so that lists, balances and details show its effect. Reading
the aggregate instead would need code for each view, and does not work for lists. The wait is
limited. If the projector is down, the response is late, but the gateway still sends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from domain.core.errors import NotFound
from gateway.backend import Backend
from gateway.http.errors import NotYetVisible
from infrastructure.store import Connection
from projections.projection import Projection, Row, lowest_position

WAIT_SECONDS = 2.0
POLL_SECONDS = 0.02


def caught_up(
    backend: Backend, *projections: Projection, patience_seconds: float = WAIT_SECONDS
) -> bool:
    """Wait until the projections have processed the current log. Return False after a timeout."""
    wanted = backend.log.recorder.max_notification_id() or 0
    deadline = time.monotonic() + patience_seconds
    while True:
        with backend.pool.connection() as connection:
            if lowest_position(connection, projections) >= wanted:
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)


def found(
    backend: Backend,
    projection: Projection,
    query: Callable[[Connection], Row | None],
    missing: str,
) -> Row:
    """Return the row that a query of a projection finds.

    Raise NotFound with the message `missing` only if the projection has processed the whole log.
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
