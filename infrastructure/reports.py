"""What a trainer says and hears over NATS: reports, telemetry, log lines and control messages.

Reports are cumulative and keyed by (job, segment, n), so that losing one loses nothing: the next
carries it all. Times are seconds of the trainer's own monotonic clock since its program started.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from domain.core.counts import Count
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import RejectionReason, ResumeCertificate, SavedCheckpoint
from domain.training.evaluation import EvaluationResult
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import Phase
from domain.training.precision import Dtype, Precision

LAST_WORD = "last_word.json"
"""File beside the spec in which a trainer keeps the report of its last checkpoint or its end."""

BEAT = "beat"
"""File beside the spec that a trainer touches in each round of its reporter."""

SAMPLE = "sample.json"
"""File of a checkpoint with the fixed prompt (messages) and its answer there, if it was asked."""


Seconds = Annotated[float, Field(ge=0, lt=2**31)]
"""Seconds that every read model has room for."""


class Message(BaseModel):
    """Base of everything that crosses the wire between a trainer and the services."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Text(Message):
    """A message with text of a trainer's. A NUL in it, which no table takes, is replaced."""

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
    """A NATS user: its signed JWT, and the seed of the key that proves it."""

    jwt: str
    seed: str


class SegmentSpec(Message):
    """All that a trainer is told at launch. References name artifacts, never paths of a host."""

    account_id: UUID
    job_id: UUID
    segment: int
    credentials: Credentials | None = None  # for NATS; None: the server asks for none
    dataset_ref: str  # artifact: normalised chat JSONL, one example a line
    dataset_sha256: str
    validation_ref: str | None = None  # of the user's own examples to evaluate on, if there are
    validation_sha256: str | None = None
    base_model: str
    base_ref: str  # artifact prefix of the base model's directory, with its manifest
    base_manifest_sha256: str | None = None  # what the base's manifest must be; None: any
    hyperparameters: Hyperparameters
    precision: Precision = Precision.BF16
    dtype: Dtype | None = None  # computed with; None: what this machine is good at
    gradient_checkpointing: bool = False
    gpu_type: str = "cpu"  # of the catalog
    gpu_count: int = 1  # ranks of data parallelism
    approved_gpu_count: int | None = None  # that a step's batch was approved for; None: gpu_count
    micro_batch_split: int = 1  # parts that each micro batch is cut into; 2 after a lack of memory
    batch_tokens: int | None = None  # that may run at once, padding included; None: a micro batch's
    required_bytes: int | None = None  # predicted peak of each rank's memory; None: not predicted
    approved_on: date | None = None  # for chat templates that write a date; None: the launch's
    resume_from: tuple[SavedCheckpoint, ...] = ()  # the first that is good, the newest first
    paid_seconds: int  # segment time covered by the first lease
    grace_seconds: int
    heartbeat_seconds: float
    stall_seconds: float = 900.0  # without any progress, after which the trainer ends itself
    clock_speed: float = 1.0  # seconds of segment time in a second of real time; 1 but in tests
    checkpoint_prefix: str  # artifact prefix under which this segment writes step-<n>/
    adapter_prefix: str  # artifact prefix of the finished adapter


class RejectedCheckpoint(Message):
    """A checkpoint that the segment should have resumed from, and could not."""

    ref: str
    reason: RejectionReason


