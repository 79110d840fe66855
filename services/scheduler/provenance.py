"""Provenance: where a model comes from, as its job's events tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from domain.estimate import Precision
from domain.job import Job
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
    gpu_count: int


class CheckpointFacts(Facts):
    """A checkpoint, by the manifest that pins its every file."""

    segment: int
    step: int
    train_loss: float  # mean over the label tokens since the one before, nats
    manifest_sha256: str


class ResumeFacts(Facts):
    """A segment that took the training up where an earlier one had left it."""

    segment: int
    step: int
    manifest_sha256: str | None  # of the checkpoint; None: it began anew
    certified: bool  # whether the restored state was held against the saved one's hashes


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


class JobHistory:
    """What a job's events say of its training, in order."""

    def __init__(self, events: Iterable[object]) -> None:
        self.version = 0
        self.approved: Job.JobApproved | None = None
        self.started: Job.TrainingStarted | None = None
        self.evaluation: EvaluationFacts | None = None
        self.checkpoints: list[CheckpointFacts] = []
        self.resumes: list[ResumeFacts] = []
        self._manifests: dict[str, str] = {}  # of checkpoints, by ref
        for event in events:
            self._take(event)

    def _take(self, event: object) -> None:
        match event:
            case Job.JobApproved():
                self.approved = event
            case Job.ResumeCertified():
                self._resume(event.segment, event.step, self._manifests.get(event.ref), True)
            case Job.TrainingStarted():
                self.started = event
                if event.segment > 1:  # said already, if it was certified
                    saved = [each for each in self.checkpoints if each.step == event.step]
                    manifest_sha256 = saved[-1].manifest_sha256 if saved else None
                    self._resume(event.segment, event.step, manifest_sha256, False)
            case Job.CheckpointSaved():
                self._manifests[event.ref] = event.manifest_sha256
                self.checkpoints.append(CheckpointFacts(**_told(event, CheckpointFacts)))
            case Job.EvaluationCompleted():
                self.evaluation = EvaluationFacts(**_told(event, EvaluationFacts))
            case _:
                pass
        assert isinstance(event, Job.Event | Job.JobApproved)
        self.version = event.originator_version

    def _resume(
        self, segment: int, step: int, manifest_sha256: str | None, certified: bool
    ) -> None:
        if all(each.segment != segment for each in self.resumes):
            self.resumes.append(
                ResumeFacts(
                    segment=segment,
                    step=step,
                    manifest_sha256=manifest_sha256,
                    certified=certified,
                )
            )


def provenance_of(
    history: JobHistory,
    *,
    model: str,
    uploaded: Mapping[UUID, str],
    repository: str | None,
    environment: TrainingEnvironment | None,
    cost: CostFacts,
    files: Sequence[ManifestFile],
) -> Provenance:
    """The provenance that a job's events make, with what other streams and the trainer say.

    `uploaded` has the sha256 of the files as they were uploaded, by dataset.
    """
    approved, started = history.approved, history.started
    assert approved is not None
    plan = approved.plan

    def dataset(id: UUID, sha256: str) -> DatasetFacts:
        return DatasetFacts(id=id, sha256=sha256, uploaded_sha256=uploaded.get(id))

    return Provenance(
        model=model,
        account_id=approved.account_id,
        job_id=approved.originator_id,
        job_version=history.version,
        dataset=dataset(plan.dataset_id, plan.dataset_sha256),
        validation=(
            dataset(plan.validation.dataset_id, plan.validation.sha256) if plan.validation else None
        ),
        base=BaseFacts(
            name=plan.base_model, manifest_sha256=plan.base_manifest_sha256, repository=repository
        ),
        hyperparameters=plan.hyperparameters,
        seed=plan.lora.seed,
        precision=plan.precision,
        gradient_checkpointing=plan.gradient_checkpointing,
        hardware=HardwareFacts(
            region=plan.region, gpu_type=plan.gpu_type, gpu_count=plan.gpu_count
        ),
        environment=environment,
        total_steps=started.total_steps if started else 0,
        train_examples=started.train_examples if started else 0,
        eval_examples=started.eval_examples if started else 0,
        checkpoints=tuple(history.checkpoints),
        resumes=tuple(history.resumes),
        evaluation=history.evaluation,
        cost=cost,
        files=tuple(files),
    )


def _told(event: BaseModel, facts: type[Facts]) -> dict[str, Any]:
    """The fields of an event that some facts have as well."""
    return {name: getattr(event, name) for name in facts.model_fields}
