"""`ecolink webhooks`: endpoints that receive the events of your account."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from extensions.notifications.domain.message import WebhookType
from extensions.notifications.webhooks.deliveries import DeliveryStatus
from extensions.notifications.webhooks.schemas import (
    DeliveryResponse,
    NewWebhook,
    Replayed,
    WebhookChanges,
    WebhookForm,
    WebhookResponse,
)
from gateway.cli.client import Client, ClientError
from gateway.cli.tables import fields, listing
from gateway.cli.terminal import CommandGroup, client_of, note, show
from gateway.schemas import Listed, Page

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 30.0
"""Maximum wait for the result of a test. One attempt takes at most 15 s."""

webhooks = CommandGroup(
    no_args_is_help=True, help="Send the events of your account to your own server."
)

WebhookId = Annotated[str, typer.Argument(help="ID of the webhook.", show_default=False)]
TypeOption = Annotated[
    list[WebhookType] | None,
    typer.Option("--event", help="Type of event. Repeat for several.  \\[default: all types]"),
]
DescriptionOption = Annotated[str | None, typer.Option(help="What the webhook is for.")]


def moment(text: str) -> datetime:
    """Return a time, in UTC unless it has an offset. Raise BadParameter."""
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time. Enter one such as 2026-11-24T12:00."
        ) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


@webhooks.command()
def create(
    client: Client,
    url: Annotated[str, typer.Argument(help="URL that begins with https://.", show_default=False)],
    event: TypeOption = None,
    description: DescriptionOption = None,
) -> None:
    """Create a webhook and print its secret, which is shown only once."""
    form = WebhookForm.model_construct(
        url=url, description=description or "", event_types=event or []
    )
    made = client.send(NewWebhook, "/webhooks", form.model_dump(mode="json"))
    note(f"Webhook {made.model.id}. Save the secret: EcoLink does not show it again.")
    show(made, lambda new: Text(new.secret))  # only the secret, so it can be piped


@webhooks.command("list")
def list_webhooks(client: Client) -> None:
    """List your webhooks."""
    show(client.read(Listed[WebhookResponse], "/webhooks"), _webhooks)


@webhooks.command("show")
def show_webhook(client: Client, webhook: WebhookId) -> None:
    """Show a webhook."""
    show(client.read(WebhookResponse, f"/webhooks/{webhook}"), fields)


@webhooks.command()
def update(
    client: Client,
    webhook: WebhookId,
    url: Annotated[str | None, typer.Option(help="New URL.")] = None,
    event: TypeOption = None,
    all_events: Annotated[
        bool, typer.Option("--all-events", help="Send events of all types.")
    ] = False,
    description: DescriptionOption = None,
    enabled: Annotated[
        bool | None,
        typer.Option(
            "--enable/--disable", help="Send events, or let them wait.", show_default=False
        ),
    ] = None,
) -> None:
    """Change, enable or disable a webhook."""
    types = [] if all_events else event or None
    changes = WebhookChanges.model_construct(
        url=url, description=description, event_types=types, enabled=enabled
    )
    body = changes.model_dump(mode="json", exclude_none=True)
    show(client.change(WebhookResponse, f"/webhooks/{webhook}", body), fields)


@webhooks.command()
def rotate(
    client: Client,
    webhook: WebhookId,
    overlap_hours: Annotated[
        int, typer.Option(min=0, max=168, help="Hours in which the previous secret also signs.")
    ] = 24,
) -> None:
    """Create a new secret and print it. It is shown only once."""
    body = {"overlap_hours": overlap_hours}
    made = client.send(NewWebhook, f"/webhooks/{webhook}/rotate", body)
    if until := made.model.previous_secret_until:
        note(f"The previous secret also signs until {until:%Y-%m-%d %H:%M} UTC.")
    show(made, lambda new: Text(new.secret))


@webhooks.command()
def delete(client: Client, webhook: WebhookId) -> None:
    """Delete a webhook with its deliveries."""
    client.delete(f"/webhooks/{webhook}")
    note(f"The webhook {webhook} is deleted.")


@webhooks.command()
def deliveries(
    client: Client,
    webhook: WebhookId,
    status: Annotated[
        DeliveryStatus | None, typer.Option(help="Only deliveries with this status.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Number of deliveries.")] = 50,
) -> None:
    """List the deliveries to a webhook, newest first."""
    path = f"/webhooks/{webhook}/deliveries"
    show(client.read(Page[DeliveryResponse], path, status=status, limit=limit), _deliveries)


@webhooks.command()
def replay(
    client: Client,
    webhook: WebhookId,
    delivery: Annotated[
        int | None, typer.Argument(help="ID of the delivery to send again.", show_default=False)
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=moment,
            metavar="TIME",
            help="Send all deliveries again that failed since this time, in UTC.",
        ),
    ] = None,
) -> None:
    """Send one delivery again, or all that failed since a time."""
    if (delivery is None) == (since is None):
        raise typer.BadParameter("Pass either the ID of a delivery or --since.")
    path = f"/webhooks/{webhook}"
    if since is not None:
        show(client.send(Replayed, f"{path}/replay", {"since": since.isoformat()}), fields)
    else:
        sent = client.send(DeliveryResponse, f"{path}/deliveries/{delivery}/replay", {})
        show(sent, lambda each: _deliveries(Page(data=[each], has_more=False)))


@webhooks.command()
def test(ctx: typer.Context, webhook: WebhookId) -> None:
    """Send a test event, and print how the webhook responded."""
    with client_of(ctx) as client:
        sent = client.send(DeliveryResponse, f"/webhooks/{webhook}/test", {})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while sent.model.status is DeliveryStatus.PENDING:
            if time.monotonic() > deadline:
                raise ClientError(
                    "The test event was not sent yet. See `ecolink webhooks deliveries "
                    f"{webhook}` later."
                )
            time.sleep(POLL_SECONDS)
            path = f"/webhooks/{webhook}/deliveries/{sent.model.id}"
            sent = client.read(DeliveryResponse, path)
    show(sent, lambda each: _deliveries(Page(data=[each], has_more=False)))
    if sent.model.status is DeliveryStatus.FAILED:
        raise ClientError(sent.model.attempts[-1].error or "The test event failed.")


def _webhooks(answer: Listed[WebhookResponse]) -> RenderableType:
    return listing(
        (
            {
                "id": each.id,
                "status": "enabled" if each.enabled else f"disabled ({each.disabled_reason})",
                "url": each.url,
                "pending": each.pending,
                "failed": each.failed,
                "events": " ".join(each.event_types) or "all",
                "name": each.description,
            }
            for each in answer.data
        ),
        empty="You have no webhooks. `ecolink webhooks create` creates one.",
    )


def _deliveries(answer: Page[DeliveryResponse]) -> RenderableType:
    return listing(
        (
            {
                "id": each.id,
                "status": each.status,
                "type": each.type,
                "attempts": len(each.attempts),
                "response": each.attempts[-1].status_code if each.attempts else None,
                "created at": each.created_at,
                "next attempt at": each.next_attempt_at,
                "reason": each.attempts[-1].error if each.attempts else None,
                "message": each.message_id,
            }
            for each in answer.data
        ),
        empty="There are no deliveries.",
    )
