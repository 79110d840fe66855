"""The files of models and checkpoints: what there is, and each of them to download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from domain.core.errors import NotFound
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller, CallerOf
from gateway.http.archives import MEDIA_TYPE, archive
from gateway.http.downloads import OCTETS, Conditions, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.jobs.service import own_job
from gateway.models.api.models import own_model
from gateway.schemas import Answer, JobId, Listed, job_name
from infrastructure.artifacts import MANIFEST, Manifest, ManifestFile

router = APIRouter()

FILE_PATH = "/files/{path:path}"

ADAPTER = "adapter_"
"""How the files begin that PEFT loads; a checkpoint has others beside them."""

ARCHIVED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A zip archive with one directory, as PEFT loads it.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    },
    **refusals(404),
}


class FileAnswer(Answer):
    """One file of a model or a checkpoint."""

    path: str = Field(examples=["adapter_model.safetensors"])
    bytes: int
    sha256: str = Field(description="Also the file's ETag.")


@router.get("/models/{model}/files", tags=["models"], responses=refusals(404))
def list_model_files(model: str, caller: CallerOf, backend: BackendOf) -> Listed[FileAnswer]:
    """The files of a model of the caller, as PEFT loads them, and the manifest that names them."""
    return _listed(backend, own_model(backend, caller, model)["adapter_ref"])


@router.get(
    "/models/{model}/archive",
    tags=["models"],
    response_class=Response,
    responses=ARCHIVED,
)
def download_model(model: str, caller: CallerOf, backend: BackendOf) -> Response:
    """All files of a model at once; each of them alone can be downloaded in parts, too."""
    ref = own_model(backend, caller, model)["adapter_ref"]
    return _archived(backend, ref, _files(backend, ref), model.replace(":", "-"))


@router.get(
    f"/models/{{model}}{FILE_PATH}",
    tags=["models"],
    response_class=Response,
    responses=file_answers(OCTETS),
)
def download_model_file(
    model: str, path: str, wanted: ConditionsOf, caller: CallerOf, backend: BackendOf
) -> Response:
    """A file of a model. With `Range` a download goes on where it was cut off."""
    return _download(backend, own_model(backend, caller, model)["adapter_ref"], path, wanted)


@router.get("/jobs/{job_id}/checkpoints/{step}/files", tags=["jobs"], responses=refusals(404))
def list_checkpoint_files(
    job_id: JobId, step: int, caller: CallerOf, backend: BackendOf
) -> Listed[FileAnswer]:
    """The files of a checkpoint: the adapter as PEFT loads it, and what a resume needs beside."""
    return _listed(backend, _checkpoint_ref(backend, caller, job_id, step))


@router.get(
    "/jobs/{job_id}/checkpoints/{step}/archive",
    tags=["jobs"],
    response_class=Response,
    responses=ARCHIVED,
)
def download_checkpoint(job_id: JobId, step: int, caller: CallerOf, backend: BackendOf) -> Response:
    """The adapter of a checkpoint, as PEFT loads it, without what only a resume needs."""
    ref = _checkpoint_ref(backend, caller, job_id, step)
    files = [file for file in _files(backend, ref) if file.path.startswith(ADAPTER)]
    return _archived(backend, ref, files, f"{job_name(job_id)}-step-{step}")


@router.get(
    f"/jobs/{{job_id}}/checkpoints/{{step}}{FILE_PATH}",
    tags=["jobs"],
    response_class=Response,
    responses=file_answers(OCTETS),
)
def download_checkpoint_file(
    job_id: JobId,
    step: int,
    path: str,
    wanted: ConditionsOf,
    caller: CallerOf,
    backend: BackendOf,
) -> Response:
    """A file of a checkpoint. With `Range` a download goes on where it was cut off."""
    return _download(backend, _checkpoint_ref(backend, caller, job_id, step), path, wanted)


def _checkpoint_ref(backend: Backend, caller: Caller, job_id: JobId, step: int) -> str:
    """Where a checkpoint of a caller's job is stored; raises NotFound."""
    saved = own_job(backend, caller, job_id)["checkpoints"]
    ref = next((each["ref"] for each in reversed(saved) if each["step"] == step), None)
    if ref is None:
        raise NotFound(f"no checkpoint of step {step} of {job_name(job_id)}")
    return ref


def _listed(backend: Backend, ref: str) -> Listed[FileAnswer]:
    return Listed(data=[FileAnswer(**file.model_dump()) for file in _files(backend, ref)])


def _files(backend: Backend, ref: str) -> list[ManifestFile]:
    """The files under a ref, the manifest itself the last; raises NotFound of what is deleted."""
    try:
        manifest: Manifest = backend.artifacts.manifest(ref)
    except FileNotFoundError as error:
        raise NotFound("the files were deleted") from error
    itself = ManifestFile(path=MANIFEST, bytes=len(manifest.content), sha256=manifest.sha256)
    return [*manifest.files, itself]


def _archived(
    backend: Backend, ref: str, files: Sequence[ManifestFile], directory: str
) -> Response:
    pairs = [(file.path, f"{ref}/{file.path}") for file in files]
    return StreamingResponse(
        archive(backend.artifacts, directory, pairs),
        headers={
            "content-disposition": f"attachment; filename*=UTF-8''{quote(directory)}.zip",
            "x-content-type-options": "nosniff",
        },
        media_type=MEDIA_TYPE,
    )


def _download(backend: Backend, ref: str, path: str, wanted: Conditions) -> Response:
    file = next((each for each in _files(backend, ref) if each.path == path), None)
    if file is None:
        raise NotFound(f"no file {path} here")
    return download(backend.artifacts, f"{ref}/{path}", file.sha256, wanted, name=path)
