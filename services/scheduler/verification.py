"""Verification of a model's files against its manifest, and of its provenance against the log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError

from domain.catalog.base_model import BaseModel as Base
from domain.catalog.catalog import Catalog
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID, base_model_id
from domain.datasets.dataset import Dataset, MadeDataset
from domain.jobs import events
from domain.jobs.documents import CARD, PROVENANCE
from domain.jobs.events import AdapterPromoted, CheckpointSaved, Registered
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus
from domain.training.start import Start
from infrastructure.artifacts.store import MANIFEST, Artifacts, Manifest, ManifestFile
from infrastructure.training.environment import ENVIRONMENT, TrainingEnvironment
from services.scheduler.documents import dataset_origins
from services.scheduler.job_history import JobHistory, StoredModel, provenance_of
from services.scheduler.model_card import RESUME_FILES, model_card
from services.scheduler.provenance import (
    CheckpointFacts,
    CostFacts,
    Provenance,
    ResumeFacts,
    SegmentFacts,
)

WEIGHTS = "adapter_model.safetensors"

MISSING, NOWHERE = "nothing", "no such event"

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Check:
    """A comparison of an expected value with the value found."""

    name: str
    expected: str
    found: str

    @property
    def ok(self) -> bool:
        """True if the values are equal."""
        return self.expected == self.found


@dataclass(frozen=True)
class StoredCopy:
    """The model in the artifact store."""

    artifacts: Artifacts
    ref: str

    def paths(self) -> list[str]:
        """Return the paths of all files under the model's prefix."""
        return [ref.removeprefix(f"{self.ref}/") for ref in self.artifacts.list(self.ref)]

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the content of a file in chunks. Raise FileNotFoundError if it does not exist."""
        return self.artifacts.stream(f"{self.ref}/{path}")


@dataclass(frozen=True)
class DirectoryCopy:
    """A copy of the model in a directory, with or without its manifest."""

    directory: Path

    def paths(self) -> list[str]:
        """Return the paths of all files in the directory."""
        files = sorted(path for path in self.directory.rglob("*") if path.is_file())
        return [path.relative_to(self.directory).as_posix() for path in files]

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the content of a file in chunks. Raise FileNotFoundError if it does not exist."""
        with (self.directory / path).open("rb") as file:
            while chunk := file.read(1024 * 1024):
                yield chunk


Copy = StoredCopy | DirectoryCopy


def verify(
    log: EventLog,
    artifacts: Artifacts,
    job: Job,
    event: events.Registered | events.AdapterPromoted,
    copy: Copy,
) -> list[Check]:
    """Verify a copy of a model against the log and `event`, which registered or promoted the model.

    If the manifest does not match the event, nothing else can be trusted, and the result is only
    this failed check. Raise ArtifactCorrupt if it is invalid. No manifest lists
    the card and provenance of a promoted checkpoint. They are compared with the ones derived from
    the log.
    """
    content = _manifest(artifacts, event.adapter_ref, copy)
    found = MISSING if content is None else hashlib.sha256(content).hexdigest()
    checks = [Check(MANIFEST, event.manifest_sha256, found)]
    if content is None or not checks[0].ok:
        return checks
    manifest = Manifest.parse(content)
    checks += _files(manifest, copy)
    stated = _read(copy, PROVENANCE, Provenance)
    if stated is None:
        return [*checks, Check("provenance", "a provenance of schema version 1", MISSING)]
    environment = _read(copy, ENVIRONMENT, TrainingEnvironment)
    expected = _expected(log, job, event, manifest, environment, stated.base.repository)
    if isinstance(event, events.AdapterPromoted):
        card = hashlib.sha256(model_card(expected).encode()).hexdigest()
        checks.append(Check(f"file {CARD}", card, _sha256(copy, CARD)))
    best = _best_state(log, job, expected, manifest)
    return [*checks, *_statements(expected, stated), *best, *_sources(log, job)]


def _manifest(artifacts: Artifacts, ref: str, copy: Copy) -> bytes | None:
    """Return the manifest of the copy. If it has none, return the one in the artifact store."""
    try:
        if MANIFEST in copy.paths():
            return b"".join(copy.chunks(MANIFEST))
        return artifacts.get_document(f"{ref}/{MANIFEST}")
    except FileNotFoundError:
        return None


def _files(manifest: Manifest, copy: Copy) -> Iterator[Check]:
    """Yield a check for each file. A directory may lack files that only a resume needs."""
    there = copy.paths()
    for file in manifest.files:
        left_out = file.path in RESUME_FILES and file.path not in there
        if left_out and isinstance(copy, DirectoryCopy):
            continue
        yield Check(f"file {file.path}", file.sha256, _sha256(copy, file.path))
    known = {MANIFEST, CARD, PROVENANCE, *(file.path for file in manifest.files)}
    for path in there:
        if path not in known:
            yield Check(f"file {path}", "absent from the manifest", "present")


def _sha256(copy: Copy, path: str) -> str:
    digest = hashlib.sha256()
    try:
        for chunk in copy.chunks(path):
            digest.update(chunk)
    except FileNotFoundError:
        return MISSING
    return digest.hexdigest()


def _read(copy: Copy, path: str, kind: type[T]) -> T | None:
    try:
        return kind.model_validate_json(b"".join(copy.chunks(path)))
    except (FileNotFoundError, ValidationError):
        return None


