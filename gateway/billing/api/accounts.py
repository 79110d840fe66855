"""The caller's account; credits and top-ups, which an operator grants and confirms."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict, Field

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.payment import TEST_PROVIDER
from domain.core.aggregate import because
from domain.core.identity import created_id
from domain.core.money import payment_micros_of
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller, CallerOf, OperatorOf
from gateway.http.errors import Forbidden, refusals
from gateway.http.origin import on_this_host
from gateway.http.read_your_writes import caught_up, found
from gateway.schemas import Answer, Money
from infrastructure.payments import PaymentProvider, holders_provider, provider_named
from infrastructure.profiles import name_of_account
from projections import ACCOUNTS, BILLING_LEDGER
from projections.accounts import account as account_row

router = APIRouter(tags=["accounts"])


class AccountAnswer(Answer):
    """An account's money; `available` is what no running job's lease holds."""

    id: UUID
    name: str | None = Field(description="What the operator calls it.", examples=["alice"])
    role: Role
    currency: str = Field(examples=["USD"])
    time_zone: str = Field(examples=["Europe/Berlin"])
    balance: Money
    reserved: Money
    available: Money
    depleted: bool
    low: bool = Field(description="Whether the running jobs' money lasts less than 15 minutes.")
    runway_seconds: int | None = Field(description="What was left when it became low.")

    @classmethod
    def of(cls, backend: Backend, account_id: UUID, state: dict[str, Any]) -> AccountAnswer:
        """The answer for an account's row, or for the aggregate's own fields."""
        balance, reserved = state["balance_micros"], state["reserved_micros"]
        with backend.pool.connection() as connection:
            name = name_of_account(connection, account_id)
        return cls(
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
        )


class Credit(BaseModel):
    """What an operator gives an account, once for each reference."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"amount": "25.00", "reference": "invoice-2026-11"}]},
    )

    amount: str = Field(max_length=40, description="Dollars, with up to six decimals.")
    reference: str = Field(min_length=1, max_length=100)


class TopUp(BaseModel):
    """A payment that arrived for an account; its reference counts once on the whole platform."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"amount": "100.00", "reference": "transfer 7"}]},
    )

    amount: str = Field(max_length=40, description="Dollars, with up to six decimals.")
    reference: str = Field(min_length=1, max_length=100)
    provider: str = Field(default="manual", max_length=40)


class OwnTopUp(BaseModel):
    """What an account holder pays in by themselves."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"amount": "25.00"}]})

    amount: str = Field(max_length=40, description="Dollars, with up to six decimals.")


@router.get("/account")
def show_account(caller: CallerOf, backend: BackendOf) -> AccountAnswer:
    """Show your account."""
    row = found(
        backend,
        ACCOUNTS,
        lambda connection: account_row(connection, caller.account_id),
        f"no account {caller.account_id}",
    )
    return AccountAnswer.of(backend, caller.account_id, row)


@router.post("/account/top-ups", responses=refusals(403, 409))
def top_up_own(
    payment: OwnTopUp,
    request: Request,
    caller: CallerOf,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> AccountAnswer:
    """Add a test payment to your balance. Each Idempotency-Key counts once.

    403 where an operator confirms payments. A test payment is accepted only from the host that
    EcoLink runs on, connected directly, and up to $1,000 a day.
    """
    command_key = idempotency_key or str(uuid4())
    account = pay(request, backend, caller, payment.amount, command_key)
    return AccountAnswer.of(backend, caller.account_id, vars(account))


def own_provider(request: Request, backend: Backend) -> PaymentProvider | None:
    """The provider that the caller can pay with from where they are, if there is one."""
    provider = holders_provider(backend.settings)
    is_test = provider is not None and provider.name == TEST_PROVIDER
    return None if is_test and not on_this_host(request) else provider


def pay(
    request: Request, backend: Backend, caller: Caller, amount: str, command_key: str
) -> Account:
    """Top up the caller's balance, once for each command key.

    Raises Forbidden where account holders cannot, Invalid with the field `amount`, and
    CommandReused for another amount under the same key.
    """
    if holders_provider(backend.settings) is None:
        raise Forbidden("an operator confirms payments here; self-service top-up is disabled")
    provider = own_provider(request, backend)
    if provider is None:
        raise Forbidden(
            "test payments are accepted only from the host of this EcoLink, at its own address "
            "and without a proxy or relay; ask your operator to top up this account"
        )
    payment_key = created_id(caller.account_id, "top-up", command_key).hex
    receipt = provider.receipt(payment_key, payment_micros_of(amount, field="amount"))
    with because(caller.cause(backend)):
        account = backend.ecolink.top_up(caller.account_id, receipt)
    caught_up(backend, ACCOUNTS, BILLING_LEDGER)
    return account


@router.post("/accounts/{account_id}/credits", responses=refusals(403, 404, 409))
def grant_credit(
    account_id: UUID, credit: Credit, caller: OperatorOf, backend: BackendOf
) -> AccountAnswer:
    """Give an account credit. Each reference counts once."""
    amount_micros = payment_micros_of(credit.amount, field="amount")
    with because(caller.cause(backend)):
        account: Account = backend.ecolink.grant_credit(account_id, amount_micros, credit.reference)
    caught_up(backend, ACCOUNTS, BILLING_LEDGER)
    return AccountAnswer.of(backend, account_id, vars(account))


@router.post("/accounts/{account_id}/top-ups", responses=refusals(403, 404, 409))
def top_up(
    account_id: UUID, payment: TopUp, caller: OperatorOf, backend: BackendOf
) -> AccountAnswer:
    """Add a payment to a balance. Each reference counts once."""
    amount_micros = payment_micros_of(payment.amount, field="amount")
    provider = provider_named(backend.settings, payment.provider)
    receipt = provider.receipt(payment.reference, amount_micros)
    with because(caller.cause(backend)):
        account: Account = backend.ecolink.top_up(account_id, receipt)
    caught_up(backend, ACCOUNTS, BILLING_LEDGER)
    return AccountAnswer.of(backend, account_id, vars(account))
