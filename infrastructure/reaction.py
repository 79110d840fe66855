"""Reactions: new events that follow from events, committed with the position that they answer."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import InterfaceError, OperationalError, Tracking
from nats.errors import Error as NatsError

from domain.aggregate import Aggregate, Cause, Event, because
from domain.errors import VersionConflict
from domain.event_log import EventLog
from infrastructure.clock import Clock
from infrastructure.consumer import Recorded, recorded
from infrastructure.store import Connection

React = Callable[[Event], Sequence[Aggregate]]
"""Answers an event with the aggregates to save. What it does besides must be idempotent."""

ATTEMPTS = 5
ATTEMPT_PAUSE_SECONDS = 0.1

CONFLICT_ATTEMPTS = 30
CONFLICT_PAUSE_SECONDS = 0.1
"""Losing a race says nothing against an event, and parking it stops its aggregate, which may be a
GPU pool: so there are many attempts, with pauses of random length in which rivals part."""

REPLAY_SECONDS = 2.0
"""How often a service looks for parked events that an operator wants answered."""

UNREACHABLE = (
    OperationalError,
    InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    NatsError,
    TimeoutError,
)
"""The store or the bus is away. That is no fault of an event: it waits, and is not parked."""

PARKED_DDL = """
CREATE TABLE IF NOT EXISTS parked_reactions (
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


class ReactionEffect:
    """Runs a service's reactions in order.

    A reaction that keeps failing is parked, and with it the later events of its aggregate, where
    an operator sees it and has it replayed; other aggregates go on.
    """

    def __init__(
        self,
        name: str,
        log: EventLog,
        clock: Clock,
        react: React,
        connect: Callable[[], AbstractContextManager[Connection]],
    ) -> None:
        self.name = name
        self._log = log
        self._clock = clock
        self._react = react
        self._connect = connect
        self._logger = logging.getLogger(f"reaction.{name}")

    def position(self) -> int:
        """Notification id of the last event that was answered."""
        return self._log.process_recorder.max_tracking_id(self.name) or 0

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Answer each event; those that need no answer move the position once, at the end."""
        parked = self._parked_originators()
        for item in batch:
            if item.event.originator_id in parked:
                self._park(item, "an earlier event of this aggregate is parked")
                continue
            try:
                self._answer(item, Tracking(self.name, item.id))
            except UNREACHABLE:
                raise
            except Exception as error:
                self._logger.exception("parking %s", item.event.event_id)
                self._park(item, _sentence(error))
                parked.add(item.event.originator_id)
        if self.position() < batch[-1].id:
            self._log.process_recorder.insert_tracking(Tracking(self.name, batch[-1].id))

    def replay_requested(self) -> int:
        """Answer the parked events whose replay an operator asked for; returns how many.

        One that fails again stays parked, with its error and the later events of its aggregate.
        """
        replayed, failed = 0, set[UUID]()
        with self._connect() as connection:
            for row in self._requested(connection):
                if row["originator_id"] in failed:
                    continue
                try:
                    self._answer(self._recorded_at(row["notification_id"]), None)
                except UNREACHABLE:
                    raise
                except Exception as error:
                    self._logger.exception("%s stays parked", row["notification_id"])
                    failed.add(row["originator_id"])
                    self._refuse_replay(connection, row["originator_id"], _sentence(error))
                else:
                    self._unpark(connection, row["notification_id"])
                    replayed += 1
        return replayed

    def _requested(self, connection: Connection) -> list[dict[str, Any]]:
        """Requested events in order; an earlier one of the same aggregate goes first."""
        return connection.execute(
            "SELECT notification_id, originator_id FROM parked_reactions AS parked "
            "WHERE consumer = %(consumer)s AND replay AND NOT EXISTS ("
            "SELECT FROM parked_reactions AS earlier WHERE earlier.consumer = parked.consumer "
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
            "DELETE FROM parked_reactions WHERE consumer = %s AND notification_id = %s",
            [self.name, position],
        )

    def _refuse_replay(self, connection: Connection, originator_id: UUID, error: str) -> None:
        connection.execute(
            "UPDATE parked_reactions SET replay = false, error = %s "
            "WHERE consumer = %s AND originator_id = %s AND replay",
            [error, self.name, originator_id],
        )

    def _answer(self, item: Recorded, tracking: Tracking | None) -> None:
        cause = Cause(
            actor=f"service:{self.name}",
            command_id=f"{self.name}:{item.id}",
            causation_id=item.event.event_id,
            now=self._clock.now(),
        )
        failures = conflicts = 0
        while True:
            try:
                with because(cause):
                    aggregates = self._react(item.event)
                    if any(aggregate.pending_events for aggregate in aggregates):
                        self._log.commit(*aggregates, tracking=tracking)
                return
            except UNREACHABLE:
                raise
            except VersionConflict:
                if tracking is not None and self.position() >= item.id:
                    return  # another process of this service has answered it
                conflicts += 1
                if conflicts == CONFLICT_ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, CONFLICT_PAUSE_SECONDS))
            except Exception:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                time.sleep(ATTEMPT_PAUSE_SECONDS * failures)

    def _parked_originators(self) -> set[UUID]:
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT DISTINCT originator_id FROM parked_reactions WHERE consumer = %s",
                [self.name],
            ).fetchall()
        return {row["originator_id"] for row in rows}

    def _park(self, item: Recorded, error: str) -> None:
        with self._connect() as connection:
            connection.execute(
                "INSERT INTO parked_reactions "
                "(consumer, notification_id, originator_id, topic, error) "
                "VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [self.name, item.id, item.event.originator_id, item.event.TOPIC, error],
            )


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def parked_reactions(connection: Connection) -> list[dict[str, Any]]:
    """Every parked event, the one that is parked longest first."""
    return connection.execute(
        "SELECT * FROM parked_reactions ORDER BY parked_at, consumer, notification_id"
    ).fetchall()


def request_replay(
    connection: Connection, consumer: str, notification_id: int
) -> dict[str, Any] | None:
    """Have a parked event answered again soon; returns it, or None if it is not parked."""
    return connection.execute(
        "UPDATE parked_reactions SET replay = true "
        "WHERE consumer = %s AND notification_id = %s RETURNING *",
        [consumer, notification_id],
    ).fetchone()
