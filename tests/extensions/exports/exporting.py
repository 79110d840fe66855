"""Exports that the exporter completed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from domain.core.aggregate import because
from extensions.exports.domain.export import Export, ExportedFiles, ExportFormat, export_id
from tests.builders.platform import Platform

EXPIRY = datetime(2030, 1, 2, tzinfo=UTC)
WEIGHTS = b"weights"


def find_export(platform: Platform, job_id: UUID, format: ExportFormat) -> Export:
    """Return the export of a job's model."""
    return platform.log.load(Export, export_id(job_id, format))


def complete_export(platform: Platform, job_id: UUID, format: ExportFormat, folder: Path) -> None:
    """Store a small file as the result of a pending export. Use `folder` for it."""
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    with because(platform.cause):
        export = find_export(platform, job_id, format)
        stored = platform.artifacts.put_directory(export.ref, folder)
        files = ExportedFiles(
            ref=export.ref, manifest_sha256=stored.sha256, total_bytes=stored.total_bytes
        )
        export.complete(files, {"torch": "2"}, EXPIRY)
        platform.log.commit(export)
