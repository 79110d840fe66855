"""Job: what may happen to a fine-tuning job, as events."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event
from pydantic import BaseModel, ConfigDict, JsonValue

from domain.aggregate import Aggregate, Created, Event
from domain.errors import StaleSegment, WrongState
from domain.hyperparameters import Hyperparameters

RELAUNCH_LIMIT = 3
"""Automatic relaunches of a job whose trainer crashed or whose process was lost."""


class JobStatus(StrEnum):
    """States of the job status reference."""

    TRAINING = "training"
    EVALUATING = "evaluating"
    TRAINED_PENDING_REGISTER = "trained_pending_register"
    REGISTERED = "registered"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen to such a job any more."""
        return self in (JobStatus.REGISTERED, JobStatus.FAILED)


class SegmentEnd(StrEnum):
    """Why a segment of a job ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # asked to, for instance because its host shuts down
    LEASE_ENDED = "lease_ended"  # its paid time ran out
    CRASHED = "crashed"  # its trainer failed, or its process was lost


class TrainingPlan(BaseModel):
    """What was approved: data, base, GPUs and hyperparameters, with the rate frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_id: UUID
    dataset_ref: str
    dataset_sha256: str
    base_model: str
    base_ref: str
    base_manifest_sha256: str
    region: str
    gpu_type: str
    gpu_count: int
    rate_micros_per_hour: int  # of all its GPUs
    catalog_version: str
    # As recorded: today's bounds must not make yesterday's jobs unreadable.
    hyperparameters: dict[str, JsonValue]

    @property
    def choices(self) -> tuple[object, ...]:
        """What the user chose; all else in a plan follows from it and from the catalog's state."""
        return (
            self.dataset_id,
            self.base_model,
            self.region,
            self.gpu_type,
            self.gpu_count,
            self.hyperparameters,
        )

    @property
    def lora(self) -> Hyperparameters:
        """The hyperparameters, trusted as they were recorded."""
        recorded = dict(self.hyperparameters)
        modules = recorded.pop("target_modules")
        assert isinstance(modules, list)
        return Hyperparameters.model_construct(None, **recorded, target_modules=tuple(modules))


class SavedCheckpoint(BaseModel):
    """Where a job can be taken up again."""

    model_config = ConfigDict(frozen=True)

    segment: int
    step: int
    ref: str
    elapsed_seconds: int


