"""JobAdapter: what becomes of what a job that is over had saved, as events."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.aggregate import current_cause
from domain.core.errors import WrongState
from domain.jobs.job_segments import JobSegments
from domain.jobs.lifecycle import JobStatus
from domain.training.training_plan import TrainingPlan

MODEL_DELETED = "The job's model was deleted for good. Start a new job."


class JobAdapter(JobSegments):
    """What a job that is over had saved: it is promoted to a model, expires, or is deleted."""

    # The library would otherwise make other classes of the inherited events, without their rules.
    Event = JobSegments.Event
    SegmentAllocated = JobSegments.SegmentAllocated
    PodStarted = JobSegments.PodStarted
    TrainingStarted = JobSegments.TrainingStarted
    CheckpointSaved = JobSegments.CheckpointSaved
    CheckpointRejected = JobSegments.CheckpointRejected
    ResumeCertified = JobSegments.ResumeCertified
    CheckpointPruned = JobSegments.CheckpointPruned
    EvaluationStarted = JobSegments.EvaluationStarted
    EvaluationCompleted = JobSegments.EvaluationCompleted
    Registered = JobSegments.Registered
    SegmentEnded = JobSegments.SegmentEnded
    MicroBatchHalved = JobSegments.MicroBatchHalved

    class AdapterPromoted(Event):
        """What a cancelled or failed job had saved is a model, and stays."""

        TOPIC: ClassVar[str] = "AdapterPromoted"
        model: str
        adapter_ref: str
        manifest_sha256: str

    class AdapterExpired(Event):
        """The retention time of a cancelled job is over; what it had saved is deleted."""

        TOPIC: ClassVar[str] = "AdapterExpired"
        adapter_ref: str
        manifest_sha256: str

    class ModelDeleted(Event):
        """The owner deleted the model; all that its job had saved is deleted with it."""

        TOPIC: ClassVar[str] = "ModelDeleted"
        model: str
        adapter_ref: str
        manifest_sha256: str

    def __init__(self, account_id: UUID, plan: TrainingPlan) -> None:
        super().__init__(account_id, plan)
        self.model_deleted = False
        self.expires_at: datetime | None = None  # when it is deleted, unless promoted
        self.expired = False

    def promote(self) -> None:
        """Make a model of what a cancelled or failed job had saved; raises WrongState.

        What a failed job saved was paid for, and never expires.
        """
        if self.status not in (JobStatus.CANCELLED, JobStatus.FAILED):
            raise WrongState(
                f"the job is {self.status}; only a cancelled or failed job can be promoted"
            )
        if self.model_deleted:
            raise WrongState(MODEL_DELETED)
        saved, due = self.checkpoint, self.expires_at
        if saved is None:
            raise WrongState(
                f"the job was {self.status} before its first checkpoint; there is nothing to "
                "promote"
            )
        if self.model is not None:
            return
        if due is not None and (self.expired or current_cause().now >= due):
            raise WrongState(
                f"what the job had saved was kept until {due:%Y-%m-%d %H:%M} UTC and "
                "is deleted; start a new job"
            )
        self.trigger_event(
            self.AdapterPromoted,
            model=self.model_name,
            adapter_ref=saved.ref,
            manifest_sha256=saved.manifest_sha256,
        )

    @event(AdapterPromoted)
    def _adapter_promoted(self, model: str, adapter_ref: str, manifest_sha256: str) -> None:
        self.model, self.adapter_ref = model, adapter_ref
        self.adapter_manifest_sha256 = manifest_sha256

    def expire_adapter(self) -> None:
        """Give up what a cancelled job had saved, once its time is over and nobody promoted it."""
        saved, due = self.checkpoint, self.expires_at
        if saved is None or due is None or self.model is not None or self.expired:
            return
        if current_cause().now >= due:
            self.trigger_event(
                self.AdapterExpired, adapter_ref=saved.ref, manifest_sha256=saved.manifest_sha256
            )

    @event(AdapterExpired)
    def _adapter_expired(self) -> None:
        self.expired = True

    def delete_model(self) -> None:
        """Delete the model, and all else that the job had saved; once. Raises WrongState."""
        if self.model_deleted:
            return
        if self.model is None or self.adapter_ref is None or self.adapter_manifest_sha256 is None:
            raise WrongState(f"the job is {self.status} and has no model")
        self.trigger_event(
            self.ModelDeleted,
            model=self.model,
            adapter_ref=self.adapter_ref,
            manifest_sha256=self.adapter_manifest_sha256,
        )

    @event(ModelDeleted)
    def _model_deleted(self) -> None:
        self.model_deleted = True
        self.model = self.adapter_ref = self.adapter_manifest_sha256 = None
        self.checkpoints = []
