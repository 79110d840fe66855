"""The pages of webhooks: the list with a form, and one webhook with its deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import Response

from domain.core.errors import Invalid
from domain.core.target import MAX_URL
from extensions.notifications.domain.message import SUBSCRIBED, WebhookType
from extensions.notifications.webhooks import service
from extensions.notifications.webhooks.deliveries import DeliveryStatus
from extensions.notifications.webhooks.schemas import NewWebhook, WebhookChanges, WebhookForm
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import MayManageKeys, MayRead
from gateway.web.rendering import fragment, is_htmx, page

ADDRESS = "/webhooks"
LISTED_DELIVERIES = 25
OVERLAP_HOURS = 24
REPLAYED = timedelta(days=1)
"""The period of failed deliveries that the form offers."""

router = APIRouter(prefix=ADDRESS)

DeliveryId = Annotated[int, Path(ge=1, le=MOST_POSITION)]


@dataclass(frozen=True)
class Entered:
    """The fields of the form of a webhook."""

    url: Annotated[str, Form(max_length=MAX_URL)] = ""
    description: Annotated[str, Form(max_length=200)] = ""
    event: Annotated[list[WebhookType] | None, Form()] = None

    @property
    def event_types(self) -> list[WebhookType]:
        """The chosen types, or none if all are. Raise Invalid if the form has none."""
        chosen = [each for each in SUBSCRIBED if each in (self.event or ())]
        if not chosen:
            raise Invalid("Choose at least one type of event.", field="event")
        return [] if len(chosen) == len(SUBSCRIBED) else chosen


EnteredOf = Annotated[Entered, Depends()]


@dataclass(frozen=True)
class Asked:
    """The deliveries to show."""

    status: DeliveryStatus | None = None
    after: Annotated[int | None, Query(ge=1, le=MOST_POSITION)] = None


AskedOf = Annotated[Asked, Depends()]


@router.get("")
def show_list(request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show the webhooks of the account, and a form that creates one."""
    return page(
        request, backend, caller, "notifications/webhooks/list.html", **_listed(backend, caller)
    )


@router.post("")
def create(caller: MayManageKeys, backend: BackendOf, entered: EnteredOf) -> Response:
    """Create a webhook and show its secret. Later pages do not show the secret."""
    form = WebhookForm(
        url=_url(entered), description=entered.description, event_types=entered.event_types
    )
    made = service.create(backend, caller, form)
    return fragment("notifications/webhooks/created.html", made=made, **_listed(backend, caller))


@router.get("/{webhook_id}")
def show_one(
    request: Request, webhook_id: UUID, caller: MayRead, backend: BackendOf, asked: AskedOf
) -> Response:
    """Show a webhook with its deliveries. htmx gets only the deliveries."""
    shown = _shown(backend, caller, webhook_id, asked)
    if is_htmx(request):
        return fragment("notifications/webhooks/deliveries.html", **shown)
    return page(request, backend, caller, "notifications/webhooks/page.html", **shown)


@router.post("/{webhook_id}")
def change(
    webhook_id: UUID, caller: MayManageKeys, backend: BackendOf, entered: EnteredOf
) -> Response:
    """Change the URL, the description and the types of events."""
    changes = WebhookChanges(
        url=_url(entered), description=entered.description, event_types=entered.event_types
    )
    service.update(backend, caller, webhook_id, changes)
    return _one(backend, caller, webhook_id, saved=True)


@router.post("/{webhook_id}/enable")
def enable(webhook_id: UUID, caller: MayManageKeys, backend: BackendOf) -> Response:
    """Enable a webhook, so that waiting events are sent."""
    service.update(backend, caller, webhook_id, WebhookChanges(enabled=True))
    return _one(backend, caller, webhook_id)


@router.post("/{webhook_id}/disable")
def disable(webhook_id: UUID, caller: MayManageKeys, backend: BackendOf) -> Response:
    """Disable a webhook, so that events wait."""
    service.update(backend, caller, webhook_id, WebhookChanges(enabled=False))
    return _one(backend, caller, webhook_id)


@router.post("/{webhook_id}/rotate")
def rotate(webhook_id: UUID, caller: MayManageKeys, backend: BackendOf) -> Response:
    """Create a new secret and show it. The previous one also signs for a day."""
    made = service.rotate(backend, caller, webhook_id, OVERLAP_HOURS)
    return _one(backend, caller, webhook_id, made)


@router.post("/{webhook_id}/delete")
def delete(webhook_id: UUID, caller: MayManageKeys, backend: BackendOf) -> Response:
    """Delete a webhook, and go to the list."""
    service.delete(backend, caller, webhook_id)
    return Response(headers={"hx-redirect": ADDRESS})


@router.post("/{webhook_id}/test")
def send_test(webhook_id: UUID, caller: MayManageKeys, backend: BackendOf) -> Response:
    """Send a test event, which appears in the list of deliveries."""
    service.send_test(backend, caller, webhook_id)
    return _one(backend, caller, webhook_id)


@router.post("/{webhook_id}/replay")
def replay_failed(
    webhook_id: UUID,
    caller: MayManageKeys,
    backend: BackendOf,
    since: Annotated[str, Form(max_length=40)] = "",
) -> Response:
    """Send all deliveries again that failed since a time in UTC."""
    replayed = service.replay_failed(backend, caller, webhook_id, _moment(since))
    return _one(backend, caller, webhook_id, replayed=replayed)


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay")
def replay(
    webhook_id: UUID, delivery_id: DeliveryId, caller: MayManageKeys, backend: BackendOf
) -> Response:
    """Send one delivery again."""
    service.replay(backend, caller, webhook_id, delivery_id)
    return _one(backend, caller, webhook_id)


def _listed(backend: Backend, caller: Caller) -> dict[str, Any]:
    return {
        "webhooks": service.list_webhooks(backend, caller),
        "types": SUBSCRIBED,
        "chosen": SUBSCRIBED,
        "address": ADDRESS,
    }


def _shown(backend: Backend, caller: Caller, webhook_id: UUID, asked: Asked) -> dict[str, Any]:
    webhook = service.webhook(backend, caller, webhook_id)
    return {
        "webhook": webhook,
        "deliveries": service.list_deliveries(
            backend, caller, webhook_id, LISTED_DELIVERIES, asked.after, asked.status
        ),
        "asked": asked,
        "statuses": tuple(DeliveryStatus),
        "types": SUBSCRIBED,
        "chosen": webhook.event_types or SUBSCRIBED,
        "since": f"{backend.clock.now().astimezone(UTC) - REPLAYED:%Y-%m-%dT%H:%M}",
        "address": f"{ADDRESS}/{webhook_id}",
        "made": None,
        "saved": False,
        "replayed": None,
    }


def _one(
    backend: Backend,
    caller: Caller,
    webhook_id: UUID,
    made: NewWebhook | None = None,
    *,
    saved: bool = False,
    replayed: int | None = None,
) -> Response:
    shown = _shown(backend, caller, webhook_id, Asked())
    shown |= {"made": made, "saved": saved, "replayed": replayed}
    return fragment("notifications/webhooks/one.html", **shown)


def _url(entered: Entered) -> str:
    url = entered.url.strip()
    if not url:
        raise Invalid("Enter a URL that begins with https://.", field="url")
    return url


def _moment(text: str) -> datetime:
    """Return a time in UTC. Raise Invalid."""
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        raise Invalid(
            f"{text!r} is not a time. Enter one such as 2026-11-24T12:00.", field="since"
        ) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)
