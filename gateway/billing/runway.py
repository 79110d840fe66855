"""Runway: how long a balance covers the running jobs."""

from __future__ import annotations

from dataclasses import dataclass

from domain.core.money import seconds_bought
from gateway.schemas import Money
from projections.open_meters import Burn


@dataclass(frozen=True)
class Runway:
    """The running jobs of an account, and how long its balance covers them."""

    jobs: int
    rate_per_hour: Money
    """Combined rate of all running jobs."""
    seconds: int | None
    """None if the running jobs cost nothing."""

    @classmethod
    def of(cls, balance_micros: int, now: Burn) -> Runway:
        """Return the runway of a balance. Usage that is not yet billed is subtracted first."""
        left = max(0, balance_micros - now.unbilled_micros)
        rate = now.rate_micros_per_hour
        return cls(now.jobs, Money.price(rate), seconds_bought(left, rate))
