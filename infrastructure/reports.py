"""Messages between trainers and services over NATS: reports, telemetry, log lines and control.

Reports are keyed by (job, segment, n) and cumulative, so the next report makes up for a lost one.
Times are seconds on the trainer's monotonic clock since its program started.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from domain.core.counts import Count
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import RejectionReason, ResumeCertificate, SavedCheckpoint
from domain.training.evaluation import EvaluationResult
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import Phase
from domain.training.precision import Dtype, Precision

FINAL_REPORT = "final_report.json"
"""File next to the spec with the trainer's report of its last checkpoint or its end."""

BEAT = "beat"
"""File next to the spec that a trainer's reporter touches in each round."""

SAMPLE = "sample.json"
"""File of a checkpoint with the fixed prompt (messages) and its answer, if sampling is enabled."""


Seconds = Annotated[float, Field(ge=0, lt=2**31)]
"""Seconds that fit into every read model."""


class Message(BaseModel):
    """Base of all messages between a trainer and the services."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SegmentMessage(Message):
    """A message about a segment, on the subject `<kind>.<account>.<job>.<segment>`.

    NUL in texts is replaced, because PostgreSQL cannot store it.
    """

    KIND: ClassVar[str]

    account_id: UUID
    job_id: UUID
    segment: int

    @property
    def subject(self) -> str:
        """Return the subject of this message."""
        return f"{self.KIND}.{self.account_id}.{self.job_id}.{self.segment}"

    @model_validator(mode="before")
    @classmethod
    def _without_nul(cls, value: Any) -> Any:
        return _without_nul(value)


def _without_nul(value: Any) -> Any:
    match value:
        case str() if "\0" in value:
            return value.replace("\0", "\ufffd")
        case dict():
            return {key: _without_nul(each) for key, each in value.items()}
        case list() | tuple():
            return [_without_nul(each) for each in value]
        case _:
            return value


class Credentials(Message):
    """A NATS user: its signed JWT, and the seed of its key."""

    jwt: str
    seed: str


class SegmentSpec(Message):
    """The launch parameters of a trainer. References are artifact refs, never host paths."""

    account_id: UUID
    job_id: UUID
    segment: int
    credentials: Credentials | None = None  # for NATS; None: the server requires none
    dataset_ref: str  # artifact: normalized chat JSONL, one example per line
    dataset_sha256: str
    validation_ref: str | None = None  # artifact of the validation dataset, if any
    validation_sha256: str | None = None
    base_model: str
    base_ref: str  # artifact prefix of the base model's directory, with its manifest
    base_manifest_sha256: str | None = None  # required hash; None: any
    hyperparameters: Hyperparameters
    precision: Precision = Precision.BF16
    dtype: Dtype | None = None  # dtype of computation; None: this machine's fastest
    gradient_checkpointing: bool = False
    gpu_type: str = "cpu"  # catalog name
    gpu_count: int = 1  # ranks of data parallelism
    approved_gpu_count: int | None = None  # determines the batch size; None: gpu_count
    micro_batch_split: int = 1  # parts of each micro-batch; 2 after running out of memory
    batch_tokens: int | None = None  # most tokens per pass, with padding; None: a micro-batch
    required_bytes: int | None = None  # predicted peak of each rank's memory; None: not predicted
    approved_on: date | None = None  # for chat templates with a date; None: date of the launch
    resume_from: tuple[SavedCheckpoint, ...] = ()  # newest first; the first intact one is used
    paid_seconds: int  # segment time paid for by the first lease
    grace_seconds: int
    heartbeat_seconds: float
    stall_seconds: float = 900.0  # the trainer exits after this time without progress
    clock_speed: float = 1.0  # ratio of segment time to real time; 1 except in tests
    checkpoint_prefix: str  # artifact prefix under which this segment writes step-<n>/
    adapter_prefix: str  # artifact prefix of the finished adapter


class RejectedCheckpoint(Message):
    """A checkpoint that the segment could not resume from."""

    ref: str
    reason: RejectionReason


class Report(SegmentMessage):
    """A heartbeat. The final report contains the ending and is sent until it is acknowledged."""

    KIND = "reports"

    segment: Count
    n: int
    sent_at: datetime
    elapsed_seconds: Seconds
    phase: Phase
    phase_seconds: dict[Phase, float] = {}  # of this segment, including the current phase
    step: Count = 0  # optimizer steps done, over all segments
    total_steps: Count = 0
    train_examples: Count = 0
    eval_examples: Count = 0
    trained_tokens: int = 0  # label and prompt tokens without padding, over all segments
    train_loss: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None  # largest rank of this segment, if known
    grace_seconds: Seconds = 0.0  # time used beyond the paid seconds
    rejected: tuple[RejectedCheckpoint, ...] = ()
    resumed: ResumeCertificate | None = None
    checkpoint: SavedCheckpoint | None = None
    earlier: tuple[SavedCheckpoint, ...] = ()  # previous ones still needed, oldest first
    evaluation: EvaluationResult | None = None
    adapter_ref: str | None = None
    adapter_manifest_sha256: str | None = None
    ending: SegmentEnding | None = None  # in the final report only

    @model_validator(mode="after")
    def _own_checkpoints(self) -> Self:
        if any(each.segment != self.segment for each in self.checkpoints):
            raise ValueError(f"A checkpoint is not of segment {self.segment}.")
        return self

    @property
    def checkpoints(self) -> tuple[SavedCheckpoint, ...]:
        """Return all reported checkpoints, oldest first."""
        return self.earlier if self.checkpoint is None else (*self.earlier, self.checkpoint)


class StepMeasured(SegmentMessage):
    """Metrics of one optimizer step, kept for a limited time."""

    KIND = "telemetry"

    step: int
    total_steps: int
    train_loss: float  # loss of this step, in nats per label token
    smoothed_loss: float  # debiased exponential average up to this step
    learning_rate: float
    tokens: int
    tokens_per_second: float
    elapsed_seconds: float
    peak_memory_bytes: int | None = None  # peak of rank 0 so far
    measured_at: datetime


class EvaluationMeasured(SegmentMessage):
    """Metrics of one evaluation on the held-out examples. Step 0 is the base model."""

    KIND = "evaluations"

    step: int  # optimizer steps done
    eval_loss: float  # nats per label token
    accuracy: float  # fraction of label tokens predicted correctly
    examples: int
    label_tokens: int
    seconds: float  # duration of the evaluation
    elapsed_seconds: float
    measured_at: datetime


class LogLine(SegmentMessage):
    """One line of a trainer's log. `n` counts from 1 in each segment."""

    KIND = "logs"

    n: int
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    text: str
    logged_at: datetime


class PodSeen(SegmentMessage):
    """The launcher's evidence that a segment's process is running, until the trainer reports."""

    KIND = "evidence"

    elapsed_seconds: float  # since the GPUs were bound


class Control(Message):
    """The scheduler's instructions to a segment. The latest message on the subject applies.

    `paid_seconds` never decreases. `answered` acknowledges the final report. `jwt` replaces the JWT
    of the segment's credentials, which expires after the lease. An empty `jwt` changes nothing.
    """

    job_id: UUID
    segment: int
    paid_seconds: int
    stop: bool = False
    answered: bool = False
    jwt: str = ""

    @property
    def subject(self) -> str:
        """Subject `control.<job>.<segment>`."""
        return control_subject(self.job_id, self.segment)


def control_subject(job_id: UUID, segment: int) -> str:
    """Return the subject of a segment's Control messages."""
    return f"control.{job_id}.{segment}"


def report_subject(account_id: UUID, job_id: UUID, segment: int) -> str:
    """Return the subject of a segment's reports."""
    return f"{Report.KIND}.{account_id}.{job_id}.{segment}"
