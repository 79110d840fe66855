"""Reading one's own writes: waiting until projections have seen what the log holds.

Every command waits here after its commit, so that lists, balances and details alike show it; a
fallback to the aggregate would have to be written for each view, and could not mend a list. The
wait is bounded: a projector that is down delays an answer, and never prevents it.
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
    """Wait until projections hold all that the log holds now; False if they take longer."""
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
    """The row that a query of a projection finds.

    Raises NotFound, with the sentence given, only when the projection holds the whole log, and
    NotYetVisible when it does not: what was just made is never said not to exist.
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
