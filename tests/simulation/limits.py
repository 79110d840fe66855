"""Spending limits in a log, checked against its stored rows without the domain's classes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from eventsourcing.persistence import StoredEvent

LIMITS = frozenset(("JobApproved", "MaxCostChanged", "BudgetSet", "BudgetRemoved"))
APPROVALS = frozenset(("JobApproved", "JobResumed"))
CHARGES = frozenset(("MinuteMetered", "LostWorkCredited"))

Period = tuple[str, str]
"""An account or an API key, and `day`, `month` or `total`."""

LENGTHS = {"day": 10, "month": 7, "total": 0}
"""Characters of a time that identify the period."""


@dataclass
class Limits:
    """Net charges of each job, and of the periods of accounts and keys, compared with their limits.

    A maximum cost is an amount in micro-dollars. Lowered limits are not supported, because a lease
    may exceed them. A segment counts against the key that approved its job or last resumed it.
    """

    maxima: dict[str, int | None] = field(default_factory=dict)
    budgets: dict[Period, int] = field(default_factory=dict)
    of_job: Counter[str] = field(default_factory=Counter)
    of_period: Counter[Period] = field(default_factory=Counter)
    starts: dict[Period, str] = field(default_factory=dict)
    actors: dict[str, str] = field(default_factory=dict)
    """Actors of the last approval or resume, by job."""
    of_segment: dict[str, str] = field(default_factory=dict)
    """The same when the segment began, by job and segment."""
    overshoot_micros: int = 0
    """Charges beyond a maximum cost or a budget."""
    happened: Counter[str] = field(default_factory=Counter)

    def post(self, row: StoredEvent) -> None:
        if row.topic in CHARGES:
            self._charge(row.topic, json.loads(row.state))
            return
        if row.topic in APPROVALS:
            self.actors[str(row.originator_id)] = json.loads(row.state)["actor"]
        if row.topic in LIMITS:
            self._limit(row, json.loads(row.state))
        elif row.topic == "SegmentAllocated":
            job, state = str(row.originator_id), json.loads(row.state)
            self.of_segment[f"{job} {state['segment']}"] = self.actors[job]
        elif row.topic == "JobPaused":
            self.happened[f"pauses: {json.loads(row.state)['reason']}"] += 1
        elif row.topic == "BudgetUsed":
            state = json.loads(row.state)
            of_key = "" if state["key_id"] is None else " of a key"
            self.happened[f"warnings at {state['percent']}%{of_key}"] += 1

    def _limit(self, row: StoredEvent, state: dict[str, object]) -> None:
        if row.topic in ("JobApproved", "MaxCostChanged"):
            maximum = state["max_cost_micros"]
            assert maximum is None or isinstance(maximum, int)
            self.maxima[str(row.originator_id)] = maximum
            return
        key_id = state["key_id"]
        scope = str(state["account_id"]) if key_id is None else f"key:{key_id}"
        key = (scope, str(state["period"]))
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
        actor = self.of_segment[f"{job} {state['segment']}"]
        for scope in (str(state["account_id"]), actor):
            for period in LENGTHS:
                self._charge_period((scope, period), micros, str(state["timestamp"]))

    def _charge_period(self, key: Period, micros: int, timestamp: str) -> None:
        start = timestamp[: LENGTHS[key[1]]]
        if start > self.starts.get(key, ""):  # an earlier period does not reopen
            self.starts[key], self.of_period[key] = start, 0
        self.of_period[key] = max(0, self.of_period[key] + micros)
        if micros > 0 and key in self.budgets:
            overshoot = max(0, self.of_period[key] - self.budgets[key])
            self.overshoot_micros += overshoot
            of_key = " of keys" if key[0].startswith("key:") else ""
            self.happened[f"micro-dollars beyond budgets{of_key}"] += overshoot

    def forget(self, job: str, segments: int) -> None:
        """Drop an ended job."""
        self.maxima.pop(job, None)
        self.of_job.pop(job, None)
        self.actors.pop(job, None)
        for segment in range(1, segments + 1):
            self.of_segment.pop(f"{job} {segment}", None)
