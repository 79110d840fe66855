"""Spending limits in a log, checked against its stored rows without the domain's classes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from eventsourcing.persistence import StoredEvent

LIMITS = frozenset(("JobApproved", "MaxCostChanged", "BudgetSet", "BudgetRemoved"))
CHARGES = frozenset(("MinuteMetered", "LostWorkCredited"))

Period = tuple[str, str]
"""An account, and `day` or `month`."""


@dataclass
class Limits:
    """Net charges of each job and of each account's periods, compared with their limits.

    A maximum cost is an amount in micro-dollars. Lowered limits are not supported, because a lease
    may exceed them.
    """

    maxima: dict[str, int | None] = field(default_factory=dict)
    budgets: dict[Period, int] = field(default_factory=dict)
    of_job: Counter[str] = field(default_factory=Counter)
    of_period: Counter[Period] = field(default_factory=Counter)
    starts: dict[Period, str] = field(default_factory=dict)
    overshoot_micros: int = 0
    """Charges beyond a maximum cost or a budget."""
    happened: Counter[str] = field(default_factory=Counter)

    def post(self, row: StoredEvent) -> None:
        if row.topic in CHARGES:
            self._charge(row.topic, json.loads(row.state))
        elif row.topic in LIMITS:
            self._limit(row, json.loads(row.state))
        elif row.topic == "JobPaused":
            self.happened[f"pauses: {json.loads(row.state)['reason']}"] += 1
        elif row.topic == "BudgetUsed":
            self.happened[f"warnings at {json.loads(row.state)['percent']}%"] += 1

    def _limit(self, row: StoredEvent, state: dict[str, object]) -> None:
        if row.topic in ("JobApproved", "MaxCostChanged"):
            maximum = state["max_cost_micros"]
            assert maximum is None or isinstance(maximum, int)
            self.maxima[str(row.originator_id)] = maximum
            return
        key = (str(state["account_id"]), str(state["period"]))
        self.budgets.pop(key, None)
        if row.topic == "BudgetSet":
            limit = state["limit_micros"]
            assert isinstance(limit, int)
            self.budgets[key] = limit

    def _charge(self, topic: str, state: dict[str, object]) -> None:
        amount, job = state["amount_micros"], str(state["job_id"])
        assert isinstance(amount, int)
        micros = amount if topic == "MinuteMetered" else -amount
        self.of_job[job] += micros
        maximum = self.maxima.get(job)
        if micros > 0 and maximum is not None:
            self.overshoot_micros += max(0, self.of_job[job] - maximum)
        timestamp = str(state["timestamp"])
        for period, length in (("day", 10), ("month", 7)):
            key, start = (str(state["account_id"]), period), timestamp[:length]
            if start > self.starts.get(key, ""):  # an earlier period does not reopen
                self.starts[key], self.of_period[key] = start, 0
            self.of_period[key] = max(0, self.of_period[key] + micros)
            if micros > 0 and key in self.budgets:
                self.overshoot_micros += max(0, self.of_period[key] - self.budgets[key])

    def forget(self, job: str) -> None:
        """Drop an ended job."""
        self.maxima.pop(job, None)
        self.of_job.pop(job, None)
