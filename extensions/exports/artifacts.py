"""The files of exports that must be stored."""

from __future__ import annotations

from extensions.exports.domain.export import Export
from services.projector.artifact_check import Kept


def kept_artifacts(export: Export) -> list[Kept]:
    """Return the files of an export."""
    files = export.files
    return [] if files is None else [Kept(files.ref, files.manifest_sha256, True)]
