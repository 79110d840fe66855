"""Rights of the services in the artifact store, for stores with one key for each service."""

from __future__ import annotations

from collections.abc import Mapping

from infrastructure.accounts.personal_data import FOLDERS
from infrastructure.extensions import extension_folders, installed, processes, signed_folders
from infrastructure.rights import ArtifactAccess

STORED = (
    *("uploads", "datasets", "models", "jobs", "seals"),
    *extension_folders(),
    *signed_folders(),
)
"""All folders of the artifact store."""

ARTIFACT_ACCESS: Mapping[str, ArtifactAccess] = {
    "sealer": ArtifactAccess(writes=("seals", *signed_folders())),
    # It also deletes the files of erased accounts. Its trainers use the same key.
    "scheduler": ArtifactAccess(writes=(*FOLDERS, "models")),
    "datasets": ArtifactAccess(reads=("models",), writes=("uploads", "datasets")),
    "serving": ArtifactAccess(reads=("models", "jobs")),
    "gateway": ArtifactAccess(
        reads=(
            *("datasets", "models", "jobs", "seals"),
            *extension_folders(),
            *signed_folders(),
        ),
        writes=("uploads",),
    ),
    **{
        name: each.artifacts
        for name, each in processes(installed()).items()
        if each.artifacts is not None
    },
}
"""Rights by service. A service that is not listed does not use the artifact store."""
