"""Routes of files under /v1: uploaded datasets, and the metrics of finished jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from domain.core.errors import Invalid, NotFound, WrongState
from domain.core.identity import created_id
from domain.datasets.dataset import Dataset, DatasetKind, DatasetStatus
from gateway.backend import Backend, BackendOf
from gateway.datasets.metrics_file import (
    METRICS_NAME,
    job_end,
    job_with_metrics,
    metrics_csv,
    metrics_end,
    metrics_sizes,
)
from gateway.datasets.service import (
    content_of,
    delete_dataset,
    obstacle_of,
    own_dataset,
    rejection_summary,
)
from gateway.datasets.upload_form import FORM_SCHEMA, UNNAMED, receive_upload
from gateway.datasets.uploads import dropped_on, record_upload
from gateway.http.access import Caller
from gateway.http.downloads import JSON_LINES, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.http.openai_idempotency import KeyOf, RetryOf, command_key, fingerprint
from gateway.http.openai_paging import AfterOf, Page, page_from
from gateway.http.openai_vocabulary import (
    FILE_STATUSES,
    FINE_TUNE,
    RESULT_PREFIX,
    RESULTS,
    dataset_of,
    file_name,
    result_name,
)
from gateway.http.operations import OpenAIOperation
from gateway.http.permissions import MayDownload, MayRead, MayTrain
from gateway.schemas import ResponseModel
from infrastructure.accounts.profiles import dataset_names
from projections import datasets as rows
from projections.file_list import FileKey, files_of

FILES_PATH = "/files"
PAGE_SIZE = 100

router = APIRouter(prefix=FILES_PATH, route_class=OpenAIOperation)


class FileObject(ResponseModel):
    """OpenAI's `file` object."""

    id: str
    object: Literal["file"] = "file"
    bytes: int = Field(examples=[19_600_000])
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: str
    status_details: str | None = None
    kind: DatasetKind | None = Field(
        default=None, description="EcoLink only: kind of a processed upload."
    )


