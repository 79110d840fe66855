"""Rights of the services in the artifact store, for stores with one key for each service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infrastructure.personal_data import FOLDERS


@dataclass(frozen=True)
class ArtifactAccess:
    """Folders of the artifact store that a service may read and list, or also change."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


STORED = (
    *("uploads", "datasets", "models", "jobs", "exports", "seals", "invoices"),
    "syntheses",
)
"""All folders of the artifact store."""

ARTIFACT_ACCESS: Mapping[str, ArtifactAccess] = {
    "sealer": ArtifactAccess(writes=("seals", "invoices")),
    # It also deletes the files of erased accounts. Its trainers use the same key.
    "scheduler": ArtifactAccess(writes=(*FOLDERS, "models")),
    "datasets": ArtifactAccess(reads=("models",), writes=("uploads", "datasets")),
    "serving": ArtifactAccess(reads=("models", "jobs")),
    "exporter": ArtifactAccess(reads=("models", "jobs"), writes=("exports",)),
    "alerts": ArtifactAccess(reads=("seals",)),
    "synthesis": ArtifactAccess(reads=("uploads", "datasets"), writes=("syntheses",)),
    "gateway": ArtifactAccess(
        reads=("datasets", "models", "jobs", "exports", "seals", "invoices", "syntheses"),
        writes=("uploads",),
    ),
}
"""Rights by service. A service that is not listed does not use the artifact store."""
