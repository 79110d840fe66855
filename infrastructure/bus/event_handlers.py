"""Event handlers: an event causes new events, which are saved with the consumer's position."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Tracking
from obstore.exceptions import BaseError

from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.core.errors import UpgradeUnfinished, VersionConflict
from domain.core.event_format import NewerEvent
from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.core.topics import Kind, topics_of
from infrastructure.artifacts.s3_requests import S3Refused
from infrastructure.artifacts.store import STORE_ERRORS
from infrastructure.bus.consumer import UNREACHABLE, recorded
from infrastructure.extensions import processes, selected
from infrastructure.postgres.store import Connection
from infrastructure.process import tracing
from infrastructure.process.clock import Clock

Handlers = Mapping[Kind, Callable[[Any], Sequence[Aggregate]]]
"""Functions that handle events, by event class, or by aggregate for all its events.

A function receives the event and returns the aggregates to save. Its other effects must be
idempotent.
"""


class EventHandlers:
    """The event handlers of a service, by topic.

    Raise ValueError if a topic has two handlers.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._by_topic: dict[str, Callable[[Any], Sequence[Aggregate]]] = {}
        for kind, handle in handlers.items():
            for topic in topics_of(kind):
                if topic in self._by_topic:
                    raise ValueError(f"Topic {topic!r} has two handlers. Remove one of them.")
                self._by_topic[topic] = handle
        self.topics = frozenset(self._by_topic)
        """Topics of the events that the service handles."""

    def handle(self, event: Event) -> Sequence[Aggregate]:
        """Handle an event. Return the aggregates to save, or none if the service ignores it."""
        handle = self._by_topic.get(event.TOPIC)
        return [] if handle is None else handle(event)


HANDLERS = (
    *("billing", "scheduler", "datasets", "serving"),
    *(name for name, each in processes(selected()).items() if each.access.handles_events),
)
"""Services that handle events. Each stores its position under its own name."""

ATTEMPTS = 5
ATTEMPT_PAUSE_SECONDS = 0.1

CONFLICT_ATTEMPTS = 30
CONFLICT_PAUSE_SECONDS = 0.1
"""Number of version conflicts after which the consumer retries the event later, and the maximum
seconds of the random pause after each.
"""

REPLAY_SECONDS = 2.0
"""Seconds between two checks for parked events with a requested replay."""

WAITING_SECONDS = 10.0
"""Seconds before the next attempt for an event that waits for the artifact store or the end of an
upgrade.
"""

PASSING = (*UNREACHABLE, VersionConflict, NewerEvent)
"""Errors after which the consumer retries the event without parking it.

A process that cannot read an event is too old, and soon exits. See
`infrastructure.postgres.presence`.
"""

BEHIND_PARKED = "An earlier event of this aggregate is parked."

PARKED_DDL = """
CREATE TABLE IF NOT EXISTS parked_events (
    consumer text NOT NULL,
    notification_id bigint NOT NULL,
    originator_id uuid NOT NULL,
    topic text NOT NULL,
    error text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    replay boolean NOT NULL DEFAULT false,
    PRIMARY KEY (consumer, notification_id)
)
"""


