"""`ecolink notices`: e-mails about your jobs, your balance and your models."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import RenderableType

from extensions.notifications.domain.kind import NoticeKind
from extensions.notifications.notices.schemas import NoticeChanges, NoticeResponse, NoticeSettings
from extensions.notifications.notices.tables import NoticeStatus
from gateway.cli.client import Client, ClientError
from gateway.cli.tables import fields, listing
from gateway.cli.terminal import CommandGroup, client_of, note, show
from gateway.schemas import Listed

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
"""Maximum wait for the result of a test. The mail server has 10 s for each of its responses."""

notices = CommandGroup(
    no_args_is_help=True, help="Receive e-mails about your jobs, your balance and your models."
)


@notices.command("show")
def show_settings(client: Client) -> None:
    """Show the e-mail address and the chosen kinds of notices."""
    show(client.read(NoticeSettings, "/notices"), fields)


@notices.command("set")
def set_notices(
    client: Client,
    email: Annotated[
        str | None, typer.Argument(help="New e-mail address.", show_default=False)
    ] = None,
    kind: Annotated[
        list[NoticeKind] | None, typer.Option("--kind", help="Kind of notice. Repeat for several.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Turn off all notices.")] = False,
) -> None:
    """Set the e-mail address, the kinds of notices, or both."""
    if none and kind:
        raise typer.BadParameter("Pass either --kind or --none.")
    if email is None and not kind and not none:
        raise typer.BadParameter("Pass an e-mail address, --kind or --none.")
    changes = NoticeChanges.model_construct(email=email, kinds=[] if none else kind or None)
    body = changes.model_dump(mode="json", exclude_none=True)
    saved = client.change(NoticeSettings, "/notices", body)
    if email is not None and saved.model.confirmed_at is None:
        note("EcoLink sent a link to this address. Open it to receive notices.")
    show(saved, fields)


@notices.command()
def confirm(client: Client) -> None:
    """Send the link that confirms the e-mail address again."""
    show(client.send(NoticeSettings, "/notices/confirmation", {}), fields)


@notices.command()
def test(ctx: typer.Context) -> None:
    """Send a test to the e-mail address, and print the result."""
    with client_of(ctx) as client:
        sent = client.send(NoticeResponse, "/notices/test", {}).model
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = client.read(Listed[NoticeResponse], "/notices/newest")
            tested = next((each for each in found.model.data if each.id == sent.id), sent)
            if tested.status in (NoticeStatus.SENT, NoticeStatus.FAILED):
                break
            if time.monotonic() > deadline:
                raise ClientError("The test was not sent yet. See `ecolink notices list` later.")
            time.sleep(POLL_SECONDS)
    if tested.status is NoticeStatus.FAILED:
        raise ClientError(tested.error or "The test failed.")
    note("The mail server accepted the test.")


@notices.command("list")
def list_notices(client: Client) -> None:
    """List the newest notices, newest first."""
    show(client.read(Listed[NoticeResponse], "/notices/newest"), _notices)


@notices.command()
def delete(client: Client) -> None:
    """Delete the e-mail address with its notices."""
    client.delete("/notices")
    note("The e-mail address for notices is deleted.")


def _notices(answer: Listed[NoticeResponse]) -> RenderableType:
    return listing(
        (
            {
                "id": each.id,
                "kind": each.kind,
                "status": each.status,
                "created at": each.created_at,
                "finished at": each.finished_at,
                "reason": each.error,
            }
            for each in answer.data
        ),
        empty="There are no notices.",
    )
