"""Account, Meter, GpuPool and Job driven together at random, against an oracle that knows none.

The real domain and event handlers of scheduler and billing run here, each after a random delay.
Trainers, clocks and reports are simulated, and fail at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.errors import WrongState
from domain.core.event_log import EventLog
from domain.core.identity import gpu_pool_id, meter_id
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job
from domain.jobs.lifecycle import SegmentEnd
from infrastructure.artifacts.store import MANIFEST
from tests.builders.examples import PLAN, POLICY, estimate_at
from tests.simulation.platform import (
    PAID_BY_PLATFORM,
    PAID_BY_USER,
    SimulatedPlatform,
)
from tests.simulation.trainer import SimulatedTrainer

pytestmark = pytest.mark.full

REGION, CAPACITY = "local", 3
RETENTION = timedelta(minutes=20)  # so short that it ends while the machine runs

MEANWHILE = ("tick", "payment", "ending")

indices = st.integers(0, 7)
gpus = st.integers(1, 2)
lags = st.integers(1, 6)
rates = st.one_of(st.integers(1, 10_000), st.integers(1_000_000, 20_000_000))
"""Micro-dollars per hour: those whose seconds round to nothing, and those of real GPUs."""


class MoneyMachine(RuleBasedStateMachine):
    """Two accounts, a few jobs, three GPUs; each rule is something that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.platform = SimulatedPlatform(EventLog(), POLICY)
        self.capacity = CAPACITY
        self.held = 0
        self.accounts: list[UUID] = []
        self.jobs: list[UUID] = []
        self.payments = 0

    @initialize(
        balances=st.lists(st.integers(1, 2_000_000), min_size=2, max_size=2),
        jobs=st.lists(st.tuples(gpus, rates), min_size=2, max_size=5),
    )
    def open(self, balances: list[int], jobs: list[tuple[int, int]]) -> None:
        self.platform.is_prompt = False
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
        self.command(number, lambda job: job.resume(estimate_at(rate), rate, "test", 1))

    @rule(number=indices)
    def cancel(self, number: int) -> None:
        self.command(number, lambda job: job.cancel(RETENTION))

    @rule(number=indices)
    def cancel_what_is_saved(self, number: int) -> None:
        if trainer := self.trainer(number):
            self.platform.save_checkpoint(trainer)
            self.platform.command_job(trainer.job_id, lambda job: job.cancel(RETENTION))
            self.platform.drain()
            self.platform.end_finished()

    @rule(is_promoted=st.booleans(), seconds=st.sampled_from([1500, 0]))
    def let_saved_adapters_expire(self, is_promoted: bool, seconds: int) -> None:
        """All that were cancelled, unless they are promoted in time."""
        for number in range(len(self.jobs)) if is_promoted else ():
            self.command(number, lambda job: job.promote())
        self.platform.pass_time(seconds)
        for job_id in self.jobs:
            self.platform.command_job(job_id, Job.expire_adapter)

    @rule(capacity=st.integers(0, CAPACITY + 1))
    def change_capacity(self, capacity: int) -> None:
        self.capacity = capacity
        self.platform.change_capacity(REGION, capacity)

    # How late the services are

    @rule(events=lags)
    def the_scheduler_handles_its_next(self, events: int) -> None:
        for _ in range(events):
            self.platform.handle(self.platform.scheduler)

    @rule(events=lags)
    def billing_handles_its_next(self, events: int) -> None:
        for _ in range(events):
            self.platform.handle(self.platform.billing)

    @rule()
    def come_to_rest(self) -> None:
        """Everything is answered: what was promised for the end must hold."""
        self.platform.drain()
        for account_id in self.accounts:
            self.platform.tick(account_id)
        self.platform.drain()
        assert_at_rest(self.platform, self.accounts, self.jobs)

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
        """A while in which heartbeats arrive, ticks come and all is answered."""
        for each in seconds:
            self.platform.pass_time(each)
            self.report()
            self.platform.drain()
            for account_id in self.accounts:
                self.platform.tick(account_id)
        self.platform.end_finished()

    # What goes wrong

    @rule(number=indices, amount=st.integers(1, 1_000_000), what=st.sampled_from(MEANWHILE))
    def tick_with_another_writer(self, number: int, amount: int, what: str) -> None:
        account_id = self.account(number)
        meanwhile = {
            "tick": partial(self.platform.tick, account_id),
            "payment": partial(self.pay_in, number, amount),
            "ending": self.platform.end_finished,
        }
        self.platform.tick(account_id, meanwhile[what])

    @rule()
    def ticker_outage(self) -> None:
        self.platform.pass_time(600)
        self.report()

    @rule(seconds=st.integers(-300, 300))
    def clock_jumps(self, seconds: int) -> None:
        self.platform.clock_jump = seconds

    @rule(number=indices, seconds=st.integers(-300, 300), is_deaf=st.booleans())
    def trainer_says_or_hears_wrong(self, number: int, seconds: int, is_deaf: bool) -> None:
        if trainer := self.trainer(number):
            trainer.error = seconds
            trainer.is_deaf |= is_deaf

    @rule(seconds=st.integers(1, 700), overruns=st.lists(st.booleans(), max_size=4))
    def leases_run_out(self, seconds: int, overruns: list[bool]) -> None:
        """Unheard of any extension; some trainers do not make it to their last checkpoint."""
        for trainer, does in zip(self.platform.trainers.values(), overruns, strict=False):
            trainer.overruns |= does
        self.platform.pass_time(seconds)
        self.platform.end_finished()

    @rule(number=indices, failure=st.sampled_from(PAID_BY_USER))
    def fail(self, number: int, failure: FailureClass) -> None:
        if trainer := self.trainer(number):
            self.platform.end(trainer, SegmentEnd.CRASHED, failure=failure)

    @rule(number=indices, exit_code=st.sampled_from(PAID_BY_PLATFORM))
    def crash(self, number: int, exit_code: int | None) -> None:
        if trainer := self.trainer(number):
            self.platform.lose(trainer, exit_code)

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
    def no_more_gpus_are_taken_than_there_are(self) -> None:
        """A pool that shrinks leaves the running segments theirs, and gives no more away."""
        pool = self.platform.log.find(GpuPool, gpu_pool_id(REGION, "gpu"))
        if pool is not None:
            held = sum(claim.count for claim in pool.held.values())
            assert held <= max(self.capacity, self.held)
            self.held = held

    @invariant()
    def only_the_running_segment_has_a_trainer(self) -> None:
        for job_id, segment in self.platform.trainers:
            job = self.platform.log.load(Job, job_id)
            assert job.running is not None
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


