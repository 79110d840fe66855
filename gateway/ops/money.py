"""Revenue, payments and credits of the whole platform by day, and the accuracy of estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, timedelta

from gateway.backend import Backend
from gateway.schemas import Money
from projections.billing_ledger import platform_days
from projections.estimate_accuracy import Summary, summary
from projections.job_detail import PoolOverruns, overruns_by_pool
from projections.projection import Row

COLUMNS = (
    *("payments", "test_payments", "credits", "charges", "covered", "reversals", "returns"),
    "losses",
)

OVERRUN_JOBS = 20
"""Newest ended jobs of each pool whose overruns the page shows."""


@dataclass(frozen=True)
class MoneyDay:
    """The money that moved on a day in UTC, or in total."""

    day: date | None
    """None for the total."""
    payments: Money
    test_payments: Money
    credits: Money
    charges: Money
    covered: Money
    """Charges at list prices that the price guarantees of jobs cover."""
    reversals: Money
    """Charges that EcoLink credited back."""
    returns: Money
    """Refunds and disputed payments, less those that EcoLink got back."""
    losses: Money
    """Returns that no balance covered."""

    @property
    def revenue(self) -> Money:
        """Charges minus reversals."""
        return Money.of(self.charges.micros - self.reversals.micros)

    @property
    def is_empty(self) -> bool:
        return not any(getattr(self, name).micros for name in COLUMNS)


@dataclass(frozen=True)
class PlatformMoney:
    """The days of a period, newest first, without days on which no money moved."""

    first: date
    last: date
    days: list[MoneyDay]
    total: MoneyDay
    estimates: Summary | None
    """None if no job with an estimate has ended."""
    overruns: list[PoolOverruns]
    """Pools with ended jobs."""


def platform_money(backend: Backend, count: int) -> PlatformMoney:
    """Return the money of the last `count` days in UTC, and the accuracy of all estimates."""
    last = backend.clock.now().astimezone(UTC).date()
    first = last - timedelta(days=count - 1)
    with backend.pool.connection() as connection:
        rows = platform_days(connection, first, last)
        accuracy, overruns = summary(connection), overruns_by_pool(connection, OVERRUN_JOBS)
    days = [_day(row["day"], [row]) for row in reversed(rows)]
    moved = [each for each in days if not each.is_empty]
    return PlatformMoney(first, last, moved, _day(None, rows), accuracy, overruns)


def _day(day: date | None, rows: Sequence[Row]) -> MoneyDay:
    return MoneyDay(day, *(Money.of(sum(row[name] for row in rows)) for name in COLUMNS))
