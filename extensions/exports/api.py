"""Routes of exports under /api."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Header
from fastapi.responses import Response

from domain.core.errors import NotFound
from domain.core.identity import created_id
from extensions.exports import pushes as pushing
from extensions.exports import service
from extensions.exports.domain.export import ExportFormat
from extensions.exports.schemas import ExportRequest, ExportResponse, PushRequest, PushResponse
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.downloads import OCTETS, Archive, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayDeploy, MayDownload, MayPublish, MayRead
from gateway.models import files
from gateway.models.api import ARCHIVE
from gateway.models.schemas import ModelFileResponse
from gateway.schemas import Listed

exports = APIRouter(prefix="/models/{model}/exports", tags=["exports"], route_class=Operation)
pushes = APIRouter(prefix="/models/{model}/pushes", tags=["exports"], route_class=Operation)

router = APIRouter()


@exports.post("", responses=refusals(404))
def request_export(
    model: str, wanted: Annotated[ExportRequest, Body()], caller: MayDeploy, backend: BackendOf
) -> ExportResponse:
    """Merge your model into its base model, and write it in a format. This is free of charge.

    If this export exists already, the response is the existing one. EcoLink deletes the files after
    some days. You can then export the model again.
    """
    return service.request_export(backend, caller, model, wanted.format)


@exports.get("", responses=refusals(404))
def list_exports(model: str, caller: MayRead, backend: BackendOf) -> Listed[ExportResponse]:
    """List the exports of your model, newest first."""
    return Listed(data=service.list_exports(backend, caller, model))


@pushes.get("", responses=refusals(404))
def list_pushes(model: str, caller: MayRead, backend: BackendOf) -> Listed[PushResponse]:
    """List the pushes of your model to a hub, newest first."""
    return Listed(data=pushing.list_pushes(backend, caller, model))


@pushes.post("/{push_id}/stop", responses=refusals(404, 409))
def stop_push(model: str, push_id: UUID, caller: MayDeploy, backend: BackendOf) -> PushResponse:
    """Stop a pending push to a hub, and delete its token.

    A commit that has begun stays in the repository. Returns 409 if the push has completed or
    failed.
    """
    return pushing.stop_push(backend, caller, model, push_id)


@exports.post("/{format}/pushes", status_code=202, responses=refusals(404, 409))
def push_export(
    model: str,
    format: ExportFormat,
    wanted: Annotated[PushRequest, Body()],
    caller: MayPublish,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> PushResponse:
    """Push a ready export to a repository of a Hugging Face hub.

    Events and logs do not have the token. Later requests with the same `Idempotency-Key` return the
    same push, and are refused if they are for another repository or export.
    """
    push_id = created_id(caller.account_id, "hub-push", idempotency_key or str(uuid4()))
    return pushing.request_push(backend, caller, model, format, wanted, push_id)


@exports.get("/{format}", responses=refusals(404))
def show_export(
    model: str, format: ExportFormat, caller: MayRead, backend: BackendOf
) -> ExportResponse:
    """Get the export of your model in a format, with its progress."""
    return service.show_export(backend, caller, model, format)


@exports.delete("/{format}", status_code=204, responses=refusals(404))
def delete_export(model: str, format: ExportFormat, caller: MayDeploy, backend: BackendOf) -> None:
    """Delete an export and its files. A running export stops."""
    service.delete_export(backend, caller, model, format)


@exports.get("/{format}/files", responses=refusals(404))
def list_export_files(
    model: str, format: ExportFormat, caller: MayRead, backend: BackendOf
) -> Listed[ModelFileResponse]:
    """List the files of a ready export, with their manifest."""
    ref = service.export_ref(backend, caller, model, format)
    found = files.files_of(backend, ref)
    return Listed(data=[ModelFileResponse(**each.model_dump()) for each in found])


@exports.get("/{format}/archive", response_class=Response, responses=ARCHIVE)
def download_export(
    model: str, format: ExportFormat, caller: MayDownload, backend: BackendOf
) -> Response:
    """Download all files of an export as a zip archive. You can resume only downloads of single
    files.
    """
    ref = service.export_ref(backend, caller, model, format)
    paths = [each.path for each in files.files_of(backend, ref)]
    archive = Archive(f"{model}-{format}".replace(":", "-"), [(p, f"{ref}/{p}") for p in paths])
    return archive.response(backend.artifacts)


@exports.get("/{format}/files/{path:path}", response_class=Response, responses=file_answers(OCTETS))
def download_export_file(
    model: str,
    format: ExportFormat,
    path: str,
    wanted: ConditionsOf,
    caller: MayDownload,
    backend: BackendOf,
) -> Response:
    """Download a file of an export. Send `Range` to resume an interrupted download."""
    return _file(backend, caller, model, format, path, wanted)


def _file(
    backend: Backend,
    caller: Caller,
    model: str,
    format: ExportFormat,
    path: str,
    wanted: ConditionsOf,
) -> Response:
    ref = service.export_ref(backend, caller, model, format)
    found = next((each for each in files.files_of(backend, ref) if each.path == path), None)
    if found is None:
        raise NotFound(f"The export has no file {path!r}. Request the list of files again.")
    return download(backend.artifacts, f"{ref}/{path}", found.sha256, wanted, name=path)


for each in (exports, pushes):
    router.include_router(each)
