"""Security events with the client's address, which is personal data: rows with a retention."""

from __future__ import annotations

from datetime import timedelta

from infrastructure.postgres.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS security_events (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    happened_at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    address text NOT NULL,
    detail text NOT NULL
);
CREATE INDEX IF NOT EXISTS security_events_time ON security_events (happened_at)
"""

MAX_PER_HOUR = 1_000
"""Maximum number of rows per hour, so that an attack from many addresses cannot fill the disk."""


def record(connection: Connection, kind: str, address: str, detail: str) -> None:
    """Store an event, unless MAX_PER_HOUR is reached."""
    connection.execute(
        "INSERT INTO security_events (kind, address, detail) SELECT %s, %s, %s WHERE "
        "(SELECT count(*) FROM security_events WHERE happened_at > now() - interval '1 hour') < %s",
        [kind, address, detail, MAX_PER_HOUR],
    )


def newest(connection: Connection, limit: int) -> list[dict[str, object]]:
    """Return the newest `limit` events, newest first."""
    return connection.execute(
        "SELECT happened_at, kind, address, detail FROM security_events "
        "ORDER BY event_id DESC LIMIT %s",
        [limit],
    ).fetchall()


def delete_older(connection: Connection, age: timedelta) -> int:
    """Delete events older than `age`. Return the number of deleted events."""
    return connection.execute(
        "DELETE FROM security_events WHERE happened_at < now() - %s", [age]
    ).rowcount
