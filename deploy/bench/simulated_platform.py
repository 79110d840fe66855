"""A platform in one thread: the real domain, scheduling and billing, with simulated trainers.

Time, trainers and what reaches billing of them are simulated, and every fact of it is told to the
oracle. All else is what the services run: their reactions, in the order of the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from deploy.bench.books import Books
from deploy.bench.oracle import Oracle
from deploy.bench.simulated_trainer import SimulatedControl, SimulatedLauncher, SimulatedTrainer
from domain.account import Account, Role
from domain.aggregate import Cause, Event, because
from domain.errors import VersionConflict
from domain.event_log import EventLog
from domain.failures import FailureClass
from domain.gpu_pool import GpuPool
from domain.identity import gpu_pool_id, meter_id
from domain.job import Job, SegmentEnd
from domain.meter import Meter
from domain.payment import Payment, Receipt
from domain.training_plan import TrainingPlan
from infrastructure.artifacts import Artifacts
from infrastructure.settings import Settings
from services.billing.handlers import Metering
from services.billing.settlement import LeasePolicy
from services.billing.tick import Shown, settled
from services.scheduler.handlers import Scheduling

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE = UUID("b3d1c1de-52a5-4c3c-9d5b-3a8b8ad0f1ce")
UNANSWERED = frozenset(("MinuteMetered", "UsageSettled"))
"""Events that no service reacts to; there are too many to read them for nothing."""

PAID_BY_PLATFORM = (FailureClass.NODE_LOST, FailureClass.TRAINER_CRASHED)
PAID_BY_USER = (FailureClass.BAD_DATA, FailureClass.LOSS_DIVERGED)
"""Failures as the product's document says who pays; not read from the table that is tested."""

Segment = tuple[UUID, int]


@dataclass
class Faults:
    """What went wrong so far, and what it cost whom, seconds."""

    difference_micros: int = 0
    """Between closed meters and the oracle."""

    below_zero: int = 0
    """How often a balance was below zero, or below what its leases hold."""

    conflicts: int = 0
    grace_seconds: int = 0
    unpaid_seconds: int = 0
    """GPU time beyond lease and grace, and time that good clocks showed and nobody billed."""

    overbilled_seconds: int = 0
    """Billed time that never passed, where no more than one clock was wrong."""

    unbilled_seconds: int = 0
    """GPU time that wrong clocks kept from the bill; the platform's loss."""


