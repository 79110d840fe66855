"""The artifact store in a backup: what the log names, the documents beside it, and the seals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from domain.billing.account import Account
from domain.core.aggregate import Aggregate
from domain.core.event_log import EventLog, replayed
from domain.jobs.documents import CARD, PROVENANCE
from extensions.backup.database import Progress
from extensions.backup.manifest import ArtifactFile, Blob, MissingArtifact
from extensions.backup.target import BackupError, BackupTarget
from infrastructure.accounts.personal_data import erased_accounts
from infrastructure.artifacts.store import (
    MANIFEST,
    STORE_ERRORS,
    ArtifactCorrupt,
    Artifacts,
    Manifest,
)
from infrastructure.extensions import installed, signed_folders
from infrastructure.postgres.store import Connection
from infrastructure.seals.archive import HEADS, SEALS
from services.projector.artifact_check import OWNERS, Kept, kept_artifacts

NO_BUCKET = "NoSuchBucket"
"""Code of the error of an S3 store without the bucket."""

FIRST = "first"
"""A file that is stored only to create the bucket."""

FOLDERS = ("datasets", "jobs", *signed_folders())
DOCUMENTS = re.compile(
    r"datasets/[^/]+/[^/]+/((report|sample)\.json|lines\.txt|[^/]+/.+)|"
    r"jobs/[^/]+/[^/]+/logs/.+" + "".join(f"|{each}/.+" for each in signed_folders()),
    re.ASCII,
)
"""Files that no event names: reports, first rows and line numbers of datasets, files of extensions
in the folders of datasets, logs of trainers, and documents that the sealer signed."""


class Named(NamedTuple):
    """An artifact that an aggregate names in a prefix of the log."""

    kind: type[Aggregate]
    id: UUID
    kept: Kept


def named_artifacts(store: Connection, log: EventLog) -> Iterator[Named]:
    """Yield the artifacts that the log names, as of the snapshot of a connection."""
    rows = store.execute(
        "SELECT originator_id, max(originator_version) AS version, "
        "min(topic) FILTER (WHERE originator_version = 1) AS topic FROM ecolink_events "
        "WHERE originator_id IN (SELECT originator_id FROM ecolink_events WHERE topic = ANY(%s)) "
        "GROUP BY originator_id ORDER BY 1",
        [list(OWNERS)],
    ).fetchall()
    erased = erased_accounts(store)
    for row in rows:
        id = row["originator_id"]
        found: object = log.repository.get(id, version=row["version"], projector_func=replayed)
        assert isinstance(found, Aggregate)
        for kept in kept_artifacts(found, erased):
            yield Named(OWNERS[row["topic"]], id, kept)


def copy_seals(artifacts: Artifacts, target: BackupTarget) -> list[ArtifactFile]:
    """Store the seals. Heads come first, so that the leaves cover every stored head."""
    refs = sorted(artifacts.list(SEALS), key=lambda ref: (not ref.startswith(HEADS), ref))
    return [_small(artifacts, ref, target) for ref in refs]


@dataclass
class _Copies:
    artifacts: Artifacts
    target: BackupTarget
    files: dict[str, ArtifactFile] = field(default_factory=dict)
    missing: list[MissingArtifact] = field(default_factory=list)

    def copy(self, kept: Kept) -> None:
        """Store an artifact. Raise ArtifactCorrupt or FileNotFoundError, and keep none of it."""
        if kept.ref in self.files or f"{kept.ref}/{MANIFEST}" in self.files:
            return
        if not kept.is_directory:
            size = self.artifacts.size(kept.ref)
            self.files[kept.ref] = self._file(kept.ref, Blob(sha256=kept.sha256, bytes=size))
            return
        ref = f"{kept.ref}/{MANIFEST}"
        content = self.artifacts.get_document(ref)
        manifest = Manifest.parse(content, ref)
        documented = manifest.without((CARD, PROVENANCE))  # added after the trainer's event
        if kept.sha256 not in (manifest.sha256, documented.sha256):
            raise ArtifactCorrupt(f"The manifest of {kept.ref} differs from its hash.")
        found = {
            path: self._file(path, Blob(sha256=each.sha256, bytes=each.bytes))
            for each in manifest.files
            for path in [f"{kept.ref}/{each.path}"]
        }
        blob = self.target.add_bytes(content)
        self.files |= found | {ref: ArtifactFile(**blob.model_dump(), path=ref)}

    def _file(self, ref: str, blob: Blob) -> ArtifactFile:
        """Store a file with a known hash, unless the target has its content."""
        if not self.target.has(blob):
            try:
                self.target.add_stream(blob, self.artifacts.stream(ref))
            except ValueError as error:
                raise ArtifactCorrupt(f"{ref} differs from its hash: {error}.") from error
        return ArtifactFile(**blob.model_dump(), path=ref)


def copy_artifacts(
    named: Iterable[Named], log: EventLog, artifacts: Artifacts, target: BackupTarget
) -> tuple[list[ArtifactFile], list[MissingArtifact]]:
    """Store the artifacts that a prefix of the log names. Return their files, and what is missing.

    EcoLink may delete artifacts meanwhile, and the log then says so.
    """
    copies = _Copies(artifacts, target)
    for kind, id, kept in named:
        try:
            copies.copy(kept)
        except (FileNotFoundError, ValueError, ArtifactCorrupt) as error:
            lost = isinstance(error, FileNotFoundError)
            deleted = kept not in _kept_now(log, kind, id)
            text = f"{kind.__name__} {id}: " + (
                f"{kept.ref} is not complete in the artifact store" if lost else str(error)
            )
            copies.missing.append(MissingArtifact(path=kept.ref, deleted=deleted, text=text))
    return list(copies.files.values()), copies.missing


def _kept_now(log: EventLog, kind: type[Aggregate], id: UUID) -> list[Kept]:
    """Return the artifacts that the current log names for an aggregate."""
    found = log.load(kind, id)
    account_id = getattr(found, "account_id", None)
    account = None if account_id is None else log.find(Account, account_id)
    erased = {account.id} if account is not None and account.erased else set[UUID]()
    return kept_artifacts(found, erased)


def copy_documents(
    artifacts: Artifacts, target: BackupTarget, progress: Progress
) -> list[ArtifactFile]:
    """Store the documents that no event names. EcoLink may delete some meanwhile."""
    refs = [ref for each in FOLDERS for ref in artifacts.list(each) if DOCUMENTS.fullmatch(ref)]
    return _present(refs, artifacts, target, progress)


def copy_open_files(
    artifacts: Artifacts, target: BackupTarget, progress: Progress
) -> list[ArtifactFile]:
    """Store the files of unfinished work of extensions, which they delete when it ends."""
    folders = [each for one in installed() if one.open_files for each in one.folders]
    refs = [ref for each in folders for ref in artifacts.list(each) if is_open_file(ref)]
    return _present(refs, artifacts, target, progress)


def is_open_file(ref: str) -> bool:
    """Return True for a file of unfinished work of an extension."""
    return any(re.fullmatch(each.open_files, ref, re.ASCII) for each in installed())


def _present(
    refs: Sequence[str], artifacts: Artifacts, target: BackupTarget, progress: Progress
) -> list[ArtifactFile]:
    """Store the files that still exist."""
    found: list[ArtifactFile] = []
    for number, ref in enumerate(refs, start=1):
        try:
            found.append(_small(artifacts, ref, target))
        except FileNotFoundError:
            continue
        progress(number, len(refs))
    return found


def _small(artifacts: Artifacts, ref: str, target: BackupTarget) -> ArtifactFile:
    return ArtifactFile(**target.add_bytes(artifacts.get(ref)).model_dump(), path=ref)


def require_empty_store(artifacts: Artifacts, address: str) -> None:
    """Raise BackupError if the artifact store has a file. Let the store create a missing bucket."""
    try:
        found = artifacts.list("")
    except STORE_ERRORS as error:
        if NO_BUCKET not in str(error):
            raise
        artifacts.put(FIRST, b"")  # SeaweedFS creates a bucket with its first file
        artifacts.delete(FIRST)
        found = artifacts.list("")
    if found:
        raise BackupError(
            f"The artifact store {address} has {len(found):,} files, such as {found[0]}, and a "
            "restore replaces none. Set ECOLINK_ARTIFACTS_URL to an empty place."
        )
