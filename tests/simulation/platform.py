"""A platform in one thread: the real domain, scheduling and billing, with simulated trainers.

Time, trainers and their reports are simulated, and the oracle gets every fact of them. The
services' event handlers are real and run in the order of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid5

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.budget import BudgetName
from domain.billing.meter import Meter
from domain.billing.payment import Payment, Receipt
from domain.capacity.gpu_pool import GpuPool
from domain.core.actor import KEY
from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.core.errors import VersionConflict
from domain.core.event_log import EventLog
from domain.core.identity import gpu_pool_id, meter_id
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import SavedCheckpoint
from domain.training.evaluation import EvaluationResult
from domain.training.phases import Phase
from domain.training.training_plan import Order, TrainingPlan
from domain.use_cases.accounts import EcoLink
from infrastructure.artifacts.store import MANIFEST, Artifacts, Manifest
from infrastructure.bus.event_handlers import EventHandlers
from infrastructure.settings import Settings
from infrastructure.training.job_artifacts import job_prefix
from infrastructure.training.reports import Report
from services.billing.evidence import elapsed_seconds
from services.billing.handlers import Metering
from services.billing.settlement import LeasePolicy, MeteredSegment, settle
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers.launcher import PodName
from services.scheduler.launching import PodStarter
from services.scheduler.segments import OVERRUN, Segments
from tests.builders.examples import estimate_at
from tests.simulation.books import Books
from tests.simulation.faults import Faults
from tests.simulation.limits import Limits
from tests.simulation.oracle import Oracle
from tests.simulation.service import SimulatedScheduler, SimulatedService
from tests.simulation.trainer import (
    Ended,
    SimulatedControl,
    SimulatedLauncher,
    SimulatedTrainer,
)

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE = UUID("b3d1c1de-52a5-4c3c-9d5b-3a8b8ad0f1ce")
UNANSWERED = frozenset(("MinuteMetered", "UsageSettled"))
"""Events that no service handles. There are too many to read."""

GRACE_SECONDS = Settings().grace_seconds
PAID_BY_PLATFORM = (None, 1)  # lost node; crash
PAID_BY_USER = (FailureClass.BAD_DATA, FailureClass.LOSS_DIVERGED)
"""Failures by payer, as in the specification, not from the table under test."""

NOTHING = Manifest(files=())
"""Files of simulated trainers."""

Segment = tuple[UUID, int]


class SimulatedPlatform:
    """Accounts, jobs and pools in one log, with commands, faults and time."""

    def __init__(self, log: EventLog, policy: LeasePolicy) -> None:
        self.log = log
        self.policy = policy
        self.oracle = Oracle(policy.minute_seconds)
        self.books = Books()
        self.limits = Limits()
        self.paused_for: dict[UUID, PauseReason] = {}  # reasons of the last pauses, by job
        self.faults = Faults()
        self.trainers: dict[Segment, SimulatedTrainer] = {}
        self.clock_jump = 0  # error of the platform's clock, seconds
        self._true_seconds = 0
        self.position = log.recorder.max_notification_id() or 0  # earlier events are not its own
        self._commands = 0
        self.is_prompt = True  # services react at once
        self._ended: dict[Segment, Ended] = {}
        self._open: dict[UUID, dict[Segment, UUID]] = {}
        self.finished: list[tuple[UUID, int]] = []  # ended jobs and their segments
        self._metering = EventHandlers(Metering(log, policy, self.now).handlers)
        self.artifacts = Artifacts("memory:///")
        launcher: Any = SimulatedLauncher(self.now, self.trainers)
        control: Any = SimulatedControl(self.trainers)
        settings = Settings().model_copy(update={"meter_minute_seconds": policy.minute_seconds})
        pods = PodStarter(log, launcher, settings)
        scheduling = Scheduling(
            log, pods, control, self.artifacts, settings, lambda _account, _job: ()
        )
        self._segments = Segments(log, cast(Any, self), self.artifacts, launcher, control, settings)
        self.scheduler = SimulatedScheduler(log, scheduling, self._cause_of("scheduler"))
        self.billing = SimulatedService(log, self._bill, self._cause_of("billing"))

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._true_seconds + self.clock_jump)

    def cause(self, actor: str) -> Cause:
        self._commands += 1
        return Cause(actor, f"{actor}:{self._commands}", self.now())

    def _cause_of(self, service: str) -> Callable[[], Cause]:
        return lambda: self.cause(f"service:{service}")

    @contextmanager
    def _acting(self, actor: str) -> Iterator[None]:
        """Give the block's events a cause, and pass them to the services."""
        with because(self.cause(actor)):
            yield
        self._handle()

    # Commands of users and operators

    def open_account(self, name: str) -> UUID:
        account_id = uuid5(NAMESPACE, name)
        with self._acting("operator"):
            self.log.commit(Account.open(account_id, Role.OWNER, "UTC"))
        return account_id

    def open_pool(self, region: str, capacity: int) -> None:
        with self._acting("operator"):
            pool = GpuPool.open(region, "gpu")
            pool.change_capacity(capacity)
            self.log.commit(pool)

    def change_capacity(self, region: str, capacity: int) -> None:
        """Change the number of GPUs. Running segments keep theirs."""
        with self._acting("operator"):
            pool = self.log.load(GpuPool, gpu_pool_id(region, "gpu"))
            pool.change_capacity(capacity)
            self.log.commit(pool)

    def top_up(self, account_id: UUID, amount_micros: int, reference: str) -> None:
        receipt = Receipt(provider="manual", reference=reference, amount_micros=amount_micros)
        with self._acting("operator"):
            account = self.log.load(Account, account_id)
            payment = Payment.receive(account_id, receipt)
            account.top_up(payment)
            self.log.commit(payment, account)
            self.oracle.pay_in(account_id, amount_micros)

    def issue_key(self, account_id: UUID) -> UUID:
        with self._acting("operator"):
            return EcoLink(self.log).issue_key(account_id)[0].id

    def set_budget(self, account_id: UUID, name: BudgetName, limit_micros: int) -> None:
        with self._acting("account"):
            EcoLink(self.log).set_budget(account_id, name, limit_micros)

    def approve(
        self,
        account_id: UUID,
        name: str,
        plan: TrainingPlan,
        order: Order = Order(),
        key_id: UUID | None = None,
    ) -> UUID:
        job_id = uuid5(account_id, name)
        estimate = estimate_at(plan.rate_micros_per_hour)
        with self._acting(_actor(key_id)):
            self.log.commit(Job.approve(job_id, account_id, plan, estimate, order))
        return job_id

    def command_job(
        self, job_id: UUID, command: Callable[[Job], None], key_id: UUID | None = None
    ) -> None:
        """Run a command of a job. Raise the error with which the job refuses it."""
        job = self.log.load(Job, job_id)
        with self._acting(_actor(key_id)):
            command(job)
            self.log.commit(job)

    # Events without a command

    def pass_time(self, seconds: int) -> None:
        """Let every trainer work until its paid time or its work ends."""
        self._true_seconds += seconds
        for trainer in self.trainers.values():
            trainer.work(seconds)

    def end_finished(self, grace_seconds: int = 0) -> None:
        """End trainers whose lease or work has ended, or that were asked to stop.

        After its lease a trainer needs grace for its last checkpoint. One that takes too long is
        killed without it.
        """
        for trainer in list(self.trainers.values()):
            if trainer.is_stopping:
                self.save_checkpoint(trainer)
                self.end(trainer, SegmentEnd.STOPPED)
            elif trainer.is_done:
                self.complete(trainer)
            elif trainer.is_out_of_lease and trainer.overruns:
                trainer.grace = GRACE_SECONDS
                self.lose(trainer, OVERRUN)
            elif trainer.is_out_of_lease:
                trainer.grace = grace_seconds
                self.save_checkpoint(trainer)
                self.end(trainer, SegmentEnd.LEASE_ENDED)

    def save_checkpoint(self, trainer: SimulatedTrainer) -> None:
        trainer.save()
        job = self.log.load(Job, trainer.job_id)
        step = job.step + 1
        ref = f"{job_prefix(job)}/checkpoints/segment-{trainer.segment}/step-{step}"
        self._write(ref)
        checkpoint = SavedCheckpoint(
            segment=trainer.segment,
            ref=ref,
            manifest_sha256=NOTHING.sha256,
            step=step,
            train_loss=1.0,
            elapsed_seconds=trainer.saved,
            total_bytes=1,
        )
        self._segments.record(self._report(trainer, job, Phase.TRAINING, checkpoint=checkpoint))
        self._handle()

    def complete(self, trainer: SimulatedTrainer) -> None:
        job = self.log.load(Job, trainer.job_id)
        ref = f"{job_prefix(job)}/adapter/segment-{trainer.segment}"
        self._write(ref)
        evaluation = EvaluationResult(loss_before=2.0, loss_after=1.0, examples=1, label_tokens=1)
        said: dict[str, Any] = {"adapter_ref": ref, "adapter_manifest_sha256": NOTHING.sha256}
        self.end(trainer, SegmentEnd.COMPLETED, Phase.REGISTER, evaluation=evaluation, **said)

    def end(
        self,
        trainer: SimulatedTrainer,
        reason: SegmentEnd,
        phase: Phase = Phase.TRAINING,
        failure: FailureClass | None = None,
        **said: Any,
    ) -> None:
        """End a trainer with a final report. The user pays for all of its time."""
        job = self.log.load(Job, trainer.job_id)
        ending = SegmentEnding(
            reason=reason,
            elapsed_seconds=trainer.reported + trainer.grace,
            grace_seconds=trainer.grace,
            failure=failure,
        )
        report = self._report(trainer, job, phase, ending=ending, **said)
        self._note_end(trainer, kept=trainer.reported)
        self._segments.record(report)
        self._handle()

    def lose(self, trainer: SimulatedTrainer, exit_code: int | None) -> None:
        """End a trainer without a final report. Work without a checkpoint is credited."""
        self._note_end(trainer, kept=min(trainer.saved, trainer.reported))
        name = PodName(trainer.job_id, trainer.segment)
        grace = trainer.grace
        self._segments.lose(name, trainer.reported + grace, exit_code, grace_seconds=grace)
        self._handle()

    def _note_end(self, trainer: SimulatedTrainer, kept: int) -> None:
        del self.trainers[key := (trainer.job_id, trainer.segment)]
        clock = self._clock_seconds(trainer.bound_at)
        paid = self.log.load(Meter, meter_id(*key)).paid_seconds
        self.faults.count_lease(trainer, paid, GRACE_SECONDS)
        self._ended[key] = Ended(trainer, self._true_seconds, clock, trainer.reported, kept)

    def _report(self, trainer: SimulatedTrainer, job: Job, phase: Phase, **said: Any) -> Report:
        self._commands += 1
        return trainer.says(self._commands, self.now(), step=job.step, phase=phase, **said)

    def _write(self, ref: str) -> None:
        self.artifacts.put(f"{ref}/{MANIFEST}", NOTHING.content)

    def tick(self, account_id: UUID, meanwhile: Callable[[], object] | None = None) -> bool:
        """Run one account's tick. Return False if another writer was first.

        `meanwhile` runs between its reading and its saving.
        """
        now, segments, seen = self.now(), [], []
        account = self.log.load(Account, account_id)
        for key, opened in self._open_meters(account_id):
            pod = self._pod(key)
            shown, bound_at = (pod.shown, pod.bound_at) if pod else (0, None)
            meter, ran = self.log.load(Meter, opened), elapsed_seconds(shown, bound_at, now)
            segments.append(MeteredSegment(meter, ran, bound_at))
            seen.append((key, pod, int(shown), self._clock_seconds(bound_at)))
        with because(self.cause("service:billing")):
            settle(account, segments, self.policy)
            if meanwhile is not None:
                meanwhile()
            try:
                self.log.commit(account, *(each.meter for each in segments))
            except VersionConflict:
                self.faults.conflicts += 1
                return False
        for key, pod, shown, clock in seen:
            segment = self.oracle.segments.get(key)
            if segment is not None and not segment.closed:  # it can have ended meanwhile
                self.oracle.tick(key, shown, clock)
            if pod is not None:
                ended = self._ended.get(key)
                pod.see_clock(clock - (self._true_seconds - ended.true_seconds if ended else 0))
        self._handle()
        return True

    def forget(self, job: Job) -> None:
        """Drop the data of an ended job."""
        self.artifacts.delete_directory(job_prefix(job))
        self.paused_for.pop(job.id, None)
        self.limits.forget(str(job.id), job.segment)
        for segment in range(1, job.segment + 1):
            self._segments.forget(PodName(job.id, segment))

    # Checks

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

    # The log and the services

    def _handle(self) -> None:
        """Pass new events to the services. Prompt services react at once."""
        self._observe()
        if self.is_prompt:
            self.drain()

    def handle(self, service: SimulatedService) -> None:
        service.answer()
        self._observe()

    def drain(self) -> None:
        while self.scheduler.lags or self.billing.lags:
            self.handle(self.scheduler)
            self.handle(self.billing)

    def _observe(self) -> None:
        while rows := self.log.recorder.select_notifications(
            start=self.position, limit=500, inclusive_of_start=False
        ):
            for row in rows:
                self.position = row.id
                self.books.post(row)
                self.limits.post(row)
                if row.topic not in UNANSWERED:
                    event: Any = self.log.mapper.to_domain_event(row)
                    self._tell_oracle(event)
                    self.scheduler.hear(event)
                    self.billing.hear(event)

    def _bill(self, event: Event) -> Sequence[Aggregate]:
        """Handle an event as billing does. The oracle ends a segment at the same time."""
        if isinstance(event, events.SegmentEnded):
            self._end_in_oracle((event.originator_id, event.segment))
        return self._metering.handle(event)

    def _end_in_oracle(self, key: Segment) -> None:
        """End a segment in the oracle. Later time is never billed, whatever a report says."""
        ended = self._ended.pop(key, None)
        if ended is None:  # without a pod
            self.oracle.end(key, 0, 0, 0)
            return
        trainer = ended.trainer
        clock = min(ended.clock, self._clock_seconds(trainer.bound_at))
        trainer.see_clock(ended.clock)
        trainer.see_clock(min(clock, trainer.age))
        kept = max(0, min(ended.kept, ended.clock))
        self.oracle.end(key, ended.reported_seconds, clock, kept)
        self.faults.count_bill(trainer, self.oracle.segments[key])

    def _tell_oracle(self, event: Event) -> None:
        match event:
            case Meter.MeterOpened():
                key = (event.job_id, event.segment)
                self._open.setdefault(event.account_id, {})[key] = event.originator_id
                self.oracle.open(key, event.account_id, event.rate_micros_per_hour)
            case Meter.LeaseGranted() | Meter.LeaseExtended():
                self.oracle.lease((event.job_id, event.segment), event.paid_seconds)
            case Meter.MeterClosed():
                self._close(event)
            case events.JobPaused(reason=reason):
                self.paused_for[event.originator_id] = reason
            case events.Registered():
                self.finished.append((event.originator_id, event.segment))
            case events.JobFailed() | events.JobCancelled():
                job = self.log.load(Job, event.originator_id)
                self.finished.append((job.id, job.segment))
            case _:
                pass

    def _close(self, event: Meter.MeterClosed) -> None:
        """Compare a meter's bill with the oracle, to the second and the micro-dollar."""
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

    def _pod(self, key: Segment) -> SimulatedTrainer | None:
        """A segment's trainer, even if it is gone, because its reports stay evidence."""
        ended = self._ended.get(key)
        return self.trainers.get(key) if ended is None else ended.trainer

    def _clock_seconds(self, bound_at: datetime | None) -> int:
        return 0 if bound_at is None else int((self.now() - bound_at).total_seconds())


def _actor(key_id: UUID | None) -> str:
    return "account" if key_id is None else f"{KEY}{key_id}"
