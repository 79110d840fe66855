"""The identity of the event log, a check that the log was not replaced, and the hold of a copy.

A restored database contains an older state of the same log. The log's identity is unchanged, but
the log lacks the events after the backup, although the bus still has them. The identity therefore
distinguishes logs, and only the events distinguish states of a log.

The original of a restored copy may still run. So a restore holds the outgoing effects of the copy.
They stay pending until an operator confirms that the original is gone.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

import psycopg
from eventsourcing.persistence import Notification, PersistenceError

from domain.core.event_log import EventLog
from infrastructure.postgres.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS log_identity (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    log_id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO log_identity DEFAULT VALUES ON CONFLICT DO NOTHING;
ALTER TABLE log_identity ADD COLUMN IF NOT EXISTS held boolean NOT NULL DEFAULT false
"""

WATCH_SECONDS = 2.0


HELD = (
    "This restored copy sends no webhooks, e-mail notifications or tracker metrics. It charges and "
    "refunds no cards, and pushes no models. When the original is gone, run `ecolink backup "
    "confirm-restore`."
)


class LogReplaced(Exception):
    """The log no longer contains an event that this process has read."""


def log_identity(connection: Connection) -> UUID:
    """Return the ID that the migration gave the log. Raise RuntimeError if there is none."""
    row = connection.execute("SELECT log_id FROM log_identity").fetchone()
    if row is None:
        raise RuntimeError("The event log has no identity. Run `python -m deploy.migrate`.")
    return row["log_id"]


def is_held(connection: Connection) -> bool:
    """Return True if EcoLink must not send outgoing effects now."""
    row = connection.execute("SELECT held FROM log_identity").fetchone()
    return row is not None and row["held"]


def set_held(connection: Connection, held: bool) -> None:
    """Hold the outgoing effects, or let EcoLink send them."""
    connection.execute("UPDATE log_identity SET held = %s", [held])


def notification_at(log: EventLog, position: int) -> Notification | None:
    """Return the event with this notification ID, or None."""
    found = log.recorder.select_notifications(start=position, stop=position, limit=1)
    return found[0] if found else None


class LogWatch:
    """A check that the log still contains the event that was the newest at the previous check."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._seen: Notification | None = None

    def check(self) -> None:
        """Check once. Raise LogReplaced if the log lacks the event."""
        recorder, seen = self._log.recorder, self._seen
        if seen is not None:
            found = recorder.select_notifications(start=seen.id, limit=2)
            if list(found[:1]) != [seen]:
                raise LogReplaced(
                    f"The event log lost event {seen.id} ({seen.topic}): the database was replaced "
                    "or restored. This process exits, so that it restarts from the current log."
                )
            if len(found) == 1:  # no event is newer, as in most checks of an idle installation
                return
        head = recorder.max_notification_id()
        self._seen = (None if head is None else notification_at(self._log, head)) or seen


async def watch_log(log: EventLog) -> None:
    """Check every two seconds. Raise LogReplaced after a restore: cached aggregates are stale."""
    watch, logger = LogWatch(log), logging.getLogger("log_watch")
    while True:
        try:
            await asyncio.to_thread(watch.check)
        except (PersistenceError, psycopg.Error) as error:
            logger.info("cannot read the log, retrying: %s", error)
        await asyncio.sleep(WATCH_SECONDS)
