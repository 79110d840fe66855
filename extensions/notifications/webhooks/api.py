"""Routes of webhooks under /api."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query

from extensions.notifications.webhooks import service
from extensions.notifications.webhooks.deliveries import DeliveryStatus
from extensions.notifications.webhooks.schemas import (
    DeliveryResponse,
    FailedSince,
    NewWebhook,
    Replayed,
    Rotation,
    WebhookChanges,
    WebhookForm,
    WebhookResponse,
)
from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.paging import MOST_POSITION, Limit
from gateway.http.permissions import MayManageKeys, MayRead
from gateway.schemas import Listed, Page

DeliveryId = Annotated[int, Path(ge=1, le=MOST_POSITION)]

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=Operation)


@router.post("", status_code=201)
def create_webhook(form: WebhookForm, caller: MayManageKeys, backend: BackendOf) -> NewWebhook:
    """Create an endpoint that receives the events of your account.

    The response contains the secret that verifies the signatures. No later response does. EcoLink
    connects only to public addresses, unless the operator allows others.
    """
    return service.create(backend, caller, form)


@router.get("")
def list_webhooks(caller: MayRead, backend: BackendOf) -> Listed[WebhookResponse]:
    """List the endpoints of your account, oldest first."""
    return Listed(data=service.list_webhooks(backend, caller))


@router.get("/{webhook_id}", responses=refusals(404))
def show_webhook(webhook_id: UUID, caller: MayRead, backend: BackendOf) -> WebhookResponse:
    """Show an endpoint."""
    return service.webhook(backend, caller, webhook_id)


@router.patch("/{webhook_id}", responses=refusals(404))
def update_webhook(
    webhook_id: UUID, changes: WebhookChanges, caller: MayManageKeys, backend: BackendOf
) -> WebhookResponse:
    """Change, enable or disable an endpoint.

    Events that occur while it is disabled wait, and are sent in order after it is enabled.
    """
    return service.update(backend, caller, webhook_id, changes)


@router.delete("/{webhook_id}", status_code=204, responses=refusals(404))
def delete_webhook(webhook_id: UUID, caller: MayManageKeys, backend: BackendOf) -> None:
    """Delete an endpoint with its secrets and deliveries."""
    service.delete(backend, caller, webhook_id)


@router.post("/{webhook_id}/rotate", responses=refusals(404))
def rotate_webhook_secret(
    webhook_id: UUID,
    caller: MayManageKeys,
    backend: BackendOf,
    rotation: Annotated[Rotation | None, Body()] = None,
) -> NewWebhook:
    """Create a new secret. For some hours, both the new and the previous secret sign."""
    hours = (rotation or Rotation()).overlap_hours
    return service.rotate(backend, caller, webhook_id, hours)


@router.post("/{webhook_id}/test", status_code=202, responses=refusals(404))
def test_webhook(webhook_id: UUID, caller: MayManageKeys, backend: BackendOf) -> DeliveryResponse:
    """Send an event of the type `webhook.test`, once. Request the delivery for its result."""
    return service.send_test(backend, caller, webhook_id)


@router.post("/{webhook_id}/replay", status_code=202, responses=refusals(404))
def replay_failed_deliveries(
    webhook_id: UUID, wanted: FailedSince, caller: MayManageKeys, backend: BackendOf
) -> Replayed:
    """Send all deliveries again that were created since a time and failed."""
    return Replayed(replayed=service.replay_failed(backend, caller, webhook_id, wanted.since))


@router.get("/{webhook_id}/deliveries", responses=refusals(404))
def list_webhook_deliveries(
    webhook_id: UUID,
    caller: MayRead,
    backend: BackendOf,
    status: DeliveryStatus | None = None,
    after: Annotated[
        int | None,
        Query(ge=1, le=MOST_POSITION, description="ID of the last delivery of the previous page."),
    ] = None,
    limit: Limit = 100,
) -> Page[DeliveryResponse]:
    """List the deliveries to an endpoint with their attempts, newest first."""
    return service.list_deliveries(backend, caller, webhook_id, limit, after, status)


@router.get("/{webhook_id}/deliveries/{delivery_id}", responses=refusals(404))
def show_webhook_delivery(
    webhook_id: UUID, delivery_id: DeliveryId, caller: MayRead, backend: BackendOf
) -> DeliveryResponse:
    """Show a delivery with its attempts."""
    return service.delivery(backend, caller, webhook_id, delivery_id)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/replay", status_code=202, responses=refusals(404, 409)
)
def replay_webhook_delivery(
    webhook_id: UUID, delivery_id: DeliveryId, caller: MayManageKeys, backend: BackendOf
) -> DeliveryResponse:
    """Send a delivered or failed message again, with the same ID.

    Returns 409 for a pending delivery, which EcoLink sends automatically.
    """
    return service.replay(backend, caller, webhook_id, delivery_id)
