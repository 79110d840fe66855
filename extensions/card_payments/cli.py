"""`ecolink billing`: payments by card and automatic top-ups."""

from __future__ import annotations

import sys
import time
from typing import Annotated
from uuid import uuid4

import typer

from domain.billing.card_payment import CardPaymentStatus
from extensions.card_payments.schemas import AutoTopUpResponse, CardPaymentResponse
from gateway.cli.client import Client
from gateway.cli.tables import fields, listing_of
from gateway.cli.terminal import CommandGroup, show

commands = CommandGroup()

POLL_SECONDS = 2.0


@commands.command()
def pay(
    client: Client,
    amount: Annotated[
        str, typer.Argument(help="Amount in dollars, such as 25.00.", show_default=False)
    ],
    browser: Annotated[bool, typer.Option(help="Open the page of Stripe in a browser.")] = False,
    save_card: Annotated[
        bool, typer.Option("--save-card", help="Save the card for automatic top-ups.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the payment is paid or has failed.")
    ] = False,
) -> None:
    """Start a payment by card, and print the page of Stripe on which you pay."""
    path, body = "/account/payments", {"amount": amount, "save_card": save_card}
    started = client.send(CardPaymentResponse, path, body, idempotency_key=str(uuid4()))
    payment = started.model
    if browser and payment.url:
        typer.launch(payment.url)
    if not wait:
        show(started, fields)
        return
    print(payment.url, file=sys.stderr)
    while payment.status is CardPaymentStatus.PENDING:
        time.sleep(POLL_SECONDS)
        started = client.read(CardPaymentResponse, f"{path}/{payment.id}")
        payment = started.model
    show(started, fields)


@commands.command()
def payments(client: Client) -> None:
    """List your payments by card, newest first."""
    columns = ("started_at", "amount", "status", "failure", "automatic", "reference", "id")
    found = client.read_all(CardPaymentResponse, "/account/payments", "id")
    empty = "There are no payments by card."
    show(found, lambda all_: listing_of(all_.data, *columns, empty=empty))


auto = CommandGroup(no_args_is_help=True, help="Charge your saved card when your balance is low.")
commands.add_typer(auto, name="auto-top-up")


@auto.command("set")
def set_auto_top_up(
    client: Client,
    below: Annotated[str, typer.Option(help="Balance in dollars below which to charge.")],
    amount: Annotated[str, typer.Option(help="Dollars of each charge.")],
    month_max: Annotated[
        str, typer.Option(help="Maximum of all automatic top-ups in a calendar month, in dollars.")
    ],
) -> None:
    """Turn automatic top-ups on. Save a card first, with `ecolink billing pay --save-card`."""
    body = {"threshold": below, "amount": amount, "month_max": month_max}
    show(client.send(AutoTopUpResponse, "/account/auto-top-up", body), fields)


@auto.command("show")
def show_auto_top_up(client: Client) -> None:
    """Show your automatic top-ups."""
    show(client.read(AutoTopUpResponse, "/account/auto-top-up"), fields)


@auto.command("off")
def turn_off_auto_top_up(
    client: Client,
    remove_card: Annotated[
        bool, typer.Option("--remove-card", help="Remove the saved card from Stripe, too.")
    ] = False,
) -> None:
    """Turn automatic top-ups off."""
    client.delete("/account/card" if remove_card else "/account/auto-top-up")
    show(client.read(AutoTopUpResponse, "/account/auto-top-up"), fields)