def assert_at_rest(
    platform: SimulatedPlatform, accounts: Sequence[UUID], jobs: Sequence[UUID]
) -> None:
    """Nothing waits to be answered: all that runs holds what it needs, and nothing else does."""
    log = platform.log
    pool = log.load(GpuPool, gpu_pool_id(REGION, "gpu"))
    all_jobs = [log.load(Job, job_id) for job_id in jobs]
    running = {(job.id, job.segment): job.gpu_count for job in all_jobs if job.running is not None}
    assert {key: claim.count for key, claim in pool.held.items()} == running
    assert running.keys() == platform.trainers.keys()
    waiting = [job for job in all_jobs if job.next_segment is not None]
    due = {(job.id, job.next_segment) for job in waiting if job.may_launch(platform.now())}
    assert due <= pool.queue.keys()
    assert pool.queue.keys() <= {(job.id, job.next_segment) for job in waiting}
    assert pool.next_fitting() is None
    for job in all_jobs:
        assert_settled(platform, job)
        assert_files(platform, job)
    for account_id in accounts:
        account = log.load(Account, account_id)
        rates = [
            job.rate_micros_per_hour
            for job in all_jobs
            if job.account_id == account_id and job.running is not None
        ]
        if not rates:
            assert account.reserved_micros == 0
        runway = account.balance_micros * 3600 // sum(rates) if rates else None
        if runway is None or runway < POLICY.low_seconds:
            assert account.low == (runway is not None)


def assert_settled(platform: SimulatedPlatform, job: Job) -> None:
    """The meters of ended segments are closed, and the running one's is open and paid for."""
    for segment in range(1, job.segment + 1):
        meter = platform.log.load(Meter, meter_id(job.id, segment))
        is_running = job.running is not None and segment == job.segment
        assert meter.closed is not is_running
        assert not is_running or meter.paid_seconds > 0


def assert_files(platform: SimulatedPlatform, job: Job) -> None:
    """What was saved is there until a cancelled job's time is over, and stays if promoted."""
    saved = job.checkpoints.newest
    if saved is not None:
        assert platform.artifacts.exists(f"{saved.ref}/{MANIFEST}") is not job.expired
    assert not (job.expired and job.model is not None)


TestMoneyMachine = MoneyMachine.TestCase
TestMoneyMachine.settings = settings(max_examples=25, stateful_step_count=80)


@pytest.mark.full
class TestMoneyMachineAtLength(MoneyMachine.TestCase):
    settings = settings(max_examples=80, stateful_step_count=80)