def _expected(
    log: EventLog,
    job: Job,
    event: events.Registered | events.AdapterPromoted,
    manifest: Manifest,
    environment: TrainingEnvironment | None,
    repository: str | None,
) -> Provenance:
    """Return the provenance derived from the log before `event`."""
    before = log.events.get(job.id, lte=event.originator_version - 1)
    listed = [None] + [
        event.base.repository
        for event in log.events.get(CATALOG_ID)
        if isinstance(event, Catalog.BaseModelListed) and event.base.name == job.plan.base_model
    ]
    return provenance_of(
        JobHistory(before),
        StoredModel(manifest.without((CARD, PROVENANCE)), environment),
        model=event.model,
        origins=dataset_origins(log, job),
        # The catalog may have changed since then.
        repository=repository if repository in listed else listed[-1],
        cost=CostFacts(
            amount_micros=job.usage.paid_micros,
            metered_seconds=job.usage.paid_seconds,
            segments=job.usage.segments,
        ),
    )


def _statements(expected: Provenance, stated: Provenance) -> Iterator[Check]:
    for name in Provenance.model_fields:
        wanted, found = getattr(expected, name), getattr(stated, name)
        if isinstance(wanted, tuple):
            for number in range(max(len(wanted), len(found))):
                yield _statement(name, _item(wanted, number), _item(found, number))
        else:
            yield _statement(name, wanted, found)


def _best_state(
    log: EventLog, job: Job, expected: Provenance, manifest: Manifest
) -> Iterator[Check]:
    scored = expected.evaluation
    if scored is None or scored.final_loss is None or job.status is not JobStatus.REGISTERED:
        return
    hashes = {
        event.state.weights
        for event in log.events.get(job.id)
        if isinstance(event, CheckpointSaved) and event.step == scored.step and event.state
    }
    files = (file.sha256 for file in manifest.files if file.path == WEIGHTS)
    found = next(files, MISSING)
    saved = found if found in hashes else next(iter(sorted(hashes)), NOWHERE)
    yield Check(f"weights are those of step {scored.step}", saved, found)


def _item(items: tuple[Any, ...], number: int) -> Any:
    return items[number] if number < len(items) else None


def _statement(name: str, expected: Any, found: Any) -> Check:
    """Return the check of one field. If only parts differ, the check shows only these."""
    label = _label(name, expected if expected is not None else found)
    leaves, others = _leaves(expected), _leaves(found)
    differing = [
        path for path in {**leaves, **others} if leaves.get(path) != others.get(path)
    ] or list(leaves)
    return Check(label, _listed(leaves, differing), _listed(others, differing))


def _label(name: str, item: Any) -> str:
    statement = name.replace("_", " ")
    if isinstance(item, ManifestFile):
        return f"{statement}: {item.path}"
    if isinstance(item, SegmentFacts | CheckpointFacts | ResumeFacts):
        return f"{statement}: segment {item.segment}, step {item.step}"
    return statement


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, part in value.items():
            found |= _leaves(part, f"{path}.{key}" if path else key)
        return found
    return {path: str(value)}


def _listed(leaves: dict[str, str], paths: list[str]) -> str:
    parts = [(path, leaves.get(path, MISSING)) for path in paths]
    return ", ".join(f"{path} {value}" if path else value for path, value in parts)


def _sources(log: EventLog, job: Job) -> Iterator[Check]:
    """Yield checks that the job's datasets were validated and that its base model was imported."""
    plan = job.plan
    yield _validated(log, "dataset was validated", plan.dataset_id, plan.dataset_sha256)
    yield from _generated(log, plan.dataset_id)
    if plan.validation is not None:
        name, file = "validation dataset was validated", plan.validation
        yield _validated(log, name, file.dataset_id, file.sha256)
        yield from _generated(log, file.dataset_id)
    revisions = [
        event.manifest_sha256
        for event in log.events.get(base_model_id(plan.base_model))
        if isinstance(event, Base.BaseModelImported | Base.BaseModelRevised)
    ]
    if plan.start is not None:
        yield _stored(log, plan.start)
    approved = plan.base_manifest_sha256
    found = approved if approved in revisions else next(reversed(revisions), NOWHERE)
    yield Check("base model was imported", approved, found)


def _generated(log: EventLog, dataset_id: UUID) -> Iterator[Check]:
    """Yield the check that an event created an upload of any version, if one was generated."""
    id: UUID | None = dataset_id
    while id is not None and (dataset := log.find(Dataset, id)) is not None:
        if (synthesis_id := dataset.options.synthesis_id) is not None:
            created = {
                event.dataset_id: event.sha256
                for event in log.events.get(synthesis_id)
                if isinstance(event, MadeDataset)
            }
            found = created.get(id, NOWHERE)
            yield Check("dataset was generated", dataset.upload_sha256, found)
        id = dataset.options.parent


def _stored(log: EventLog, start: Start) -> Check:
    hashes = {
        event.manifest_sha256
        for event in log.events.get(start.job_id)
        if (isinstance(event, Registered | AdapterPromoted) and event.adapter_ref == start.ref)
        or (isinstance(event, CheckpointSaved) and event.ref == start.ref)
    }
    found = start.manifest_sha256 if start.manifest_sha256 in hashes else NOWHERE
    return Check("continued adapter was stored", start.manifest_sha256, found)


def _validated(log: EventLog, name: str, dataset_id: UUID, sha256: str) -> Check:
    dataset = log.find(Dataset, dataset_id)
    return Check(name, sha256, dataset.sha256 if dataset is not None else NOWHERE)
