"""The schema of `provenance.json`, which records how a model was made."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from domain.datasets.filters import Filters
from domain.estimating.estimate import Precision
from domain.training.checkpoint import ModeDifference, RejectionReason
from infrastructure.artifacts.store import ManifestFile
from infrastructure.training.environment import TrainingEnvironment


class Facts(BaseModel):
    """Base class of a provenance and its parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VersionFacts(Facts):
    """An earlier version of a dataset. The hashes are those of its examples and its upload."""

    id: UUID
    sha256: str
    uploaded_sha256: str | None  # None: filters made it
    synthesis_id: UUID | None = None  # synthesis that generated its upload
    hub_commit: str | None = None  # commit of the hub repository that its upload is from


class DatasetFacts(Facts):
    """A dataset in its normalized form."""

    id: UUID
    sha256: str
    uploaded_sha256: str | None  # hash of the uploaded file; None: filters made the dataset
    filters: Filters | None = None  # filters of the examples of the first of `versions`
    versions: tuple[VersionFacts, ...] = ()  # from the parent to the first version
    synthesis_id: UUID | None = None  # synthesis that generated the examples; None: uploaded
    hub_commit: str | None = None  # commit of the hub repository that the file is from


class BaseFacts(Facts):
    """The base model, with its name on the platform and its Hugging Face repository."""

    name: str
    manifest_sha256: str
    repository: str | None  # None: not in the catalog


class StartFacts(Facts):
    """The adapter with which the training started."""

    model: str
    job_id: UUID  # job that trained it
    step: int | None  # step of the checkpoint; None: the registered model
    manifest_sha256: str


class HardwareFacts(Facts):
    """The region and GPU type of the training."""

    region: str
    gpu_type: str


class SegmentFacts(Facts):
    """A launch that started training. The examples of a step do not depend on the GPU count."""

    segment: int
    step: int  # at the start of the segment
    gpu_count: int
    micro_batch_size: int  # halved after running out of memory


class CheckpointFacts(Facts):
    """A checkpoint. Its manifest pins every file."""

    segment: int
    step: int
    train_loss: float  # loss of this step, in nats per trainable token
    manifest_sha256: str
    rejected: RejectionReason | None  # reason why it was unusable; None: intact


class ResumeFacts(Facts):
    """A segment that resumed an earlier one, certified if the whole state was compared."""

    segment: int
    step: int
    manifest_sha256: str | None  # of the checkpoint; None: the segment started from step 0
    certified: bool
    unchecked: tuple[str, ...]  # parts of the state that the trainer did not compare
    differences: tuple[ModeDifference, ...]  # execution settings that changed since the checkpoint


class EarlyStopFacts(Facts):
    """The early end of the training."""

    step: int
    planned_steps: int
    evaluations: int  # consecutive ones that did not lower the held-out loss enough
    lowest_step: int  # step with the lowest held-out loss
    lowest_eval_loss: float  # in nats per trainable token


class EvaluationFacts(Facts):
    """Metrics before and after training, on held-out examples."""

    loss_before: float  # in nats per trainable token
    loss_after: float
    perplexity_before: float
    perplexity_after: float
    accuracy_before: float | None  # share of trainable tokens that the model ranked first
    accuracy_after: float | None
    examples: int
    label_tokens: int
    reward_margin: float | None = None  # None: not DPO
    step: int | None = None  # of the evaluated state, if the best one is registered
    final_loss: float | None = None  # of the final state, if another one is registered
    # Step and loss of the best state, if its checkpoint is lost and another state is registered.
    lost_best_step: int | None = None
    lost_best_loss: float | None = None


class CostFacts(Facts):
    """The price that the owner paid for the job."""

    amount_micros: int
    metered_seconds: int
    segments: int


class Provenance(Facts):
    """The origin of a model. Every field is derived from the event log."""

    schema_version: Literal[1] = 1
    model: str
    account_id: UUID
    job_id: UUID
    job_version: int  # version of the job that this provenance describes
    dataset: DatasetFacts
    validation: DatasetFacts | None  # None: a split of the training dataset
    base: BaseFacts
    start: StartFacts | None = None  # None: a new adapter
    hyperparameters: dict[str, JsonValue]
    seed: int
    precision: Precision
    gradient_checkpointing: bool
    hardware: HardwareFacts
    segments: tuple[SegmentFacts, ...]
    environment: TrainingEnvironment | None  # None: the trainer recorded none
    total_steps: int
    train_examples: int
    eval_examples: int
    checkpoints: tuple[CheckpointFacts, ...]
    resumes: tuple[ResumeFacts, ...]
    stopped_early: EarlyStopFacts | None = None
    evaluation: EvaluationFacts | None  # None: stopped before the evaluation
    cost: CostFacts
    files: tuple[ManifestFile, ...]  # as the trainer stored them

    @property
    def content(self) -> bytes:
        """Contents of provenance.json."""
        return self.model_dump_json(indent=1).encode()
