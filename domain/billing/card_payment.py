"""A card payment from its start until the payment provider confirms it, or until it fails."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.aggregate import Aggregate, Created
from domain.core.errors import CommandReused, Invalid
from domain.core.money import CENT_MICROS, MICROS_PER_DOLLAR, dollars

CARD_MIN_MICROS = 50 * CENT_MICROS
CARD_MAX_MICROS = 999_999 * MICROS_PER_DOLLAR
"""Bounds of a card payment in micro-dollars, which are those of Stripe."""


class CardPaymentStatus(StrEnum):
    """States of a card payment."""

    PENDING = "pending"
    PAID = "paid"
    FAILED = "failed"


class CardFailure(StrEnum):
    """Reasons why a card payment failed."""

    EXPIRED = "expired"
    """The customer did not pay before the provider's page expired."""
    DECLINED = "declined"
    """The bank of the card declined the payment."""
    AUTHENTICATION_REQUIRED = "authentication_required"
    """The bank asks the card holder to approve the payment, who is not present."""
    MISMATCH = "mismatch"
    """The provider's amount or currency differs from that of the payment."""


def require_card_amount(amount_micros: int, *, field: str = "amount") -> None:
    """Raise Invalid unless the provider accepts a payment of this amount."""
    if not CARD_MIN_MICROS <= amount_micros <= CARD_MAX_MICROS:
        raise Invalid(
            f"The amount {dollars(amount_micros)} is out of range. Enter "
            f"{dollars(CARD_MIN_MICROS)} to {dollars(CARD_MAX_MICROS)}.",
            field=field,
        )


class CardPayment(Aggregate):
    """A card payment. It is paid once; then `reference` names the payment at the provider."""

    TOPIC: ClassVar[str] = "CardPayment"

    class Event(Aggregate.Event):
        """Base class of the events of a payment by card."""

    class CardPaymentStarted(Event, Created):
        """The account holder started a card payment, or an automatic top-up did."""

        amount_micros: int
        automatic: bool
        saves_card: bool  # the account holder agreed that later top-ups may charge the card

    class CheckoutOpened(Event):
        """The provider opened the page on which the customer pays."""

        checkout: str

    class CardPaymentConfirmed(Event):
        """The provider confirmed the payment. It is added to the balance in the same save."""

        reference: str

    class CardPaymentFailed(Event):
        """The payment failed or expired. It charged nothing."""

        reason: CardFailure

    @classmethod
    def start(
        cls,
        payment_id: UUID,
        account_id: UUID,
        amount_micros: int,
        *,
        automatic: bool = False,
        saves_card: bool = False,
    ) -> CardPayment:
        """Return a new payment. Raise Invalid if the amount is out of bounds."""
        require_card_amount(amount_micros)
        return cls._create(
            cls.CardPaymentStarted,
            id=payment_id,
            account_id=account_id,
            amount_micros=amount_micros,
            automatic=automatic,
            saves_card=saves_card,
        )

    @event(CardPaymentStarted)
    def __init__(
        self, account_id: UUID, amount_micros: int, automatic: bool, saves_card: bool
    ) -> None:
        self.account_id = account_id
        self.amount_micros = amount_micros
        self.automatic = automatic
        self.saves_card = saves_card
        self.status = CardPaymentStatus.PENDING
        self.checkout: str | None = None
        self.reference: str | None = None
        self.failure: CardFailure | None = None

    @property
    def is_pending(self) -> bool:
        """True until the payment is paid or has failed."""
        return self.status is CardPaymentStatus.PENDING

    def require_same(self, amount_micros: int, *, saves_card: bool) -> None:
        """Raise CommandReused unless a repeated request asks for the same payment."""
        if (amount_micros, saves_card) != (self.amount_micros, self.saves_card):
            raise CommandReused(
                f"You already used this idempotency key for a payment of "
                f"{dollars(self.amount_micros)}. Use a new key."
            )

    def open_checkout(self, checkout: str) -> None:
        """Record the provider's page. The first one stays."""
        if self.checkout is None:
            self.trigger_event(self.CheckoutOpened, checkout=checkout)

    @event(CheckoutOpened)
    def _checkout_opened(self, checkout: str) -> None:
        self.checkout = checkout

    def confirm(self, reference: str) -> None:
        """Record once that the provider received the money, even after the payment failed."""
        if self.status is not CardPaymentStatus.PAID:
            self.trigger_event(self.CardPaymentConfirmed, reference=reference)

    @event(CardPaymentConfirmed)
    def _card_payment_confirmed(self, reference: str) -> None:
        self.status = CardPaymentStatus.PAID
        self.reference = reference
        self.failure = None

    def fail(self, reason: CardFailure) -> None:
        """Record that the payment failed. Only a pending payment changes."""
        if self.is_pending:
            self.trigger_event(self.CardPaymentFailed, reason=reason)

    @event(CardPaymentFailed)
    def _card_payment_failed(self, reason: CardFailure) -> None:
        self.status = CardPaymentStatus.FAILED
        self.failure = reason
