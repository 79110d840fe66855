"""Schemas of accounts, payments, the ledger and statements."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from domain.access.role import Role
from domain.billing.budget import BudgetPeriod
from domain.billing.suspension import SuspensionReason
from gateway.schemas import JobId, Money, ResponseModel

AMOUNT = "Dollars, with at most six decimals."


class AccountResponse(ResponseModel):
    """An account with its balance. `available` is the part that no running job reserves."""

    id: UUID
    name: str | None = Field(
        description="Name that the operator gave the account.", examples=["alice"]
    )
    role: Role = Field(examples=["owner"])
    currency: str = Field(examples=["USD"])
    time_zone: str = Field(examples=["Europe/Berlin"])
    balance: Money
    reserved: Money
    available: Money
    depleted: bool
    low: bool = Field(
        description="True if the balance pays for less than 15 minutes of the running jobs."
    )
    runway_seconds: int | None = Field(
        description="Seconds of the running jobs that the balance covered when it became low."
    )
    suspension: SuspensionReason | None = Field(
        description="Reason of the suspension, or null. A suspended account can only read."
    )
    erased: bool = Field(description="True if an operator erased the personal data of the account.")


class Credit(BaseModel):
    """A credit that an operator grants. EcoLink credits each reference only once."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"amount": "25.00", "reference": "invoice-2026-11"}]},
    )

    amount: str = Field(max_length=40, description=AMOUNT)
    reference: str = Field(min_length=1, max_length=100)


class TopUp(BaseModel):
    """A payment that an operator received. A reference is unique across all accounts."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"amount": "100.00", "reference": "transfer 7"}]},
    )

    amount: str = Field(max_length=40, description=AMOUNT)
    reference: str = Field(min_length=1, max_length=100)
    provider: str = Field(default="manual", max_length=40)


class OwnTopUp(BaseModel):
    """A payment that the owner of an account makes."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"amount": "25.00"}]})

    amount: str = Field(max_length=40, description=AMOUNT)


class BudgetRequest(BaseModel):
    """A budget to set for each calendar day or month in UTC, or for an API key in total."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"period": "month", "limit": "250.00"}]}
    )

    period: BudgetPeriod = Field(description="`total` requires a `key_id`.")
    limit: str = Field(max_length=40, description=AMOUNT)
    key_id: UUID | None = Field(
        default=None,
        description="API key whose jobs the budget limits. By default, it limits all jobs.",
    )


class BudgetKey(ResponseModel):
    """The API key of a budget."""

    id: UUID
    name: str | None = Field(examples=["evaluation script"])
    hint: str = Field(description="Last characters of the secret.", examples=["x7Qa"])


class BudgetResponse(ResponseModel):
    """A budget in its current period. Days and months are in UTC, as on invoices."""

    period: BudgetPeriod
    key: BudgetKey | None = Field(
        description="API key whose jobs the budget limits, or null if it limits all jobs."
    )
    limit: Money
    spent: Money = Field(
        description="Charges less credits that EcoLink recorded in the period. Charges of running "
        "jobs appear after each minute."
    )
    left: Money
    used_percent: int = Field(examples=[63])
    starts_on: date | None = Field(description="First day of the period, or null for `total`.")
    renews_on: date | None = Field(description="First day of the next period, or null for `total`.")


class Posting(ResponseModel):
    """A ledger posting. It moves an amount from one ledger account to another."""

    event_id: str
    position: int = Field(description="Number of the posting within the account, from 1.")
    posted_at: datetime
    debit: str = Field(examples=["customer"])
    credit: str = Field(examples=["revenue"])
    amount: Money
    reason: str = Field(examples=["minute metered"])
    reference: str | None = Field(description="Reference of a top-up or a credit.")
    job_id: JobId | None
    segment: int | None
    minute: int | None
    from_seconds: int | None
    to_seconds: int | None
    synthesis_id: UUID | None = Field(
        default=None, description="Synthesis whose tokens were charged, or null."
    )


class StatementDay(ResponseModel):
    """One day of a statement. `closing` is `opening` plus incoming amounts minus net charges."""

    day: date
    opening: Money
    top_ups: Money
    refunds: Money = Field(
        description="Refunded and disputed payments, less those that you have again."
    )
    credits: Money
    charges: Money
    reversals: Money = Field(description="Charges that EcoLink credited back.")
    closing: Money
    event_ids: dict[str, list[str]] = Field(description="IDs of the events behind each amount.")


class StatementTotal(ResponseModel):
    """Totals over all days of a statement."""

    opening: Money
    top_ups: Money
    refunds: Money
    credits: Money
    charges: Money
    reversals: Money
    closing: Money


class StatementJob(ResponseModel):
    """The charges of one job, or of one synthesis."""

    job_id: JobId | None = Field(description="Null for a synthesis.")
    synthesis_id: UUID | None = Field(default=None, description="Null for a job.")
    name: str = Field(
        examples=["support chats"],
        description="Suffix of the job, or name of the generated dataset. Without one, the start "
        "of the ID.",
    )
    dataset: str | None = Field(description="Name of the dataset, or null if it was deleted.")
    base_model: str | None = Field(
        examples=["smollm2-135m-instruct"],
        description="Base model of the job, or null if the list of jobs does not have the job yet.",
    )
    segments: int
    minutes: int
    seconds: int
    charges: Money
    reversals: Money
    reversed_seconds: int
    net: Money
    event_ids: dict[str, list[str]] = Field(
        description="IDs of the events behind the charges and the credits."
    )
