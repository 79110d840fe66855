"""Files of fine-tuned models and checkpoints in PEFT format."""

from __future__ import annotations

from uuid import UUID

from domain.core.errors import NotFound
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.downloads import Archive
from gateway.jobs.service import own_job
from gateway.models.service import own_model
from gateway.schemas import job_name
from infrastructure.artifacts.store import MANIFEST, ArtifactCorrupt, ManifestFile

ADAPTER = "adapter_"
"""Prefix of the files that PEFT loads. Only a resume needs the other files of a checkpoint."""


def model_ref(backend: Backend, caller: Caller, model: str) -> str:
    """Return the ref of a model's files. Raise NotFound if the account has no such model."""
    return own_model(backend, caller, model)["adapter_ref"]


def checkpoint_ref(backend: Backend, caller: Caller, job_id: UUID, step: int) -> str:
    """Return the ref of a checkpoint's files. Raise NotFound if there is none."""
    saved = own_job(backend, caller, job_id)["checkpoints"]
    ref = next((each["ref"] for each in reversed(saved) if each["step"] == step), None)
    if ref is None:
        raise NotFound(
            f"{job_name(job_id)} has no checkpoint at step {step:,}. See `ecolink jobs "
            "checkpoints`."
        )
    return ref


def files_of(backend: Backend, ref: str) -> list[ManifestFile]:
    """Return the files under a ref, its manifest last. Raise NotFound if they were deleted."""
    try:
        manifest = backend.artifacts.manifest(ref)
    except FileNotFoundError as error:
        raise NotFound("EcoLink deleted the files. Choose another model or checkpoint.") from error
    except ArtifactCorrupt as error:
        raise NotFound("The files are damaged. Choose another model or checkpoint.") from error
    itself = ManifestFile(path=MANIFEST, bytes=len(manifest.content), sha256=manifest.sha256)
    return [*manifest.files, itself]


def model_archive(backend: Backend, caller: Caller, model: str) -> Archive:
    """Return an archive of all files of a model. Raise NotFound if there is no such model."""
    return _archive(backend, model.replace(":", "-"), model_ref(backend, caller, model))


def checkpoint_archive(backend: Backend, caller: Caller, job_id: UUID, step: int) -> Archive:
    """Return an archive of a checkpoint's adapter. Raise NotFound if there is none."""
    ref = checkpoint_ref(backend, caller, job_id, step)
    return _archive(backend, f"{job_name(job_id)}-step-{step}", ref, ADAPTER)


def _archive(backend: Backend, directory: str, ref: str, prefix: str = "") -> Archive:
    paths = [each.path for each in files_of(backend, ref) if each.path.startswith(prefix)]
    return Archive(directory, [(path, f"{ref}/{path}") for path in paths])