class HandlerEffect:
    """An effect that runs a service's event handlers in order.

    If a handler keeps failing, the effect parks its event and all later events of the same
    aggregate until an operator requests a replay. Other aggregates continue. If the artifact store
    is unreachable, or the new events need a finished upgrade, the effect parks the events too, but
    replays them automatically. Version conflicts alone never park an event.
    """

    def __init__(
        self,
        name: str,
        log: EventLog,
        clock: Clock,
        handlers: EventHandlers,
        connect: Callable[[], AbstractContextManager[Connection]],
    ) -> None:
        self.name = name
        self._log = log
        self._clock = clock
        self._handlers = handlers
        self._connect = connect
        self._logger = logging.getLogger(f"handlers.{name}")
        self._paused_until: dict[UUID, float] = {}  # aggregates that wait to be replayed

    def position(self) -> int:
        """Return the notification ID of the last processed event."""
        return self._log.process_recorder.max_tracking_id(self.name) or 0

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Handle the events that the service has handlers for, in order. Skip the others.

        Each save of new events also saves the position. At the end, save the position of the batch,
        which may end with events that saved nothing.
        """
        handled = [item for item in batch if item.topic in self._handlers.topics]
        parked = self._parked_originators() if handled else set[UUID]()
        for item in handled:
            if item.originator_id in parked and self._park_behind(item):
                continue
            try:
                self._handle_and_save(item, Tracking(self.name, item.id))
            except PASSING:
                raise
            except Exception as error:
                waits = _passes_later(error)
                self._logger.error(
                    "PARKED %s %s and the later events of %s: %s; see `ecolink events parked`",
                    item.id,
                    item.topic,
                    item.originator_id,
                    "it is retried automatically" if waits else "it needs an operator",
                    exc_info=True,
                )
                self._park(item, _sentence(error), replay=waits)
                parked.add(item.originator_id)
        if self.position() < batch[-1].id:
            self._log.process_recorder.insert_tracking(Tracking(self.name, batch[-1].id))

    def replay_requested(self) -> int:
        """Replay the parked events with a requested replay. Return the number of successes.

        If an event fails again, it stays parked together with the later events of its aggregate.
        """
        replayed, failed, now = 0, set[UUID](), time.monotonic()
        self._paused_until = {id: end for id, end in self._paused_until.items() if end > now}
        with self._connect() as connection:
            for row in self._requested(connection):
                if row["originator_id"] in failed | self._paused_until.keys():
                    continue
                try:
                    self._handle_and_save(self._recorded_at(row["notification_id"]), None)
                except PASSING:
                    raise
                except Exception as error:
                    self._logger.exception("%s stays parked", row["notification_id"])
                    if _passes_later(error):
                        until = time.monotonic() + WAITING_SECONDS
                        self._paused_until[row["originator_id"]] = until
                        continue
                    failed.add(row["originator_id"])
                    self._refuse_replay(connection, row["originator_id"], _sentence(error))
                else:
                    self._unpark(connection, row["notification_id"])
                    replayed += 1
        return replayed

    def _requested(self, connection: Connection) -> list[dict[str, Any]]:
        """Return the parked events with a requested replay, in order.

        The result omits an event if an earlier event of the same aggregate is parked without a
        request.
        """
        return connection.execute(
            "SELECT notification_id, originator_id FROM parked_events AS parked "
            "WHERE consumer = %(consumer)s AND replay AND NOT EXISTS ("
            "SELECT FROM parked_events AS earlier WHERE earlier.consumer = parked.consumer "
            "AND earlier.originator_id = parked.originator_id AND NOT earlier.replay "
            "AND earlier.notification_id < parked.notification_id) ORDER BY notification_id",
            {"consumer": self.name},
        ).fetchall()

    def _recorded_at(self, position: int) -> Recorded:
        (notification,) = self._log.recorder.select_notifications(
            start=position, stop=position, limit=1
        )
        return recorded(self._log, notification)

    def _unpark(self, connection: Connection, position: int) -> None:
        connection.execute(
            "DELETE FROM parked_events WHERE consumer = %s AND notification_id = %s",
            [self.name, position],
        )

    def _refuse_replay(self, connection: Connection, originator_id: UUID, error: str) -> None:
        connection.execute(
            "UPDATE parked_events SET replay = false, error = %s "
            "WHERE consumer = %s AND originator_id = %s AND replay",
            [error, self.name, originator_id],
        )

    def _handle_and_save(self, item: Recorded, tracking: Tracking | None) -> None:
        """Handle an event, with retries, and continue its trace."""
        event = item.event
        name = f"process {event.TOPIC}"
        with tracing.continued(event.traceparent, name, event_id=event.event_id) as step:
            cause = Cause(
                actor=f"service:{self.name}",
                command_id=f"{self.name}:{item.id}",
                causation_id=event.event_id,
                now=self._clock.now(),
                traceparent=tracing.traceparent(),
            )
            if self._saved(item, cause, tracking):
                step.kept = True

    def _saved(self, item: Recorded, cause: Cause, tracking: Tracking | None) -> bool:
        """Handle an event, with retries. Return True if it caused new events.

        Raise VersionConflict after CONFLICT_ATTEMPTS of them, an error of the artifact store or
        UpgradeUnfinished at once, and another error after ATTEMPTS.
        """
        failures = conflicts = 0
        while True:
            try:
                with because(replace(cause, attempt=1 + failures + conflicts)):
                    aggregates = self._handlers.handle(item.event)
                    saves = any(aggregate.pending_events for aggregate in aggregates)
                    if saves:
                        self._log.commit(*aggregates, tracking=tracking)
                return saves
            except UNREACHABLE:
                raise
            except VersionConflict:
                if tracking is not None and self.position() >= item.id:
                    return False  # another process of this service has replayed it
                conflicts += 1
                if conflicts == CONFLICT_ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, CONFLICT_PAUSE_SECONDS))
            except (BaseError, S3Refused, UpgradeUnfinished):
                raise  # the client of the artifact store has retried
            except Exception:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                time.sleep(ATTEMPT_PAUSE_SECONDS * failures)

    def _parked_originators(self) -> set[UUID]:
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT DISTINCT originator_id FROM parked_events WHERE consumer = %s",
                [self.name],
            ).fetchall()
        return {row["originator_id"] for row in rows}

    def _park(self, item: Recorded, error: str, *, replay: bool) -> None:
        with self._connect() as connection:
            connection.execute(
                "INSERT INTO parked_events "
                "(consumer, notification_id, originator_id, topic, error, replay) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [self.name, item.id, item.originator_id, item.topic, error, replay],
            )

    def _park_behind(self, item: Recorded) -> bool:
        """Park an event behind an earlier event of its aggregate, to be replayed after it.

        Return False if no earlier event is parked any more, for example after a replay.
        """
        with self._connect() as connection:
            row = connection.execute(
                "WITH first AS (SELECT replay FROM parked_events WHERE consumer = %(consumer)s "
                "AND originator_id = %(originator)s AND notification_id <= %(id)s "
                "ORDER BY notification_id LIMIT 1), parked AS (INSERT INTO parked_events "
                "(consumer, notification_id, originator_id, topic, error, replay) "
                "SELECT %(consumer)s, %(id)s, %(originator)s, %(topic)s, %(error)s, replay "
                "FROM first ON CONFLICT DO NOTHING) SELECT replay FROM first",
                {
                    "consumer": self.name,
                    "id": item.id,
                    "originator": item.originator_id,
                    "topic": item.topic,
                    "error": BEHIND_PARKED,
                },
            ).fetchone()
        return row is not None


def _passes_later(error: Exception) -> bool:
    """Return True if the artifact store is unreachable, or the upgrade is not finished."""
    passing = (*STORE_ERRORS, UpgradeUnfinished)
    return isinstance(error, passing) and not isinstance(error, FileNotFoundError)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def parked_events(connection: Connection) -> list[dict[str, Any]]:
    """Return all parked events, oldest first."""
    return connection.execute(
        "SELECT * FROM parked_events ORDER BY parked_at, consumer, notification_id"
    ).fetchall()


def request_replay(
    connection: Connection, consumer: str, notification_id: int
) -> dict[str, Any] | None:
    """Request the replay of a parked event and of all parked events of its aggregate.

    Return the event, or None if it is not parked.
    """
    connection.execute(
        "UPDATE parked_events AS parked SET replay = true FROM parked_events AS wanted "
        "WHERE wanted.consumer = %s AND wanted.notification_id = %s "
        "AND parked.consumer = wanted.consumer AND parked.originator_id = wanted.originator_id",
        [consumer, notification_id],
    )
    return connection.execute(
        "SELECT * FROM parked_events WHERE consumer = %s AND notification_id = %s",
        [consumer, notification_id],
    ).fetchone()
