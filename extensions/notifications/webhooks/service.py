"""Use cases and queries of the webhooks of an account."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from domain.access.scope import Scope
from domain.core.errors import NotFound, WrongState
from extensions.notifications.domain.message import message_of_test
from extensions.notifications.webhooks import deliveries, endpoints
from extensions.notifications.webhooks.deliveries import Delivery, DeliveryStatus
from extensions.notifications.webhooks.endpoints import DisabledReason, Endpoint
from extensions.notifications.webhooks.schemas import (
    DeliveryAttemptResponse,
    DeliveryResponse,
    NewWebhook,
    WebhookChanges,
    WebhookForm,
    WebhookResponse,
)
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.read_your_writes import room
from gateway.schemas import Page
from infrastructure.postgres.store import Connection


def create(backend: Backend, caller: Caller, form: WebhookForm) -> NewWebhook:
    """Create an endpoint. Raise Invalid for its URL, and QuotaExceeded at the limit."""
    backend.settings.webhook_policy.require_url(form.url)
    count = endpoints.endpoint_count
    with room(backend, "webhooks", caller.account_id, count) as connection:
        made, secret = endpoints.create_endpoint(
            connection,
            caller.account_id,
            form.url,
            form.description,
            list(dict.fromkeys(form.event_types)),
            backend.clock.now(),
        )
        return _with_secret(connection, caller, made, secret)


def disabled(backend: Backend, caller: Caller) -> list[UUID]:
    """Return the endpoints of the account that EcoLink disabled, for the banner of pages."""
    with backend.pool.connection() as connection:
        return endpoints.disabled_by_ecolink(connection, caller.account_id)


def list_webhooks(backend: Backend, caller: Caller) -> list[WebhookResponse]:
    """Return the endpoints of the account, oldest first."""
    with backend.pool.connection() as connection:
        return _answers(connection, caller, endpoints.endpoints_of(connection, caller.account_id))


def webhook(backend: Backend, caller: Caller, webhook_id: UUID) -> WebhookResponse:
    """Return an endpoint. Raise NotFound."""
    with backend.pool.connection() as connection:
        (answer,) = _answers(connection, caller, [_found(connection, caller, webhook_id)])
    return answer


def update(
    backend: Backend, caller: Caller, webhook_id: UUID, changes: WebhookChanges
) -> WebhookResponse:
    """Change an endpoint. Raise NotFound, or Invalid for its URL."""
    if changes.url is not None:
        backend.settings.webhook_policy.require_url(changes.url)
    given: dict[str, Any] = changes.model_dump(exclude_none=True, exclude={"enabled"})
    now = backend.clock.now()
    with backend.pool.connection() as connection, connection.transaction():
        _found(connection, caller, webhook_id)
        endpoints.update_endpoint(connection, webhook_id, **given)
        if changes.enabled is True:
            endpoints.enable_endpoint(connection, webhook_id, now)
        elif changes.enabled is False:
            endpoints.disable_endpoint(connection, webhook_id, DisabledReason.OWNER, now)
    return webhook(backend, caller, webhook_id)


def rotate(backend: Backend, caller: Caller, webhook_id: UUID, overlap_hours: int) -> NewWebhook:
    """Return the endpoint with a new secret. The overlap is in real time, as in signatures."""
    now = datetime.now(UTC)
    with backend.pool.connection() as connection:
        found = _found(connection, caller, webhook_id)
        ends = now + timedelta(hours=overlap_hours)
        secret = endpoints.rotate_secret(connection, webhook_id, now, ends)
        return _with_secret(connection, caller, found, secret)


def delete(backend: Backend, caller: Caller, webhook_id: UUID) -> None:
    """Delete an endpoint with its deliveries. Raise NotFound."""
    with backend.pool.connection() as connection:
        _found(connection, caller, webhook_id)
        endpoints.delete_endpoint(connection, webhook_id)


def list_deliveries(
    backend: Backend,
    caller: Caller,
    webhook_id: UUID,
    limit: int,
    after: int | None = None,
    status: DeliveryStatus | None = None,
) -> Page[DeliveryResponse]:
    """Return a page of an endpoint's deliveries, newest first. Raise NotFound."""
    with backend.pool.connection() as connection:
        _found(connection, caller, webhook_id)
        rows = deliveries.newest_deliveries(connection, webhook_id, limit + 1, after, status)
        data = _deliveries(connection, rows[:limit])
    return Page(data=data, has_more=len(rows) > limit)


