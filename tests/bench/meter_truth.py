"""`make bench-meter-truth`: compare a million billed job-minutes under faults with an oracle."""

from __future__ import annotations

import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Annotated
from uuid import UUID

import typer

from domain.billing.account import Account
from domain.core.errors import WrongState
from domain.core.identity import meter_id
from domain.jobs.job import Job, JobStatus
from domain.jobs.lifecycle import SegmentEnd
from domain.training.training_plan import Order, TrainingPlan
from tests.builders.examples import PLAN, POLICY, estimate_at
from tests.simulation.memory_log import MemoryLog
from tests.simulation.platform import PAID_BY_PLATFORM, PAID_BY_USER, SimulatedPlatform
from tests.simulation.trainer import SimulatedTrainer

RETENTION = timedelta(days=30)

ACCOUNTS, JOBS_OF_ACCOUNT = 200, 4
ACCOUNTS_OF_REGION, GPUS_OF_REGION = 4, 16
CACHED_AGGREGATES = 20_000

DIFFERENCE = "difference from the oracle, micro-dollars"
STEP_SECONDS = (20, 240)
WORK_SECONDS = (600, 24 * 3600)
RATES = (400_000, 12_000_000)  # micro-dollars per hour
PAYMENTS = (50_000, 60_000_000)  # micro-dollars


