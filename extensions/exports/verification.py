"""Verification of the files of exports against the event log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import typer
from pydantic import ValidationError

from deploy.operator.store import Store
from domain.core.event_log import EventLog
from extensions.exports.documents import ORIGIN, Origin
from extensions.exports.domain.export import Export, ExportFormat, export_id
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail
from infrastructure.artifacts.store import MANIFEST, Artifacts, Manifest
from services.scheduler.verification import MISSING, Check, Copy, DirectoryCopy, StoredCopy


def verify_export(store: Store, job_id: UUID, value: str, directory: Path | None) -> list[Check]:
    """Verify the export of a model in a format, or a downloaded copy of it."""
    try:
        format = ExportFormat(value)
    except ValueError as error:
        formats = ", ".join(ExportFormat)
        raise typer.BadParameter(f"Unknown format {value!r}. Use one of {formats}.") from error
    event = completed(store.log, job_id, format)
    if event is None:
        fail(f"The model was never exported as {format}.", ExitCode.NOT_FOUND)
    artifacts = Artifacts(store.settings.artifacts)
    copy = DirectoryCopy(directory) if directory else StoredCopy(artifacts, event.files.ref)
    return verify_files(store.log, artifacts, event, copy)


def completed(log: EventLog, job_id: UUID, format: ExportFormat) -> Export.ExportCompleted | None:
    """Return the newest completion of an export, or None.

    A downloaded copy can be verified after EcoLink deleted the export.
    """
    found = None
    for event in log.events.get(export_id(job_id, format)):
        if isinstance(event, Export.ExportCompleted):
            found = event
    return found


def verify_files(
    log: EventLog, artifacts: Artifacts, event: Export.ExportCompleted, copy: Copy
) -> list[Check]:
    """Verify a copy of an export: its manifest, the hash of each file, and its stated origin.

    If the manifest does not match the event, nothing else can be trusted, and the result is only
    this failed check.
    """
    content = _read(copy, MANIFEST)
    if content is None and artifacts.exists(f"{event.files.ref}/{MANIFEST}"):
        content = artifacts.get_document(f"{event.files.ref}/{MANIFEST}")
    found = MISSING if content is None else hashlib.sha256(content).hexdigest()
    checks = [Check(MANIFEST, event.files.manifest_sha256, found)]
    if content is None or not checks[0].ok:
        return checks
    manifest = Manifest.parse(content)
    return [*checks, *_files(manifest, copy), *_origin(log, event, copy)]


def _files(manifest: Manifest, copy: Copy) -> Iterator[Check]:
    there = set(copy.paths())
    for file in manifest.files:
        found = _sha256(copy, file.path) if file.path in there else MISSING
        yield Check(f"file {file.path}", file.sha256, found)
    for path in sorted(there - {MANIFEST, *(file.path for file in manifest.files)}):
        yield Check(f"file {path}", "absent from the manifest", "present")


def _origin(log: EventLog, event: Export.ExportCompleted, copy: Copy) -> Iterator[Check]:
    """Yield checks of export.json against the events of the export."""
    content = _read(copy, ORIGIN)
    try:
        stated = None if content is None else Origin.model_validate_json(content)
    except ValidationError:
        stated = None
    if stated is None:
        yield Check("origin", f"the origin in {ORIGIN}", MISSING)
        return
    before = log.events.get(event.originator_id, lte=event.originator_version - 1)
    requests = [
        each for each in before if isinstance(each, Export.ExportRequested | Export.ExportRenewed)
    ]
    first = requests[0]
    assert isinstance(first, Export.ExportRequested)
    yield Check("model", event.model, stated.model)
    yield Check("job", str(first.job_id), str(stated.job_id))
    yield Check("format", event.format, stated.format)
    for name, value in requests[-1].source.model_dump().items():
        yield Check(name.replace("_", " "), value, str(getattr(stated.source, name)))
    yield Check("libraries", _listed(event.libraries), _listed(stated.libraries))


def _listed(libraries: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))


def _read(copy: Copy, path: str) -> bytes | None:
    try:
        return b"".join(copy.chunks(path)) if path in copy.paths() else None
    except FileNotFoundError:
        return None


def _sha256(copy: Copy, path: str) -> str:
    digest = hashlib.sha256()
    for chunk in copy.chunks(path):
        digest.update(chunk)
    return digest.hexdigest()
