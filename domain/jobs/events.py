"""The events of a job, in the order in which they can occur."""

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
from domain.training.training_plan import Order, TrainingPlan


class JobEvent(Event):
    """Base class of all job events."""


class JobApproved(Order, JobEvent, Created):
    """The account holder approved the plan and its rate. The job is queued for its GPUs."""

    plan: TrainingPlan
    estimate: Estimate


class SegmentAllocated(JobEvent):
    """GPUs were allocated to the next segment."""

    segment: int
    rate_micros_per_hour: int


class PodStarted(JobEvent):
    """The launcher started the segment's pod on its GPUs. Billing starts."""

    segment: int
    pod: str
    bound_at: datetime
    host: str | None  # the only host that can see the pod's processes; None: every scheduler can


class CheckpointRejected(JobEvent):
    """The running segment could not resume from a checkpoint. It tries the previous one."""

    segment: int
    step: int
    ref: str
    reason: RejectionReason
    saved_in: int  # the segment that saved it
    kept_seconds: int | None  # of that segment; None: a later checkpoint includes it


class ResumeCertified(ResumeCertificate, JobEvent):
    """The running segment restored exactly the state that its checkpoint saved."""

    segment: int


class TrainingStarted(JobEvent):
    """The model and the data are loaded. The segment starts training from this step."""

    segment: int
    step: int
    total_steps: int
    train_examples: int
    eval_examples: int


class CheckpointSaved(SavedCheckpoint, JobEvent):
    """A checkpoint of the running segment was stored durably."""


class OverfittingSuspected(JobEvent):
    """The held-out loss of several consecutive checkpoints did not improve on the best one."""

    segment: int
    step: int
    eval_loss: float
    best_step: int
    best_eval_loss: float


class CheckpointPruned(JobEvent):
    """A checkpoint is no longer needed, and its files are deleted."""

    step: int
    ref: str


class EvaluationStarted(JobEvent):
    """All training steps are done. The evaluation on the held-out examples started."""

    segment: int
    step: int


class EvaluationCompleted(EvaluationResult, JobEvent):
    """The evaluation on the held-out examples is done. The adapter can be registered."""

    segment: int
    perplexity_before: float
    perplexity_after: float
    peak_memory_bytes: int | None  # of the segment's largest rank; None: not measured


class Registered(JobEvent):
    """The adapter was registered as a model, which can be deployed."""

    segment: int
    model: str
    adapter_ref: str
    manifest_sha256: str


class SegmentEnded(SegmentEnding, JobEvent):
    """The segment's process ended, and billing stops."""

    segment: int
    kept_seconds: int  # that the user pays for; the platform pays for the rest


class MicroBatchHalved(JobEvent):
    """A batch did not fit into memory. The next segment runs half as many tokens at once."""

    micro_batch_size: int  # from now on
    gradient_accumulation: int


class RelaunchPostponed(JobEvent):
    """The job failed again without progress. It requests no GPUs until this time."""

    until: datetime


class PauseRequested(JobEvent):
    """The account holder requested a pause. The running segment saves a checkpoint and exits."""

    reason: PauseReason


class JobPaused(JobEvent):
    """The job is paused. It holds no GPUs and costs nothing until it is resumed from this step."""

    reason: PauseReason
    step: int


class JobResumed(JobEvent):
    """The account holder approved a quote for the remaining work. The job is queued for GPUs."""

    rate_micros_per_hour: int  # of all its GPUs
    catalog_version: str
    estimate: Estimate  # of the remaining work
    gpu_count: int  # from now on


class CancelRequested(JobEvent):
    """The account holder cancelled the job. The running segment saves a checkpoint and exits."""

    retention_seconds: int  # time to keep the last checkpoint after the cancellation


class JobCancelled(JobEvent):
    """The job was cancelled."""

    step: int
    checkpoint_ref: str | None  # None: there is no checkpoint to keep
    manifest_sha256: str | None
    expires_at: datetime | None


class JobFailed(JobEvent):
    """The job failed and produced no model."""

    error_class: str
    log_ref: str | None
    failure: FailureClass


class EstimateScored(JobEvent):
    """The job was registered. Its actual time and cost are compared with the approved range."""

    low_seconds: int
    high_seconds: int
    low_micros: int
    high_micros: int
    actual_seconds: int
    actual_micros: int
    phase_seconds: dict[Phase, float]
    segments: int  # number of segments that used GPU time
    precision: Precision
    base_model: str
    gpu_type: str
    gpu_count: int  # of the last segment


class AdapterPromoted(JobEvent):
    """The last checkpoint of a cancelled or failed job was registered as a model."""

    model: str
    adapter_ref: str
    manifest_sha256: str


class AdapterExpired(JobEvent):
    """The retention period of a cancelled job ended, and its checkpoints are deleted."""

    adapter_ref: str
    manifest_sha256: str


class ModelDeleted(JobEvent):
    """The account holder deleted the model and all checkpoints of its job."""

    model: str
    adapter_ref: str
    manifest_sha256: str
