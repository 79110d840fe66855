"""The training history of a job, read from its events, and the provenance built from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from domain.datasets.filters import Filters
from domain.jobs import events
from domain.training.checkpoint import StateHashes
from domain.training.training_plan import TrainingPlan
from infrastructure.artifacts.store import Manifest
from infrastructure.training.environment import TrainingEnvironment
from services.scheduler.provenance import (
    BaseFacts,
    CheckpointFacts,
    CostFacts,
    DatasetFacts,
    EarlyStopFacts,
    EvaluationFacts,
    Facts,
    HardwareFacts,
    Provenance,
    ResumeFacts,
    SegmentFacts,
    StartFacts,
    VersionFacts,
)


class DatasetOrigin(NamedTuple):
    """The hash of a dataset's upload, its filters, and its earlier versions, newest first.

    `synthesis_id` is the synthesis that generated the upload, if any.
    `hub_commit` is the commit of the hub repository that the upload is from, if any.
    """

    uploaded_sha256: str | None = None
    filters: Filters | None = None
    versions: tuple[VersionFacts, ...] = ()
    synthesis_id: UUID | None = None
    hub_commit: str | None = None


class JobHistory:
    """The segments, checkpoints, resumes and evaluation of a job, in event order."""

    def __init__(self, events: Iterable[object]) -> None:
        self.version = 0
        self.approved: events.JobApproved | None = None
        self.started: events.TrainingStarted | None = None
        self.stopped_early: EarlyStopFacts | None = None
        self.evaluation: EvaluationFacts | None = None
        self.segments: list[SegmentFacts] = []
        self.resumes: list[ResumeFacts] = []
        self._saved: dict[str, CheckpointFacts] = {}  # checkpoints by ref, oldest first
        self._gpu_count = 0  # of the running or the next segment
        self._micro_batch_size = 0
        for event in events:
            self._take(event)

    @property
    def checkpoints(self) -> tuple[CheckpointFacts, ...]:
        """All saved checkpoints, oldest first."""
        return tuple(self._saved.values())

    def _take(self, event: object) -> None:
        match event:
            case events.JobApproved():
                self.approved = event
                self._gpu_count = event.plan.gpu_count
                self._micro_batch_size = event.plan.lora.micro_batch_size
            case events.JobResumed():
                self._gpu_count = event.gpu_count
            case events.MicroBatchHalved():
                self._micro_batch_size = event.micro_batch_size
            case events.ResumeCertified():
                self._certify(event)
            case events.TrainingStarted():
                self._start(event)
            case events.CheckpointSaved():
                fields = _shared_fields(event, CheckpointFacts)
                self._saved[event.ref] = CheckpointFacts(**fields, rejected=None)
            case events.CheckpointRejected():
                lost = self._saved[event.ref]
                self._saved[event.ref] = lost.model_copy(update={"rejected": event.reason})
            case events.TrainingStoppedEarly():
                self.stopped_early = EarlyStopFacts(**_shared_fields(event, EarlyStopFacts))
            case events.EvaluationCompleted():
                self.evaluation = EvaluationFacts(**_shared_fields(event, EvaluationFacts))
            case _:
                pass
        assert isinstance(event, events.JobEvent | events.JobApproved)
        self.version = event.originator_version

    def _certify(self, event: events.ResumeCertified) -> None:
        self.resumes.append(
            ResumeFacts(
                segment=event.segment,
                step=event.step,
                manifest_sha256=self._saved[event.ref].manifest_sha256,
                certified=not event.unchecked,
                unchecked=event.unchecked,
                differences=event.differences,
            )
        )

    def _start(self, event: events.TrainingStarted) -> None:
        """Record a segment. Without a certificate, only its first step shows that it resumed."""
        self.started = event
        self.segments.append(
            SegmentFacts(
                segment=event.segment,
                step=event.step,
                gpu_count=self._gpu_count,
                micro_batch_size=self._micro_batch_size,
            )
        )
        if event.segment == 1 or any(each.segment == event.segment for each in self.resumes):
            return
        good = [each for each in self.checkpoints if each.rejected is None]
        saved = next((each for each in reversed(good) if each.step == event.step), None)
        self.resumes.append(
            ResumeFacts(
                segment=event.segment,
                step=event.step,
                manifest_sha256=saved.manifest_sha256 if saved is not None else None,
                certified=False,
                unchecked=tuple(StateHashes.model_fields) if saved is not None else (),
                differences=(),
            )
        )


@dataclass(frozen=True)
class StoredModel:
    """A model as its trainer stored it."""

    manifest: Manifest
    environment: TrainingEnvironment | None


def provenance_of(
    history: JobHistory,
    stored: StoredModel,
    *,
    model: str,
    origins: Mapping[UUID, DatasetOrigin],
    repository: str | None,
    cost: CostFacts,
) -> Provenance:
    """Return the provenance of a model, with the `origins` of datasets by ID."""
    approved, started = history.approved, history.started
    assert approved is not None
    return Provenance(
        model=model,
        account_id=approved.account_id,
        job_id=approved.originator_id,
        job_version=history.version,
        **_planned(approved.plan, origins, repository),
        segments=tuple(history.segments),
        environment=stored.environment,
        total_steps=started.total_steps if started else 0,
        train_examples=started.train_examples if started else 0,
        eval_examples=started.eval_examples if started else 0,
        checkpoints=history.checkpoints,
        resumes=tuple(history.resumes),
        stopped_early=history.stopped_early,
        evaluation=history.evaluation,
        cost=cost,
        files=stored.manifest.files,
    )


def _planned(
    plan: TrainingPlan, origins: Mapping[UUID, DatasetOrigin], repository: str | None
) -> dict[str, Any]:
    def dataset(id: UUID, sha256: str) -> DatasetFacts:
        origin = origins.get(id, DatasetOrigin())
        return DatasetFacts(
            id=id,
            sha256=sha256,
            uploaded_sha256=origin.uploaded_sha256,
            filters=origin.filters,
            versions=origin.versions,
            synthesis_id=origin.synthesis_id,
            hub_commit=origin.hub_commit,
        )

    own = plan.validation
    return {
        "dataset": dataset(plan.dataset_id, plan.dataset_sha256),
        "validation": dataset(own.dataset_id, own.sha256) if own is not None else None,
        "base": BaseFacts(
            name=plan.base_model, manifest_sha256=plan.base_manifest_sha256, repository=repository
        ),
        "start": plan.start and StartFacts(**_shared_fields(plan.start, StartFacts)),
        "hyperparameters": plan.hyperparameters,
        "seed": plan.lora.seed,
        "precision": plan.precision,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "hardware": HardwareFacts(region=plan.region, gpu_type=plan.gpu_type),
    }


def _shared_fields(event: BaseModel, facts: type[Facts]) -> dict[str, Any]:
    """Return the fields that `event` and `facts` have in common, with the values of the event."""
    fields = facts.model_fields.keys() & type(event).model_fields.keys()
    return {name: getattr(event, name) for name in fields}