class Report(Text):
    """One heartbeat. The final one has the ending and repeats until it is answered."""

    account_id: UUID
    job_id: UUID
    segment: Count
    n: int
    sent_at: datetime
    elapsed_seconds: Seconds
    phase: Phase
    phase_seconds: dict[Phase, float] = {}  # of this segment, up to now, its present phase included
    step: Count = 0  # optimizer steps done, over all segments
    total_steps: Count = 0
    train_examples: Count = 0
    eval_examples: Count = 0
    trained_tokens: int = 0  # label and prompt tokens seen, without padding, over all segments
    train_loss: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None  # of this segment's largest rank, as far as it is known
    grace_seconds: Seconds = 0.0  # time used beyond the paid seconds
    rejected: tuple[RejectedCheckpoint, ...] = ()
    resumed: ResumeCertificate | None = None
    checkpoint: SavedCheckpoint | None = None
    earlier: tuple[
        SavedCheckpoint, ...
    ] = ()  # of this segment, that are still needed, oldest first
    evaluation: EvaluationResult | None = None
    adapter_ref: str | None = None
    adapter_manifest_sha256: str | None = None
    ending: SegmentEnding | None = None  # of the final report

    @property
    def subject(self) -> str:
        """Subject `reports.<account>.<job>.<segment>`."""
        return report_subject(self.account_id, self.job_id, self.segment)

    @model_validator(mode="after")
    def _own_checkpoints(self) -> Self:
        if any(each.segment != self.segment for each in self.checkpoints):
            raise ValueError(f"a checkpoint is not of segment {self.segment}")
        return self

    @property
    def checkpoints(self) -> tuple[SavedCheckpoint, ...]:
        """All reported checkpoints, the oldest first."""
        return self.earlier if self.checkpoint is None else (*self.earlier, self.checkpoint)


class StepMeasured(Message):
    """Telemetry of one optimizer step; a measurement, kept for a limited time."""

    account_id: UUID
    job_id: UUID
    segment: int
    step: int
    total_steps: int
    train_loss: float  # of this step: mean over its label tokens, nats
    smoothed_loss: float  # debiased exponential average up to this step
    learning_rate: float
    tokens: int
    tokens_per_second: float
    elapsed_seconds: float
    peak_memory_bytes: int | None = None  # of rank 0, up to now
    measured_at: datetime

    @property
    def subject(self) -> str:
        """Subject `telemetry.<account>.<job>.<segment>`."""
        return f"telemetry.{self.account_id}.{self.job_id}.{self.segment}"


class EvaluationMeasured(Message):
    """Telemetry of one evaluation on the held-out examples; at step 0 it is of the base alone."""

    account_id: UUID
    job_id: UUID
    segment: int
    step: int  # optimizer steps done
    eval_loss: float  # nats per label token
    accuracy: float  # share of the label tokens that were the model's first choice
    examples: int
    label_tokens: int
    seconds: float  # that it took
    elapsed_seconds: float
    measured_at: datetime

    @property
    def subject(self) -> str:
        """Subject `evaluations.<account>.<job>.<segment>`."""
        return f"evaluations.{self.account_id}.{self.job_id}.{self.segment}"


class LogLine(Text):
    """One line of a trainer's log; n counts from 1 within a segment."""

    account_id: UUID
    job_id: UUID
    segment: int
    n: int
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    text: str
    logged_at: datetime

    @property
    def subject(self) -> str:
        """Subject `logs.<account>.<job>.<segment>`."""
        return f"logs.{self.account_id}.{self.job_id}.{self.segment}"


class PodSeen(Message):
    """The launcher's evidence that a segment's process lives, until its first report."""

    account_id: UUID
    job_id: UUID
    segment: int
    elapsed_seconds: float  # since the GPUs were bound

    @property
    def subject(self) -> str:
        """Subject `evidence.<account>.<job>.<segment>`."""
        return f"evidence.{self.account_id}.{self.job_id}.{self.segment}"


class Control(Message):
    """What the scheduler wants of a segment; the last message on its subject is in force.

    `paid_seconds` only grows. `answered` acknowledges the final report. `jwt` replaces that of the
    segment's credentials, which expires after the lease; empty: the one before stays.
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
    """Subject on which a segment hears its Control messages."""
    return f"control.{job_id}.{segment}"


def report_subject(account_id: UUID, job_id: UUID, segment: int) -> str:
    """Subject on which a segment publishes its reports."""
    return f"reports.{account_id}.{job_id}.{segment}"
