"""Job: what may happen to a fine-tuning job, as events."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.aggregate import Created, current_cause
from domain.core.errors import WrongState
from domain.core.money import SECONDS_PER_HOUR
from domain.estimating.estimate import Estimate, Precision
from domain.jobs import lifecycle
from domain.jobs.failures import FAILURES, FailureClass, MemoryShortage
from domain.jobs.job_adapter import JobAdapter
from domain.jobs.job_segments import failure_of
from domain.jobs.lifecycle import Command, Effect, JobStatus, PauseReason, SegmentEnd
from domain.training.phases import Phase
from domain.training.training_plan import Order, TrainingPlan

RELAUNCH_PAUSES = (timedelta(0), timedelta(seconds=30), timedelta(minutes=5))
"""How long a job waits before each relaunch after a failure that is tried again, until one gets
further: a machine that cannot launch is not asked again and again within a second."""

RELAUNCH_LIMIT = len(RELAUNCH_PAUSES)


class Job(JobAdapter):
    """What a command does in which state is the table of `domain.jobs.lifecycle`."""

    TOPIC: ClassVar[str] = "Job"

    # The library would otherwise make other classes of the inherited events, without their rules.
    Event = JobAdapter.Event
    SegmentAllocated = JobAdapter.SegmentAllocated
    PodStarted = JobAdapter.PodStarted
    TrainingStarted = JobAdapter.TrainingStarted
    CheckpointSaved = JobAdapter.CheckpointSaved
    CheckpointRejected = JobAdapter.CheckpointRejected
    ResumeCertified = JobAdapter.ResumeCertified
    CheckpointPruned = JobAdapter.CheckpointPruned
    EvaluationStarted = JobAdapter.EvaluationStarted
    EvaluationCompleted = JobAdapter.EvaluationCompleted
    Registered = JobAdapter.Registered
    SegmentEnded = JobAdapter.SegmentEnded
    MicroBatchHalved = JobAdapter.MicroBatchHalved
    AdapterPromoted = JobAdapter.AdapterPromoted
    AdapterExpired = JobAdapter.AdapterExpired
    ModelDeleted = JobAdapter.ModelDeleted

    class JobApproved(Created):
        """The account holder approved the plan at its rate; training may begin."""

        TOPIC: ClassVar[str] = "JobApproved"
        class_version: ClassVar[int] = 4
        plan: TrainingPlan
        estimate: Estimate | None  # None: approved before there were estimates
        suffix: str | None  # a part of the model's name
        deploy: bool  # the model, as soon as it is registered
        request_sha256: str | None  # what asked for it; None: compare the plan's choices

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """The first version trained in bf16 only, and made no estimate."""
            plan = state["plan"]
            plan["precision"] = Precision.BF16.value
            plan["gradient_checkpointing"] = False
            plan["sequence_length"] = plan["hyperparameters"]["max_sequence_length"]
            state["estimate"] = None

        @staticmethod
        def upcast_v2_v3(state: dict[str, Any]) -> None:
            """The second version always held out a part of the dataset, and kept no prediction."""
            state["plan"] |= {"validation": None, "batch_tokens": None, "required_bytes": None}

        @staticmethod
        def upcast_v3_v4(state: dict[str, Any]) -> None:
            """The third version's models had no suffix, and were deployed by hand."""
            state |= {"suffix": None, "deploy": False, "request_sha256": None}

    class PauseRequested(Event):
        """The running segment shall save and exit; the job is then paused."""

        TOPIC: ClassVar[str] = "PauseRequested"
        reason: PauseReason

    class CancelRequested(Event):
        """The running segment shall save and exit; the job is then cancelled in any case."""

        TOPIC: ClassVar[str] = "CancelRequested"
        retention_seconds: int  # how long what was saved is kept after that

    class RelaunchPostponed(Event):
        """The job failed again without getting further; it claims no GPU before this time."""

        TOPIC: ClassVar[str] = "RelaunchPostponed"
        until: datetime

    class EstimateScored(Event):
        """The job came to its end: what it took, beside the range that was approved."""

        TOPIC: ClassVar[str] = "EstimateScored"
        low_seconds: int
        high_seconds: int
        low_micros: int
        high_micros: int
        actual_seconds: int
        actual_micros: int
        phase_seconds: dict[Phase, float]
        segments: int  # that used time
        precision: Precision
        base_model: str
        gpu_type: str
        gpu_count: int  # of the last segment

    class JobPaused(Event):
        """The job holds no GPU and costs nothing until it is resumed from this step."""

        TOPIC: ClassVar[str] = "JobPaused"
        reason: PauseReason
        step: int

    class JobResumed(Event):
        """The account holder had the rest quoted anew; the job waits for a GPU at this rate."""

        TOPIC: ClassVar[str] = "JobResumed"
        class_version: ClassVar[int] = 2
        rate_micros_per_hour: int  # of all its GPUs
        catalog_version: str
        estimate: Estimate | None  # of the rest
        gpu_count: int | None  # from now on; None: as many as before

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """The first version went on with the GPUs of the approval."""
            state["gpu_count"] = None

    class JobFailed(Event):
        """The job is over without an adapter."""

        TOPIC: ClassVar[str] = "JobFailed"
        class_version: ClassVar[int] = 2
        error_class: str
        log_ref: str | None
        failure: FailureClass

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """The first version told a lost process by its error class."""
            state["failure"] = failure_of(state["error_class"])

    class JobCancelled(Event):
        """The job is over because its owner said so; what was saved is kept for a while."""

        TOPIC: ClassVar[str] = "JobCancelled"
        step: int
        checkpoint_ref: str | None  # None: nothing was saved, so nothing is kept
        manifest_sha256: str | None
        expires_at: datetime | None

    @classmethod
    def approve(
        cls,
        job_id: UUID,
        account_id: UUID,
        plan: TrainingPlan,
        estimate: Estimate | None = None,
        order: Order = Order(),
    ) -> Job:
        """A job that waits for its GPUs, with the range that its owner saw."""
        return cls._create(
            cls.JobApproved,
            id=job_id,
            account_id=account_id,
            plan=plan,
            estimate=estimate,
            suffix=order.suffix,
            deploy=order.deploy,
            request_sha256=order.request_sha256,
        )

    @event(JobApproved)
    def __init__(
        self,
        account_id: UUID,
        plan: TrainingPlan,
        estimate: Estimate | None,
        suffix: str | None,
        deploy: bool,
        request_sha256: str | None,
    ) -> None:
        super().__init__(account_id, plan)
        self.order = Order(suffix, deploy, request_sha256)
        self.estimate = estimate
        self.gate_micros = estimate.high_micros if estimate else None  # asked of the balance last
        self.resumed = False  # and not paused since
        self.relaunch_at: datetime | None = None  # until then its next launch was put off

    def _conclude(
        self,
        reason: SegmentEnd,
        failure: FailureClass | None,
        error_class: str | None,
        log_ref: str | None,
        shortage: MemoryShortage | None,
        can_pay: bool,
    ) -> None:
        """What follows from the end of a segment; nothing, when the next one is to be launched."""
        if self.status is JobStatus.REGISTERED:
            self._score()
        elif self.retention is not None:
            self._cancel(self.retention)
        elif failure is not None and not self._tries_again(failure, shortage):
            self.trigger_event(
                self.JobFailed,
                error_class=error_class or "ProcessLost",
                log_ref=log_ref,
                failure=failure,
            )
        elif self.pause_requested is not None:
            self._pause(self.pause_requested)
        elif reason is SegmentEnd.LEASE_ENDED and not can_pay:
            self._pause(PauseReason.BALANCE)
        elif failure is not None and shortage is None:  # half a batch is another thing to try
            self._postpone_relaunch()

    def _postpone_relaunch(self) -> None:
        """Put the next launch off, the longer the more often there was no progress."""
        if pause := RELAUNCH_PAUSES[self.crashes - 1]:
            self.trigger_event(self.RelaunchPostponed, until=current_cause().now + pause)

    @event(RelaunchPostponed)
    def _relaunch_postponed(self, until: datetime) -> None:
        self.relaunch_at = until

    def may_launch(self, now: datetime) -> bool:
        """Whether the time has come that its next launch was put off to, if it was."""
        return self.relaunch_at is None or self.relaunch_at <= now

    def _tries_again(self, failure: FailureClass, shortage: MemoryShortage | None) -> bool:
        """Whether the job is launched again; a batch that was too large is halved, once.

        A batch is too large by its tokens, which short examples share whatever the micro batch:
        only a single example cannot be parted.
        """
        if self.crashes > RELAUNCH_LIMIT:
            return False
        chosen = self.plan.lora
        if shortage is None or self.micro_batch_split > 1 or shortage.rows == 1:
            return FAILURES[failure].retried
        self.trigger_event(
            self.MicroBatchHalved,
            micro_batch_size=-(-chosen.micro_batch_size // 2),
            gradient_accumulation=min(2, chosen.micro_batch_size) * chosen.gradient_accumulation,
        )
        return True

    def _score(self) -> None:
        if (frozen := self.estimate) is None:
            return
        self.trigger_event(
            self.EstimateScored,
            low_seconds=frozen.low_seconds,
            high_seconds=frozen.high_seconds,
            low_micros=frozen.low_micros,
            high_micros=frozen.high_micros,
            actual_seconds=self.actual_seconds,
            actual_micros=self.actual_micros,
            phase_seconds=dict(self.phase_seconds),
            segments=self.segments_used,
            precision=self.plan.precision,
            base_model=self.plan.base_model,
            gpu_type=self.plan.gpu_type,
            gpu_count=self.gpu_count,
        )

    @event(EstimateScored)
    def _estimate_scored(self) -> None:
        """It says what is known already."""

    @event(JobFailed)
    def _job_failed(self) -> None:
        self.status = JobStatus.FAILED

    def pause(self) -> None:
        """Save and free the GPUs, as the owner asked; raises WrongState."""
        if self.cancel_requested:
            raise WrongState(lifecycle.CANCEL_PENDING)
        if self.stop_requested or (
            lifecycle.require(self.status, Command.PAUSE) is Effect.UNCHANGED
        ):
            return
        if self.segment_running:
            self.trigger_event(self.PauseRequested, reason=PauseReason.OWNER)
        else:
            self._pause(PauseReason.OWNER)

    @event(PauseRequested)
    def _pause_requested(self, reason: PauseReason) -> None:
        self.pause_requested = reason

    def deplete(self) -> None:
        """Pause a job that waits, as its account cannot pay for it; one that runs ends itself."""
        effect = lifecycle.require(self.status, Command.DEPLETE)
        if effect is not Effect.UNCHANGED and not self.segment_running:
            self._pause(PauseReason.BALANCE)

    def lose_capacity(self) -> None:
        """Pause a job that waits for more GPUs than its region has; one that runs keeps its own."""
        if self.next_segment is not None:
            self._pause(PauseReason.CAPACITY)

    def launch_micros(self, minute_seconds: int) -> int:
        """Money that must be free before the job is launched, or launched again.

        A metered minute of it. With money for a second, near zero, a job would be launched to run
        out of it before its model is loaded, and again for the next cent. A job whose balance gate
        asked for less than that needs no more than its gate asked for.
        """
        minute = -(-self.rate_micros_per_hour * minute_seconds // SECONDS_PER_HOUR)  # rounded up
        return minute if self.gate_micros is None else min(minute, max(1, self.gate_micros))

    def _pause(self, reason: PauseReason) -> None:
        self.trigger_event(self.JobPaused, reason=reason, step=self.step)

    @event(JobPaused)
    def _job_paused(self) -> None:
        self.status = JobStatus.PAUSED
        self.pause_requested = None
        self.resumed = False

    def must_resume(self) -> bool:
        """Whether a resume would do anything: not if it was given before; raises WrongState."""
        if self.cancel_requested:
            raise WrongState(lifecycle.CANCEL_PENDING)
        if self.stop_requested:
            raise WrongState(lifecycle.PAUSE_PENDING)
        effect = lifecycle.require(self.status, Command.RESUME, repeated=self.resumed)
        return effect is Effect.RESUMES

    def resume(
        self,
        estimate: Estimate | None,
        rate_micros_per_hour: int,
        catalog_version: str,
        gpu_count: int | None = None,
    ) -> None:
        """Go on from the last checkpoint at this rate, with the rest estimated anew."""
        if self.must_resume():
            self.trigger_event(
                self.JobResumed,
                rate_micros_per_hour=rate_micros_per_hour,
                catalog_version=catalog_version,
                estimate=estimate,
                gpu_count=gpu_count,
            )

    @event(JobResumed)
    def _job_resumed(
        self, rate_micros_per_hour: int, estimate: Estimate | None, gpu_count: int | None
    ) -> None:
        self.status = JobStatus.EVALUATING if self.trained else JobStatus.TRAINING
        self.rate_micros_per_hour = rate_micros_per_hour
        self.gpu_count = gpu_count or self.gpu_count
        self.gate_micros = estimate.high_micros if estimate else None
        self.resumed = True
        self.relaunch_at = None

    def cancel(self, retention: timedelta) -> None:
        """Stop for good; what was saved is kept for the retention time. Raises WrongState."""
        effect = lifecycle.require(self.status, Command.CANCEL)
        if effect is Effect.UNCHANGED or self.cancel_requested:
            return
        if self.segment_running:
            seconds = int(retention.total_seconds())
            self.trigger_event(self.CancelRequested, retention_seconds=seconds)
        else:
            self._cancel(retention)

    @event(CancelRequested)
    def _cancel_requested(self, retention_seconds: int) -> None:
        self.retention = timedelta(seconds=retention_seconds)

    def _cancel(self, retention: timedelta) -> None:
        saved = self.checkpoint
        self.trigger_event(
            self.JobCancelled,
            step=self.step,
            checkpoint_ref=saved.ref if saved else None,
            manifest_sha256=saved.manifest_sha256 if saved else None,
            expires_at=current_cause().now + retention if saved else None,
        )

    @event(JobCancelled)
    def _job_cancelled(self, expires_at: datetime | None) -> None:
        self.status = JobStatus.CANCELLED
        self.expires_at = expires_at
