"""`ecolink accounts refund` and `ecolink accounts recover-payments`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console

from deploy.operator.replay import moment_of
from deploy.operator.store import open_store
from domain.billing.account import Account
from domain.billing.reference import reference_of
from domain.core.money import dollars, payment_micros_of
from extensions.card_payments.returns import card_returns
from infrastructure.accounts.profiles import account_names

console = Console(highlight=False, markup=False)  # names can contain brackets

commands = typer.Typer(name="accounts")

DISPUTE_LIFE = timedelta(days=120)
"""Time in which a payment, a refund or a dispute ends at Stripe."""

Name = Annotated[str, typer.Argument(help="Name of the account.", show_default=False)]


@commands.command("refund")
def refund_payment(
    name: Name,
    amount: Annotated[
        str, typer.Argument(help="Amount in dollars, such as 10.00.", show_default=False)
    ],
    payment: Annotated[str, typer.Option(help="Reference of the payment, such as pi_3Abc.")],
    reference: Annotated[
        str,
        typer.Option(help="Purpose of the refund. EcoLink makes each one only once per payment."),
    ],
) -> None:
    """Refund a payment by card, or a part of it, up to the available balance."""
    with open_store() as store:
        amount_micros = payment_micros_of(amount, field="amount")
        purpose, returns = reference_of(reference), card_returns(store.log)
        account_id = store.account(name)
        returns.refund(account_id, payment, amount_micros, purpose)
        account = store.log.load(Account, account_id)
        console.print(f"The balance of {name} is {dollars(account.balance_micros)}.")


@commands.command("recover-payments")
def recover_payments(
    since: Annotated[
        datetime,
        typer.Option(
            parser=moment_of,
            metavar="TIME",
            help="Time of the backup, or to which you cut the log, such as 2026-11-24T12:00:00Z.",
        ),
    ],
) -> None:
    """Record payments, refunds and disputes that Stripe has and a restored log lacks.

    It makes no charge and no refund at Stripe, and you can repeat it.
    """
    with open_store() as store:
        returns, names = card_returns(store.log), account_names(store.connection)
        for receipt, account in returns.payments.recover(since - DISPUTE_LIFE):
            result = "not added, its account or amount is unclear. Use `ecolink accounts top-up`"
            if account is not None:
                result = f"added to {names.get(account.id, account.id)}"
            console.print(f"{receipt.reference}: {dollars(receipt.amount_micros)}, {result}")
        for reference, record in returns.unrecorded(since - DISPUTE_LIFE):
            record()
            console.print(f"{reference}: recorded its refund or dispute")
        console.print("The log has all other payments, refunds and disputes since that time.")
