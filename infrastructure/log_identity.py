"""The identity of the event log, and a watch on a log that is replaced under a running process.

A restored database is an older state of the same log: its identity is the same, and events that
were saved after the backup are gone, though the bus still has them. So identity tells one log from
another, and only the events themselves tell one state of a log from another.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

import psycopg
from eventsourcing.persistence import Notification, PersistenceError

from domain.core.event_log import EventLog
from infrastructure.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS log_identity (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    log_id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO log_identity DEFAULT VALUES ON CONFLICT DO NOTHING
"""

WATCH_SECONDS = 1.0


class LogReplaced(Exception):
    """The log no longer has an event that this process has seen: what it remembers is wrong."""


def log_identity(connection: Connection) -> UUID:
    """The id that the migration gave the log. Raises RuntimeError if it has none."""
    row = connection.execute("SELECT log_id FROM log_identity").fetchone()
    if row is None:
        raise RuntimeError("The event log has no identity: run `python -m deploy.migrate`.")
    return row["log_id"]


def notification_at(log: EventLog, position: int) -> Notification | None:
    """The event at a notification id, or None."""
    found = log.recorder.select_notifications(start=position, stop=position, limit=1)
    return found[0] if found else None


class LogWatch:
    """Remembers the newest event that it has seen, and looks whether the log still has it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._seen: Notification | None = None

    def look(self) -> None:
        """Look once. Raises LogReplaced."""
        head = self._log.recorder.max_notification_id()
        newest = None if head is None else notification_at(self._log, head)
        seen = self._seen
        if seen is not None and notification_at(self._log, seen.id) != seen:
            raise LogReplaced(
                f"The event log lacks event {seen.id} ({seen.topic}), which it had: the database "
                "was replaced or restored. This process ends, to start from what the log has now."
            )
        self._seen = newest or seen


async def watch_log(log: EventLog) -> None:
    """Look every second, for ever. Raises LogReplaced, which ends a service.

    A service keeps aggregates in memory; after a restore it would go on from events that are gone.
    """
    watch, logger = LogWatch(log), logging.getLogger("log_watch")
    while True:
        try:
            await asyncio.to_thread(watch.look)
        except (PersistenceError, psycopg.Error) as error:
            logger.info("the log cannot be read now: %s", error)
        await asyncio.sleep(WATCH_SECONDS)