class FileDeleted(ResponseModel):
    """OpenAI's confirmation that a file was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


@router.post("", openapi_extra={"requestBody": FORM_SCHEMA}, responses=refusals(413, 503))
async def create_file(
    request: Request,
    caller: MayTrain,
    backend: BackendOf,
    idempotency_key: KeyOf = None,
    retries: RetryOf = 0,
) -> FileObject:
    """Upload a file of chats or preference pairs and start its validation."""
    name, file, choices = await receive_upload(request, backend, caller)

    def record() -> FileObject:
        chosen = [
            str(value) if isinstance(value, UUID) else value
            for value in astuple(choices.options)
            if value is not None
        ]
        request_sha256 = fingerprint(FILES_PATH, [name, file.sha256, *chosen])
        with dropped_on(Exception, backend, file.ref):
            key = command_key(backend, caller, idempotency_key, retries, request_sha256)
        dataset_id = created_id(caller.account_id, "dataset", key)
        row = record_upload(backend, caller, dataset_id, name, file, choices)
        return _dataset_file(backend, caller, row, _name_of(backend, dataset_id))

    return await run_in_threadpool(record)


@router.get("")
def list_files(
    caller: MayRead,
    backend: BackendOf,
    purpose: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    after: AfterOf = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> Page[FileObject]:
    """List your uploads and the metrics of finished jobs.

    A page has at most 100 files. If `has_more` is true, pass the last ID as `after` to get the next
    page. `after` may name a deleted file.
    """
    if purpose not in (None, FINE_TUNE, RESULTS):
        return Page(data=[], first_id=None, last_id=None, has_more=False)
    key = None if after is None else _key(backend, caller, after)
    limit = min(limit, PAGE_SIZE)
    with backend.pool.connection() as connection:
        keys = files_of(
            connection,
            caller.account_id,
            limit + 1,
            key,
            ascending=order == "asc",
            result=None if purpose is None else purpose == RESULTS,
        )
    return page_from(keys, _file_name, limit, partial(_files, backend, caller))


@router.get("/{file_id}")
def retrieve_file(file_id: str, caller: MayRead, backend: BackendOf) -> FileObject:
    """Retrieve a file."""
    if file_id.startswith(RESULT_PREFIX):
        job = job_with_metrics(backend, caller, file_id)
        job_id, end = job["job_id"], metrics_end(backend, job)
        with backend.pool.connection() as connection:
            size = metrics_sizes(connection, [job_id])[job_id]
        return _metrics_file(job_id, end, size)
    row = own_dataset(backend, caller, dataset_of(file_id))
    return _dataset_file(backend, caller, row, _name_of(backend, row["dataset_id"]))


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={**file_answers(JSON_LINES, "application/octet-stream", "text/csv"), **refusals(409)},
)
def file_content(
    file_id: str, wanted: ConditionsOf, caller: MayDownload, backend: BackendOf
) -> Response:
    """Download an uploaded file as is, or the metrics of a job as CSV."""
    if file_id.startswith(RESULT_PREFIX):
        content = metrics_csv(backend, job_with_metrics(backend, caller, file_id))
        disposition = f'attachment; filename="{METRICS_NAME}"'
        return Response(content, 200, {"content-disposition": disposition}, "text/csv")
    row = own_dataset(backend, caller, dataset_of(file_id))
    dataset = backend.log.load(Dataset, row["dataset_id"])
    name = _name_of(backend, dataset.id) or UNNAMED
    ref, sha256 = dataset.upload_ref, dataset.upload_sha256
    if dataset.options.is_filtered:  # it has no upload, but normalized examples
        dataset = content_of(backend, caller, dataset.id)
        ref, sha256 = dataset.ref, dataset.sha256
    return download(
        backend.artifacts,
        ref,
        sha256,
        wanted,
        name=name,
        media_type=JSON_LINES if name.endswith(".jsonl") else "application/octet-stream",
    )


@router.delete("/{file_id}")
def delete_file(file_id: str, caller: MayTrain, backend: BackendOf) -> FileDeleted:
    """Delete an upload. Returns 409 while an unfinished job or synthesis uses it."""
    if file_id.startswith(RESULT_PREFIX):
        job_with_metrics(backend, caller, file_id)
        raise WrongState(f"{file_id} belongs to a job, so you cannot delete it.")
    delete_dataset(backend, caller, dataset_of(file_id))
    return FileDeleted(id=file_id)


def _name_of(backend: Backend, dataset_id: UUID) -> str | None:
    with backend.pool.connection() as connection:
        return dataset_names(connection, [dataset_id]).get(dataset_id)


def _file_name(key: FileKey) -> str:
    return result_name(key.id) if key.is_result else file_name(key.id)


def _key(backend: Backend, caller: Caller, file_id: str) -> FileKey:
    """Return the sort key of a file of the account, which may be deleted, or raise Invalid."""
    try:
        if file_id.startswith(RESULT_PREFIX):
            job = job_with_metrics(backend, caller, file_id)
            return FileKey(job_end(backend, job), True, job["job_id"])
        dataset = backend.log.find(Dataset, dataset_of(file_id))
    except NotFound:
        dataset = None
    if dataset is None or dataset.account_id != caller.account_id:
        raise Invalid(f"Unknown file {file_id}. See GET /v1/files.", field="after")
    return FileKey(dataset.created_on, False, dataset.id)


def _files(backend: Backend, caller: Caller, keys: Sequence[FileKey]) -> list[FileObject]:
    """Return the files of a page. Files deleted since the page was read are omitted."""
    uploads = [key.id for key in keys if not key.is_result]
    with backend.pool.connection() as connection:
        found = {row["dataset_id"]: row for row in rows.datasets_among(connection, uploads)}
        names = dataset_names(connection, uploads)
        sizes = metrics_sizes(connection, [key.id for key in keys if key.is_result])
    return [
        _metrics_file(key.id, key.at, sizes[key.id])
        if key.is_result
        else _dataset_file(backend, caller, found[key.id], names.get(key.id))
        for key in keys
        if key.is_result or key.id in found
    ]


def _dataset_file(
    backend: Backend, caller: Caller, row: Mapping[str, Any], name: str | None
) -> FileObject:
    if row["status"] == DatasetStatus.REJECTED:
        details = rejection_summary(backend, caller, row["report_ref"])
    else:
        details = obstacle_of(row)
    return FileObject(
        id=file_name(row["dataset_id"]),
        bytes=row["total_bytes"],
        created_at=int(row["uploaded_at"].timestamp()),
        filename=name or UNNAMED,
        purpose=FINE_TUNE,
        status=FILE_STATUSES[row["status"]],
        status_details=details,
        kind=row["kind"],
    )


def _metrics_file(job_id: UUID, ended_at: datetime, size: int) -> FileObject:
    return FileObject(
        id=result_name(job_id),
        bytes=size,
        created_at=int(ended_at.timestamp()),
        filename=METRICS_NAME,
        purpose=RESULTS,
        status="processed",
    )
