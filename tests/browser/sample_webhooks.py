"""Webhooks of the sample platform, with deliveries in every state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from domain.jobs.public_id import job_name
from domain.webhooks.message import Message, WebhookType, message_of_test
from infrastructure.postgres.store import Connection
from infrastructure.webhooks.deliveries import Attempt, Delivery, add_delivery, record_attempt
from infrastructure.webhooks.endpoints import (
    DisabledReason,
    Endpoint,
    create_endpoint,
    disable_endpoint,
)

JOB_ID = UUID("0b0f8f5c-3a4e-5d0c-9a4d-0e6b1c2d3e4f")
REFUSED = "Status 503."
SLOW = "No response within 15 seconds."


def add_webhooks(connection: Connection, ada: UUID) -> dict[str, str]:
    """Add an enabled webhook, one that EcoLink disabled, and one that its owner disabled.

    Return the paths of the first two by name.
    """
    now = datetime.now(UTC)
    day_ago = now - timedelta(days=1, hours=2)
    enabled = _endpoint(connection, ada, "https://ci.example.com/hooks/ecolink", "Nightly builds")
    failing = _endpoint(connection, ada, "https://old.example.com/receive", "")
    quiet = _endpoint(connection, ada, "https://chat.example.com/hook?room=42", "Team chat")
    for number in range(3):
        at = now - timedelta(hours=9 - number)
        sent = _delivery(connection, enabled, WebhookType.CAPACITY_AVAILABLE, at, number + 1)
        record_attempt(connection, sent.id, Attempt(at, 84 + number, 200, None, "ok"), at)
    at = now - timedelta(minutes=4)
    waiting = _delivery(connection, enabled, WebhookType.JOB_PAUSED, at, 5)
    for error, status in ((SLOW, None), (REFUSED, 503)):
        record_attempt(connection, waiting.id, Attempt(at, 15_002, status, error), at)
        at += timedelta(seconds=6)
    test = message_of_test(ada, enabled.id, now)
    tested = add_delivery(connection, enabled.id, test, now)
    failed = Attempt(now, 41, 404, "Status 404.", '{"error": "There is no such route."}')
    record_attempt(connection, tested.id, failed, now)
    lost = _delivery(connection, failing, WebhookType.JOB_SUCCEEDED, day_ago, 9)
    at = day_ago
    for hours in (0.0, 0.01, 0.03, 0.1, 0.6, 2.6, 8.6, 23.7):
        at = day_ago + timedelta(hours=hours)
        error = "The host name 'old.example.com' does not have only public addresses."
        record_attempt(connection, lost.id, Attempt(at, 12, None, error), at)
    disable_endpoint(connection, quiet.id, DisabledReason.OWNER, now - timedelta(days=3))
    shown = {"webhook": enabled, "webhook failing": failing}
    return {name: f"/webhooks/{each.id}" for name, each in shown.items()}


def _endpoint(connection: Connection, account_id: UUID, url: str, description: str) -> Endpoint:
    types = (WebhookType.JOB_SUCCEEDED, WebhookType.JOB_FAILED) if description else ()
    at = datetime.now(UTC) - timedelta(days=5)
    return create_endpoint(connection, account_id, url, description, types, at)[0]


def _delivery(
    connection: Connection, endpoint: Endpoint, type: WebhookType, at: datetime, version: int
) -> Delivery:
    id = f"evt_{JOB_ID.hex}_{version}"
    message = Message(id, endpoint.account_id, type, at, {"id": job_name(JOB_ID)}, JOB_ID.hex)
    return add_delivery(connection, endpoint.id, message, at)
