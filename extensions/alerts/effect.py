"""The effect of events on alerts: causes, committed together with the position in the log."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager

import psycopg

from domain.core.recorded import Recorded
from domain.core.topics import topics_of
from extensions.alerts import tables
from extensions.alerts.domain.rule import Rule
from extensions.alerts.domain.signals import SIGNALS, Cleared, signals
from infrastructure.postgres.leadership import LOST, Leadership
from infrastructure.postgres.store import Connection, scalar
from infrastructure.process.clock import Clock

NAME = "alerts"
"""Name of the process, of its consumer and of its position."""

TOPICS = topics_of(*SIGNALS)

Connect = Callable[[], AbstractContextManager[Connection]]


class AlertEffect:
    """An effect that stores the causes which events raise, and deletes those which they clear."""

    name = NAME

    def __init__(
        self,
        rules: Callable[[], Sequence[Rule]],
        clock: Clock,
        connect: Connect,
        leadership: Leadership | None = None,
    ) -> None:
        self._rules, self._clock, self._connect = rules, clock, connect
        self._leadership = leadership

    def position(self) -> int:
        """Return the notification ID of the last event whose causes are stored."""
        with self._connect() as connection:
            return _position(connection)

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Store the causes of a batch. Skip events that were already applied."""
        rules = [rule for rule in self._rules() if rule.kind.by_event]
        with self._connect() as connection, changing(connection, self._leadership):
            position = _position(connection)
            stored = tables.stored_causes(connection)
            for recorded in batch:
                if recorded.id <= position or recorded.topic not in TOPICS:
                    continue
                for signal in signals(rules, recorded.event, self._clock.now()):
                    key = signal.rule, signal.subject
                    if not isinstance(signal, Cleared):
                        tables.raise_cause(connection, signal)
                        stored.add(key)
                    elif key in stored:
                        tables.clear_cause(connection, *key)
                        stored.remove(key)
            connection.execute(
                "INSERT INTO ecolink_tracking AS known (application_name, notification_id) "
                "VALUES (%s, %s) ON CONFLICT (application_name) DO UPDATE "
                "SET notification_id = excluded.notification_id "
                "WHERE known.notification_id < excluded.notification_id",
                [NAME, batch[-1].id],
            )


@contextmanager
def changing(connection: Connection, leadership: Leadership | None) -> Generator[None]:
    """Run the block in one transaction, which fails if another process leads."""
    try:
        with connection.transaction():
            if leadership is not None:
                connection.execute(
                    "SELECT require_lead(%s, %s)", [leadership.name, leadership.epoch]
                )
            yield
    except psycopg.Error as error:
        if leadership is not None and error.sqlstate == LOST:
            leadership.lost("PostgreSQL refused to store alerts")
        raise


def _position(connection: Connection) -> int:
    return (
        scalar(
            connection,
            "SELECT notification_id FROM ecolink_tracking WHERE application_name = %s",
            [NAME],
        )
        or 0
    )