@dataclass
class MeterTruth:
    """A run: the platform, random events on it, and counts."""

    seed: int
    account_count: int = ACCOUNTS
    chance: random.Random = field(init=False)
    platform: SimulatedPlatform = field(init=False)
    log: MemoryLog = field(init=False)
    accounts: list[UUID] = field(default_factory=list)
    jobs: dict[UUID, list[UUID]] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    difference_micros: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.log = MemoryLog(CACHED_AGGREGATES)
        self.platform = SimulatedPlatform(self.log, POLICY)
        for number in range(-(-self.account_count // ACCOUNTS_OF_REGION)):
            self.platform.open_pool(f"region-{number}", GPUS_OF_REGION)
        for number in range(self.account_count):
            account_id = self.platform.open_account(f"account-{number}")
            self.accounts.append(account_id)
            self.jobs[account_id] = []
            self.pay_in(account_id)

    def run(self, minutes: int) -> None:
        """Continue until this many minutes are billed, then end everything and check all
        accounts."""
        while self.platform.books.billed_seconds < 60 * minutes:
            self.step()
        for job_id in [job_id for jobs in self.jobs.values() for job_id in jobs]:
            self.command(job_id, lambda job: job.cancel(RETENTION))
        self.platform.end_finished()
        self.forget_finished()
        for account_id in self.accounts:
            self.difference_micros += self.platform.difference(account_id)
            self.difference_micros += self.refold(account_id)

    def step(self) -> None:
        self.let_clocks_fail()
        outage = self.happens("ticker outages", 0.01)
        self.platform.pass_time(600 if outage else self.chance.randint(*STEP_SECONDS))
        for trainer in list(self.platform.trainers.values()):
            self.let_trainer_live(trainer)
        for account_id in self.accounts:
            if not outage:
                self.tick(account_id)
            self.use(account_id)
        self.platform.end_finished(self.chance.randint(0, 30))
        self.forget_finished()
        for account_id in self.chance.sample(self.accounts, min(20, len(self.accounts))):
            self.difference_micros += self.platform.difference(account_id)

    def let_clocks_fail(self) -> None:
        """Let the platform's clock jump by up to five minutes, and correct it later."""
        if self.happens("clock jumps", 0.05):
            self.platform.clock_jump = self.chance.randint(-300, 300)
        elif self.chance.random() < 0.3:
            self.platform.clock_jump = 0

    def let_trainer_live(self, trainer: SimulatedTrainer) -> None:
        """Send heartbeats in time, late or wrong; save checkpoints; crash."""
        if trainer.length > WORK_SECONDS[1]:  # launched since the last step
            trainer.length = self.chance.randint(*WORK_SECONDS)
        if self.happens("wrong reports", 0.002):
            trainer.error = self.chance.randint(-300, 300)
        if self.happens("leases unheard", 0.001):
            trainer.is_deaf = True
        if self.happens("last steps beyond the grace", 0.01):
            trainer.overruns = True
        if not self.happens("late heartbeats", 0.1):
            trainer.report()
        if self.happens("checkpoints", 0.05):
            self.platform.save_checkpoint(trainer)
        if self.happens("crashes", 0.002):
            if self.chance.random() < 0.5:
                self.platform.lose(trainer, self.chance.choice(PAID_BY_PLATFORM))
            else:
                failure = self.chance.choice(PAID_BY_USER)
                self.platform.end(trainer, SegmentEnd.CRASHED, failure=failure)

    def tick(self, account_id: UUID) -> None:
        """Tick, sometimes with another ticker, a payment or an ending in between."""
        meanwhile: Callable[[], object] | None = None
        if self.happens("two tickers at once", 0.02):
            meanwhile = partial(self.platform.tick, account_id)
        elif self.happens("payments during a tick", 0.01):
            meanwhile = partial(self.pay_in, account_id)
        elif self.happens("endings during a tick", 0.01):
            meanwhile = self.platform.end_finished
        self.platform.tick(account_id, meanwhile)

    def use(self, account_id: UUID) -> None:
        """Act as an account holder: pay, start jobs, pause, resume and cancel them."""
        jobs = self.jobs[account_id]
        if self.happens("payments", 0.01):
            self.pay_in(account_id)
        if len(jobs) < JOBS_OF_ACCOUNT:
            self.approve(account_id)
        if not jobs or self.chance.random() > 0.05:
            return
        job_id = self.chance.choice(jobs)
        status = self.log.load(Job, job_id).status
        if status is JobStatus.PAUSED:
            rate = self.chance.randint(*RATES)
            self.resume(job_id, rate)
        elif self.happens("pauses", 0.3):
            self.command(job_id, lambda job: job.pause())
        elif self.happens("cancels", 0.1):
            self.command(job_id, lambda job: job.cancel(RETENTION))

    def pay_in(self, account_id: UUID) -> None:
        self.happened["all payments"] += 1
        reference = f"payment {self.happened['all payments']}"
        self.platform.top_up(account_id, self.chance.randint(*PAYMENTS), reference)

    def approve(self, account_id: UUID) -> None:
        self.happened["jobs"] += 1
        number = self.accounts.index(account_id) // ACCOUNTS_OF_REGION
        plan = PLAN.model_copy(
            update={
                "region": f"region-{number}",
                "gpu_type": "gpu",
                "gpu_count": self.chance.choice([1, 1, 1, 2]),
                "rate_micros_per_hour": self.chance.randint(*RATES),
            }
        )
        name = f"job {self.happened['jobs']}"
        job_id = self.platform.approve(
            account_id, name, plan, self.order(plan), self.key_of(account_id)
        )
        self.jobs[account_id].append(job_id)

    def order(self, plan: TrainingPlan) -> Order:
        """Return an order without a maximum cost."""
        del plan
        return Order()

    def key_of(self, account_id: UUID) -> UUID | None:
        """Return the API key that acts for an account; None stands for its operator."""
        del account_id
        return None

    def resume(self, job_id: UUID, rate: int) -> None:
        """Resume a paused job at a rate."""
        self.happened["resumes"] += 1
        self.command(job_id, lambda job: job.resume(estimate_at(rate), rate, "simulated", 1))

    def command(self, job_id: UUID, command: Callable[[Job], None]) -> None:
        """Run a command, if the job's state allows it."""
        key_id = self.key_of(self.log.load(Job, job_id).account_id)
        with suppress(WrongState):
            self.platform.command_job(job_id, command, key_id)

    def forget_finished(self) -> None:
        """Drop the streams of ended jobs, so that memory stays bounded."""
        self.log.memory.drop_notifications(self.platform.position)
        for job_id, segments in self.platform.finished:
            job = self.log.load(Job, job_id)
            self.jobs[job.account_id].remove(job_id)
            self.platform.forget(job)
            self.log.memory.drop_stream(job_id)
            for segment in range(1, segments + 1):
                self.log.memory.drop_stream(meter_id(job_id, segment))
        self.platform.finished.clear()

    def refold(self, account_id: UUID) -> int:
        """Micro-dollars between a cached account and the fold of all its events.

        If only another part of the state differs, return 1.
        """
        folded: Account | None = None
        for each in self.log.events.get(account_id):
            folded = each.mutate(folded)  # type: ignore[attr-defined]
        cached = self.log.load(Account, account_id)
        assert folded is not None
        self.happened["accounts depleted at the end"] += folded.depleted
        difference = abs(folded.balance_micros - cached.balance_micros)
        difference += abs(folded.reserved_micros - cached.reserved_micros)
        return difference or int(folded != cached)

    @property
    def errors(self) -> dict[str, int]:
        """Figures that are 0 if every bill is right."""
        faults, books = self.platform.faults, self.platform.books
        return {
            DIFFERENCE: self.difference_micros + faults.difference_micros,
            "unpaid seconds": faults.unpaid_seconds,
            "times a balance was below zero": faults.below_zero,
            "seconds billed twice": books.billed_twice,
            "seconds billed that never passed": faults.overbilled_seconds,
        }

    def happens(self, what: str, probability: float) -> bool:
        """Return True with a probability, and count it."""
        happens = self.chance.random() < probability
        self.happened[what] += happens
        return happens


def bench(
    minutes: Annotated[int, typer.Option(min=1, help="Job-minutes to bill.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of everything that happens by chance.")] = 1,
) -> None:
    """Bill job-minutes in simulated time with faults. Exits with 1 if a micro-dollar is wrong."""
    began = time.monotonic()
    truth = MeterTruth(seed)
    truth.run(minutes)
    seconds = time.monotonic() - began
    platform, faults = truth.platform, truth.platform.faults
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {
        "job-minutes": platform.books.billed_seconds // 60,
        "minutes posted": platform.books.minutes,
        "accounts": len(truth.accounts),
        "events": platform.position,
        "events per second": round(platform.position / seconds),
        "seconds": round(seconds),
        "memory, MiB": round(memory_mib),
        "version conflicts": faults.conflicts,
        "overruns": faults.overruns,
        "grace seconds": faults.grace_seconds,
        "seconds that wrong clocks kept from the bill": faults.unbilled_seconds,
        **truth.happened,
    }
    for name, figure in (figures | truth.errors).items():
        typer.echo(f"{figure:>14,}  {name}")
    raise typer.Exit(1 if any(truth.errors.values()) else 0)


if __name__ == "__main__":
    typer.run(bench)
