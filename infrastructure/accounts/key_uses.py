"""Last use of API keys, a measurement outside the event log.

A request only notes the time in memory. A background task stores the times once a minute, in one
statement, so each key is written at most once a minute.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from infrastructure.postgres.store import Connection

STORE_SECONDS = 60.0

DDL = """
CREATE TABLE IF NOT EXISTS key_uses (
    key_id uuid PRIMARY KEY,
    used_at timestamptz NOT NULL
)
"""


class KeyUses:
    """Uses of API keys that are not stored yet. Thread-safe."""

    def __init__(self) -> None:
        self._used: dict[UUID, datetime] = {}
        self._lock = threading.Lock()

    def note(self, key_id: UUID, now: datetime) -> None:
        """Note a use."""
        with self._lock:
            self._used[key_id] = now

    def store(self, connection: Connection) -> None:
        """Store the noted uses. If that fails, they stay noted."""
        with self._lock:
            used, self._used = self._used, {}
        try:
            store_uses(connection, used)
        except BaseException:
            with self._lock:
                self._used = used | self._used
            raise


def store_uses(connection: Connection, used: Mapping[UUID, datetime]) -> None:
    """Store the last use of some keys. A later time that is already stored is kept."""
    if not used:
        return
    connection.execute(
        "INSERT INTO key_uses SELECT * FROM unnest(%s::uuid[], %s::timestamptz[]) "
        "ON CONFLICT (key_id) DO UPDATE SET used_at = greatest(key_uses.used_at, excluded.used_at)",
        [list(used), list(used.values())],
    )


def last_uses(connection: Connection, key_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Return the last stored use of the given keys. Unused keys are missing."""
    rows = connection.execute(
        "SELECT key_id, used_at FROM key_uses WHERE key_id = ANY(%s)", [list(key_ids)]
    ).fetchall()
    return {row["key_id"]: row["used_at"] for row in rows}