class Job(Aggregate):
    """A job runs as segments: one launch each, numbered from 1, at most one at a time."""

    TOPIC: ClassVar[str] = "Job"

    class JobApproved(Created):
        """The account holder approved the plan at its rate; training may begin."""

        TOPIC: ClassVar[str] = "JobApproved"
        plan: TrainingPlan

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

    class TrainingStarted(Event):
        """Model and data are loaded; the first step of the segment is next."""

        TOPIC: ClassVar[str] = "TrainingStarted"
        segment: int
        step: int
        total_steps: int
        train_examples: int
        eval_examples: int

    class CheckpointSaved(Event):
        """A checkpoint of the running segment is durable in the artifact store."""

        TOPIC: ClassVar[str] = "CheckpointSaved"
        segment: int
        step: int
        train_loss: float
        elapsed_seconds: int
        ref: str
        manifest_sha256: str
        total_bytes: int

    class EvaluationStarted(Event):
        """All steps are done; the held-out examples are being scored."""

        TOPIC: ClassVar[str] = "EvaluationStarted"
        segment: int
        step: int

    class EvaluationCompleted(Event):
        """The adapter's held-out loss is known; it waits to be registered."""

        TOPIC: ClassVar[str] = "EvaluationCompleted"
        segment: int
        loss_before: float
        loss_after: float
        examples: int
        label_tokens: int

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
        segment: int
        reason: SegmentEnd
        elapsed_seconds: int
        grace_seconds: int
        kept_seconds: int
        error_class: str | None = None
        log_ref: str | None = None

    class JobFailed(Event):
        """The job is over without an adapter."""

        TOPIC: ClassVar[str] = "JobFailed"
        error_class: str
        log_ref: str | None

    @classmethod
    def approve(cls, job_id: UUID, account_id: UUID, plan: TrainingPlan) -> Job:
        """A job that waits for its GPUs."""
        return cls._create(cls.JobApproved, id=job_id, account_id=account_id, plan=plan)

    @event(JobApproved)
    def __init__(self, account_id: UUID, plan: TrainingPlan) -> None:
        self.account_id = account_id
        self.plan = plan
        self.status = JobStatus.TRAINING
        self.segment = 0
        self.segment_running = False
        self.pod: str | None = None
        self.step = 0
        self.crashes = 0
        self.trained_in_segment = 0
        self.checkpoint: SavedCheckpoint | None = None
        self.model: str | None = None

    @property
    def next_segment(self) -> int | None:
        """Number of the segment that the job needs GPUs for, if it needs any."""
        if self.status.is_final or self.segment_running:
            return None
        return self.segment + 1

    def allocate_segment(self, segment: int) -> None:
        """Begin the next segment, at the rate that was approved."""
        if segment != self.next_segment:
            raise StaleSegment(f"segment {segment} is not the next one of this job")
        self.trigger_event(
            self.SegmentAllocated,
            segment=segment,
            rate_micros_per_hour=self.plan.rate_micros_per_hour,
        )

    @event(SegmentAllocated)
    def _segment_allocated(self, segment: int) -> None:
        self.segment = segment
        self.segment_running = True
        self.pod = None

    def start_pod(self, segment: int, pod: str, bound_at: datetime) -> None:
        """Record that the launcher bound the GPUs; once."""
        self._require_running(segment)
        if self.pod is None:
            self.trigger_event(self.PodStarted, segment=segment, pod=pod, bound_at=bound_at)

    @event(PodStarted)
    def _pod_started(self, pod: str) -> None:
        self.pod = pod

    def start_training(
        self, segment: int, step: int, total_steps: int, train_examples: int, eval_examples: int
    ) -> None:
        """Record the first step of a segment; once for each segment."""
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
    def _training_started(self, segment: int, step: int) -> None:
        self.status = JobStatus.TRAINING
        self.trained_in_segment = segment
        self.step = step

    def save_checkpoint(
        self,
        segment: int,
        step: int,
        train_loss: float,
        elapsed_seconds: int,
        ref: str,
        manifest_sha256: str,
        total_bytes: int,
    ) -> None:
        """Record a durable checkpoint; one that is not newer than the last changes nothing."""
        self._require_running(segment)
        last = self.checkpoint
        if last is not None and (last.segment, last.step) >= (segment, step):
            return
        self.trigger_event(
            self.CheckpointSaved,
            segment=segment,
            step=step,
            train_loss=train_loss,
            elapsed_seconds=elapsed_seconds,
            ref=ref,
            manifest_sha256=manifest_sha256,
            total_bytes=total_bytes,
        )

    @event(CheckpointSaved)
    def _checkpoint_saved(self, segment: int, step: int, ref: str, elapsed_seconds: int) -> None:
        self.step = step
        self.checkpoint = SavedCheckpoint(
            segment=segment, step=step, ref=ref, elapsed_seconds=elapsed_seconds
        )

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
    ) -> None:
        """Keep the held-out losses (nats per label token); once."""
        self._require_running(segment)
        if self.status is JobStatus.EVALUATING:
            self.trigger_event(
                self.EvaluationCompleted,
                segment=segment,
                loss_before=loss_before,
                loss_after=loss_after,
                examples=examples,
                label_tokens=label_tokens,
            )

    @event(EvaluationCompleted)
    def _evaluation_completed(self) -> None:
        self.status = JobStatus.TRAINED_PENDING_REGISTER

    def register(self, segment: int, adapter_ref: str, manifest_sha256: str) -> None:
        """Give the adapter its name."""
        self._require_running(segment)
        if self.status is not JobStatus.TRAINED_PENDING_REGISTER:
            raise WrongState(f"the job is {self.status}, not trained_pending_register")
        self.trigger_event(
            self.Registered,
            segment=segment,
            model=f"ft:{self.plan.base_model}:{self.id.hex[:8]}",
            adapter_ref=adapter_ref,
            manifest_sha256=manifest_sha256,
        )

    @event(Registered)
    def _registered(self, model: str) -> None:
        self.status = JobStatus.REGISTERED
        self.model = model

    def end_segment(
        self,
        segment: int,
        reason: SegmentEnd,
        elapsed_seconds: int,
        *,
        grace_seconds: int = 0,
        error_class: str | None = None,
        log_ref: str | None = None,
    ) -> None:
        """End the running segment; the job fails after its last relaunch crashed.

        `kept_seconds` says how much of the segment's time is in its last checkpoint. Of one that
        the platform ended, by a crash or a stop, the rest is done again and must be credited.
        """
        self._require_running(segment)
        redone = reason in (SegmentEnd.CRASHED, SegmentEnd.STOPPED)
        self.trigger_event(
            self.SegmentEnded,
            segment=segment,
            reason=reason,
            elapsed_seconds=elapsed_seconds,
            grace_seconds=grace_seconds,
            kept_seconds=self._kept_seconds if redone else elapsed_seconds,
            error_class=error_class,
            log_ref=log_ref,
        )
        if self.crashes > RELAUNCH_LIMIT:
            self.trigger_event(
                self.JobFailed, error_class=error_class or "ProcessLost", log_ref=log_ref
            )

    @property
    def _kept_seconds(self) -> int:
        last = self.checkpoint
        return last.elapsed_seconds if last is not None and last.segment == self.segment else 0

    @event(SegmentEnded)
    def _segment_ended(self, reason: SegmentEnd) -> None:
        self.segment_running = False
        self.crashes += reason is SegmentEnd.CRASHED

    @event(JobFailed)
    def _job_failed(self) -> None:
        self.status = JobStatus.FAILED

    def _require_running(self, segment: int) -> None:
        if not self.segment_running or segment != self.segment:
            raise StaleSegment(f"segment {segment} is not the running one ({self.segment})")
