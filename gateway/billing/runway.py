"""Time that a balance pays for the running jobs."""

from __future__ import annotations

from dataclasses import dataclass

from domain.core.money import seconds_bought
from gateway.schemas import Money
from projections.open_meters import Burn


@dataclass(frozen=True)
class Runway:
    """The running jobs of an account, and how long its balance pays for them."""

    jobs: int
    rate_per_hour: Money
    """Rate of all jobs together."""
    seconds: int | None
    """None if no running job costs anything."""

    @classmethod
    def of(cls, balance_micros: int, now: Burn) -> Runway:
        """Return the runway of a balance, less the time that is used but not yet billed."""
        left = max(0, balance_micros - now.unbilled_micros)
        rate = now.rate_micros_per_hour
        return cls(now.jobs, Money.price(rate), seconds_bought(left, rate))