def delivery(
    backend: Backend, caller: Caller, webhook_id: UUID, delivery_id: int
) -> DeliveryResponse:
    """Return a delivery. Raise NotFound."""
    with backend.pool.connection() as connection:
        return _delivery(connection, caller, webhook_id, delivery_id)


def replay(
    backend: Backend, caller: Caller, webhook_id: UUID, delivery_id: int
) -> DeliveryResponse:
    """Send an ended delivery again, with the same ID."""
    with backend.pool.connection() as connection:
        found = _delivery(connection, caller, webhook_id, delivery_id)
        if found.status is DeliveryStatus.PENDING:
            raise WrongState(
                f"The delivery {delivery_id} is pending. EcoLink sends it automatically."
            )
        backend.quotas.rates.take("webhook_sends", caller.account_id)
        deliveries.replay(connection, webhook_id, delivery_id, backend.clock.now())
        return _delivery(connection, caller, webhook_id, delivery_id)


def replay_failed(backend: Backend, caller: Caller, webhook_id: UUID, since: datetime) -> int:
    """Send all deliveries that failed since a time again. Return their number."""
    with backend.pool.connection() as connection:
        _found(connection, caller, webhook_id)
        backend.quotas.rates.take("webhook_sends", caller.account_id)
        return deliveries.replay_failed(connection, webhook_id, since, backend.clock.now())


def send_test(backend: Backend, caller: Caller, webhook_id: UUID) -> DeliveryResponse:
    """Send a test message to an endpoint, also to a disabled one. Raise NotFound or RateLimited."""
    now = backend.clock.now()
    with backend.pool.connection() as connection:
        _found(connection, caller, webhook_id)
        backend.quotas.rates.take("webhook_sends", caller.account_id)
        message = message_of_test(caller.account_id, webhook_id, now)
        added = deliveries.add_delivery(connection, webhook_id, message, now)
        (answer,) = _deliveries(connection, [added])
    return answer


def _found(connection: Connection, caller: Caller, webhook_id: UUID) -> Endpoint:
    found = endpoints.endpoint_of(connection, caller.account_id, webhook_id)
    if found is None:
        raise NotFound(f"Unknown webhook {webhook_id}. See `ecolink webhooks list`.")
    return found


def _delivery(
    connection: Connection, caller: Caller, webhook_id: UUID, delivery_id: int
) -> DeliveryResponse:
    _found(connection, caller, webhook_id)
    found = deliveries.delivery_of(connection, webhook_id, delivery_id)
    if found is None:
        raise NotFound(
            f"Unknown delivery {delivery_id}. See `ecolink webhooks deliveries {webhook_id}`."
        )
    (answer,) = _deliveries(connection, [found])
    return answer


def _answers(
    connection: Connection, caller: Caller, found: Sequence[Endpoint]
) -> list[WebhookResponse]:
    ends = endpoints.old_secret_ends(connection, caller.account_id, datetime.now(UTC))
    counts = deliveries.status_counts(connection, [each.id for each in found])
    return [
        WebhookResponse(
            id=each.id,
            url=_shown_url(caller, each.url),
            description=each.description,
            event_types=list(each.event_types),
            enabled=each.enabled,
            disabled_reason=each.disabled_reason,
            disabled_at=each.disabled_at,
            previous_secret_until=ends.get(each.id),
            created_at=each.created_at,
            pending=counts[each.id][DeliveryStatus.PENDING],
            failed=counts[each.id][DeliveryStatus.FAILED],
        )
        for each in found
    ]


def _with_secret(connection: Connection, caller: Caller, made: Endpoint, secret: str) -> NewWebhook:
    (answer,) = _answers(connection, caller, [made])
    return NewWebhook(**dict(answer), secret=secret)


def _shown_url(caller: Caller, url: str) -> str:
    if Scope.KEYS in caller.rights.scopes:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def _deliveries(connection: Connection, rows: Sequence[Delivery]) -> list[DeliveryResponse]:
    attempts = deliveries.attempts_of(connection, [row.id for row in rows])
    return [
        DeliveryResponse(
            id=row.id,
            message_id=row.message_id,
            type=row.event_type,
            status=row.status,
            created_at=row.created_at,
            next_attempt_at=row.next_attempt_at if row.status is DeliveryStatus.PENDING else None,
            finished_at=row.finished_at,
            attempts=[
                DeliveryAttemptResponse(
                    number=each.number,
                    started_at=each.started_at,
                    duration_ms=each.duration_ms,
                    status_code=each.status_code,
                    error=each.error,
                    response=each.excerpt,
                )
                for each in attempts[row.id]
            ],
            payload=json.loads(row.body),
        )
        for row in rows
    ]
