"""Account, Meter, GpuPool and Job driven together at random, against an oracle that knows none.

What runs is the real domain with the real reactions of scheduler and billing; trainers, clocks and
what reaches billing are simulated, and go wrong.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from functools import partial
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from deploy.bench.simulated_platform import (
    PAID_BY_PLATFORM,
    PAID_BY_USER,
    SimulatedPlatform,
)
from deploy.bench.simulated_trainer import SimulatedTrainer
from domain.errors import WrongState
from domain.event_log import EventLog
from domain.gpu_pool import GpuPool
from domain.identity import gpu_pool_id
from domain.job import Job, SegmentEnd
from services.billing.settlement import LeasePolicy
from tests.domain.examples import PLAN

POLICY = LeasePolicy(minute_seconds=60, lease_seconds=300, extension_seconds=60)
REGION, CAPACITY = "local", 3
RETENTION = timedelta(days=30)

indices = st.integers(0, 7)
gpus = st.integers(1, 2)
rates = st.one_of(st.integers(1, 10_000), st.integers(1_000_000, 20_000_000))
"""Micro-dollars per hour: those whose seconds round to nothing, and those of real GPUs."""


class MoneyMachine(RuleBasedStateMachine):
    """Two accounts, a few jobs, three GPUs; each rule is something that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.platform = SimulatedPlatform(EventLog(), POLICY)
        self.accounts: list[UUID] = []
        self.jobs: list[UUID] = []
        self.payments = 0

    @initialize(
        balances=st.lists(st.integers(1, 2_000_000), min_size=2, max_size=2),
        jobs=st.lists(st.tuples(gpus, rates), min_size=2, max_size=5),
    )
    def open(self, balances: list[int], jobs: list[tuple[int, int]]) -> None:
        self.platform.open_pool(REGION, CAPACITY)
        for number, balance in enumerate(balances):
            self.accounts.append(self.platform.open_account(f"account {number}"))
            self.pay_in(number, balance)
        for number, (count, rate) in enumerate(jobs):
            self.approve(number, count, rate)

    # What people do

    @rule(number=indices, amount=st.integers(1, 1_000_000))
    def pay_in(self, number: int, amount: int) -> None:
        self.payments += 1
        self.platform.top_up(self.account(number), amount, f"payment {self.payments}")

    @rule(number=indices, count=gpus, rate=rates)
    def approve(self, number: int, count: int, rate: int) -> None:
        plan = PLAN.model_copy(
            update={
                **{"region": REGION, "gpu_type": "gpu"},
                **{"gpu_count": count, "rate_micros_per_hour": rate},
            }
        )
        name = f"job {len(self.jobs)}"
        self.jobs.append(self.platform.approve(self.account(number), name, plan))

    @rule(number=indices)
    def pause(self, number: int) -> None:
        self.command(number, lambda job: job.pause())

    @rule(number=indices, rate=rates)
    def resume(self, number: int, rate: int) -> None:
        self.command(number, lambda job: job.resume(None, rate, "test"))

    @rule(number=indices)
    def cancel(self, number: int) -> None:
        self.command(number, lambda job: job.cancel(RETENTION))

    # What time and trainers do

    @rule(seconds=st.integers(1, 400))
    def pass_time(self, seconds: int) -> None:
        self.platform.pass_time(seconds)

    @rule(grace=st.integers(0, 30))
    def end_finished(self, grace: int) -> None:
        self.platform.end_finished(grace)

    @rule()
    def report(self) -> None:
        for trainer in self.platform.trainers.values():
            trainer.report()

    @rule(number=indices)
    def save_checkpoint(self, number: int) -> None:
        if trainer := self.trainer(number):
            self.platform.save_checkpoint(trainer)

    @rule(number=indices)
    def finish(self, number: int) -> None:
        if trainer := self.trainer(number):
            trainer.length = trainer.ran

    # What billing does

    @rule(number=indices)
    def tick(self, number: int) -> None:
        self.platform.tick(self.account(number))

    @rule(seconds=st.lists(st.integers(1, 70), min_size=1, max_size=12))
    def go_well(self, seconds: list[int]) -> None:
        """A while in which heartbeats arrive and ticks come."""
        for each in seconds:
            self.platform.pass_time(each)
            self.report()
            for account_id in self.accounts:
                self.platform.tick(account_id)
        self.platform.end_finished()

    # What goes wrong

    @rule(number=indices)
    def two_tickers(self, number: int) -> None:
        account_id = self.account(number)
        self.platform.tick(account_id, partial(self.platform.tick, account_id))

    @rule(number=indices, amount=st.integers(1, 1_000_000))
    def pay_in_during_a_tick(self, number: int, amount: int) -> None:
        self.platform.tick(self.account(number), lambda: self.pay_in(number, amount))

    @rule(number=indices)
    def end_during_a_tick(self, number: int) -> None:
        self.platform.tick(self.account(number), self.platform.end_finished)

    @rule()
    def ticker_outage(self) -> None:
        self.platform.pass_time(600)
        self.report()

    @rule(seconds=st.integers(-300, 300))
    def clock_jumps(self, seconds: int) -> None:
        self.platform.clock_jump = seconds

    @rule(number=indices, seconds=st.integers(-300, 300))
    def report_is_wrong(self, number: int, seconds: int) -> None:
        if trainer := self.trainer(number):
            trainer.error = seconds

    @rule(number=indices)
    def lease_is_not_heard(self, number: int) -> None:
        if trainer := self.trainer(number):
            trainer.is_deaf = True

    @rule(number=indices, failure=st.sampled_from([*PAID_BY_PLATFORM, *PAID_BY_USER]))
    def crash(self, number: int, failure: object) -> None:
        if trainer := self.trainer(number):
            self.platform.end(trainer, SegmentEnd.CRASHED, failure)  # type: ignore[arg-type]

    # What must hold after each

    @invariant()
    def every_account_is_what_the_oracle_says(self) -> None:
        for account_id in self.accounts:
            assert self.platform.difference(account_id) == 0

    @invariant()
    def nobody_pays_for_what_was_not_and_nothing_goes_unpaid(self) -> None:
        faults = self.platform.faults
        assert (faults.unpaid_seconds, faults.overbilled_seconds) == (0, 0)
        assert (faults.difference_micros, faults.below_zero) == (0, 0)
        assert self.platform.books.billed_twice == 0

    @invariant()
    def no_more_gpus_are_held_than_there_are(self) -> None:
        pool = self.platform.log.find(GpuPool, gpu_pool_id(REGION, "gpu"))
        if pool is not None:
            assert sum(claim.count for claim in pool.held.values()) <= CAPACITY

    @invariant()
    def only_the_running_segment_has_a_trainer(self) -> None:
        for job_id, segment in self.platform.trainers:
            job = self.platform.log.load(Job, job_id)
            assert job.segment_running
            assert job.segment == segment

    def account(self, number: int) -> UUID:
        return self.accounts[number % len(self.accounts)]

    def trainer(self, number: int) -> SimulatedTrainer | None:
        trainers = list(self.platform.trainers.values())
        return trainers[number % len(trainers)] if trainers else None

    def command(self, number: int, command: object) -> None:
        if self.jobs:
            with suppress(WrongState):
                job_id = self.jobs[number % len(self.jobs)]
                self.platform.command_job(job_id, command)  # type: ignore[arg-type]


TestMoneyMachine = MoneyMachine.TestCase
TestMoneyMachine.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
