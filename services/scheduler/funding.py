"""Reasons why a job may not launch: a suspension, its maximum cost, a budget or the balance."""

from __future__ import annotations

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.billing.spending import charged_key, committed_micros
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from domain.core.money import seconds_within
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason


class Funding:
    """Checks before a launch. Each returns the reason for a pause; None if the job may launch."""

    def __init__(self, log: EventLog, minute_seconds: int) -> None:
        self._log = log
        self._minute_seconds = minute_seconds

    def shortfall(self, job: Job) -> PauseReason | None:
        """Check a job that is queued, or whose turn has come.

        Until the last segment is settled, its lease may still release money. In that case, the
        first lease of the next segment decides.
        """
        account = self._log.load(Account, job.account_id)
        if account.suspension is not None:
            return PauseReason.SUSPENDED
        if job.left_seconds == 0:
            reason = PauseReason.OVERRUN
        elif self._reaches_max_cost(job, seconds=1):
            reason = PauseReason.MAX_COST
        elif self._reaches_budget(account, job, seconds=1):
            reason = PauseReason.BUDGET
        elif not account.can_pay(self._launch_micros(job)):
            reason = PauseReason.BALANCE
        else:
            return None
        return reason if job.segment == 0 or self._is_settled(job) else None

    def shortfall_after_lease(self, job: Job, ran_seconds: int | None) -> PauseReason | None:
        """Check a job whose running segment has used its lease.

        The rest of the lease after `ran_seconds` counts as available. None means the whole lease is
        used. The guarantee's time, the maximum cost and the budgets must leave one metered minute,
        so that a job does not relaunch for a few seconds. The account must be able to pay for a
        first launch, because the ticker may not have marked it as depleted yet.
        """
        account = self._log.load(Account, job.account_id)
        if account.suspension is not None:
            return PauseReason.SUSPENDED
        meter = self._log.find(Meter, meter_id(job.id, job.segment))
        unused_micros = 0
        if meter is not None:
            used, left = meter.paid_seconds, job.left_seconds
            if ran_seconds is not None:
                used = min(used, ran_seconds)
            unused_micros = meter.charge_between(used, meter.paid_seconds)
            if left is not None and left - used < self._minute_seconds:
                return PauseReason.OVERRUN
        if self._reaches_max_cost(job, self._minute_seconds, unused_micros):
            return PauseReason.MAX_COST
        if self._reaches_budget(account, job, self._minute_seconds, unused_micros):
            return PauseReason.BUDGET
        needed = self._launch_micros(job, unused_micros)
        can_pay = account.can_pay(needed, released_micros=unused_micros)
        return None if can_pay else PauseReason.BALANCE

    def refused_lease(self, job: Job) -> PauseReason:
        """Return the reason why billing refused the first lease of the running segment."""
        account = self._log.load(Account, job.account_id)
        if account.suspension is not None:
            return PauseReason.SUSPENDED
        if job.left_seconds == 0:
            return PauseReason.OVERRUN
        if self._reaches_max_cost(job, seconds=1):
            return PauseReason.MAX_COST
        exhausted = self._reaches_budget(account, job, seconds=1)
        return PauseReason.BUDGET if exhausted else PauseReason.BALANCE

    def _reaches_max_cost(self, job: Job, seconds: int, unused_micros: int = 0) -> bool:
        """Return True if the maximum cost leaves less than some seconds."""
        left = self._left_of_max_cost(job, unused_micros)
        bought = None if left is None else seconds_within(left, job.rate_micros_per_hour)
        return bought is not None and bought < seconds

    def _reaches_budget(
        self, account: Account, job: Job, seconds: int, unused_micros: int = 0
    ) -> bool:
        """Return True if the charges and leases leave less than some seconds of a budget.

        No budget limits a job whose guarantee covers the next second.
        """
        left = self._left_of_guarantee(job, unused_micros)
        if left is not None and _buys_less(left, job, seconds=1):
            return False
        keys = (None, charged_key(self._log, account, job.key_id))
        return any(
            left is not None and _buys_less(left + unused_micros, job, seconds)
            for left in map(account.budget_left_micros, keys)
        )

    def _left_of_max_cost(self, job: Job, unused_micros: int) -> int | None:
        if not job.pauses_at_max_cost:
            return None
        return job.left_of_max_cost(self._committed_micros(job) - unused_micros)

    def _left_of_guarantee(self, job: Job, unused_micros: int) -> int | None:
        if job.guarantee is None:
            return None
        return job.left_of_guarantee(self._committed_micros(job) - unused_micros)

    def _committed_micros(self, job: Job) -> int:
        return committed_micros(self._log, job.id, job.segment)

    def _launch_micros(self, job: Job, unused_micros: int = 0) -> int:
        """Return the balance that a launch requires.

        It is at most the rest of the maximum cost, and 0 if the guarantee covers the launch.
        """
        needed = job.launch_micros(self._minute_seconds)
        for left in (
            self._left_of_max_cost(job, unused_micros),
            self._left_of_guarantee(job, unused_micros),
        ):
            needed = needed if left is None else min(needed, left)
        return needed

    def _is_settled(self, job: Job) -> bool:
        last = self._log.find(Meter, meter_id(job.id, job.segment))
        return last is not None and last.closed


def _buys_less(micros: int, job: Job, seconds: int) -> bool:
    bought = seconds_within(max(0, micros), job.rate_micros_per_hour)
    return bought is not None and bought < seconds
