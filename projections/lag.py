"""Lag of projections and event handlers behind the event log."""

from __future__ import annotations

from collections.abc import Sequence

from infrastructure.store import Connection
from projections.projection import Row


def behind(connection: Connection, consumers: Sequence[str]) -> list[Row]:
    """Return the consumers that are behind, in the given order.

    A row has the number of unprocessed `events`, and the time of the first of them (`since`).
    """
    return connection.execute(
        "WITH known AS (SELECT 'projection-' || name AS consumer, position "
        "FROM projection_positions UNION ALL SELECT application_name, max(notification_id) "
        "FROM ecolink_tracking GROUP BY application_name) "
        "SELECT consumer, events, "
        "(convert_from(state, 'UTF8')::jsonb ->> 'timestamp')::timestamptz AS since "
        "FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (consumer, n) "
        "LEFT JOIN known USING (consumer) CROSS JOIN LATERAL (SELECT count(*) AS events, "
        "min(notification_id) AS first FROM ecolink_events "
        "WHERE notification_id > coalesce(position, 0)) AS unseen "
        "JOIN ecolink_events ON notification_id = first ORDER BY n",
        [list(consumers)],
    ).fetchall()
