"""JobSegments: how a job's launches go, from their GPUs to their end, as events."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.errors import StaleSegment, WrongState
from domain.jobs.failures import FAILURES, FailureClass, MemoryShortage, Payer
from domain.jobs.job_checkpoints import JobCheckpoints
from domain.jobs.lifecycle import CANCEL_PENDING, JobStatus, PauseReason, SegmentEnd
from domain.training.perplexity import perplexity
from domain.training.phases import Phase
from domain.training.training_plan import Order, TrainingPlan


class JobSegments(JobCheckpoints):
    """The half of a job that its trainers move; `domain.jobs.job` has its owner's half.

    A segment is one launch. They are numbered from 1, and at most one runs at a time.
    """

    # The library would otherwise make other classes of the inherited events, without their rules.
    Event = JobCheckpoints.Event
    CheckpointSaved = JobCheckpoints.CheckpointSaved
    CheckpointRejected = JobCheckpoints.CheckpointRejected
    ResumeCertified = JobCheckpoints.ResumeCertified
    CheckpointPruned = JobCheckpoints.CheckpointPruned

    class SegmentAllocated(Event):
        """The next segment has its GPUs."""

        TOPIC: ClassVar[str] = "SegmentAllocated"
        segment: int
        rate_micros_per_hour: int

    class PodStarted(Event):
        """The launcher bound the GPUs to the segment; its time counts from here."""

        TOPIC: ClassVar[str] = "PodStarted"
        segment: int
        pod: str
        bound_at: datetime
        host: str | None  # that alone sees the pod's processes; None: every scheduler does

    class TrainingStarted(Event):
        """Model and data are loaded; the first step of the segment is next."""

        TOPIC: ClassVar[str] = "TrainingStarted"
        segment: int
        step: int
        total_steps: int
        train_examples: int
        eval_examples: int

    class EvaluationStarted(Event):
        """All steps are done; the held-out examples are being scored."""

        TOPIC: ClassVar[str] = "EvaluationStarted"
        segment: int
        step: int

    class EvaluationCompleted(Event):
        """What the adapter does on held-out examples is known; it waits to be registered."""

        TOPIC: ClassVar[str] = "EvaluationCompleted"
        class_version: ClassVar[int] = 2
        segment: int
        loss_before: float
        loss_after: float
        perplexity_before: float
        perplexity_after: float
        accuracy_before: float | None  # share of the label tokens that were the first choice
        accuracy_after: float | None
        examples: int
        label_tokens: int
        peak_memory_bytes: int | None  # of the segment's largest rank; None: not measured

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """The first version had the losses alone, of which the perplexity follows."""
            for when in ("before", "after"):
                state[f"perplexity_{when}"] = perplexity(state[f"loss_{when}"])
                state[f"accuracy_{when}"] = None
            state["peak_memory_bytes"] = None

    class Registered(Event):
        """The adapter has a name and can be deployed."""

        TOPIC: ClassVar[str] = "Registered"
        segment: int
        model: str
        adapter_ref: str
        manifest_sha256: str

    class SegmentEnded(Event):
        """The segment's process is over; its time counts up to here."""

        TOPIC: ClassVar[str] = "SegmentEnded"
        class_version: ClassVar[int] = 3
        segment: int
        reason: SegmentEnd
        elapsed_seconds: int
        grace_seconds: int
        kept_seconds: int
        error_class: str | None
        log_ref: str | None
        failure: FailureClass | None  # of a crash
        shortage: MemoryShortage | None  # of a crash by a micro batch that no memory held
        phase_seconds: dict[Phase, float]

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """The first version told a lost process by its error class, and timed no phases."""
            crashed = state["reason"] == SegmentEnd.CRASHED
            state["failure"] = failure_of(state["error_class"]) if crashed else None
            state["phase_seconds"] = {}

        @staticmethod
        def upcast_v2_v3(state: dict[str, Any]) -> None:
            """The second version did not tell what the memory did not hold."""
            state["shortage"] = None

    class MicroBatchHalved(Event):
        """A GPU's memory did not hold a batch: twice as many, of half the tokens, are tried."""

        TOPIC: ClassVar[str] = "MicroBatchHalved"
        micro_batch_size: int  # from now on
        gradient_accumulation: int

    def __init__(self, account_id: UUID, plan: TrainingPlan) -> None:
        super().__init__()
        self.account_id = account_id
        self.plan = plan
        self.order = Order()
        self.rate_micros_per_hour = plan.rate_micros_per_hour
        self.gpu_count = plan.gpu_count  # of the next segment, or the running one
        self.micro_batch_split = 1  # parts that a micro batch is cut into, for its memory's sake
        self.status = JobStatus.TRAINING
        self.segment = 0
        self.segment_running = False
        self.pod: str | None = None
        self.pod_host: str | None = None
        self.total_steps = 0  # 0: not known yet
        self.trained_in_segment = 0
        self.pause_requested: PauseReason | None = None
        self.retention: timedelta | None = None  # set when the owner cancels a running segment
        self.segments_used = 0
        self.phase_seconds: dict[Phase, float] = {}

    @property
    def next_segment(self) -> int | None:
        """Number of the segment that the job needs GPUs for, if it needs any."""
        if self.status.is_final or self.status is JobStatus.PAUSED or self.segment_running:
            return None
        return self.segment + 1

    @property
    def cancel_requested(self) -> bool:
        """Whether the running segment shall end because its owner cancelled the job."""
        return self.segment_running and self.retention is not None

    @property
    def stop_requested(self) -> bool:
        """Whether the running segment shall save and exit because its owner said so."""
        return self.cancel_requested or (self.segment_running and self.pause_requested is not None)

    @property
    def trained(self) -> bool:
        """Whether a checkpoint holds all steps, so that only the evaluation is left."""
        saved = self.checkpoint
        return saved is not None and 0 < self.total_steps <= saved.step

    @property
    def model_name(self) -> str:
        """What its adapter is called once it is a model."""
        parts = ("ft", self.plan.base_model, self.order.suffix, self.id.hex[:12])
        return ":".join(part for part in parts if part)

    def allocate_segment(self, segment: int) -> None:
        """Begin the next segment, at the rate of the approval or of the last resume."""
        if segment != self.next_segment:
            raise StaleSegment(f"segment {segment} is not the next one of this job")
        self.trigger_event(
            self.SegmentAllocated, segment=segment, rate_micros_per_hour=self.rate_micros_per_hour
        )

    @event(SegmentAllocated)
    def _segment_allocated(self, segment: int) -> None:
        self.segment = segment
        self.segment_running = True
        self.pod = self.pod_host = None

    def start_pod(
        self, segment: int, pod: str, bound_at: datetime, host: str | None = None
    ) -> None:
        """Record that the launcher bound the GPUs, and on which host; once."""
        self._require_running(segment)
        if self.pod is None:
            self.trigger_event(
                self.PodStarted, segment=segment, pod=pod, bound_at=bound_at, host=host
            )

    @event(PodStarted)
    def _pod_started(self, pod: str, host: str | None) -> None:
        self.pod, self.pod_host = pod, host

    def start_training(
        self, segment: int, step: int, total_steps: int, train_examples: int, eval_examples: int
    ) -> None:
        """Record that a segment trains, from a step on; once for each segment."""
        self._require_running(segment)
        if self.trained_in_segment < segment:
            self.trigger_event(
                self.TrainingStarted,
                segment=segment,
                step=step,
                total_steps=total_steps,
                train_examples=train_examples,
                eval_examples=eval_examples,
            )

    @event(TrainingStarted)
    def _training_started(self, segment: int, step: int, total_steps: int) -> None:
        if step < total_steps:  # else a job that was in evaluation stays there
            self.status = JobStatus.TRAINING
        self.trained_in_segment = segment
        self.step, self.total_steps = step, total_steps

    def start_evaluation(self, segment: int, step: int) -> None:
        """Move on to evaluating; once."""
        self._require_running(segment)
        if self.status is JobStatus.TRAINING:
            self.trigger_event(self.EvaluationStarted, segment=segment, step=step)

    @event(EvaluationStarted)
    def _evaluation_started(self, step: int) -> None:
        self.status = JobStatus.EVALUATING
        self.step = step

    def complete_evaluation(
        self,
        segment: int,
        loss_before: float,
        loss_after: float,
        examples: int,
        label_tokens: int,
        *,
        accuracy_before: float | None = None,
        accuracy_after: float | None = None,
        peak_memory_bytes: int | None = None,
    ) -> None:
        """Keep the held-out losses (nats per label token) and token accuracies; once."""
        self._require_running(segment)
        if self.status is JobStatus.EVALUATING:
            self.trigger_event(
                self.EvaluationCompleted,
                segment=segment,
                loss_before=loss_before,
                loss_after=loss_after,
                perplexity_before=perplexity(loss_before),
                perplexity_after=perplexity(loss_after),
                accuracy_before=accuracy_before,
                accuracy_after=accuracy_after,
                examples=examples,
                label_tokens=label_tokens,
                peak_memory_bytes=peak_memory_bytes,
            )

    @event(EvaluationCompleted)
    def _evaluation_completed(self, loss_after: float) -> None:
        self.status = JobStatus.TRAINED_PENDING_REGISTER
        self._score_checkpoint(self.total_steps, loss_after)

    def register(self, segment: int, adapter_ref: str, manifest_sha256: str) -> None:
        """Give the adapter its name, unless the job is being cancelled."""
        self._require_running(segment)
        if self.cancel_requested:
            raise WrongState(CANCEL_PENDING)
        if self.status is not JobStatus.TRAINED_PENDING_REGISTER:
            raise WrongState(f"the job is {self.status}, not trained_pending_register")
        self.trigger_event(
            self.Registered,
            segment=segment,
            model=self.model_name,
            adapter_ref=adapter_ref,
            manifest_sha256=manifest_sha256,
        )

    @event(Registered)
    def _registered(self, model: str, adapter_ref: str, manifest_sha256: str) -> None:
        self.status = JobStatus.REGISTERED
        self.model, self.adapter_ref = model, adapter_ref
        self.adapter_manifest_sha256 = manifest_sha256

    def end_segment(
        self,
        segment: int,
        reason: SegmentEnd,
        elapsed_seconds: int,
        *,
        grace_seconds: int = 0,
        failure: FailureClass | None = None,
        error_class: str | None = None,
        log_ref: str | None = None,
        shortage: MemoryShortage | None = None,
        phase_seconds: Mapping[Phase, float] | None = None,
        can_pay: bool = True,
        overran: bool = False,
    ) -> None:
        """End the running segment, and with it what its owner or its failure asks for.

        `kept_seconds` says how much of the segment's time the user pays for: what the platform
        lost after the last checkpoint is done again and must be credited. `can_pay` says whether
        the account affords another launch, should the paid time have run out; `overran` that the
        trainer had not saved by then, nor in its grace.
        """
        self._require_running(segment)
        if reason is SegmentEnd.CRASHED:
            failure = failure or FailureClass.TRAINER_CRASHED
        self.trigger_event(
            self.SegmentEnded,
            segment=segment,
            reason=reason,
            elapsed_seconds=elapsed_seconds,
            grace_seconds=grace_seconds,
            kept_seconds=self._kept_seconds(reason, elapsed_seconds, failure, overran),
            error_class=error_class,
            log_ref=log_ref,
            failure=failure,
            shortage=shortage,
            phase_seconds=dict(phase_seconds or {}),
        )
        self._conclude(reason, failure, error_class, log_ref, shortage, can_pay)

    def _kept_seconds(
        self,
        reason: SegmentEnd,
        elapsed_seconds: int,
        failure: FailureClass | None,
        overran: bool,
    ) -> int:
        if overran:
            platform_pays = True  # the user paid for time that was lost by a slow trainer
        elif reason is SegmentEnd.STOPPED:
            platform_pays = not self.stop_requested
        else:
            platform_pays = failure is not None and FAILURES[failure].payer is Payer.PLATFORM
        if not platform_pays:
            return elapsed_seconds
        last = self.checkpoint
        return last.elapsed_seconds if last is not None and last.segment == self.segment else 0

    @event(SegmentEnded)
    def _segment_ended(
        self,
        reason: SegmentEnd,
        elapsed_seconds: int,
        grace_seconds: int,
        kept_seconds: int,
        phase_seconds: dict[Phase, float],
    ) -> None:
        self.segment_running = False
        self.crashes += reason is SegmentEnd.CRASHED
        if self.status is JobStatus.TRAINED_PENDING_REGISTER:  # the next one evaluates again
            self.status = JobStatus.EVALUATING
        if self.status is not JobStatus.REGISTERED:
            self.step = self.checkpoint.step if self.checkpoint else 0
        billable = max(0, min(kept_seconds, elapsed_seconds - grace_seconds))
        self.segments_used += elapsed_seconds > 0
        self.paid[self.segment] = self.rate_micros_per_hour, billable
        for phase, seconds in phase_seconds.items():
            self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + seconds

    @event(MicroBatchHalved)
    def _micro_batch_halved(self) -> None:
        self.micro_batch_split = 2

    @abstractmethod
    def _conclude(
        self,
        reason: SegmentEnd,
        failure: FailureClass | None,
        error_class: str | None,
        log_ref: str | None,
        shortage: MemoryShortage | None,
        can_pay: bool,
    ) -> None:
        """What follows for the job from the end of a segment."""

    def _require_running(self, segment: int) -> None:
        if not self.segment_running or segment != self.segment:
            raise StaleSegment(f"segment {segment} is not the running one ({self.segment})")


def failure_of(error_class: str | None) -> str:
    """Failure class of an event that was stored before there were any."""
    lost = error_class == "ProcessLost"
    return (FailureClass.NODE_LOST if lost else FailureClass.TRAINER_CRASHED).value
