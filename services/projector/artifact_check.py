"""Comparison of the artifact store with the hashes in the log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Aggregate, Created
from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset, DatasetStatus
from domain.jobs.documents import CARD, PROVENANCE
from domain.jobs.job import Job
from infrastructure.accounts.personal_data import erased_accounts
from infrastructure.artifacts.store import MANIFEST, ArtifactCorrupt, Artifacts
from infrastructure.extensions import installed
from infrastructure.postgres.store import Connection
from services.projector.store_checks import Difference, DifferenceKind

OWNERS: dict[str, type[Aggregate]] = {
    "DatasetUploaded": Dataset,
    "BaseModelImported": BaseModel,
    "JobApproved": Job,
} | {
    kind.TOPIC: aggregate
    for extension in installed()
    for aggregate in extension.artifacts
    for kind in aggregate.event_classes()
    if issubclass(kind, Created)
}
"""The first events of the aggregates whose events contain hashes of artifacts."""


class Kept(NamedTuple):
    """An artifact that the log says is stored: a file, or a directory with a manifest."""

    ref: str
    sha256: str
    """Of the file, or of the directory's manifest."""

    is_directory: bool


@dataclass
class ArtifactFindings:
    """The result of a comparison."""

    artifacts: int = 0
    files: int = 0
    total_bytes: int = 0
    differences: list[Difference] = field(default_factory=list)


def check_artifacts(
    store: Connection,
    log: EventLog,
    artifacts: Artifacts,
    on_progress: Callable[[ArtifactFindings], object] = id,
) -> ArtifactFindings:
    """Read every artifact that the log names and EcoLink has not deleted, and compare its hash.

    Covers datasets, all revisions of base models, checkpoints, adapters and the files of
    extensions, except those of erased accounts. Services may run meanwhile: an artifact that
    EcoLink deletes during the comparison is no difference.
    """
    findings, erased = ArtifactFindings(), erased_accounts(store)
    rows = store.execute(
        "SELECT DISTINCT topic, originator_id FROM ecolink_events WHERE topic = ANY(%s) "
        "ORDER BY topic, originator_id",
        [list(OWNERS)],
    ).fetchall()
    for row in rows:
        kind, id = OWNERS[row["topic"]], row["originator_id"]
        for kept in kept_artifacts(log.load(kind, id), erased):
            problem = _problem(artifacts, kept, findings)
            if problem and kept in kept_artifacts(log.load(kind, id), erased_accounts(store)):
                text = f"{_name(kind)} {id}: {problem}"
                findings.differences.append(Difference(DifferenceKind.ARTIFACT, text))
            findings.artifacts += 1
            on_progress(findings)
    return findings


def kept_artifacts(aggregate: Aggregate, erased: Collection[UUID]) -> list[Kept]:
    """Return the artifacts of an aggregate that must be stored.

    Of a base model, this is the current revision. The files of `erased` accounts are deleted.
    """
    match aggregate:
        case _ if getattr(aggregate, "account_id", None) in erased:
            return []
        case Dataset(status=DatasetStatus.VALIDATING):
            return _uploaded(aggregate)
        case Dataset(status=DatasetStatus.READY_FOR_TRAINING):
            kept = [*_uploaded(aggregate), Kept(aggregate.ref, aggregate.sha256, False)]
            if (quality := aggregate.quality) is not None:
                kept.append(Kept(quality.report_ref, quality.report_sha256, False))
            return kept
        case BaseModel(deleted=False):
            return [Kept(ref, sha256, True) for ref, sha256 in aggregate.manifests.items()]
        case Job(expired=False):
            saved = [Kept(each.ref, each.manifest_sha256, True) for each in aggregate.checkpoints]
            model = aggregate.model
            if model is not None:
                saved.append(Kept(model.adapter_ref, model.manifest_sha256, True))
            return list(dict.fromkeys(saved))
        case _:
            return [
                kept
                for extension in installed()
                if (reference := extension.artifacts.get(type(aggregate)))
                for kept in extension.load(reference)(aggregate)
            ]


def _uploaded(dataset: Dataset) -> list[Kept]:
    """Return the upload of a dataset, and the columns that its owner chose.

    Of a rejected dataset, neither must be stored: EcoLink 0.1 deleted them. A filtered dataset has
    no upload of its own.
    """
    kept: list[Kept] = []
    if not dataset.options.is_filtered:
        kept.append(Kept(dataset.upload_ref, dataset.upload_sha256, False))
    if dataset.columns_ref is not None and dataset.options.columns_sha256 is not None:
        kept.append(Kept(dataset.columns_ref, dataset.options.columns_sha256, False))
    if dataset.source_ref is not None and dataset.options.source is not None:
        kept.append(Kept(dataset.source_ref, dataset.options.source.document_sha256, False))
    return kept


def _name(kind: type[Aggregate]) -> str:
    names: dict[type[Aggregate], str] = {BaseModel: "Base model"}
    return names.get(kind, kind.__name__)


def _problem(artifacts: Artifacts, kept: Kept, findings: ArtifactFindings) -> str | None:
    """Return the first difference between a stored artifact and its hash."""
    read = kept.ref
    try:
        if not kept.is_directory:
            found = _hash(artifacts, kept.ref, findings)
            return None if found == kept.sha256 else f"{kept.ref} differs from its hash."
        read = f"{kept.ref}/{MANIFEST}"
        manifest = artifacts.manifest(kept.ref)
        documented = manifest.without((CARD, PROVENANCE))  # added after the trainer's event
        if kept.sha256 not in (manifest.sha256, documented.sha256):
            return f"The manifest of {kept.ref} differs from its hash."
        for file in manifest.files:
            read = f"{kept.ref}/{file.path}"
            if _hash(artifacts, read, findings) != file.sha256:
                return f"{read} differs from the manifest."
    except FileNotFoundError:  # its message has the path on the server
        return f"{read} is missing."
    except ArtifactCorrupt as error:
        return str(error)
    return None


def _hash(artifacts: Artifacts, ref: str, findings: ArtifactFindings) -> str:
    digest = hashlib.sha256()
    for chunk in artifacts.stream(ref):
        digest.update(chunk)
        findings.total_bytes += len(chunk)
    findings.files += 1
    return digest.hexdigest()
