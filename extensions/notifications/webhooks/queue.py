"""The queue of deliveries of webhooks. After a kill, those in progress are sent again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from prometheus_client import Histogram
from psycopg_pool import ConnectionPool

from extensions.notifications.webhooks.deliveries import (
    Attempt,
    Due,
    due_deliveries,
    record_attempt,
)
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.log_identity import is_held
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock

WEBHOOK_ATTEMPT_SECONDS = Histogram(
    "ecolink_webhook_attempt_seconds",
    "Duration of requests to webhooks, by outcome: accepted or failed.",
    ["outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)

log = logging.getLogger("webhooks")


class DeliveryQueue:
    """Deliveries of webhooks, sent by a function."""

    def __init__(
        self,
        pool: ConnectionPool[Connection],
        clock: Clock,
        send: Callable[[Due], Awaitable[Attempt]],
        per_endpoint: int,
    ) -> None:
        self._pool, self._clock, self._send = pool, clock, send
        self._per_endpoint = per_endpoint

    def due(self, busy: Busy) -> list[Due]:
        """Return due deliveries, except busy ones."""
        with self._pool.connection() as connection:
            found = due_deliveries(
                connection, self._clock.now(), datetime.now(UTC), self._per_endpoint, busy
            )
            return [] if found and is_held(connection) else found

    async def send(self, due: Due) -> Attempt:
        """Send a delivery once."""
        attempt = await self._send(due)
        outcome = "accepted" if attempt.error is None else "failed"
        WEBHOOK_ATTEMPT_SECONDS.labels(outcome).observe(attempt.duration_ms / 1000)
        return attempt

    def record(self, due: Due, result: Attempt) -> None:
        """Store an attempt."""
        with self._pool.connection() as connection:
            status = record_attempt(connection, due.id, result, self._clock.now())
        log.debug("delivery %d is %s", due.id, status)
