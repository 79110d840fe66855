"""The charges for tokens of syntheses, calculated from stored events alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from domain.core.identity import token_meter_id
from domain.core.value import Value
from extensions.invoices.domain.money_events import (
    Entry,
    Inconsistent,
    Rates,
    SynthesisApproved,
    TokenMeterOpened,
    TokensMetered,
    Usage,
)

MILLION = 1_000_000


class Times(Protocol):
    """A period of time."""

    def __contains__(self, moment: datetime) -> bool: ...


class TokenLine(Value):
    """The charges for the tokens of one synthesis. Rates are per million tokens."""

    synthesis_id: UUID
    prompt_micros: int
    completion_micros: int
    prompt_tokens: int
    completion_tokens: int
    amount_micros: int


@dataclass
class TokenCharges:
    """The checked events of the token meter of one synthesis.

    `before` are the tokens that were charged before each batch.
    """

    opened: TokenMeterOpened
    opened_by: int  # notification id
    batches: list[tuple[Usage, TokensMetered]] = field(
        default_factory=list[tuple[Usage, TokensMetered]]
    )

    def in_period(self, period: Times) -> list[tuple[Usage, TokensMetered]]:
        """Return the batches of a period."""
        return [each for each in self.batches if each[1].timestamp in period]

    def captured(self, period: Times) -> Counter[str]:
        """Return the micro-dollars of a period by command."""
        found = Counter[str]()
        for _, batch in self.in_period(period):
            found[batch.command_id] += batch.amount_micros
        return found

    def line(self, period: Times) -> TokenLine | None:
        """Return the line of an invoice, or None without charges in its period."""
        batches = self.in_period(period)
        if not batches:
            return None
        before, last = batches[0][0], batches[-1][1].usage
        return TokenLine(
            synthesis_id=self.opened.synthesis_id,
            prompt_micros=self.opened.rates.prompt_micros,
            completion_micros=self.opened.rates.completion_micros,
            prompt_tokens=last.prompt_tokens - before.prompt_tokens,
            completion_tokens=last.completion_tokens - before.completion_tokens,
            amount_micros=sum(batch.amount_micros for _, batch in batches),
        )


def token_charges(id: UUID, opened: TokenMeterOpened, entries: Sequence[Entry]) -> TokenCharges:
    """Check that each batch costs what the rates say. Raise Inconsistent otherwise."""
    if id != token_meter_id(opened.synthesis_id):
        raise Inconsistent(f"{id} is not the meter of synthesis {opened.synthesis_id}.")
    charges = TokenCharges(opened, entries[0].row.notification_id)
    before = Usage(prompt_tokens=0, completion_tokens=0)
    for row, event in entries[1:]:
        if not isinstance(event, TokensMetered):
            continue
        name = f"Event {row.notification_id} ({row.topic})"
        if event.synthesis_id != opened.synthesis_id:
            raise Inconsistent(f"{name} is of another synthesis than its meter.")
        price = _charge(opened.rates, event.usage) - _charge(opened.rates, before)
        if event.amount_micros != price:
            raise Inconsistent(
                f"{name} is of {event.amount_micros} micro-dollars. Its tokens cost {price}."
            )
        charges.batches.append((before, event))
        before = event.usage
    return charges


def require_approved_rates(opened: TokenMeterOpened, approved: SynthesisApproved | None) -> None:
    """Raise Inconsistent unless a meter has the rates that were approved."""
    if approved is None:
        raise Inconsistent(f"The event that approved synthesis {opened.synthesis_id} is missing.")
    if approved.plan.rates != opened.rates:
        raise Inconsistent(
            f"The meter of synthesis {opened.synthesis_id} charges other rates than those that the "
            "account holder approved."
        )


def lines_of(charges: Iterable[TokenCharges], period: Times) -> tuple[TokenLine, ...]:
    """Return the lines of a period, in the order in which the meters were opened."""
    ordered = sorted(charges, key=lambda each: each.opened_by)
    return tuple(line for each in ordered if (line := each.line(period)) is not None)


def _charge(rates: Rates, usage: Usage) -> int:
    """Return a cumulative charge in micro-dollars, rounded half up."""
    scaled = (
        rates.prompt_micros * usage.prompt_tokens
        + rates.completion_micros * usage.completion_tokens
    )
    return (2 * scaled + MILLION) // (2 * MILLION)
