"""The events of a job, in the order in which they can occur."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from domain.core.aggregate import Created, Event
from domain.estimating.estimate import Estimate, Precision
from domain.jobs.failures import FailureClass
from domain.jobs.guarantee import Guarantee
from domain.jobs.lifecycle import PauseReason
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import RejectionReason, ResumeCertificate, SavedCheckpoint
from domain.training.early_stopping import EarlyStop
from domain.training.evaluation import EvaluationResult
from domain.training.phases import Phase
from domain.training.training_plan import Order, TrainingPlan


class JobEvent(Event):
    """Base class of all job events."""


def job_of(event: Event) -> UUID | None:
    """Return the job of any event, or None. Of a deployment, only the first event has the job."""
    return event.originator_id if isinstance(event, JobEvent) else getattr(event, "job_id", None)


class JobApproved(Order, JobEvent, Created):
    """The owner approved the plan and its rate. The job is queued for GPUs."""

    plan: TrainingPlan
    estimate: Estimate
    guarantee: Guarantee | None  # None: charges stop at the maximum cost or at a zero balance only


class MaxCostChanged(JobEvent):
    """The owner changed or removed the maximum cost of the job."""

    max_cost_micros: int | None  # None: the job has no maximum cost


class SegmentAllocated(JobEvent):
    """GPUs were allocated to the next segment."""

    segment: int
    rate_micros_per_hour: int


class PodStarted(JobEvent):
    """The launcher started the pod of the segment on its GPUs. Billing starts."""

    segment: int
    pod: str
    bound_at: datetime
    host: str | None  # the only host that can see the pod's processes; None: all hosts can


class CheckpointRejected(JobEvent):
    """The running segment could not resume from a checkpoint, or register it. It tries another."""

    segment: int
    step: int
    ref: str
    reason: RejectionReason
    saved_in: int  # segment that saved the checkpoint
    # Seconds of that segment to charge for; None: a later checkpoint includes them. Otherwise, the
    # user pays for no segment after that of the newest checkpoint which is left.
    kept_seconds: int | None


class ResumeCertified(ResumeCertificate, JobEvent):
    """The running segment restored exactly the state that is saved in its checkpoint."""

    segment: int


class TrainingStarted(JobEvent):
    """The segment loaded the model and the data. It starts training after this step."""

    segment: int
    step: int
    total_steps: int
    train_examples: int
    eval_examples: int


class CheckpointSaved(SavedCheckpoint, JobEvent):
    """A checkpoint of the running segment is durably stored."""


class OverfittingSuspected(JobEvent):
    """The held-out losses of several consecutive checkpoints are not below the lowest one."""

    segment: int
    step: int
    eval_loss: float
    best_step: int
    best_eval_loss: float


class CheckpointPruned(JobEvent):
    """A checkpoint is no longer needed, and EcoLink deletes its files."""

    step: int
    ref: str


class TrainingStoppedEarly(EarlyStop, JobEvent):
    """The held-out loss no longer falls, so the segment trains no further steps."""

    segment: int


class EvaluationStarted(JobEvent):
    """All training steps are done, and the evaluation on the held-out examples started."""

    segment: int
    step: int


class EvaluationCompleted(EvaluationResult, JobEvent):
    """The evaluation on the held-out examples is done, and the adapter can be registered."""

    segment: int
    perplexity_before: float
    perplexity_after: float
    peak_memory_bytes: int | None  # peak of the rank that used the most memory; None: not measured


class Registered(JobEvent):
    """The adapter was registered as a model, which the owner can deploy."""

    segment: int
    model: str
    adapter_ref: str
    manifest_sha256: str


class SegmentEnded(SegmentEnding, JobEvent):
    """The segment's process ended. Billing stops."""

    segment: int
    kept_seconds: int  # seconds that the user pays for; the platform pays for the rest


class MicroBatchHalved(JobEvent):
    """A batch did not fit into memory. The next segment splits batches in half."""

    micro_batch_size: int  # of the next segments
    gradient_accumulation: int


class RelaunchPostponed(JobEvent):
    """The job failed again without progress. It requests no GPUs until `until`."""

    until: datetime


class PauseRequested(JobEvent):
    """The owner requested a pause. The running segment saves a checkpoint and exits."""

    reason: PauseReason


class JobPaused(JobEvent):
    """The job is paused. It holds no GPUs and costs nothing until the owner resumes it."""

    reason: PauseReason
    step: int


class JobResumed(JobEvent):
    """The owner approved a quote for the remaining work. The job is queued for GPUs."""

    rate_micros_per_hour: int  # of all GPUs of the job
    catalog_version: str
    estimate: Estimate  # of the remaining work
    guarantee: Guarantee | None  # of the whole job
    gpu_count: int  # of the next segments


class CancelRequested(JobEvent):
    """The owner cancelled the job. The running segment saves a checkpoint and exits."""

    # Time for which EcoLink keeps the last checkpoint after the cancellation.
    retention_seconds: int


class JobCancelled(JobEvent):
    """The job was cancelled."""

    step: int
    checkpoint_ref: str | None  # None: the job has no checkpoint
    manifest_sha256: str | None
    expires_at: datetime | None


class JobFailed(JobEvent):
    """The job failed and produced no model."""

    error_class: str
    log_ref: str | None
    failure: FailureClass


class EstimateScored(JobEvent):
    """The job's actual time and cost were compared with the approved range."""

    low_seconds: int
    high_seconds: int
    low_micros: int
    high_micros: int
    actual_seconds: int
    actual_micros: int  # price of the actual time, also of the time that the guarantee covers
    phase_seconds: dict[Phase, float]
    segments: int  # number of segments that used GPU time
    precision: Precision
    base_model: str
    gpu_type: str
    gpu_count: int  # of the last segment


class AdapterPromoted(JobEvent):
    """EcoLink registered the last checkpoint of a cancelled or failed job as a model."""

    model: str
    adapter_ref: str
    manifest_sha256: str


class AdapterExpired(JobEvent):
    """The retention time of a cancelled job ended. EcoLink deletes its checkpoints."""

    adapter_ref: str
    manifest_sha256: str


class ModelDeleted(JobEvent):
    """The owner deleted the model and all checkpoints of its job."""

    model: str
    adapter_ref: str
    manifest_sha256: str
