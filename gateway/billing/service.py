"""Balances, credits and top-ups of accounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from domain.billing.account import Account
from domain.billing.payment import TEST_PROVIDER
from domain.core.aggregate import because
from domain.core.errors import NotFound
from domain.core.identity import created_id
from domain.core.money import payment_micros_of, seconds_bought
from gateway.backend import Backend
from gateway.billing.schemas import AccountResponse, Credit, TopUp
from gateway.http.access import Caller
from gateway.http.errors import Forbidden
from gateway.http.read_your_writes import caught_up, found
from gateway.schemas import Money, Page
from infrastructure.accounts.profiles import name_of_account
from infrastructure.payments.provider import (
    PaymentProvider,
    card_provider,
    provider_named,
    self_service_provider,
)
from projections import ACCOUNTS, BILLING_LEDGER
from projections.accounts import AccountFilter, accounts_after
from projections.accounts import account as account_row
from projections.open_meters import Burn, burns

SELF_SERVICE_DISABLED = "Self-service top-up is disabled. Ask your operator to top up this account."
PAYMENT_PAGES = "/billing/payments"
"""Address of the pages of payments by card, followed by the ID of the payment."""

PAY_BY_CARD = "Start a payment by card with POST /api/account/payments, or on the billing page."
TEST_PAYMENT_REMOTE = (
    "EcoLink accepts test payments only from its own host, without a proxy. Ask your operator "
    "to top up this account."
)


@dataclass(frozen=True)
class Runway:
    """The running jobs of an account, and the time until they use up its balance."""

    jobs: int
    rate_per_hour: Money
    """Total hourly rate of all running jobs that are charged."""
    seconds: int | None
    """None if the running jobs cost nothing."""

    @classmethod
    def of(cls, balance_micros: int, now: Burn) -> Runway:
        """Return the runway of a balance. First subtract usage that is not billed yet."""
        left = max(0, balance_micros - now.unbilled_micros)
        rate = now.rate_micros_per_hour
        return cls(now.jobs, Money.price(rate), seconds_bought(left, rate))


def account_of(backend: Backend, caller: Caller) -> AccountResponse:
    """Return the caller's account. Raise NotFound or NotYetVisible if it is not visible."""
    return account_with_id(backend, caller.account_id)


def account_with_id(backend: Backend, account_id: UUID) -> AccountResponse:
    """Return any account. Raise NotFound or NotYetVisible if it is not visible."""
    row = found(
        backend,
        ACCOUNTS,
        lambda connection: account_row(connection, account_id),
        f"Unknown account {account_id}. Ask your operator.",
    )
    return account_answer(backend, account_id, row)


def runway_of(backend: Backend, account: AccountResponse) -> Runway:
    """Return the seconds until running jobs use up the balance; None if they cost nothing."""
    with backend.pool.connection() as connection:
        now = burns(connection, [account.id])[account.id]
    return Runway.of(account.balance.micros, now)


def own_provider(backend: Backend, *, local: bool) -> PaymentProvider | None:
    """Return the provider of self-service payments. Test payments need a `local` client."""
    provider = self_service_provider(backend.settings)
    is_test = provider is not None and provider.name == TEST_PROVIDER
    return None if is_test and not local else provider


def top_up_own(
    backend: Backend, caller: Caller, amount: str, key: str | None, *, local: bool
) -> AccountResponse:
    """Top up the caller's balance. Calls with the same idempotency key add only one payment.

    Raise Forbidden if self-service top-up is disabled, Invalid if the amount is invalid, and
    CommandReused if the key was used for another amount.
    """
    if self_service_provider(backend.settings) is None:
        raise Forbidden(PAY_BY_CARD if card_provider() else SELF_SERVICE_DISABLED)
    provider = own_provider(backend, local=local)
    if provider is None:
        raise Forbidden(TEST_PAYMENT_REMOTE)
    payment_key = created_id(caller.account_id, "top-up", key or str(uuid4())).hex
    receipt = provider.receipt(payment_key, payment_micros_of(amount, field="amount"))
    with because(caller.cause(backend)):
        account = backend.ecolink.top_up(caller.account_id, receipt)
    return _changed(backend, account)


def grant_credit(
    backend: Backend, operator: Caller, account_id: UUID, credit: Credit
) -> AccountResponse:
    """Grant a credit, once per reference."""
    amount_micros = payment_micros_of(credit.amount, field="amount")
    with because(operator.cause(backend)):
        account = backend.ecolink.grant_credit(account_id, amount_micros, credit.reference)
    return _changed(backend, account)


def confirm_top_up(
    backend: Backend, operator: Caller, account_id: UUID, payment: TopUp
) -> AccountResponse:
    """Add a received payment, once per reference."""
    amount_micros = payment_micros_of(payment.amount, field="amount")
    provider = provider_named(backend.settings, payment.provider)
    receipt = provider.receipt(payment.reference, amount_micros)
    with because(operator.cause(backend)):
        account = backend.ecolink.top_up(account_id, receipt)
    return _changed(backend, account)


def list_accounts(
    backend: Backend, only: AccountFilter, after: UUID | None, limit: int
) -> Page[AccountResponse]:
    """Return accounts that pass a filter, oldest first. Raise NotFound for an unknown `after`."""
    with backend.pool.connection() as connection:
        if after is not None and account_row(connection, after) is None:
            raise NotFound(f"Unknown account {after}. Omit `after` for the first page.")
        return Page[AccountResponse].of(
            partial(accounts_after, connection, only, after),
            limit,
            lambda row: _answer(row["account_id"], row["name"], row),
        )


def _changed(backend: Backend, account: Account) -> AccountResponse:
    caught_up(backend, ACCOUNTS, BILLING_LEDGER)
    return account_answer(backend, account.id, vars(account))


def account_answer(backend: Backend, account_id: UUID, state: Mapping[str, Any]) -> AccountResponse:
    """Return the schema of an account, from its row or from the fields of its aggregate."""
    with backend.pool.connection() as connection:
        name = name_of_account(connection, account_id)
    return _answer(account_id, name, state)


def _answer(account_id: UUID, name: str | None, state: Mapping[str, Any]) -> AccountResponse:
    balance, reserved = state["balance_micros"], state["reserved_micros"]
    return AccountResponse(
        id=account_id,
        name=name,
        role=state["role"],
        currency=state["currency"],
        time_zone=state["time_zone"],
        balance=Money.of(balance),
        reserved=Money.of(reserved),
        available=Money.of(balance - reserved),
        depleted=state["depleted"],
        low=state["low"],
        runway_seconds=state.get("runway_seconds"),
        suspension=state["suspension"],
        erased=state["erased"],
    )
