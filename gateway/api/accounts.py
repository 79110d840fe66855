"""The caller's account and its ledger; credits, which an operator grants."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from domain.account import Account, Role
from domain.aggregate import because
from domain.money import micros_of
from gateway.access import CallerOf, OperatorOf
from gateway.answers import Answer, JobId, Listed, Money
from gateway.backend import BackendOf
from gateway.errors import refusals
from gateway.freshness import caught_up, found
from projections import ACCOUNTS, BILLING_LEDGER
from projections.accounts import account as account_row
from projections.billing_ledger import postings_of

router = APIRouter(tags=["accounts"])


class AccountAnswer(Answer):
    """An account's money; `available` is what no running job's lease holds."""

    id: UUID
    role: Role
    currency: str = Field(examples=["USD"])
    time_zone: str = Field(examples=["Europe/Berlin"])
    balance: Money
    reserved: Money
    available: Money
    depleted: bool

    @classmethod
    def of(cls, account_id: UUID, state: dict[str, Any]) -> AccountAnswer:
        """The answer for an account's row, or for the aggregate's own fields."""
        balance, reserved = state["balance_micros"], state["reserved_micros"]
        return cls(
            id=account_id,
            role=state["role"],
            currency=state["currency"],
            time_zone=state["time_zone"],
            balance=Money.of(balance),
            reserved=Money.of(reserved),
            available=Money.of(balance - reserved),
            depleted=state["depleted"],
        )


class Posting(Answer):
    """One posting of the ledger: the same amount leaves one account and enters another."""

    event_id: str
    posted_at: datetime
    debit: str
    credit: str
    amount: Money
    reason: str = Field(examples=["minute metered"])
    job_id: JobId | None
    segment: int | None
    minute: int | None
    from_seconds: int | None
    to_seconds: int | None


class Credit(BaseModel):
    """What an operator gives an account, once for each reference."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"amount": "25.00", "reference": "invoice-2026-11"}]},
    )

    amount: str = Field(max_length=40, description="Dollars, with up to six decimals.")
    reference: str = Field(min_length=1, max_length=100)


@router.get("/account")
def show_account(caller: CallerOf, backend: BackendOf) -> AccountAnswer:
    """The caller's account."""
    row = found(
        backend,
        ACCOUNTS,
        lambda connection: account_row(connection, caller.account_id),
        f"no account {caller.account_id}",
    )
    return AccountAnswer.of(caller.account_id, row)


@router.get("/ledger")
def show_ledger(
    caller: CallerOf,
    backend: BackendOf,
    job: Annotated[JobId | None, Query(description="Only this job's postings.")] = None,
) -> Listed[Posting]:
    """Every posting of the caller's account, in order."""
    with backend.pool.connection() as connection:
        rows = postings_of(connection, caller.account_id, job)
    return Listed(
        data=[Posting(**{**row, "amount": Money.of(row["amount_micros"])}) for row in rows]
    )


@router.post("/accounts/{account_id}/credits", responses=refusals(403, 404))
def grant_credit(
    account_id: UUID, credit: Credit, caller: OperatorOf, backend: BackendOf
) -> AccountAnswer:
    """Give an account credit; the same reference again gives nothing more."""
    amount_micros = micros_of(credit.amount, field="amount")
    with because(caller.cause(backend)):
        account: Account = backend.ecolink.grant_credit(account_id, amount_micros, credit.reference)
    caught_up(backend, ACCOUNTS, BILLING_LEDGER)
    return AccountAnswer.of(account_id, vars(account))
