"""Messages between trainers and services over NATS: reports, telemetry, log lines and control.

The key of a report is (job, segment, n). Reports are cumulative, so the next report replaces a lost
one. Times are seconds on the trainer's monotonic clock since its program started.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from domain.core.counts import Count, Seconds, Size
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import RejectionReason, ResumeCertificate, SavedCheckpoint
from domain.training.early_stopping import EarlyStop
from domain.training.evaluation import EvaluationResult
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import Phase
from domain.training.precision import Dtype, Precision

if TYPE_CHECKING:
    from obstore.store import S3Credential

FINAL_REPORT = "final_report.json"
"""File next to the spec that contains the trainer's report of its last checkpoint or its end."""

STORED_REPORTS = "report"
"""Directory of the same report in the artifact store, below the prefix of the checkpoints."""

BEAT = "beat"
"""File next to the spec that the reporter of a trainer touches in each round."""

STOP = "stop"
"""File next to the spec that asks a trainer on several nodes to save a checkpoint and exit."""

SAMPLE = "sample.json"
"""File of a checkpoint with the sample prompt (messages) and its answer, if sampling is enabled."""


MAX_NUMBER = 2**53
"""Limit of all numbers in messages about segments."""

MAX_TEXT_CHARACTERS = 4_000
"""Limit of all texts in messages about segments."""


SPEC_FORMAT = 1
"""Newest format of a SegmentSpec that this trainer can follow."""


class Message(BaseModel):
    """Base class of all messages between a trainer and the services.

    Parse messages of other processes with `infrastructure.bus.exchange.read`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SegmentMessage(Message):
    """A message about a segment, on the subject `<kind>.<account>.<job>.<segment>`.

    Texts have no NUL characters, because PostgreSQL cannot store them. Validation replaces them.
    Numbers and texts have limits, because trainers send most of these messages.
    """

    KIND: ClassVar[str]

    account_id: UUID
    job_id: UUID
    segment: Count

    @property
    def subject(self) -> str:
        """Subject of this message."""
        return f"{self.KIND}.{self.account_id}.{self.job_id}.{self.segment}"

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        return _bounded(value)


def _bounded(value: Any) -> Any:
    match value:
        case str() if len(value) > MAX_TEXT_CHARACTERS:
            raise ValueError(
                f"A text has {len(value):,} characters, but at most 4,000 are allowed."
            )
        case str() if "\0" in value:
            return value.replace("\0", "\ufffd")
        case int() | float() if not abs(value) < MAX_NUMBER:
            raise ValueError("A number is not between -2^53 and 2^53.")
        case dict():
            return {key: _bounded(each) for key, each in value.items()}
        case list() | tuple():
            return [_bounded(each) for each in value]
        case _:
            return value


class Credentials(Message):
    """A NATS user: its signed JWT, and the seed of its key."""

    jwt: str
    seed: str


class StoreCredentials(Message):
    """Temporary keys of the artifact store, limited to the files of one segment."""

    access_key_id: str
    secret_access_key: str = Field(repr=False)
    session_token: str = Field(repr=False)
    expires_at: datetime

    def for_obstore(self) -> S3Credential:
        """Return the keys in the form that obstore asks for."""
        return {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "token": self.session_token,
            "expires_at": self.expires_at,
        }


class SegmentSpec(Message):
    """The launch parameters of a trainer. All references are artifact refs, never host paths."""

    # Lowest SPEC_FORMAT of a trainer that may ignore the fields that it does not know.
    spec_format: int = 1
    account_id: UUID
    job_id: UUID
    segment: int
    # NATS user of the trainer; None: the server requires no credentials.
    credentials: Credentials | None = None
    # Certificates of authorities of the NATS server (PEM); None: those of the system.
    nats_ca: str | None = None
    # Keys of the artifact store; None: a file store, or those of the environment.
    store: StoreCredentials | None = None
    dataset_ref: str  # artifact with the normalized chat JSONL, one example per line
    dataset_sha256: str
    validation_ref: str | None = None  # artifact of the validation dataset, if any
    validation_sha256: str | None = None
    base_model: str
    base_ref: str  # artifact prefix of the base model, with its manifest
    base_manifest_sha256: str | None = None  # required hash; None: any
    # Artifact prefix of the adapter that the job continues, and the hash of its manifest.
    # None: the job starts with a new adapter.
    start_ref: str | None = None
    start_manifest_sha256: str | None = None
    hyperparameters: Hyperparameters
    precision: Precision = Precision.BF16
    dtype: Dtype | None = None  # dtype of computations; None: the fastest of this machine
    gradient_checkpointing: bool = False
    region: str = "local"  # name in the catalog
    gpu_type: str = "cpu"  # name in the catalog
    gpu_count: int = 1  # number of ranks under data parallelism
    approved_gpu_count: int | None = None  # determines the batch size; None: gpu_count
    micro_batch_split: int = 1  # number of parts of each micro-batch; 2 after running out of memory
    # Maximum tokens of a batch, including padding; None: a micro-batch.
    batch_tokens: int | None = None
    required_bytes: int | None = None  # predicted peak memory of each rank; None: not predicted
    # For chat templates that insert a date; None: date of the launch.
    approved_on: date | None = None
    # Newest first; the trainer uses the first intact one.
    resume_from: tuple[SavedCheckpoint, ...] = ()
    paid_seconds: int  # segment time that the first lease paid for
    grace_seconds: int
    heartbeat_seconds: float
    stall_seconds: float = 900.0  # the trainer exits after this time without progress
    clock_speed: float = 1.0  # ratio of segment time to real time; 1 except in tests
    checkpoint_prefix: str  # artifact prefix of the checkpoints, which are step-<n>/ below it
    adapter_prefix: str  # artifact prefix of the finished adapter

    @field_validator("spec_format")
    @classmethod
    def _known(cls, needed: int) -> int:
        if needed > SPEC_FORMAT:
            raise ValueError(
                f"The segment needs a trainer of spec format {needed}, and this one has "
                f"{SPEC_FORMAT}. Upgrade EcoLink where trainers run."
            )
        return needed


def stored_report_ref(checkpoint_prefix: str) -> str:
    """Return the artifact for a trainer's report. The scheduler deletes it at the end."""
    return f"{checkpoint_prefix}/{STORED_REPORTS}/{FINAL_REPORT}"


