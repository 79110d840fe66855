"""Endpoints of webhooks and their secrets.

They are rows, not events, because a URL may contain a secret, and because deletion must remove it.
The secrets have a table of their own, which the gateway cannot read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from psycopg.rows import class_row

from extensions.notifications.domain.message import WebhookType
from extensions.notifications.domain.signature import new_signing_secret
from infrastructure.extensions import Table
from infrastructure.postgres.store import EVENTS_TABLE, Connection, scalar

TABLES = (
    Table(
        name="webhook_endpoints",
        owner="account_id",
        time="created_at",
        ddl="""
CREATE TABLE IF NOT EXISTS webhook_endpoints (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    url text NOT NULL,
    description text NOT NULL,
    event_types text[] NOT NULL,
    enabled boolean NOT NULL,
    disabled_reason text,
    disabled_at timestamptz,
    created_at timestamptz NOT NULL,
    after_position bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS webhook_endpoints_of_account ON webhook_endpoints (account_id);
ALTER TABLE webhook_endpoints ADD COLUMN IF NOT EXISTS held_until timestamptz
""",
    ),
    Table(
        name="webhook_secrets",
        cascades=True,
        secret=True,
        ddl="""
CREATE TABLE IF NOT EXISTS webhook_secrets (
    id uuid PRIMARY KEY,
    endpoint_id uuid NOT NULL REFERENCES webhook_endpoints ON DELETE CASCADE,
    secret text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz
);
CREATE INDEX IF NOT EXISTS webhook_secrets_of_endpoint ON webhook_secrets (endpoint_id)
""",
    ),
)


class DisabledReason(StrEnum):
    """Reasons why an endpoint is disabled."""

    OWNER = "owner"
    """The owner disabled it."""
    FAILING = "failing"
    """It accepted nothing during all attempts of a delivery."""
    GONE = "gone"
    """It responded with the status 410, which means that it wants no more webhooks."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of an account. Without `event_types`, it receives all types.

    It receives only events after `after_position`, the end of the log when it was created, and
    nothing before `held_until`, if it requested that.
    """

    id: UUID
    account_id: UUID
    url: str
    description: str
    event_types: tuple[WebhookType, ...]
    enabled: bool
    disabled_reason: DisabledReason | None
    disabled_at: datetime | None
    created_at: datetime
    after_position: int
    held_until: datetime | None

    def __post_init__(self) -> None:  # PostgreSQL returns texts
        object.__setattr__(self, "event_types", tuple(map(WebhookType, self.event_types)))
        if self.disabled_reason is not None:
            object.__setattr__(self, "disabled_reason", DisabledReason(self.disabled_reason))


def create_endpoint(
    connection: Connection,
    account_id: UUID,
    url: str,
    description: str,
    event_types: Sequence[WebhookType],
    now: datetime,
) -> tuple[Endpoint, str]:
    """Store a new endpoint of an account. Return it with its secret."""
    endpoint_id = uuid4()
    with connection.transaction():
        connection.execute(
            "INSERT INTO webhook_endpoints VALUES (%s, %s, %s, %s, %s, true, NULL, NULL, %s, "
            f"(SELECT coalesce(max(notification_id), 0) FROM {EVENTS_TABLE}))",
            [endpoint_id, account_id, url, description, list(event_types), now],
        )
        secret = _add_secret(connection, endpoint_id, now)
    created = endpoint_of(connection, account_id, endpoint_id)
    assert created is not None
    return created, secret


def rotate_secret(
    connection: Connection, endpoint_id: UUID, now: datetime, old_until: datetime
) -> str:
    """Return a new secret of an endpoint. Until `old_until`, the previous one also signs."""
    with connection.transaction():
        # Only the previous secret stays, so that a request has at most two signatures.
        connection.execute(
            "DELETE FROM webhook_secrets WHERE endpoint_id = %s AND expires_at IS NOT NULL",
            [endpoint_id],
        )
        connection.execute(
            "UPDATE webhook_secrets SET expires_at = %s WHERE endpoint_id = %s",
            [old_until, endpoint_id],
        )
        return _add_secret(connection, endpoint_id, now)


def _add_secret(connection: Connection, endpoint_id: UUID, now: datetime) -> str:
    secret = new_signing_secret()
    connection.execute(
        "INSERT INTO webhook_secrets VALUES (%s, %s, %s, %s)", [uuid4(), endpoint_id, secret, now]
    )
    return secret


def endpoint_of(connection: Connection, account_id: UUID, endpoint_id: UUID) -> Endpoint | None:
    """Return an endpoint of an account, or None."""
    with connection.cursor(row_factory=class_row(Endpoint)) as cursor:
        return cursor.execute(
            "SELECT * FROM webhook_endpoints WHERE account_id = %s AND id = %s",
            [account_id, endpoint_id],
        ).fetchone()


def endpoints_of(connection: Connection, account_id: UUID) -> list[Endpoint]:
    """Return the endpoints of an account, oldest first."""
    with connection.cursor(row_factory=class_row(Endpoint)) as cursor:
        return cursor.execute(
            "SELECT * FROM webhook_endpoints WHERE account_id = %s ORDER BY created_at, id",
            [account_id],
        ).fetchall()


def endpoint_count(connection: Connection, account_id: UUID) -> int:
    """Return the number of endpoints of an account."""
    return scalar(
        connection, "SELECT count(*) FROM webhook_endpoints WHERE account_id = %s", [account_id]
    )


def old_secret_ends(
    connection: Connection, account_id: UUID, now: datetime
) -> dict[UUID, datetime]:
    """Return when the previous secret of each endpoint stops signing. Others are missing."""
    rows = connection.execute(
        "SELECT endpoint_id, max(expires_at) AS ends FROM webhook_secrets "
        "WHERE endpoint_id IN (SELECT id FROM webhook_endpoints WHERE account_id = %s) "
        "AND expires_at > %s GROUP BY endpoint_id",
        [account_id, now],
    ).fetchall()
    return {row["endpoint_id"]: row["ends"] for row in rows}


def update_endpoint(connection: Connection, endpoint_id: UUID, **changes: Any) -> None:
    """Change columns of an endpoint. Their names must be constants in the code."""
    if changes:
        assignments = ", ".join(f"{name} = %s" for name in changes)
        connection.execute(
            f"UPDATE webhook_endpoints SET {assignments} WHERE id = %s",  # type: ignore[arg-type]
            [*changes.values(), endpoint_id],
        )


def disable_endpoint(
    connection: Connection, endpoint_id: UUID, reason: DisabledReason, now: datetime
) -> bool:
    """Disable an endpoint. Its events wait. Return False if it is already disabled."""
    changed = connection.execute(
        "UPDATE webhook_endpoints SET enabled = false, disabled_reason = %s, disabled_at = %s "
        "WHERE id = %s AND enabled",
        [reason, now, endpoint_id],
    )
    return changed.rowcount > 0


def hold_endpoint(connection: Connection, endpoint_id: UUID, until: datetime) -> None:
    """Send nothing to an endpoint before a time, as it requested."""
    connection.execute(
        "UPDATE webhook_endpoints SET held_until = %s WHERE id = %s", [until, endpoint_id]
    )


def disabled_by_ecolink(connection: Connection, account_id: UUID) -> list[UUID]:
    """Return the endpoints of an account that EcoLink disabled, oldest first."""
    rows = connection.execute(
        "SELECT id FROM webhook_endpoints WHERE account_id = %s AND NOT enabled "
        "AND disabled_reason <> %s ORDER BY created_at, id",
        [account_id, DisabledReason.OWNER],
    ).fetchall()
    return [row["id"] for row in rows]


def enable_endpoint(connection: Connection, endpoint_id: UUID, now: datetime) -> None:
    """Enable an endpoint. Waiting deliveries start again with their first attempt."""
    with connection.transaction():
        connection.execute(
            "UPDATE webhook_deliveries SET tries = 0, tried_since = NULL, next_attempt_at = %s "
            "WHERE endpoint_id = %s AND status = 'pending' AND EXISTS "
            "(SELECT FROM webhook_endpoints WHERE id = %s AND NOT enabled)",
            [now, endpoint_id, endpoint_id],
        )
        connection.execute(
            "UPDATE webhook_endpoints SET enabled = true, disabled_reason = NULL, "
            "disabled_at = NULL, held_until = NULL WHERE id = %s",
            [endpoint_id],
        )


def delete_endpoint(connection: Connection, endpoint_id: UUID) -> None:
    """Delete an endpoint with its secrets and deliveries."""
    connection.execute("DELETE FROM webhook_endpoints WHERE id = %s", [endpoint_id])
