"""Schemas of payments by card, refunds and automatic top-ups."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from domain.billing.auto_top_up import AutoTopUpEnd
from domain.billing.card_payment import CardFailure, CardPaymentStatus
from gateway.billing.schemas import AMOUNT, OwnTopUp
from gateway.schemas import Money, ResponseModel


class CardPaymentResponse(ResponseModel):
    """A payment by card. EcoLink adds it to the balance when Stripe confirms it."""

    id: UUID
    amount: Money
    status: CardPaymentStatus = Field(examples=["pending"])
    automatic: bool = Field(description="True for an automatic top-up.")
    failure: CardFailure | None = Field(description="Reason of a failed payment.")
    reference: str | None = Field(
        description="ID of the payment at Stripe, as in the ledger and on invoices.",
        examples=["pi_3Abc"],
    )
    started_at: datetime
    url: str | None = Field(
        default=None,
        description="Page of Stripe on which to pay. Only the response to the request that starts "
        "the payment has it.",
        examples=["https://checkout.stripe.com/c/pay/cs_..."],
    )


class PaymentRequest(OwnTopUp):
    """A payment by card."""

    save_card: bool = Field(
        default=False, description="Save the card at Stripe for automatic top-ups."
    )


class RefundRequest(BaseModel):
    """A refund of a payment by card. EcoLink makes each refund with the same reference once."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"amount": "10.00", "payment": "pi_3Abc", "reference": "ticket 17"}]
        },
    )

    amount: str = Field(
        max_length=40,
        description=f"{AMOUNT} It is at most the available balance, and the part of the payment "
        "that is not returned.",
    )
    payment: str = Field(
        min_length=1, max_length=100, description="Reference of the payment, as in the ledger."
    )
    reference: str = Field(
        min_length=1, max_length=100, description="Reference of the refund, unique in the payment."
    )


class AutoTopUpRequest(BaseModel):
    """A rule by which EcoLink charges the saved card."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"threshold": "10.00", "amount": "25.00", "month_max": "200.00"}]
        },
    )

    threshold: str = Field(max_length=40, description="Balance in dollars below which to charge.")
    amount: str = Field(max_length=40, description="Dollars of each charge.")
    month_max: str = Field(
        max_length=40, description="Maximum of all automatic top-ups in a calendar month in UTC."
    )


class AutoTopUpResponse(ResponseModel):
    """The automatic top-ups of an account."""

    card_saved: bool
    enabled: bool
    threshold: Money | None = Field(description="Balance below which EcoLink charges the card.")
    amount: Money | None
    month_max: Money | None
    month_used: Money = Field(description="Automatic top-ups of the current month in UTC.")
    month_full: bool = Field(
        description="True if one more top-up would exceed the maximum of the current month."
    )
    charging: bool = Field(description="True while a charge is pending.")
    ended: AutoTopUpEnd | None = Field(description="Reason why they were turned off.")
