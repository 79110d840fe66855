"""Routes of models, deployments and files under /api."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from domain.core.errors import NotFound
from gateway.backend import BackendOf
from gateway.http.downloads import OCTETS, ZIP, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.paging import LARGEST_PAGE, Limit
from gateway.http.permissions import MayDeploy, MayDownload, MayRead, OperatorDeploys
from gateway.models import deployments, files, service
from gateway.models.schemas import DeploymentResponse, ModelFileResponse, Models
from gateway.schemas import JobId, Listed, Page

ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A zip archive with one directory, which PEFT can load.",
        "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}},
    },
    **refusals(404),
}

router = APIRouter()
models = APIRouter(prefix="/models", tags=["models"], route_class=Operation)
deploying = APIRouter(tags=["deployments"], route_class=Operation)
checkpoints = APIRouter(
    prefix="/jobs/{job_id}/checkpoints/{step}", tags=["jobs"], route_class=Operation
)


@models.get("", responses=refusals(404))
def list_models(
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[
        str | None, Query(description="Return only your models after this one in the list.")
    ] = None,
    limit: Limit = LARGEST_PAGE,
) -> Models:
    """List base models by name, and your models and kept adapters, newest first."""
    return service.list_models(backend, caller, after, limit)


@models.delete("/{model}", status_code=204, responses=refusals(404))
def drop_model(model: str, caller: MayDeploy, backend: BackendOf) -> None:
    """Delete a model and all checkpoints of its job. Later requests to the deleted models fail.

    EcoLink keeps the job, its charges and its metrics.
    """
    service.delete_model(backend, caller, model)


@models.get("/{model}/files", responses=refusals(404))
def list_model_files(model: str, caller: MayRead, backend: BackendOf) -> Listed[ModelFileResponse]:
    """List the files of your model, with their manifest."""
    return _listed(backend, files.model_ref(backend, caller, model))


@models.get("/{model}/archive", response_class=Response, responses=ARCHIVE)
def download_model(model: str, caller: MayDownload, backend: BackendOf) -> Response:
    """Download all files of a model as a zip archive. You can resume only downloads of single
    files.
    """
    return files.model_archive(backend, caller, model).response(backend.artifacts)


@models.get("/{model}/files/{path:path}", response_class=Response, responses=file_answers(OCTETS))
def download_model_file(
    model: str, path: str, wanted: ConditionsOf, caller: MayDownload, backend: BackendOf
) -> Response:
    """Download a file of a model. Send `Range` to resume an interrupted download."""
    return _download(backend, files.model_ref(backend, caller, model), path, wanted)


@checkpoints.get("/files", responses=refusals(404))
def list_checkpoint_files(
    job_id: JobId, step: int, caller: MayRead, backend: BackendOf
) -> Listed[ModelFileResponse]:
    """List the files of a checkpoint: the adapter, and files that only a resume needs."""
    return _listed(backend, files.checkpoint_ref(backend, caller, job_id, step))


@checkpoints.get("/archive", response_class=Response, responses=ARCHIVE)
def download_checkpoint(
    job_id: JobId, step: int, caller: MayDownload, backend: BackendOf
) -> Response:
    """Download the adapter of a checkpoint as a zip archive, without resume-only files."""
    return files.checkpoint_archive(backend, caller, job_id, step).response(backend.artifacts)


@checkpoints.get("/files/{path:path}", response_class=Response, responses=file_answers(OCTETS))
def download_checkpoint_file(
    job_id: JobId,
    step: int,
    path: str,
    wanted: ConditionsOf,
    caller: MayDownload,
    backend: BackendOf,
) -> Response:
    """Download a file of a checkpoint. Send `Range` to resume an interrupted download."""
    return _download(backend, files.checkpoint_ref(backend, caller, job_id, step), path, wanted)


@deploying.get("/deployments", responses=refusals(404))
def list_deployments(
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[
        str | None, Query(description="Return only deployments after this model in the list.")
    ] = None,
    limit: Limit = LARGEST_PAGE,
) -> Page[DeploymentResponse]:
    """List the deployments of base models, then your own, by name."""
    return deployments.list_deployments(backend, caller, after, limit)


@deploying.get("/models/{model}/deployment", responses=refusals(404))
def show_deployment(model: str, caller: MayRead, backend: BackendOf) -> DeploymentResponse:
    """Show the deployment of a base model, your model or your checkpoint."""
    return deployments.show_deployment(backend, caller, model)


@deploying.post("/models/{model}/deploy", responses=refusals(404, 409))
def deploy_model(model: str, caller: MayDeploy, backend: BackendOf) -> DeploymentResponse:
    """Deploy your model, usually within seconds.

    To deploy a checkpoint again, pass its name. If the checkpoint has been deleted, this returns
    404.
    """
    return deployments.deploy_model(backend, caller, model)


@deploying.post("/models/{model}/undeploy", responses=refusals(404))
def undeploy_model(model: str, caller: MayDeploy, backend: BackendOf) -> DeploymentResponse:
    """Undeploy your model or checkpoint.

    When you undeploy a checkpoint, EcoLink may delete it, unless it is the newest or the best of
    its job.
    """
    return deployments.undeploy_model(backend, caller, model)


@deploying.post("/jobs/{job_id}/checkpoints/{step}/deploy", responses=refusals(404, 409))
def deploy_checkpoint(
    job_id: JobId, step: int, caller: MayDeploy, backend: BackendOf
) -> DeploymentResponse:
    """Deploy a checkpoint under its own name. EcoLink keeps it until you undeploy it."""
    return deployments.deploy_checkpoint(backend, caller, job_id, step)


@deploying.post("/operator/bases/{name}/deploy", responses=refusals(403, 404))
def deploy_base(name: str, caller: OperatorDeploys, backend: BackendOf) -> DeploymentResponse:
    """Deploy a base model from the model store, so that jobs can fine-tune it."""
    return deployments.deploy_base(backend, caller, name)


@deploying.post("/operator/bases/{name}/undeploy", responses=refusals(403, 404, 409))
def undeploy_base(name: str, caller: OperatorDeploys, backend: BackendOf) -> DeploymentResponse:
    """Undeploy a base model. Returns 409 while it serves adapters."""
    return deployments.undeploy_base(backend, caller, name)


def _listed(backend: BackendOf, ref: str) -> Listed[ModelFileResponse]:
    found = files.files_of(backend, ref)
    return Listed(data=[ModelFileResponse(**file.model_dump()) for file in found])


def _download(backend: BackendOf, ref: str, path: str, wanted: ConditionsOf) -> Response:
    for file in files.files_of(backend, ref):
        if file.path == path:
            return download(backend.artifacts, f"{ref}/{path}", file.sha256, wanted, name=path)
    raise NotFound(f"Unknown file {path!r}. See the list of files.")


for each in (models, deploying, checkpoints):
    router.include_router(each)
