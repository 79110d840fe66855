"""Deliveries of webhooks, one for each message and endpoint, with their attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, tuple_row

from extensions.notifications.domain.message import Message, WebhookType, message_of_disabled
from extensions.notifications.domain.retry_schedule import MAX_DELAY, delay_after
from extensions.notifications.notices.tables import EVENT, add_notices
from extensions.notifications.webhooks.endpoints import (
    DisabledReason,
    disable_endpoint,
    endpoints_of,
    hold_endpoint,
)
from infrastructure.extensions import Table
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.store import Connection, scalar

TABLES = (
    Table(
        name="webhook_deliveries",
        cascades=True,
        event=EVENT,
        ddl="""
CREATE TABLE IF NOT EXISTS webhook_deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint_id uuid NOT NULL REFERENCES webhook_endpoints ON DELETE CASCADE,
    message_id text NOT NULL,
    event_type text NOT NULL,
    order_key text NOT NULL,
    body text NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    tried_since timestamptz,
    finished_at timestamptz,
    UNIQUE (endpoint_id, message_id)
);
CREATE INDEX IF NOT EXISTS webhook_deliveries_newest ON webhook_deliveries (endpoint_id, id);
CREATE INDEX IF NOT EXISTS webhook_deliveries_due ON webhook_deliveries
    (endpoint_id, next_attempt_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS webhook_deliveries_order ON webhook_deliveries
    (endpoint_id, order_key, id) WHERE status = 'pending'
""",
    ),
    Table(
        name="webhook_attempts",
        cascades=True,
        ddl="""
CREATE TABLE IF NOT EXISTS webhook_attempts (
    delivery_id bigint NOT NULL REFERENCES webhook_deliveries ON DELETE CASCADE,
    number integer NOT NULL,
    started_at timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    status_code integer,
    error text,
    excerpt text,
    PRIMARY KEY (delivery_id, number)
)
""",
    ),
)

REPLAYED = "status, tries, tried_since, next_attempt_at, finished_at"
"""Columns of a delivery that a replay changes."""


class DeliveryStatus(StrEnum):
    """States of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """All attempts failed. The owner can replay it."""


@dataclass(frozen=True)
class Delivery:
    """A message to one endpoint. `tries` counts the attempts since it was last replayed."""

    id: int
    endpoint_id: UUID
    message_id: str
    event_type: WebhookType
    order_key: str
    body: str
    status: DeliveryStatus
    created_at: datetime
    next_attempt_at: datetime
    tries: int
    tried_since: datetime | None
    finished_at: datetime | None

    def __post_init__(self) -> None:  # PostgreSQL returns texts
        object.__setattr__(self, "event_type", WebhookType(self.event_type))
        object.__setattr__(self, "status", DeliveryStatus(self.status))


@dataclass(frozen=True)
class Attempt:
    """One request. `error` is set if there was no response, or one that is no success."""

    started_at: datetime
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    excerpt: str | None = None
    """Start of the response's body."""
    retry_after: timedelta | None = None
    """Delay that the receiver requests before any further request."""


@dataclass(frozen=True)
class NumberedAttempt(Attempt):
    """A stored attempt. The first one has the number 1."""

    delivery_id: int = 0
    number: int = 0


@dataclass(frozen=True)
class Due:
    """A delivery whose next attempt is due, with everything that a request needs."""

    id: int
    endpoint_id: UUID
    account_id: UUID
    url: str
    secrets: list[str]
    message_id: str
    body: str

    @property
    def receiver_id(self) -> UUID:
        """The endpoint."""
        return self.endpoint_id


def add_deliveries(
    connection: Connection, messages: Sequence[tuple[int, Message]], now: datetime
) -> int:
    """Store a delivery of each message (with its event's position) to each endpoint. Count them."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "INSERT INTO webhook_deliveries (endpoint_id, message_id, event_type, order_key, body, "
            "status, created_at, next_attempt_at) "
            "SELECT endpoint.id, message_id, type, order_key, body, %(pending)s, %(now)s, %(now)s "
            "FROM unnest(%(positions)s::bigint[], %(accounts)s::uuid[], %(ids)s::text[], "
            "%(types)s::text[], %(keys)s::text[], %(bodies)s::text[]) "
            "AS message (position, account, message_id, type, order_key, body) "
            "JOIN webhook_endpoints AS endpoint ON account_id = account "
            "AND position > after_position "
            "AND (event_types = '{}' OR type = ANY(event_types)) "
            "ORDER BY position ON CONFLICT DO NOTHING",
            {
                "pending": DeliveryStatus.PENDING,
                "now": now,
                "positions": [position for position, _ in messages],
                "accounts": [each.account_id for _, each in messages],
                "ids": [each.id for _, each in messages],
                "types": [each.type for _, each in messages],
                "keys": [each.order_key for _, each in messages],
                "bodies": [each.body for _, each in messages],
            },
        )
        return cursor.rowcount


def add_delivery(
    connection: Connection, endpoint_id: UUID, message: Message, now: datetime
) -> Delivery:
    """Store a delivery of a message to one endpoint."""
    with connection.cursor(row_factory=class_row(Delivery)) as cursor:
        added = cursor.execute(
            "INSERT INTO webhook_deliveries (endpoint_id, message_id, event_type, order_key, body, "
            "status, created_at, next_attempt_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "
            "RETURNING *",
            [
                *(endpoint_id, message.id, message.type, message.order_key, message.body),
                *(DeliveryStatus.PENDING, now, now),
            ],
        ).fetchone()
    assert added is not None
    return added


def due_deliveries(
    connection: Connection, now: datetime, real_now: datetime, per_endpoint: int, busy: Busy
) -> list[Due]:
    """Return up to `per_endpoint` due deliveries of each endpoint, the earliest ones.

    A delivery waits for earlier pending ones with the same order key. An endpoint that is disabled
    or requested a delay receives only tests. `real_now` decides which secrets sign.
    """
    with connection.cursor(row_factory=class_row(Due)) as cursor:
        return cursor.execute(
            "SELECT due.id, endpoint.id AS endpoint_id, account_id, url, message_id, body, "
            "ARRAY(SELECT secret FROM webhook_secrets WHERE endpoint_id = endpoint.id "
            "AND (expires_at IS NULL OR expires_at > %(real)s) ORDER BY created_at DESC) "
            "AS secrets FROM webhook_endpoints AS endpoint CROSS JOIN LATERAL ("
            "SELECT id, message_id, body, next_attempt_at FROM webhook_deliveries AS delivery "
            "WHERE endpoint_id = endpoint.id AND status = 'pending' AND next_attempt_at <= %(now)s "
            "AND ((endpoint.enabled AND coalesce(held_until <= %(now)s, true)) "
            "OR event_type = %(test)s) AND id <> ALL(%(deliveries)s) "
            "AND NOT EXISTS (SELECT FROM webhook_deliveries AS earlier "
            "WHERE earlier.endpoint_id = endpoint.id AND earlier.status = 'pending' "
            "AND earlier.order_key = delivery.order_key AND earlier.id < delivery.id) "
            "ORDER BY next_attempt_at, id LIMIT %(limit)s) AS due "
            "WHERE endpoint.id <> ALL(%(endpoints)s) AND account_id <> ALL(%(accounts)s) "
            # Most endpoints have nothing due, so that they are not looked at one by one.
            "AND endpoint.id IN (SELECT endpoint_id FROM webhook_deliveries "
            "WHERE status = 'pending' AND next_attempt_at <= %(now)s) "
            "ORDER BY next_attempt_at, due.id",
            {
                "real": real_now,
                "now": now,
                "test": WebhookType.TEST,
                "limit": per_endpoint,
                "deliveries": list(busy.messages),
                "endpoints": list(busy.receivers),
                "accounts": list(busy.accounts),
            },
        ).fetchall()


def record_attempt(
    connection: Connection, delivery_id: int, attempt: Attempt, now: datetime
) -> DeliveryStatus | None:
    """Store an attempt, and its effect on the delivery and the endpoint, in one transaction.

    Return the delivery's status, or None if the endpoint was deleted meanwhile.
    """
    with connection.transaction():
        delivery = _locked(connection, delivery_id)
        if delivery is None:
            return None
        connection.execute(
            "INSERT INTO webhook_attempts SELECT %(id)s, 1 + coalesce(max(number), 0), "
            "%(started_at)s, %(duration_ms)s, %(status_code)s, %(error)s, %(excerpt)s "
            "FROM webhook_attempts WHERE delivery_id = %(id)s",
            {"id": delivery_id, **vars(attempt)},
        )
        # All times here are the platform's. `started_at` is real time, and may differ from it.
        tries, since = delivery.tries + 1, delivery.tried_since or now
        delay = None if delivery.event_type.is_test else delay_after(tries)
        if attempt.retry_after is not None:
            requested = min(attempt.retry_after, MAX_DELAY)
            delay = delay and max(delay, requested)
            hold_endpoint(connection, delivery.endpoint_id, now + requested)
        gone = attempt.status_code == 410
        if attempt.error is None:
            status = DeliveryStatus.DELIVERED
        elif delay is None or (gone and not delivery.event_type.is_test):
            status = DeliveryStatus.FAILED
        else:
            status = DeliveryStatus.PENDING
        pending = status is DeliveryStatus.PENDING
        connection.execute(
            "UPDATE webhook_deliveries SET status = %s, tries = %s, tried_since = %s, "
            "next_attempt_at = %s, finished_at = %s WHERE id = %s",
            [
                *(status, tries, since, now + delay if delay and pending else now),
                *(None if pending else now, delivery_id),
            ],
        )
        if status is DeliveryStatus.FAILED and not delivery.event_type.is_test:
            if gone:
                _disable(connection, delivery.endpoint_id, DisabledReason.GONE, now)
            elif not _accepted_since(connection, delivery.endpoint_id, since):
                _disable(connection, delivery.endpoint_id, DisabledReason.FAILING, now)
    return status


def _disable(
    connection: Connection, endpoint_id: UUID, reason: DisabledReason, now: datetime
) -> None:
    """Disable an endpoint. Tell the account's other enabled endpoints and its e-mail address."""
    if not disable_endpoint(connection, endpoint_id, reason, now):
        return
    account_id: UUID = scalar(
        connection, "SELECT account_id FROM webhook_endpoints WHERE id = %s", [endpoint_id]
    )
    message = message_of_disabled(account_id, endpoint_id, reason, now)
    for each in endpoints_of(connection, account_id):
        if each.enabled and (not each.event_types or message.type in each.event_types):
            add_delivery(connection, each.id, message, now)
    add_notices(connection, [(None, message)], now)


def _locked(connection: Connection, delivery_id: int) -> Delivery | None:
    with connection.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(
            "SELECT * FROM webhook_deliveries WHERE id = %s FOR UPDATE", [delivery_id]
        ).fetchone()


def _accepted_since(connection: Connection, endpoint_id: UUID, since: datetime) -> bool:
    found = connection.execute(
        "SELECT FROM webhook_deliveries WHERE endpoint_id = %s AND status = 'delivered' "
        "AND finished_at >= %s LIMIT 1",
        [endpoint_id, since],
    )
    return found.rowcount > 0


def delivery_of(connection: Connection, endpoint_id: UUID, delivery_id: int) -> Delivery | None:
    """Return a delivery of an endpoint, or None."""
    with connection.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(
            "SELECT * FROM webhook_deliveries WHERE endpoint_id = %s AND id = %s",
            [endpoint_id, delivery_id],
        ).fetchone()


def newest_deliveries(
    connection: Connection,
    endpoint_id: UUID,
    limit: int,
    before: int | None = None,
    status: DeliveryStatus | None = None,
) -> list[Delivery]:
    """Return deliveries of an endpoint, newest first, before the one with ID `before`."""
    with connection.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(
            "SELECT * FROM webhook_deliveries WHERE endpoint_id = %(endpoint)s "
            "AND (%(before)s::bigint IS NULL OR id < %(before)s) "
            "AND (%(status)s::text IS NULL OR status = %(status)s) "
            "ORDER BY id DESC LIMIT %(limit)s",
            {"endpoint": endpoint_id, "before": before, "status": status, "limit": limit},
        ).fetchall()


def attempts_of(
    connection: Connection, delivery_ids: Sequence[int]
) -> dict[int, list[NumberedAttempt]]:
    """Return the attempts of deliveries in order, by the delivery's ID."""
    found: dict[int, list[NumberedAttempt]] = {each: [] for each in delivery_ids}
    with connection.cursor(row_factory=class_row(NumberedAttempt)) as cursor:
        for each in cursor.execute(
            "SELECT * FROM webhook_attempts WHERE delivery_id = ANY(%s) "
            "ORDER BY delivery_id, number",
            [list(delivery_ids)],
        ):
            found[each.delivery_id].append(each)
    return found


def status_counts(
    connection: Connection, endpoint_ids: Sequence[UUID]
) -> dict[UUID, dict[DeliveryStatus, int]]:
    """Return the numbers of stored deliveries by endpoint and status."""
    found: dict[UUID, dict[DeliveryStatus, int]] = {
        each: dict.fromkeys(DeliveryStatus, 0) for each in endpoint_ids
    }
    rows: list[dict[str, Any]] = connection.execute(
        "SELECT endpoint_id, status, count(*) AS count FROM webhook_deliveries "
        "WHERE endpoint_id = ANY(%s) GROUP BY endpoint_id, status",
        [list(endpoint_ids)],
    ).fetchall()
    for row in rows:
        found[row["endpoint_id"]][DeliveryStatus(row["status"])] = row["count"]
    return found


_REPLAY = (
    "UPDATE webhook_deliveries SET status = 'pending', tries = 0, tried_since = NULL, "
    "next_attempt_at = %(now)s, finished_at = NULL WHERE endpoint_id = %(endpoint)s "
)


def replay(connection: Connection, endpoint_id: UUID, delivery_id: int, now: datetime) -> None:
    """Send a delivery again, with the same ID."""
    connection.execute(
        _REPLAY + "AND id = %(id)s", {"now": now, "endpoint": endpoint_id, "id": delivery_id}
    )


def replay_failed(connection: Connection, endpoint_id: UUID, since: datetime, now: datetime) -> int:
    """Send all failed deliveries that were created since a time again. Return their number."""
    replayed = connection.execute(
        _REPLAY + "AND status = 'failed' AND created_at >= %(since)s AND event_type <> %(test)s",
        {"now": now, "endpoint": endpoint_id, "since": since, "test": WebhookType.TEST},
    )
    return replayed.rowcount


def delete_old(connection: psycopg.Connection[Any], before: datetime, real_now: datetime) -> None:
    """Delete ended or disabled deliveries before a time, and secrets that no longer sign."""
    connection.execute(
        "DELETE FROM webhook_deliveries WHERE finished_at < %(before)s OR (status = 'pending' "
        "AND created_at < %(before)s AND endpoint_id IN "
        "(SELECT id FROM webhook_endpoints WHERE NOT enabled AND disabled_at < %(before)s))",
        {"before": before},
    )
    connection.execute("DELETE FROM webhook_secrets WHERE expires_at < %s", [real_now])
