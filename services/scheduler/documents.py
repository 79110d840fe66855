"""Model cards and provenance, stored next to the files of the trainer."""

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
from domain.jobs import events
from domain.jobs.documents import CARD, PROVENANCE
from domain.jobs.job import Job
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts, Manifest
from infrastructure.bus.exchange import read
from infrastructure.training.environment import ENVIRONMENT, TrainingEnvironment
from services.scheduler.job_history import DatasetOrigin, JobHistory, StoredModel, provenance_of
from services.scheduler.model_card import model_card
from services.scheduler.provenance import CostFacts, Provenance, VersionFacts

MOST_VERSIONS = 100
"""Maximum number of earlier versions of a dataset in a provenance."""


def document(
    log: EventLog,
    artifacts: Artifacts,
    job: Job,
    ref: str,
    manifest_sha256: str,
    unsettled_seconds: int = 0,
) -> Manifest:
    """Write the model card and provenance of a job's model. Return a manifest that includes them.

    `manifest_sha256` is the hash of the trainer's manifest. `unsettled_seconds` is the time for
    which the running segment will still be charged. Idempotent: the same job results in the same
    bytes. Raise FileNotFoundError if a file is missing, and ArtifactCorrupt if one is damaged.
    """
    stored = _stored(artifacts, ref, manifest_sha256)
    provenance = _provenance(log, job, _events(log, job), stored, unsettled_seconds)
    return artifacts.add_files(
        ref,
        stored.manifest,
        {CARD: model_card(provenance).encode(), PROVENANCE: provenance.content},
    )


def document_promoted(
    log: EventLog, artifacts: Artifacts, job: Job, event: events.AdapterPromoted
) -> None:
    """Write the two documents of a promoted checkpoint, but not into its pinned manifest."""
    ref = event.adapter_ref
    stored = _stored(artifacts, ref, event.manifest_sha256)
    before = log.events.get(job.id, lte=event.originator_version - 1)
    provenance = _provenance(log, job, before, stored)
    artifacts.put(f"{ref}/{CARD}", model_card(provenance).encode())
    artifacts.put(f"{ref}/{PROVENANCE}", provenance.content)


def _stored(artifacts: Artifacts, ref: str, manifest_sha256: str) -> StoredModel:
    """Return the model as its trainer stored it, without files that an earlier attempt added."""
    found = artifacts.manifest(ref)
    for manifest in (found, found.without((CARD, PROVENANCE))):
        if manifest.sha256 == manifest_sha256:
            return StoredModel(manifest, _environment(artifacts, ref, manifest))
    raise ArtifactCorrupt(
        f"The manifest of {ref} has sha256 {found.sha256}, expected {manifest_sha256}."
    )


def _provenance(
    log: EventLog,
    job: Job,
    events: Iterable[object],
    stored: StoredModel,
    unsettled_seconds: int = 0,
) -> Provenance:
    catalog = log.find(Catalog, CATALOG_ID)
    listed = catalog.bases.get(job.plan.base_model) if catalog is not None else None
    unsettled_micros = charge_micros(job.rate_micros_per_hour, unsettled_seconds)
    return provenance_of(
        JobHistory(events),
        stored,
        model=job.model_name,
        origins=dataset_origins(log, job),
        repository=listed.repository if listed is not None else None,
        cost=CostFacts(
            amount_micros=job.usage.paid_micros + unsettled_micros,
            metered_seconds=job.usage.paid_seconds + unsettled_seconds,
            segments=job.usage.segments + (unsettled_seconds > 0),
        ),
    )


def dataset_origins(log: EventLog, job: Job) -> dict[UUID, DatasetOrigin]:
    """Return the uploads, filters and earlier versions of the datasets of a job, by dataset ID."""
    plan = job.plan
    ids = [plan.dataset_id] + ([plan.validation.dataset_id] if plan.validation else [])
    datasets = [dataset for each in ids if (dataset := log.find(Dataset, each)) is not None]
    return {dataset.id: origin_of(log, dataset) for dataset in datasets}


def origin_of(log: EventLog, dataset: Dataset) -> DatasetOrigin:
    """Return the upload, filters, source and earlier versions of a dataset, also deleted ones."""
    versions: list[VersionFacts] = []
    parent_id = dataset.options.parent
    while parent_id is not None and len(versions) < MOST_VERSIONS:
        parent = log.find(Dataset, parent_id)
        if parent is None:
            break
        versions.append(
            VersionFacts(
                id=parent.id,
                sha256=parent.sha256,
                uploaded_sha256=_upload_of(parent),
                synthesis_id=parent.options.synthesis_id,
                hub_commit=_commit_of(parent),
            )
        )
        parent_id = parent.options.parent
    options = dataset.options
    return DatasetOrigin(
        _upload_of(dataset),
        options.filters,
        tuple(versions),
        options.synthesis_id,
        _commit_of(dataset),
    )


def _commit_of(dataset: Dataset) -> str | None:
    source = dataset.options.source
    return None if source is None else source.commit


def _upload_of(dataset: Dataset) -> str | None:
    """Return the hash of a dataset's own upload; None if filters made it."""
    return None if dataset.options.is_filtered else dataset.upload_sha256


def _events(log: EventLog, job: Job) -> Iterator[object]:
    pending = list(job.pending_events)
    yield from log.events.get(job.id, lte=job.version - len(pending))
    yield from pending


def _environment(artifacts: Artifacts, ref: str, stored: Manifest) -> TrainingEnvironment | None:
    file = next((file for file in stored.files if file.path == ENVIRONMENT), None)
    if file is None:
        return None
    content = artifacts.get_document(f"{ref}/{ENVIRONMENT}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ArtifactCorrupt(f"{ref}/{ENVIRONMENT} differs from its manifest.")
    try:
        return read(TrainingEnvironment, content)
    except ValidationError as error:
        raise ArtifactCorrupt(
            f"{ref}/{ENVIRONMENT} is not a description of a training environment."
        ) from error
