"""The reserved and billed tokens of one synthesis."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.billing.token_rates import TokenRates, TokenUsage
from domain.core.aggregate import Aggregate, Created, Event
from domain.core.identity import token_meter_id


class ReserveRefusal(StrEnum):
    """Reasons why the tokens of a batch cannot be reserved."""

    BALANCE = "balance"  # the balance is too low, or the account is suspended
    BUDGET = "budget"  # a budget of the account or of the API key leaves too little


class TokenMeterEvent(Event):
    """Base class of all events of a token meter."""

    synthesis_id: UUID


class TokenMeter(Aggregate):
    """The meter of a synthesis. It bills the tokens of each batch once.

    Before a batch, the account reserves its highest price. Afterwards, the meter bills the tokens
    that were used, and releases the rest.
    """

    TOPIC: ClassVar[str] = "TokenMeter"
    Event = TokenMeterEvent

    class TokenMeterOpened(TokenMeterEvent, Created):
        """The first batch of a synthesis needs tokens, at the approved rates."""

        rates: TokenRates
        key_id: UUID | None  # API key against which the charges count

    class TokensReserved(TokenMeterEvent):
        """The account reserved the highest price of a batch."""

        batch: int
        reserved_micros: int

    class ReserveRefused(TokenMeterEvent):
        """The balance or a budget does not pay for a batch. The synthesis pauses."""

        batch: int
        reason: ReserveRefusal

    class TokensMetered(TokenMeterEvent):
        """The tokens of a batch were billed, and the rest of its reserve released.

        The numbers of tokens are those of all batches so far.
        """

        batch: int
        usage: TokenUsage
        amount_micros: int
        released_micros: int

    @classmethod
    def open(
        cls, account_id: UUID, synthesis_id: UUID, rates: TokenRates, key_id: UUID | None
    ) -> TokenMeter:
        """Open the meter of a synthesis, and return it."""
        return cls._create(
            cls.TokenMeterOpened,
            id=token_meter_id(synthesis_id),
            account_id=account_id,
            synthesis_id=synthesis_id,
            rates=rates,
            key_id=key_id,
        )

    @event(TokenMeterOpened)
    def __init__(
        self, account_id: UUID, synthesis_id: UUID, rates: TokenRates, key_id: UUID | None
    ) -> None:
        self.account_id = account_id
        self.synthesis_id = synthesis_id
        self.rates = rates
        self.key_id = key_id
        self.usage = TokenUsage()
        self.charged_micros = 0
        self.reserved_micros = 0
        self.batch = 0  # last batch that was reserved or refused
        self.refusal: ReserveRefusal | None = None  # reason of the last refusal

    def reserve(self, batch: int, micros: int) -> None:
        """Record that the account reserves the highest price of a new batch."""
        assert batch > self.batch
        assert self.reserved_micros == 0
        assert micros > 0
        self._record(self.TokensReserved, batch=batch, reserved_micros=micros)

    @event(TokensReserved)
    def _tokens_reserved(self, batch: int, reserved_micros: int) -> None:
        self.batch = batch
        self.reserved_micros = reserved_micros
        self.refusal = None

    def refuse(self, batch: int, reason: ReserveRefusal) -> None:
        """Record that the account cannot pay for a new batch."""
        assert batch > self.batch
        self._record(self.ReserveRefused, batch=batch, reason=reason)

    @event(ReserveRefused)
    def _reserve_refused(self, batch: int, reason: ReserveRefusal) -> None:
        self.batch = batch
        self.refusal = reason

    def has_open(self, batch: int) -> bool:
        """Return True if a batch is reserved and not billed yet."""
        return self.batch == batch and self.reserved_micros > 0

    def post(self, batch: int, usage: TokenUsage) -> tuple[int, int]:
        """Bill the open batch. Return the charge and the released reserve, in micro-dollars.

        `usage` are the tokens of all batches so far. Those of a batch never cost more than its
        reserve.
        """
        assert self.has_open(batch)
        charge = self.rates.charge_micros(usage) - self.rates.charge_micros(self.usage)
        released = self.reserved_micros - charge
        assert charge >= 0
        assert released >= 0
        self._record(
            self.TokensMetered,
            batch=batch,
            usage=usage,
            amount_micros=charge,
            released_micros=released,
        )
        return charge, released

    @event(TokensMetered)
    def _tokens_metered(self, usage: TokenUsage, amount_micros: int) -> None:
        self.usage = usage
        self.charged_micros += amount_micros
        self.reserved_micros = 0

    def _record(self, kind: type[TokenMeterEvent], **fields: object) -> None:
        self.trigger_event(kind, synthesis_id=self.synthesis_id, **fields)