class RejectedCheckpoint(Message):
    """A checkpoint from which the segment could not resume."""

    ref: str
    reason: RejectionReason


class Report(SegmentMessage):
    """A heartbeat.

    The final report has the ending. The trainer repeats it until the scheduler acknowledges it.
    """

    KIND = "reports"

    n: Count
    sent_at: datetime
    elapsed_seconds: Seconds
    phase: Phase
    phase_seconds: dict[Phase, Seconds] = {}  # of this segment, including the current phase
    step: Count = 0  # number of optimizer steps of all segments
    # End of this segment's first optimizer step, in segment seconds; None: not reached.
    first_step_seconds: Seconds | None = None
    total_steps: Count = 0
    train_examples: Count = 0
    eval_examples: Count = 0
    trained_tokens: Size = 0  # tokens of all segments, without padding
    train_loss: float | None = None
    tokens_per_second: float | None = None
    # Peak of the rank that used the most memory in this segment; None: unknown.
    peak_memory_bytes: Size | None = None
    grace_seconds: Seconds = 0.0  # time beyond the paid seconds
    rejected: tuple[RejectedCheckpoint, ...] = ()
    resumed: ResumeCertificate | None = None
    checkpoint: SavedCheckpoint | None = None
    # Previous checkpoints that are still needed, oldest first.
    earlier: tuple[SavedCheckpoint, ...] = ()
    stopped_early: EarlyStop | None = None
    evaluation: EvaluationResult | None = None
    adapter_ref: str | None = None
    adapter_manifest_sha256: str | None = None
    ending: SegmentEnding | None = None  # set only in the final report

    @model_validator(mode="after")
    def _own_checkpoints(self) -> Self:
        if any(each.segment != self.segment for each in self.checkpoints):
            raise ValueError(f"A checkpoint is not of segment {self.segment}.")
        return self

    @property
    def checkpoints(self) -> tuple[SavedCheckpoint, ...]:
        """All reported checkpoints, oldest first."""
        return self.earlier if self.checkpoint is None else (*self.earlier, self.checkpoint)


class StepMeasured(SegmentMessage):
    """Metrics of one optimizer step, which EcoLink keeps for a limited time."""

    KIND = "telemetry"

    step: Count
    total_steps: Count
    train_loss: float  # loss of this step, in nats per trainable token, or per pair with DPO
    # DPO only: share of the step's pairs whose preferred answer has the higher reward, and the mean
    # rewards of preferred and rejected answers.
    accuracy: float | None = None
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    smoothed_loss: float  # debiased exponential moving average up to this step
    learning_rate: float
    tokens: Size
    tokens_per_second: float
    elapsed_seconds: Seconds
    peak_memory_bytes: Size | None = None  # peak of rank 0 so far
    # Mean of all GPUs, as share of the time in which a kernel ran; None: a CPU, or unknown.
    gpu_utilization: float | None = Field(default=None, ge=0, le=1)
    gpu_memory_bytes: Size | None = None  # used on all GPUs together
    measured_at: datetime


class EvaluationMeasured(SegmentMessage):
    """Metrics of one evaluation on the held-out examples. Step 0 is the base model."""

    KIND = "evaluations"

    step: Count  # number of completed optimizer steps
    eval_loss: float  # in nats per trainable token, or per pair with DPO
    # Share of trainable tokens that the model ranked first, or of correct pairs with DPO.
    accuracy: float
    # DPO only: mean rewards of preferred and rejected answers.
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    examples: Count
    label_tokens: Size
    seconds: Seconds  # duration of the evaluation
    elapsed_seconds: Seconds
    measured_at: datetime


class LogLine(SegmentMessage):
    """One line of a trainer's log. `n` counts from 1 in each segment."""

    KIND = "logs"

    n: Count
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    text: str
    logged_at: datetime


class PodSeen(SegmentMessage):
    """The launcher's evidence that the process of a segment runs, until the trainer reports."""

    KIND = "evidence"

    elapsed_seconds: Seconds  # since the GPUs were bound


class Control(Message):
    """The scheduler's instructions to a segment. Only the latest message on the subject applies.

    `paid_seconds` never decreases. `answered` acknowledges the final report. `jwt` replaces the JWT
    of the segment's credentials, which expires after the lease. An empty `jwt` changes nothing.
    `store` replaces the keys of the artifact store.
    """

    job_id: UUID
    segment: int
    paid_seconds: int
    stop: bool = False
    answered: bool = False
    jwt: str = ""
    store: StoreCredentials | None = None

    @property
    def subject(self) -> str:
        """Subject `control.<job>.<segment>`."""
        return control_subject(self.job_id, self.segment)


def control_subject(job_id: UUID, segment: int) -> str:
    """Return the subject of the Control messages to a segment."""
    return f"control.{job_id}.{segment}"


def report_subject(account_id: UUID, job_id: UUID, segment: int) -> str:
    """Return the subject of a segment's reports."""
    return f"{Report.KIND}.{account_id}.{job_id}.{segment}"
