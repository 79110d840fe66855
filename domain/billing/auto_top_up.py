"""The saved card of an account, and the rule by which EcoLink charges it."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import ClassVar
from uuid import UUID, uuid5

from eventsourcing.domain import event

from domain.billing.card_payment import CardFailure, require_card_amount
from domain.core.aggregate import Aggregate, Created, current_cause
from domain.core.errors import Invalid, WrongState
from domain.core.identity import auto_top_up_id
from domain.core.money import dollars
from domain.core.value import Value


class AutoTopUpEnd(StrEnum):
    """Reasons why automatic top-ups are off."""

    OWNER = "owner"
    """The account holder turned them off, or removed the card."""
    DECLINED = "declined"
    """The bank declined a charge."""
    AUTHENTICATION_REQUIRED = "authentication_required"
    """The bank asks the card holder to approve each charge."""
    FAILED = "failed"
    """A charge failed for another reason, or a payment was refunded or disputed."""

    @classmethod
    def of(cls, failure: CardFailure) -> AutoTopUpEnd:
        """Return the reason that follows from a failed charge."""
        match failure:
            case CardFailure.DECLINED:
                return cls.DECLINED
            case CardFailure.AUTHENTICATION_REQUIRED:
                return cls.AUTHENTICATION_REQUIRED
            case _:
                return cls.FAILED


class SavedCard(Value):
    """A card that the provider keeps. Both fields are the provider's IDs."""

    customer: str
    payment_method: str


class AutoTopUpRule(Value):
    """Charge `amount_micros` when the balance is below the threshold, up to a monthly maximum."""

    threshold_micros: int
    amount_micros: int
    month_max_micros: int  # per calendar month in UTC


class Charge(Value):
    """A charge that the provider has not answered yet."""

    payment_id: UUID
    card: SavedCard


