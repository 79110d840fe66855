"""How long an account's money lasts for what it runs now."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from domain.money import seconds_bought
from gateway.answers import Money
from gateway.backend import Backend
from projections.open_meters import burn


@dataclass(frozen=True)
class Runway:
    """What runs for an account, and how long its balance lasts so."""

    jobs: int
    rate_per_hour: Money
    """Of all of them together."""
    seconds: int | None
    """None: nothing runs that costs anything."""


def runway_of(backend: Backend, account_id: UUID, balance_micros: int) -> Runway:
    """The runway of a balance; time that is used and not billed yet is spent already."""
    with backend.pool.connection() as connection:
        now = burn(connection, account_id)
    left = max(0, balance_micros - now.unbilled_micros)
    return Runway(
        now.jobs,
        Money.of(now.rate_micros_per_hour),
        seconds_bought(left, now.rate_micros_per_hour),
    )
