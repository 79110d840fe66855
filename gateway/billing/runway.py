"""How long an account's money lasts for what it runs now."""

from __future__ import annotations

from dataclasses import dataclass

from domain.core.money import seconds_bought
from gateway.schemas import Money
from projections.open_meters import Burn


@dataclass(frozen=True)
class Runway:
    """What runs for an account, and how long its balance lasts so."""

    jobs: int
    rate_per_hour: Money
    """Of all of them together."""
    seconds: int | None
    """None: nothing runs that costs anything."""

    @classmethod
    def of(cls, balance_micros: int, now: Burn) -> Runway:
        """The runway of a balance; time that is used and not billed yet is spent already."""
        left = max(0, balance_micros - now.unbilled_micros)
        rate = now.rate_micros_per_hour
        return cls(now.jobs, Money.price(rate), seconds_bought(left, rate))
