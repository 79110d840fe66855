"""A limit on the charges of an account in a calendar day or month."""

from __future__ import annotations

from datetime import date
from enum import StrEnum

from domain.core.value import Value

WARNING_PERCENTS = (50, 80, 100)
"""Used parts of a budget, in percent, that EcoLink records once in each period."""


class BudgetPeriod(StrEnum):
    """Periods of a budget: calendar days or months in UTC, as on invoices."""

    DAY = "day"
    MONTH = "month"

    def first_day(self, day: date) -> date:
        """Return the first day of the period that contains a day."""
        return day.replace(day=1) if self is BudgetPeriod.MONTH else day


class Budget(Value):
    """A budget, and the charges less credits of its current period. Amounts are micro-dollars."""

    period: BudgetPeriod
    limit_micros: int
    starts_on: date  # first day of the period
    spent_micros: int = 0
    warned_percent: int = 0

    def at(self, day: date) -> Budget:
        """Return the budget on a day. A new period starts without charges.

        If a clock jumps back to an earlier period, the period stays.
        """
        first = self.period.first_day(day)
        if first <= self.starts_on:
            return self
        return self.model_copy(update={"starts_on": first, "spent_micros": 0, "warned_percent": 0})

    def charged(self, micros: int, day: date) -> Budget:
        """Return the budget after a charge. A credit is negative, and does not go below 0."""
        now = self.at(day)
        return now.model_copy(update={"spent_micros": max(0, now.spent_micros + micros)})

    @property
    def left_micros(self) -> int:
        """The rest of the budget, at least 0. Leases may reserve parts of it."""
        return max(0, self.limit_micros - self.spent_micros)

    def due_warnings(self, second_micros: int) -> list[int]:
        """Return the percentages that are reached and not recorded yet.

        100% is reached if the rest pays for less than one second, which costs `second_micros`.
        """
        used_up = self.left_micros < max(1, second_micros)
        return [
            percent
            for percent in WARNING_PERCENTS
            if percent > self.warned_percent
            and (used_up or 100 * self.spent_micros >= percent * self.limit_micros)
        ]
