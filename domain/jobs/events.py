"""The events of a job, in the order in which they can happen."""

from __future__ import annotations

from datetime import datetime

from domain.core.aggregate import Created, Event
from domain.estimating.estimate import Estimate, Precision
from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import PauseReason
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import RejectionReason, ResumeCertificate, SavedCheckpoint
from domain.training.evaluation import EvaluationResult
from domain.training.phases import Phase
from domain.training.training_plan import TrainingPlan


class JobEvent(Event):
    """Base of all events of a job."""


class JobApproved(JobEvent, Created):
    """The account holder approved the plan at its rate. Training may begin."""

    plan: TrainingPlan
    estimate: Estimate | None
    suffix: str | None  # a part of the model's name
    deploy: bool  # deploy the model as soon as it is registered
    request_sha256: str | None  # hash of the request; None: compare the plan's choices


class SegmentAllocated(JobEvent):
    """The next segment has its GPUs."""

    segment: int
    rate_micros_per_hour: int


class PodStarted(JobEvent):
    """The launcher bound the GPUs to the segment. Billing counts from here."""

    segment: int
    pod: str
    bound_at: datetime
    host: str | None  # the only host that sees the pod's processes; None: every scheduler does


class CheckpointRejected(JobEvent):
    """The running segment could not resume from a checkpoint. It tries the one before."""

    segment: int
    step: int
    ref: str
    reason: RejectionReason
    saved_in: int  # the segment that saved it
    kept_seconds: int | None  # of that segment's time; None: a later checkpoint has its work


class ResumeCertified(ResumeCertificate, JobEvent):
    """The running segment restored the state that was saved in a checkpoint."""

    segment: int


class TrainingStarted(JobEvent):
    """The model and the data are loaded. The segment trains from this step."""

    segment: int
    step: int
    total_steps: int
    train_examples: int
    eval_examples: int


class CheckpointSaved(SavedCheckpoint, JobEvent):
    """A checkpoint of the running segment is durable in the artifact store."""

    @property
    def checkpoint(self) -> SavedCheckpoint:
        """The checkpoint without the envelope."""
        return SavedCheckpoint(**self.model_dump(include=set(SavedCheckpoint.model_fields)))


class OverfittingSuspected(JobEvent):
    """The held-out loss of several checkpoints in a row is not below the best one."""

    segment: int
    step: int
    eval_loss: float
    best_step: int
    best_eval_loss: float


class CheckpointPruned(JobEvent):
    """A checkpoint is no longer needed. Its files are deleted."""

    step: int
    ref: str


class EvaluationStarted(JobEvent):
    """All steps are done. The evaluation of the held-out examples began."""

    segment: int
    step: int


class EvaluationCompleted(EvaluationResult, JobEvent):
    """The held-out examples are evaluated. The adapter waits for its registration."""

    segment: int
    perplexity_before: float
    perplexity_after: float
    peak_memory_bytes: int | None  # of the segment's largest rank; None: not measured


class Registered(JobEvent):
    """The adapter is a model and can be deployed."""

    segment: int
    model: str
    adapter_ref: str
    manifest_sha256: str


class SegmentEnded(SegmentEnding, JobEvent):
    """The segment's process ended. Billing counts up to here."""

    segment: int
    kept_seconds: int  # that the user pays for; the platform pays for the rest


class MicroBatchHalved(JobEvent):
    """A batch did not fit into the memory. The next segment runs half as many tokens at once."""

    micro_batch_size: int  # from now on
    gradient_accumulation: int


class RelaunchPostponed(JobEvent):
    """The job failed again without progress. It requests no GPU before this time."""

    until: datetime


class PauseRequested(JobEvent):
    """The account holder paused the job. The running segment saves and exits."""

    reason: PauseReason


class JobPaused(JobEvent):
    """The job has no GPU and costs nothing until it is resumed from this step."""

    reason: PauseReason
    step: int


class JobResumed(JobEvent):
    """The account holder approved a new quote for the rest. The job waits for a GPU."""

    rate_micros_per_hour: int  # of all its GPUs
    catalog_version: str
    estimate: Estimate | None  # of the rest
    gpu_count: int | None  # from now on; None: as many as before


class CancelRequested(JobEvent):
    """The account holder cancelled the job. The running segment saves and exits."""

    retention_seconds: int  # that the last checkpoint is kept for after the cancellation


class JobCancelled(JobEvent):
    """The job ended because the account holder cancelled it."""

    step: int
    checkpoint_ref: str | None  # None: nothing was saved, so nothing is kept
    manifest_sha256: str | None
    expires_at: datetime | None


class JobFailed(JobEvent):
    """The job ended without a model."""

    error_class: str
    log_ref: str | None
    failure: FailureClass


class EstimateScored(JobEvent):
    """The job was registered. Its actual time and cost stand beside the approved range."""

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


class AdapterPromoted(JobEvent):
    """The last checkpoint of a cancelled or failed job became a model."""

    model: str
    adapter_ref: str
    manifest_sha256: str


class AdapterExpired(JobEvent):
    """The retention time of a cancelled job ended. Its checkpoints are deleted."""

    adapter_ref: str
    manifest_sha256: str


class ModelDeleted(JobEvent):
    """The account holder deleted the model and all checkpoints of its job."""

    model: str
    adapter_ref: str
    manifest_sha256: str
