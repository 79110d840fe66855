"""Parked events, which a handler repeatedly failed to process."""

from __future__ import annotations

from typing import Any

from domain.core.errors import NotFound
from gateway.backend import Backend
from infrastructure.bus.event_handlers import parked_events, request_replay


def list_parked(backend: Backend) -> list[dict[str, Any]]:
    """Return the rows of all parked events, oldest first."""
    with backend.pool.connection() as connection:
        return parked_events(connection)


def replay_parked(backend: Backend, consumer: str, notification_id: int) -> dict[str, Any]:
    """Request a retry of a parked event, whose row it returns, and of all of its aggregate."""
    with backend.pool.connection() as connection:
        row = request_replay(connection, consumer, notification_id)
    if row is None:
        raise NotFound(
            f"{consumer} has no parked event {notification_id}. See `ecolink events parked` or "
            "GET /api/operator/parked."
        )
    return row
