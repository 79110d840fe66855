"""Recording: an event becomes deliveries to the endpoints, and a notice, that want it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.core.aggregate import Notified
from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.core.topics import topics_of
from domain.deployments.deployment import Deployment
from extensions.notifications.domain.message import MESSAGES, WebhookType, message_of
from extensions.notifications.notices.tables import add_notices
from extensions.notifications.webhooks.deliveries import add_deliveries
from infrastructure.extensions import aggregates
from infrastructure.postgres.store import Connection, scalar
from infrastructure.process.clock import Clock

NAME = "webhooks"

TOPICS = topics_of(
    *MESSAGES,
    *(
        kind
        for each in aggregates()
        for kind in each.event_classes()
        if issubclass(kind, Notified) and WebhookType(kind.MESSAGE)  # fails at the start if unknown
    ),
)


class RecordingEffect:
    """An effect that commits deliveries and notices together with the position of their events."""

    name = NAME

    def __init__(
        self, log: EventLog, clock: Clock, connect: Callable[[], AbstractContextManager[Connection]]
    ) -> None:
        self._log, self._clock, self._connect = log, clock, connect

    def position(self) -> int:
        """Return the notification ID of the last event whose deliveries are stored."""
        with self._connect() as connection:
            return _position(connection)

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Store the deliveries and notices of a batch. Skip events that were already applied."""
        messages = [
            (each.id, message)
            for each in batch
            if each.topic in TOPICS
            and (message := message_of(each, self._model, self._hint)) is not None
        ]
        with self._connect() as connection, connection.transaction():
            connection.execute(
                "SELECT FROM ecolink_tracking WHERE application_name = %s FOR UPDATE", [NAME]
            )
            position = _position(connection)
            fresh = [(id, message) for id, message in messages if id > position]
            if fresh:
                add_deliveries(connection, fresh, self._clock.now())
                add_notices(connection, fresh, self._clock.now())
            if batch[-1].id > position:
                connection.execute(
                    "INSERT INTO ecolink_tracking VALUES (%s, %s) ON CONFLICT (application_name) "
                    "DO UPDATE SET notification_id = excluded.notification_id",
                    [NAME, batch[-1].id],
                )

    def _model(self, deployment_id: UUID) -> str:
        return self._log.load(Deployment, deployment_id).model

    def _hint(self, key_id: UUID) -> str:
        return self._log.load(ApiKey, key_id).hint


def _position(connection: Connection) -> int:
    return scalar(
        connection,
        "SELECT coalesce(max(notification_id), 0) FROM ecolink_tracking "
        "WHERE application_name = %s",
        [NAME],
    )
