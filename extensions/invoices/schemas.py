"""Schemas of invoices."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from gateway.schemas import Money, ResponseModel

Status = Literal["preparing", "ready", "failed"]


class InvoiceForm(BaseModel):
    """The days of an invoice in UTC: a calendar month, or a first and a last day."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"month": "2026-11"}]}
    )

    month: str | None = Field(
        default=None, max_length=20, description="Calendar month.", examples=["2026-11"]
    )
    first: date | None = Field(default=None, description="First day.")
    last: date | None = Field(default=None, description="Last day, which is included.")


class InvoiceResponse(ResponseModel):
    """An invoice, calculated from the event log. Its files can be verified offline."""

    id: UUID
    account_id: UUID
    first: date = Field(description="First day, in UTC.")
    last: date = Field(description="Last day, in UTC.")
    until: datetime = Field(
        description="End of the period. It is the time of the request if the last day was not over."
    )
    status: Status
    is_waiting: bool = Field(
        description="True while the sealer issues the invoice. Earlier files stay until then."
    )
    is_complete: bool | None = Field(
        description="True if the file proves that no event of the period is missing. This needs an "
        "event of the account after the period. Null until the invoice is ready, but already false "
        "at a request whose period is not over. Verification then ends with exit code 9."
    )
    problem: str | None = Field(
        description="Reason why the last attempt to issue the invoice failed."
    )
    charges: Money | None = Field(description="Charges less credits for lost work.")
    closing: Money | None = Field(description="Balance at the end of the period.")
    requested_at: datetime
    answered_at: datetime | None = Field(description="End of the last attempt.")
