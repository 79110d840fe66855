"""Provenance: what is said of where a model comes from, and how it is written down."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from domain.estimating.estimate import Precision
from domain.training.checkpoint import ModeDifference, RejectionReason
from infrastructure.artifacts import ManifestFile
from infrastructure.training_environment import TrainingEnvironment

PROVENANCE = "provenance.json"
"""File beside an adapter's weights that holds its Provenance."""


class Facts(BaseModel):
    """Base of a provenance and its parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetFacts(Facts):
    """An uploaded file of examples, in its normalised form."""

    id: UUID
    sha256: str
    uploaded_sha256: str | None  # of the file as its owner has it


class BaseFacts(Facts):
    """The base model, as the platform names it and as the hub does."""

    name: str
    manifest_sha256: str
    repository: str | None  # None: the catalog lists none under this name


class HardwareFacts(Facts):
    """Where it was trained."""

    region: str
    gpu_type: str


class SegmentFacts(Facts):
    """A launch that came to train, and with how much; a step trains on the same all the time."""

    segment: int
    step: int  # where it began
    gpu_count: int
    micro_batch_size: int  # halved where a GPU's memory did not hold it


class CheckpointFacts(Facts):
    """A checkpoint, by the manifest that pins its every file."""

    segment: int
    step: int
    train_loss: float  # of this step: mean over its label tokens, nats
    manifest_sha256: str
    rejected: RejectionReason | None  # why nothing descends from it; None: it was good as known


class ResumeFacts(Facts):
    """A segment that took the training up where an earlier one had left it.

    It is certified if the whole of the restored state was held against the saved one's hashes.
    """

    segment: int
    step: int
    manifest_sha256: str | None  # of the checkpoint; None: it began anew
    certified: bool
    unchecked: tuple[str, ...]  # parts of the state that were compared with nothing
    differences: tuple[ModeDifference, ...]  # in how it is computed


class EvaluationFacts(Facts):
    """What the training gained, on examples that were never trained on."""

    loss_before: float  # nats per label token
    loss_after: float
    perplexity_before: float
    perplexity_after: float
    accuracy_before: float | None  # share of the label tokens that were the first choice
    accuracy_after: float | None
    examples: int
    label_tokens: int


class CostFacts(Facts):
    """What the account holder pays for the job."""

    amount_micros: int
    metered_seconds: int
    segments: int


class Provenance(Facts):
    """All that is known of how a model was made; every statement can be found in the event log."""

    schema_version: Literal[1] = 1
    model: str
    account_id: UUID
    job_id: UUID
    job_version: int  # position in the job's events up to which they are told here
    dataset: DatasetFacts
    validation: DatasetFacts | None  # None: a part of the dataset was held out
    base: BaseFacts
    hyperparameters: dict[str, JsonValue]
    seed: int
    precision: Precision
    gradient_checkpointing: bool
    hardware: HardwareFacts
    segments: tuple[SegmentFacts, ...]
    environment: TrainingEnvironment | None  # None: the trainer named none
    total_steps: int
    train_examples: int
    eval_examples: int
    checkpoints: tuple[CheckpointFacts, ...]
    resumes: tuple[ResumeFacts, ...]
    evaluation: EvaluationFacts | None  # None: stopped before
    cost: CostFacts
    files: tuple[ManifestFile, ...]  # as the trainer stored them

    @property
    def content(self) -> bytes:
        """The bytes that are stored as provenance.json."""
        return self.model_dump_json(indent=1).encode()
