"""Checks of maximum costs and budgets before an approval or a resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from uuid import UUID

from domain.access.api_key import PREFIX, ApiKey
from domain.billing.account import Account
from domain.billing.budget import Budget, BudgetPeriod
from domain.billing.spending import charged_key, committed_micros
from domain.core.errors import SpendingLimitReached
from domain.core.event_log import EventLog
from domain.core.money import Toward, dollars, exact_dollars, price_micros, seconds_within
from domain.estimating.estimate import Estimate
from domain.jobs.job import Job

NEARLY_USED_PERCENT = 80

ADJECTIVES = {BudgetPeriod.DAY: "daily", BudgetPeriod.MONTH: "monthly", BudgetPeriod.TOTAL: "total"}


@dataclass(frozen=True)
class CostRange:
    """The lowest and the highest cost of a job in micro-dollars, within its maximum cost."""

    low_micros: int
    high_micros: int
    rate_micros_per_hour: int
    capped: bool
    """True if the maximum cost leaves less than the upper bound of the estimate."""

    @classmethod
    def of(cls, estimate: Estimate, most_micros: int | None = None) -> CostRange:
        """Return the range of an estimate. `most_micros` is what the maximum cost leaves."""
        low, high = estimate.low_micros, estimate.high_micros
        capped = most_micros is not None and most_micros < high
        if most_micros is not None:
            low, high = min(low, most_micros), min(high, most_micros)
        return cls(low, high, estimate.rate_micros_per_hour, capped)


class Outlook(StrEnum):
    """The effect of a budget on a job that is not approved yet."""

    USED_UP = "used_up"  # the job cannot start
    REACHED = "reached"  # the job pauses at the budget
    POSSIBLE = "possible"  # the job pauses at the budget if it costs its upper bound
    NEARLY_USED = "nearly_used"  # the job fits, but other jobs have used most of the budget


@dataclass(frozen=True)
class BudgetNotice:
    """A budget that a job may reach, or that is nearly used, and a sentence about it."""

    budget: Budget
    outlook: Outlook
    text: str


class SpendingLimits:
    """The maximum costs of jobs, and the budgets of accounts and API keys."""

    def __init__(self, log: EventLog, minute_seconds: int) -> None:
        self._log = log
        self._minute_seconds = minute_seconds

    def require_left_of_max_cost(self, job: Job, rate_micros_per_hour: int) -> int | None:
        """Return the micro-dollars that the maximum cost of a job leaves; None without one.

        Raise SpendingLimitReached if they pay for less than a second at a rate.
        """
        spent = committed_micros(self._log, job.id, job.segment)
        left = job.left_of_max_cost(spent)
        if left is None or seconds_within(left, rate_micros_per_hour) != 0:
            return left
        assert job.max_cost_micros is not None
        raise SpendingLimitReached(
            f"The job has cost {dollars(spent)} of at most {exact_dollars(job.max_cost_micros)}, "
            "which leaves less than a second of GPU time. Raise or remove the maximum cost first.",
            figures={"spent_micros": spent, "max_cost_micros": job.max_cost_micros},
        )

    def require_left_of_budgets(
        self, account_id: UUID, key_id: UUID | None, cost: CostRange, today: date
    ) -> None:
        """Raise SpendingLimitReached if a budget leaves less than a job needs to start.

        A job needs the price of one metered minute, or its upper bound if that is lower. The
        budgets are those of the account and of the API key that approves or resumes the job.
        `today` is the UTC day. Leases count as unspent, because a running job either uses or
        returns them.
        """
        for notice in self.notices(account_id, key_id, cost, today):
            if notice.outlook is Outlook.USED_UP:
                budget = notice.budget
                raise SpendingLimitReached(
                    notice.text,
                    figures={
                        "period": budget.period.value,
                        "key_id": None if budget.key_id is None else str(budget.key_id),
                        "spent_micros": budget.spent_micros,
                        "limit_micros": budget.limit_micros,
                        "needed_micros": self._needed_micros(cost),
                    },
                )

    def notices(
        self, account_id: UUID, key_id: UUID | None, cost: CostRange, today: date
    ) -> Iterator[BudgetNotice]:
        """Yield the budgets that a job reaches or may reach, and those that are nearly used."""
        account = self._log.load(Account, account_id)
        for budget in account.budgets_of(charged_key(self._log, account, key_id), today):
            if (outlook := self._outlook(budget, cost)) is not None:
                yield BudgetNotice(budget, outlook, self._text(budget, outlook, cost))

    def _outlook(self, budget: Budget, cost: CostRange) -> Outlook | None:
        left = budget.left_micros
        if left < self._needed_micros(cost):
            return Outlook.USED_UP
        if left < cost.low_micros:
            return Outlook.REACHED
        if left < cost.high_micros:
            return Outlook.POSSIBLE
        return Outlook.NEARLY_USED if budget.used_percent >= NEARLY_USED_PERCENT else None

    def _needed_micros(self, cost: CostRange) -> int:
        minute = price_micros(cost.rate_micros_per_hour, self._minute_seconds)
        return min(minute, max(1, cost.high_micros))

    def _text(self, budget: Budget, outlook: Outlook, cost: CostRange) -> str:
        left = dollars(budget.left_micros, Toward.DOWN)
        named = f"The {self._title(budget)} has {left} left"
        renews = "" if budget.renews_on is None else f"on {budget.renews_on} (UTC)"
        unless = f", unless the budget renews before, {renews}" if renews else ""
        match outlook:
            case Outlook.USED_UP:
                wait = f", or wait until it renews {renews}" if renews else ""
                return (
                    f"{named}, but the job needs {dollars(self._needed_micros(cost), Toward.UP)} "
                    f"to start. Raise or remove the budget{wait}."
                )
            case Outlook.REACHED:
                return (
                    f"{named}, but the job costs at least {dollars(cost.low_micros)}. The job will "
                    f"pause at {left}{unless}. You can then raise the budget and resume the job."
                )
            case Outlook.POSSIBLE:
                return (
                    f"{named}, but the job can cost {dollars(cost.high_micros, Toward.UP)}. The "
                    f"job will pause if its cost reaches {left}{unless}. You can then raise the "
                    "budget and resume the job."
                )
            case Outlook.NEARLY_USED:
                return (
                    f"{named} and is {budget.used_percent}% used. The job will pause if other jobs "
                    f"use the rest{unless}."
                )

    def _title(self, budget: Budget) -> str:
        """Return a name such as `daily budget of $4.00 for the API key eco_…x7Qa`."""
        title = f"{ADJECTIVES[budget.period]} budget of {dollars(budget.limit_micros)}"
        if budget.key_id is None:
            return title
        return f"{title} for the API key {PREFIX}…{self._log.load(ApiKey, budget.key_id).hint}"