class AutoTopUp(Aggregate):
    """The saved card of an account and its automatic top-ups. Only one charge runs at a time."""

    TOPIC: ClassVar[str] = "AutoTopUp"

    class Event(Aggregate.Event):
        """Base class of the events of an automatic top-up."""

    class CardSaved(Event, Created):
        """The account holder paid by card, and agreed that later top-ups may charge the card."""

        customer: str
        payment_method: str

    class CardReplaced(Event):
        """Another card was saved. Later top-ups charge this one."""

        customer: str
        payment_method: str

    class CardRemoved(Event):
        """The account holder removed the card."""

    class AutoTopUpSet(Event):
        """The account holder turned automatic top-ups on, or changed their rule."""

        threshold_micros: int
        amount_micros: int
        month_max_micros: int

    class AutoTopUpDisabled(Event):
        """Automatic top-ups are off until the account holder turns them on."""

        reason: AutoTopUpEnd

    class AutoTopUpStarted(Event):
        """The balance was below the threshold. EcoLink charges the card."""

        payment_id: UUID
        customer: str
        payment_method: str
        amount_micros: int

    class AutoTopUpEnded(Event):
        """The provider answered the charge. A failed one does not count towards the maximum."""

        payment_id: UUID
        amount_micros: int
        paid: bool

    @classmethod
    def save_first_card(cls, account_id: UUID, card: SavedCard) -> AutoTopUp:
        """Return the automatic top-ups of an account, which are off."""
        return cls._create(
            cls.CardSaved,
            id=auto_top_up_id(account_id),
            account_id=account_id,
            customer=card.customer,
            payment_method=card.payment_method,
        )

    @event(CardSaved)
    def __init__(self, account_id: UUID, customer: str, payment_method: str) -> None:
        self.account_id = account_id
        self.customer = customer
        self.card: SavedCard | None = SavedCard(customer=customer, payment_method=payment_method)
        self.rule: AutoTopUpRule | None = None
        self.enabled = False
        self.ended: AutoTopUpEnd | None = None
        self.charge: Charge | None = None
        self.month: date | None = None
        self.month_micros = 0

    def save_card(self, card: SavedCard) -> None:
        """Replace the card. The same card changes nothing."""
        if card != self.card:
            self.trigger_event(
                self.CardReplaced, customer=card.customer, payment_method=card.payment_method
            )

    @event(CardReplaced)
    def _card_replaced(self, customer: str, payment_method: str) -> None:
        self.customer = customer
        self.card = SavedCard(customer=customer, payment_method=payment_method)

    def remove_card(self) -> None:
        """Remove the card, and turn automatic top-ups off."""
        self.disable(AutoTopUpEnd.OWNER)
        if self.card is not None:
            self.trigger_event(self.CardRemoved)

    @event(CardRemoved)
    def _card_removed(self) -> None:
        self.card = None

    def set_rule(self, rule: AutoTopUpRule) -> None:
        """Turn automatic top-ups on. The same rule changes nothing while they are on.

        Raise WrongState without a card, and Invalid for amounts that are out of bounds.
        """
        if self.card is None:
            raise no_card()
        require_card_amount(rule.amount_micros)
        if rule.threshold_micros <= 0:
            raise Invalid(
                f"The threshold is {dollars(rule.threshold_micros)}. Enter an amount above 0.",
                field="threshold",
            )
        if rule.month_max_micros < rule.amount_micros:
            raise Invalid(
                f"The monthly maximum {dollars(rule.month_max_micros)} is below the amount of one "
                f"top-up, {dollars(rule.amount_micros)}. Enter a higher maximum.",
                field="month_max",
            )
        if not self.enabled or rule != self.rule:
            self.trigger_event(self.AutoTopUpSet, **rule.model_dump())

    @event(AutoTopUpSet)
    def _auto_top_up_set(
        self, threshold_micros: int, amount_micros: int, month_max_micros: int
    ) -> None:
        self.rule = AutoTopUpRule(
            threshold_micros=threshold_micros,
            amount_micros=amount_micros,
            month_max_micros=month_max_micros,
        )
        self.enabled, self.ended = True, None

    def disable(self, reason: AutoTopUpEnd) -> None:
        """Turn automatic top-ups off. Nothing happens if they are off."""
        if self.enabled:
            self.trigger_event(self.AutoTopUpDisabled, reason=reason)

    @event(AutoTopUpDisabled)
    def _auto_top_up_disabled(self, reason: AutoTopUpEnd) -> None:
        self.enabled, self.ended = False, reason

    def month_micros_at(self, now: datetime) -> int:
        """Return the month's automatic top-ups; those of a later month if a clock stepped back."""
        first_day = now.date().replace(day=1)
        return self.month_micros if self.month and self.month >= first_day else 0

    def is_month_full_at(self, now: datetime) -> bool:
        """Return True if one more top-up would exceed the maximum of the current month."""
        rule = self.rule
        return (
            rule is not None
            and self.month_micros_at(now) + rule.amount_micros > rule.month_max_micros
        )

    def due(self, balance_micros: int) -> bool:
        """Return True if a balance is to be topped up now."""
        rule = self.rule
        return (
            rule is not None
            and self.enabled
            and self.card is not None
            and self.charge is None
            and balance_micros < rule.threshold_micros
            and not self.is_month_full_at(current_cause().now)
        )

    def start(self) -> UUID:
        """Start the charge that is due. Return the ID of its payment, which no other charge has."""
        assert self.card is not None
        assert self.rule is not None
        payment_id = uuid5(self.id, f"charge:{self.version}")
        self.trigger_event(
            self.AutoTopUpStarted,
            payment_id=payment_id,
            amount_micros=self.rule.amount_micros,
            **self.card.model_dump(),
        )
        return payment_id

    @event(AutoTopUpStarted)
    def _auto_top_up_started(
        self,
        timestamp: datetime,
        payment_id: UUID,
        customer: str,
        payment_method: str,
        amount_micros: int,
    ) -> None:
        self.month_micros = self.month_micros_at(timestamp) + amount_micros
        first_day = timestamp.date().replace(day=1)
        self.month = max(self.month or first_day, first_day)
        card = SavedCard(customer=customer, payment_method=payment_method)
        self.charge = Charge(payment_id=payment_id, card=card)

    def end(self, payment_id: UUID, amount_micros: int, failure: CardFailure | None) -> None:
        """Record the provider's answer to a charge. A failure turns automatic top-ups off."""
        if self.charge is None or self.charge.payment_id != payment_id:
            return
        self.trigger_event(
            self.AutoTopUpEnded,
            payment_id=payment_id,
            amount_micros=amount_micros,
            paid=failure is None,
        )
        if failure is not None:
            self.disable(AutoTopUpEnd.of(failure))

    @event(AutoTopUpEnded)
    def _auto_top_up_ended(self, amount_micros: int, paid: bool) -> None:
        self.charge = None
        if not paid:
            self.month_micros = max(0, self.month_micros - amount_micros)


def no_card() -> WrongState:
    """Return the error of an account without a saved card."""
    return WrongState("The account has no saved card. Pay by card first, and choose to save it.")
