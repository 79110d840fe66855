"""A limit on the charges of an account, or of an API key, in a day, in a month or in total."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from domain.core.value import Value

WARNING_PERCENTS = (50, 80, 100)
"""Used parts of a budget, in percent, that EcoLink records once in each period."""


class BudgetPeriod(StrEnum):
    """Periods of a budget: calendar days or months in UTC, as on invoices, or all time."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"

    def first_day(self, day: date) -> date | None:
        """Return the first day of the period that contains a day; None for all time."""
        match self:
            case BudgetPeriod.DAY:
                return day
            case BudgetPeriod.MONTH:
                return day.replace(day=1)
            case BudgetPeriod.TOTAL:
                return None


class BudgetName(NamedTuple):
    """Identity of a budget within its account."""

    period: BudgetPeriod
    key_id: UUID | None = None
    """API key whose charges the budget limits; None: those of all jobs of the account."""


class Budget(Value):
    """A budget, and the charges less credits of its current period. Amounts are micro-dollars."""

    period: BudgetPeriod
    key_id: UUID | None = None  # None: all jobs of the account
    limit_micros: int
    starts_on: date | None  # first day of the period; None: all time
    spent_micros: int = 0
    warned_percent: int = 0

    @property
    def name(self) -> BudgetName:
        """Identity of the budget within its account."""
        return BudgetName(self.period, self.key_id)

    def at(self, day: date) -> Budget:
        """Return the budget on a day. A later period starts without charges."""
        first = self.period.first_day(day)
        if first is None or self.starts_on is None or first <= self.starts_on:
            return self
        return self.model_copy(update={"starts_on": first, "spent_micros": 0, "warned_percent": 0})

    def charged(self, micros: int, day: date) -> Budget:
        """Return the budget after a charge. A credit is negative, and does not go below 0."""
        now = self.at(day)
        return now.model_copy(update={"spent_micros": spent_after((micros,), now.spent_micros)})

    @property
    def left_micros(self) -> int:
        """The rest of the budget, at least 0. Leases may reserve parts of it."""
        return max(0, self.limit_micros - self.spent_micros)

    @property
    def used_percent(self) -> int:
        """Used part of the budget in whole percent, rounded down."""
        return 100 * self.spent_micros // self.limit_micros

    @property
    def renews_on(self) -> date | None:
        """First day of the next period; None for a budget of all time."""
        if self.starts_on is None:
            return None
        longest = timedelta(days=31 if self.period is BudgetPeriod.MONTH else 1)
        return self.period.first_day(self.starts_on + longest)

    def due_warnings(self, second_micros: int) -> list[int]:
        """Return unrecorded percentages. 100% is reached if a second costs more than is left."""
        used_up = self.left_micros < max(1, second_micros)
        return [
            percent
            for percent in WARNING_PERCENTS
            if percent > self.warned_percent
            and (used_up or 100 * self.spent_micros >= percent * self.limit_micros)
        ]


def spent_after(charges: Iterable[int], spent_micros: int = 0) -> int:
    """Return what is spent after some charges. Credits, maybe of earlier periods, stop at 0."""
    for micros in charges:
        spent_micros = max(0, spent_micros + micros)
    return spent_micros