class SimulatedPlatform:
    """Accounts, jobs and pools in one log, and the commands, mishaps and time that come to them."""

    def __init__(self, log: EventLog, policy: LeasePolicy) -> None:
        self.log = log
        self.policy = policy
        self.oracle = Oracle(policy.minute_seconds)
        self.books = Books()
        self.faults = Faults()
        self.trainers: dict[Segment, SimulatedTrainer] = {}
        self.clock_jump = 0  # seconds by which the platform's clock is wrong
        self._true_seconds = 0
        self.position = 0
        self._commands = 0
        self._open: dict[UUID, dict[Segment, UUID]] = {}
        self.finished: list[tuple[UUID, int]] = []  # jobs that are over, and their segments
        self._metering = Metering(log, policy, self.now)
        self._scheduling = Scheduling(
            log,
            SimulatedLauncher(self.now, self.trainers),  # type: ignore[arg-type]
            SimulatedControl(self.trainers),  # type: ignore[arg-type]
            Artifacts("memory:///"),
            Settings(),
        )

    def now(self) -> datetime:
        """What the platform's clock says."""
        return EPOCH + timedelta(seconds=self._true_seconds + self.clock_jump)

    def cause(self, actor: str) -> Cause:
        """A cause for the next command."""
        self._commands += 1
        return Cause(actor, f"{actor}:{self._commands}", self.now())

    # Commands of people

    def open_account(self, name: str) -> UUID:
        """An account with nothing in it."""
        account_id = uuid5(NAMESPACE, name)
        with because(self.cause("operator")):
            self.log.commit(Account.open(account_id, Role.USER, "UTC"))
        self._react()
        return account_id

    def open_pool(self, region: str, capacity: int) -> None:
        """GPUs of one type in a region."""
        with because(self.cause("operator")):
            pool = GpuPool.open(region, "gpu")
            pool.change_capacity(capacity)
            self.log.commit(pool)
        self._react()

    def top_up(self, account_id: UUID, amount_micros: int, reference: str) -> None:
        """Money arrives."""
        receipt = Receipt(provider="manual", reference=reference, amount_micros=amount_micros)
        with because(self.cause("operator")):
            account = self.log.load(Account, account_id)
            payment = Payment.receive(account_id, receipt)
            account.top_up(payment)
            self.log.commit(payment, account)
        self.oracle.pay_in(account_id, amount_micros)
        self._react()

    def approve(self, account_id: UUID, name: str, plan: TrainingPlan) -> UUID:
        """A job begins to wait for its GPUs."""
        job_id = uuid5(account_id, name)
        with because(self.cause("account")):
            self.log.commit(Job.approve(job_id, account_id, plan))
        self._react()
        return job_id

    def command_job(self, job_id: UUID, command: Callable[[Job], None]) -> None:
        """Something that an account holder asks of a job; what it refuses is raised."""
        job = self.log.load(Job, job_id)
        with because(self.cause("account")):
            command(job)
            self.log.commit(job)
        self._react()

    # What happens by itself

    def pass_time(self, seconds: int) -> None:
        """Every trainer works on, until its paid time or its work ends."""
        self._true_seconds += seconds
        for trainer in self.trainers.values():
            trainer.work(seconds)

    def end_finished(self, grace_seconds: int = 0) -> None:
        """Trainers whose lease or work is over, or that shall stop, say their last word.

        One whose lease is over needs some grace for its last checkpoint.
        """
        for trainer in list(self.trainers.values()):
            if trainer.is_stopping:
                self.save_checkpoint(trainer)
                self.end(trainer, SegmentEnd.STOPPED)
            elif trainer.is_done:
                self.end(trainer, SegmentEnd.COMPLETED)
            elif trainer.is_out_of_lease:
                trainer.grace = grace_seconds
                self.save_checkpoint(trainer)
                self.end(trainer, SegmentEnd.LEASE_ENDED)

    def save_checkpoint(self, trainer: SimulatedTrainer) -> None:
        """A checkpoint is durable, and the scheduler knows."""
        trainer.save()
        with because(self.cause("service:scheduler")):
            job = self.log.load(Job, trainer.job_id)
            job.save_checkpoint(
                trainer.segment,
                step=job.step + 1,
                train_loss=1.0,
                elapsed_seconds=trainer.saved,
                ref=f"{trainer.job_id}/{trainer.segment}",
                manifest_sha256="c" * 64,
                total_bytes=1,
            )
            self.log.commit(job)
        self._react()

    def end(
        self, trainer: SimulatedTrainer, reason: SegmentEnd, failure: FailureClass | None = None
    ) -> None:
        """A segment is over; the scheduler records it and takes its GPUs back, in one save.

        Of a failure whose time the platform pays, what no checkpoint holds is given back.
        """
        key = (trainer.job_id, trainer.segment)
        del self.trainers[key]
        job = self.log.load(Job, trainer.job_id)
        pool = self._pool_of(job)
        is_lost = failure in PAID_BY_PLATFORM
        meter = self.log.load(Meter, meter_id(*key))
        account = self.log.load(Account, trainer.account_id)
        clock = self._clock_seconds(trainer.bound_at)
        trainer.see_clock(clock)
        last_word = trainer.reported + trainer.grace
        kept = trainer.saved if is_lost else last_word
        self.oracle.end(key, trainer.reported, clock, kept)
        self._count(trainer, meter)
        with because(self.cause("service:scheduler")):
            if reason is SegmentEnd.COMPLETED and not job.cancel_requested:
                _register(job)
            job.end_segment(
                trainer.segment,
                reason,
                last_word,
                grace_seconds=trainer.grace,
                failure=failure,
                can_pay=meter.paid_seconds > last_word or account.affords(job.rate_micros_per_hour),
            )
            pool.release(job.id, trainer.segment)
            self.log.commit(job, pool)
        self._react()

    def tick(self, account_id: UUID, meanwhile: Callable[[], object] | None = None) -> bool:
        """One account's tick, as the ticker makes it; False if another writer was first.

        `meanwhile` happens between its reading and its saving.
        """
        facts = [
            (key, self.trainers.get(key), opened) for key, opened in self._open_meters(account_id)
        ]
        now = self.now()
        shown = [
            Shown(opened, trainer.shown, trainer.bound_at) if trainer else Shown(opened, 0, None)
            for _, trainer, opened in facts
        ]
        seen = [(each.shown_seconds, self._clock_seconds(each.bound_at)) for each in shown]
        with because(self.cause("service:billing")):
            aggregates = settled(self.log, account_id, shown, now, self.policy)
            if meanwhile is not None:
                meanwhile()
            try:
                self.log.commit(*aggregates)
            except VersionConflict:
                self.faults.conflicts += 1
                return False
        for (key, trainer, _), (shown_seconds, clock) in zip(facts, seen, strict=True):
            segment = self.oracle.segments.get(key)
            if segment is not None and not segment.closed:  # it may have ended meanwhile
                self.oracle.tick(key, int(shown_seconds), clock)
            if trainer is not None:
                trainer.see_clock(clock)
        self._react()
        return True

    # What must hold

    def difference(self, account_id: UUID) -> int:
        """Micro-dollars between the oracle, the stored rows and the account; must be 0."""
        account = self.log.load(Account, account_id)
        name = str(account_id)
        balance, reserved = self.oracle.balance(account_id), self.oracle.reserved(account_id)
        booked = self.books.free[name] + self.books.reserved[name]
        self.faults.below_zero += not 0 <= account.reserved_micros <= account.balance_micros
        return (
            abs(account.balance_micros - balance)
            + abs(account.reserved_micros - reserved)
            + abs(booked - balance)
            + abs(self.books.reserved[name] - reserved)
        )

    def _count(self, trainer: SimulatedTrainer, meter: Meter) -> None:
        """What the end of a segment says of paid, unpaid and unbilled time."""
        billed = self.oracle.segments[trainer.job_id, trainer.segment].billed
        faults = self.faults
        faults.grace_seconds += trainer.grace
        faults.unpaid_seconds += max(0, trainer.ran - meter.paid_seconds)
        if trainer.has_good_clocks:
            faults.unpaid_seconds += abs(trainer.ran - billed)
        else:
            faults.unbilled_seconds += max(0, trainer.ran - billed)
        if not trainer.has_two_wrong_clocks:
            faults.overbilled_seconds += max(0, billed - trainer.age)

    # The log, and the services that follow it

    def _react(self) -> None:
        """Let the services answer all that is new in the log, in its order."""
        while rows := self.log.recorder.select_notifications(
            start=self.position, limit=500, inclusive_of_start=False
        ):
            for row in rows:
                self.position = row.id
                self.books.post(row)
                if row.topic not in UNANSWERED:
                    event: Any = self.log.mapper.to_domain_event(row)
                    self._tell_oracle(event)
                    self._answer("scheduler", self._scheduling.react, event)
                    self._answer("billing", self._metering.react, event)

    def _answer(self, service: str, react: Callable[[Event], Any], event: Event) -> None:
        with because(self.cause(f"service:{service}")):
            aggregates = react(event)
            if any(each.pending_events for each in aggregates):
                self.log.commit(*aggregates)

    def _tell_oracle(self, event: Event) -> None:
        match event:
            case Meter.MeterOpened():
                key = (event.job_id, event.segment)
                self._open.setdefault(event.account_id, {})[key] = event.originator_id
                self.oracle.open(key, event.account_id, event.rate_micros_per_hour)
            case Meter.LeaseGranted() | Meter.LeaseExtended():
                self.oracle.lease((event.job_id, event.segment), event.paid_seconds)
            case Meter.LeaseRefused():
                self.oracle.end((event.job_id, event.segment), 0, 0, 0)
            case Meter.MeterClosed():
                self._close(event)
            case Job.Registered():
                self.finished.append((event.originator_id, event.segment))
            case Job.JobFailed() | Job.JobCancelled():
                job = self.log.load(Job, event.originator_id)
                self.finished.append((job.id, job.segment))
            case _:
                pass

    def _close(self, event: Meter.MeterClosed) -> None:
        """Hold what a meter billed against the oracle, to the second and the micro-dollar."""
        key = (event.job_id, event.segment)
        del self._open[event.account_id][key]
        facts = self.oracle.segments[key]
        assert facts.closed, "a meter closes after its segment"
        seconds, charged = self.books.forget(event.originator_id)
        self.faults.difference_micros += abs(charged - facts.charged)
        self.faults.unpaid_seconds += max(0, facts.billed - seconds)
        self.faults.overbilled_seconds += max(0, seconds - facts.billed)
        self.oracle.forget(key)

    def _open_meters(self, account_id: UUID) -> list[tuple[Segment, UUID]]:
        return list(self._open.get(account_id, {}).items())

    def _pool_of(self, job: Job) -> GpuPool:
        return self.log.load(GpuPool, gpu_pool_id(job.plan.region, job.plan.gpu_type))

    def _clock_seconds(self, bound_at: datetime | None) -> int:
        return 0 if bound_at is None else int((self.now() - bound_at).total_seconds())


def _register(job: Job) -> None:
    job.start_training(job.segment, 0, 1, 1, 1)
    job.start_evaluation(job.segment, 1)
    job.complete_evaluation(job.segment, 2.0, 1.0, 1, 1)
    job.register(job.segment, f"{job.id}/adapter", "a" * 64)
