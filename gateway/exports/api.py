"""Routes of exports under /api."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import Response

from domain.core.errors import NotFound
from domain.exports.export import ExportFormat
from gateway.backend import Backend, BackendOf
from gateway.exports import service
from gateway.exports.schemas import ExportAnswer, ExportRequest
from gateway.http.access import Caller
from gateway.http.downloads import OCTETS, Archive, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayDeploy, MayDownload, MayRead
from gateway.models import files
from gateway.models.api import ARCHIVE
from gateway.models.schemas import FileAnswer
from gateway.schemas import Listed

router = APIRouter(prefix="/models/{model}/exports", tags=["exports"], route_class=Operation)


@router.post("", responses=refusals(404))
def request_export(
    model: str, wanted: Annotated[ExportRequest, Body()], caller: MayDeploy, backend: BackendOf
) -> ExportAnswer:
    """Merge your model into its base model, and write it in a format. This is free of charge.

    If this export exists already, the response is the existing one. EcoLink deletes the files after
    some days. You can then export the model again.
    """
    return service.request_export(backend, caller, model, wanted.format)


@router.get("", responses=refusals(404))
def list_exports(model: str, caller: MayRead, backend: BackendOf) -> Listed[ExportAnswer]:
    """List the exports of your model, newest first."""
    return Listed(data=service.list_exports(backend, caller, model))


@router.get("/{format}", responses=refusals(404))
def show_export(
    model: str, format: ExportFormat, caller: MayRead, backend: BackendOf
) -> ExportAnswer:
    """Get the export of your model in a format, with its progress."""
    return service.show_export(backend, caller, model, format)


@router.delete("/{format}", status_code=204, responses=refusals(404))
def delete_export(model: str, format: ExportFormat, caller: MayDeploy, backend: BackendOf) -> None:
    """Delete an export and its files. A running export stops."""
    service.delete_export(backend, caller, model, format)


@router.get("/{format}/files", responses=refusals(404))
def list_export_files(
    model: str, format: ExportFormat, caller: MayRead, backend: BackendOf
) -> Listed[FileAnswer]:
    """List the files of a ready export, with their manifest."""
    ref = service.export_ref(backend, caller, model, format)
    found = files.files_of(backend, ref)
    return Listed(data=[FileAnswer(**each.model_dump()) for each in found])


@router.get("/{format}/archive", response_class=Response, responses=ARCHIVE)
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


@router.get("/{format}/files/{path:path}", response_class=Response, responses=file_answers(OCTETS))
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
