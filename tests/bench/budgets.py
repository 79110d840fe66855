"""`make bench-budgets`: a million billed job-minutes under faults, with spending limits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import typer

from domain.billing.account import Account
from domain.billing.budget import BudgetName, BudgetPeriod
from domain.billing.spending import committed_micros
from domain.core.money import charge_micros
from domain.jobs.job import Job, JobStatus
from domain.jobs.lifecycle import PauseReason
from domain.training.training_plan import Order, TrainingPlan
from tests.bench.meter_truth import RATES, MeterTruth
from tests.builders.examples import estimate_at

MAX_SECONDS = (1, 12 * 3600)
"""GPU time that a maximum cost pays for."""
BUDGETS = {
    BudgetPeriod.DAY: (10**5, 10**8),
    BudgetPeriod.MONTH: (10**7, 10**9),
    BudgetPeriod.TOTAL: (10**7, 10**9),
}
"""Micro-dollars."""
KEYS = 2
"""Number of API keys of each account. Some commands come from the operator."""

OVERSHOOT = "overshoot of a limit, micro-dollars"
STUCK = "pauses that a higher limit did not end"
LEASED = "micro-dollars that keys still reserve at the end"
LIMITS = (PauseReason.MAX_COST, PauseReason.BUDGET)


@dataclass
class LimitedTruth(MeterTruth):
    """A run in which most jobs have a maximum cost, and most accounts and keys have budgets."""

    def __post_init__(self) -> None:
        self.stuck = 0
        self.keys: dict[UUID, list[UUID]] = {}
        super().__post_init__()
        for account_id in self.accounts:
            self.keys[account_id] = [self.platform.issue_key(account_id) for _ in range(KEYS)]
            for name in self.budgets_of(account_id):
                if self.chance.random() < 0.7:
                    self.raise_budget(account_id, name)

    def budgets_of(self, account_id: UUID) -> list[BudgetName]:
        """Return the budgets that an account can have."""
        of_keys = [BudgetName(period, key) for key in self.keys[account_id] for period in BUDGETS]
        return [BudgetName(BudgetPeriod.DAY), BudgetName(BudgetPeriod.MONTH), *of_keys]

    def key_of(self, account_id: UUID) -> UUID | None:
        """Return one of the keys of an account, or sometimes None."""
        return self.chance.choice([*self.keys[account_id], *self.keys[account_id], None])

    def order(self, plan: TrainingPlan) -> Order:
        """Return an order with a maximum cost, mostly."""
        if self.chance.random() < 0.2:
            return Order()
        seconds = self.chance.randint(*MAX_SECONDS)
        second = -(-plan.rate_micros_per_hour // 3600)
        return Order(max_cost_micros=max(second, charge_micros(plan.rate_micros_per_hour, seconds)))

    def use(self, account_id: UUID) -> None:
        """Act as an account holder, who also raises limits and resumes the paused jobs."""
        super().use(account_id)
        for job_id in list(self.jobs[account_id]):
            job = self.log.load(Job, job_id)
            if self.is_limited(job) and self.happens("limits raised", 0.02):
                self.raise_limits(job)
                self.continue_job(job_id)

    def resume(self, job_id: UUID, rate: int) -> None:
        """Resume a job, unless a use case would refuse it at its limit."""
        job = self.log.load(Job, job_id)
        left = job.left_of_max_cost(committed_micros(self.log, job.id, job.segment))
        if left is not None and charge_micros(rate, 1) > left:
            self.happened["resumes refused at the maximum cost"] += 1
            return
        super().resume(job_id, rate)

    def is_limited(self, job: Job) -> bool:
        """True if a limit paused the job."""
        paused = job.status is JobStatus.PAUSED
        return paused and self.platform.paused_for[job.id] in LIMITS

    def raise_limits(self, job: Job) -> None:
        """Raise or remove the maximum cost of a job and the budgets of its account."""
        if job.max_cost_micros is not None:
            more = charge_micros(RATES[1], self.chance.randint(60, MAX_SECONDS[1]))
            raised = None if self.chance.random() < 0.1 else job.max_cost_micros + more
            self.command(job.id, lambda each: each.change_max_cost(raised))
        for name in self.budgets_of(job.account_id):
            self.raise_budget(job.account_id, name)

    def raise_budget(self, account_id: UUID, name: BudgetName) -> None:
        """Set a budget above the charges and leases of its period, or raise it."""
        account = self.log.load(Account, account_id)
        known = account.budgets.get(name)
        low, high = BUDGETS[name.period]
        scope = str(account_id) if name.key_id is None else f"key:{name.key_id}"
        used = self.platform.limits.of_period[scope, str(name.period)]
        least = account.reserved_for(name.key_id) + used if known is None else known.limit_micros
        limit = least + self.chance.randint(low, high)
        self.platform.set_budget(account_id, name, limit)

    def continue_job(self, job_id: UUID) -> None:
        """Pay in and resume a paused job. Count it if it does not leave its pause."""
        account_id = self.log.load(Job, job_id).account_id
        for _ in range(3):
            self.pay_in(account_id)
        rate = self.chance.randint(*RATES)
        account = self.log.load(Account, account_id)
        if account.available_micros < charge_micros(rate, 60):
            return  # other jobs have reserved the payments
        self.command(job_id, lambda job: job.resume(estimate_at(rate), rate, "simulated", 1))
        self.stuck += self.log.load(Job, job_id).status is JobStatus.PAUSED

    def run(self, minutes: int) -> None:
        """Bill this many minutes, then end all pauses at a limit, and check all accounts."""
        while self.platform.books.billed_seconds < 60 * minutes:
            self.step()
        for job_id in [job_id for jobs in self.jobs.values() for job_id in jobs]:
            job = self.log.load(Job, job_id)
            if self.is_limited(job):
                self.raise_limits(job)
                self.continue_job(job_id)
                self.happened["pauses ended at the end"] += 1
        super().run(0)

    @property
    def errors(self) -> dict[str, int]:
        """Figures that are 0 if every bill is right and within its limits."""
        limits = self.platform.limits
        accounts = [self.log.load(Account, each) for each in self.accounts]
        leased = sum(use.reserved_micros for each in accounts for use in each.key_uses.values())
        return {
            **super().errors,
            OVERSHOOT: limits.overshoot_micros,
            STUCK: self.stuck,
            LEASED: leased,
        }


def bench(
    minutes: Annotated[int, typer.Option(min=1, help="Job-minutes to bill.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of everything that happens by chance.")] = 1,
) -> None:
    """Bill job-minutes with spending limits. Exits with 1 if a charge exceeds its limit."""
    began = time.monotonic()
    truth = LimitedTruth(seed)
    truth.run(minutes)
    platform = truth.platform
    figures = {
        "job-minutes": platform.books.billed_seconds // 60,
        "accounts": len(truth.accounts),
        "events": platform.position,
        "seconds": round(time.monotonic() - began),
        "version conflicts": platform.faults.conflicts,
        "overruns": platform.faults.overruns,
        "grace seconds": platform.faults.grace_seconds,
        **dict(sorted(platform.limits.happened.items())),
        **truth.happened,
    }
    for name, figure in (figures | truth.errors).items():
        typer.echo(f"{figure:>14,}  {name}")
    raise typer.Exit(1 if any(truth.errors.values()) else 0)


if __name__ == "__main__":
    typer.run(bench)
