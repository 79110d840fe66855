"""A model's card and provenance, laid beside the files that its trainer stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from uuid import UUID

from pydantic import ValidationError

from domain.catalog.catalog import Catalog
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from domain.core.money import charge_micros
from domain.datasets.dataset import Dataset
from domain.jobs.job import Job
from infrastructure.artifacts import ArtifactCorrupt, Artifacts, Manifest
from infrastructure.training_environment import ENVIRONMENT, TrainingEnvironment
from services.scheduler.job_history import JobHistory, provenance_of
from services.scheduler.model_card import CARD, model_card
from services.scheduler.provenance import PROVENANCE, CostFacts, Provenance


def document(
    log: EventLog,
    artifacts: Artifacts,
    job: Job,
    ref: str,
    manifest_sha256: str,
    unsettled_seconds: int = 0,
) -> Manifest:
    """Write card and provenance of a job's model; returns the manifest that names them too.

    `manifest_sha256` is of the files that the trainer stored; `unsettled_seconds` is what the
    running segment will be charged for. The same job writes the same bytes again, so that an
    attempt that lost a race may be repeated. Raises ArtifactCorrupt and FileNotFoundError.
    """
    stored = _as_trained(artifacts, ref, manifest_sha256)
    events = _events(log, job)
    provenance = _provenance(log, artifacts, job, ref, stored, events, unsettled_seconds)
    return artifacts.add_files(
        ref,
        stored,
        {CARD: model_card(provenance).encode(), PROVENANCE: provenance.content},
    )


def document_promoted(
    log: EventLog, artifacts: Artifacts, job: Job, event: Job.AdapterPromoted
) -> None:
    """Write card and provenance of a promoted checkpoint; the same event, the same bytes.

    The event pins the checkpoint as its trainer saved it, so that its manifest stays as it is; what
    these two say follows from the log. Raises ArtifactCorrupt and FileNotFoundError.
    """
    ref = event.adapter_ref
    stored = _as_trained(artifacts, ref, event.manifest_sha256)
    before = log.events.get(job.id, lte=event.originator_version - 1)
    provenance = _provenance(log, artifacts, job, ref, stored, before)
    artifacts.put(f"{ref}/{CARD}", model_card(provenance).encode())
    artifacts.put(f"{ref}/{PROVENANCE}", provenance.content)


def _as_trained(artifacts: Artifacts, ref: str, manifest_sha256: str) -> Manifest:
    """The trainer's manifest, also where an attempt before this one has added to it."""
    found = artifacts.manifest(ref)
    for manifest in (found, found.without((CARD, PROVENANCE))):
        if manifest.sha256 == manifest_sha256:
            return manifest
    raise ArtifactCorrupt(f"{ref} has another manifest")


def _provenance(
    log: EventLog,
    artifacts: Artifacts,
    job: Job,
    ref: str,
    stored: Manifest,
    events: Iterable[object],
    unsettled_seconds: int = 0,
) -> Provenance:
    catalog = log.find(Catalog, CATALOG_ID)
    listed = catalog.bases.get(job.plan.base_model) if catalog is not None else None
    unsettled_micros = charge_micros(job.rate_micros_per_hour, unsettled_seconds)
    return provenance_of(
        JobHistory(events),
        model=job.model_name,
        uploaded=uploaded_files(log, job),
        repository=listed.repository if listed is not None else None,
        environment=_environment(artifacts, ref, stored),
        cost=CostFacts(
            amount_micros=job.actual_micros + unsettled_micros,
            metered_seconds=job.actual_seconds + unsettled_seconds,
            segments=job.segments_used + (unsettled_seconds > 0),
        ),
        files=stored.files,
    )


def uploaded_files(log: EventLog, job: Job) -> dict[UUID, str]:
    """sha256 of the files, as they were uploaded, that a job trains and evaluates on."""
    plan = job.plan
    ids = [plan.dataset_id] + ([plan.validation.dataset_id] if plan.validation else [])
    datasets = [dataset for each in ids if (dataset := log.find(Dataset, each)) is not None]
    return {dataset.id: dataset.upload_sha256 for dataset in datasets}


def _events(log: EventLog, job: Job) -> Iterator[object]:
    """The events that made the job what it is, with those that are not saved yet."""
    pending = list(job.pending_events)
    yield from log.events.get(job.id, lte=job.version - len(pending))
    yield from pending


def _environment(artifacts: Artifacts, ref: str, stored: Manifest) -> TrainingEnvironment | None:
    """What the trainer says that it trained with, if it says so."""
    file = next((file for file in stored.files if file.path == ENVIRONMENT), None)
    if file is None:
        return None
    content = artifacts.get(f"{ref}/{ENVIRONMENT}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ArtifactCorrupt(f"{ref}/{ENVIRONMENT} differs from its manifest")
    try:
        return TrainingEnvironment.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactCorrupt(f"{ref}/{ENVIRONMENT} is no description of an environment") from error
