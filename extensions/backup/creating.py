"""Making a backup while EcoLink runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from secrets import token_hex

from extensions.backup.artifact_files import (
    copy_artifacts,
    copy_documents,
    copy_open_files,
    copy_seals,
    named_artifacts,
)
from extensions.backup.database import copy_events, copy_tables, secret_rows, shapes, snapshot
from extensions.backup.keys import keys_of, require_apart, write_keys, write_manifest_hash
from extensions.backup.manifest import BackupManifest
from extensions.backup.stages import Stages, counted
from extensions.backup.target import BackupError, BackupTarget
from infrastructure.artifacts.object_stores import PATIENT_SECONDS
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import open_log
from infrastructure.process.code_version import package_version
from infrastructure.settings import Settings


@dataclass(frozen=True)
class Request:
    """The place of a backup and of its keys, and its time."""

    target: BackupTarget
    keys_to: Path | None
    now: datetime


def create(settings: Settings, request: Request, stages: Stages) -> BackupManifest:
    """Make a backup and return its manifest. Raise BackupError.

    Seals come before the snapshot of the database, so that every stored head is of events in it.
    Artifacts come after it, and the manifest is last. The first are the files of unfinished work,
    because EcoLink deletes them when it ends.
    """
    target = request.target
    artifacts = Artifacts(settings.artifacts, patience_seconds=PATIENT_SECONDS)
    _require_outside(target, settings)
    if request.keys_to is not None:
        require_apart(request.keys_to, target)
    id = f"{request.now:%Y%m%dT%H%M%S%fZ}-{token_hex(2)}"
    with target.locked():
        with stages.stage("Copying seals"):
            seals = copy_seals(artifacts, target)
        with snapshot(settings) as store, open_log(settings) as log:
            log_id, known = log_identity(store), shapes(store)
            with stages.stage("Copying files of unfinished work") as progress:
                open_files = copy_open_files(artifacts, target, progress)
            with stages.stage("Copying events") as progress:
                chunks = copy_events(store, target, progress)
            with stages.stage("Copying tables") as progress:
                tables = copy_tables(store, target, progress)
            secrets = secret_rows(store)
            named = list(named_artifacts(store, log))
        with stages.stage("Copying artifacts") as progress, open_log(settings) as log:
            files, missing = copy_artifacts(counted(named, progress), log, artifacts, target)
        with stages.stage("Copying documents") as progress:
            documents = copy_documents(artifacts, target, progress)
        manifest = BackupManifest(
            id=id,
            created_at=request.now,
            version=package_version(),
            log_id=log_id,
            events=sum(each.events for each in chunks),
            last_event=chunks[-1].last if chunks else 0,
            shapes=known,
            chunks=tuple(chunks),
            tables=tuple(tables),
            artifacts=(*seals, *open_files, *files, *documents),
            missing=tuple(missing),
        )
        if request.keys_to is not None:
            folder = write_keys(request.keys_to, id, keys_of(settings, secrets))
            write_manifest_hash(folder, manifest)
        target.put_manifest(manifest)
    return manifest


def _require_outside(target: BackupTarget, settings: Settings) -> None:
    """Raise BackupError if the target is in a folder that it backs up."""
    folders = {"ECOLINK_HOME": settings.home.expanduser().resolve()}
    if (stored := Artifacts(settings.artifacts).root) is not None:
        folders["the artifact store"] = stored
    for name, folder in folders.items():
        if target.directory is not None and target.directory.is_relative_to(folder):
            raise BackupError(
                f"The target {target.directory} is in {name}, {folder}, and would be lost with it. "
                "Choose a directory elsewhere, best on another machine."
            )


def verify(target: BackupTarget, manifest: BackupManifest, stages: Stages) -> list[str]:
    """Read all contents of a backup, and return what is missing or damaged."""
    problems: list[str] = []
    blobs = {each.sha256: each for each in manifest.blobs}.values()
    with stages.stage("Reading contents") as progress:
        for number, blob in enumerate(blobs, start=1):
            try:
                for _ in target.read(blob):
                    pass
            except BackupError as error:
                problems.append(str(error))
            progress(number, len(blobs))
    before = 0
    for chunk in manifest.chunks:
        if chunk.first <= before or chunk.last < chunk.first:
            problems.append(
                f"The events {chunk.first:,} to {chunk.last:,} do not follow event {before:,}."
            )
        before = chunk.last
    return problems


def prune(target: BackupTarget, keep: int) -> tuple[list[str], int, int]:
    """Delete all but the newest backups. Return the deleted IDs, contents and bytes."""
    with target.locked():
        ids = target.ids()
        kept = [target.manifest(id) for id in ids[-keep:]]
        return ids[:-keep], *target.delete_all_but(kept)
