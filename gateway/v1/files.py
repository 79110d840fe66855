"""Files under /v1: uploads that become datasets, and the metrics of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from domain.dataset import Dataset, DatasetStatus
from domain.errors import Invalid, NotFound, WrongState
from domain.identity import created_id
from gateway.access import Caller, CallerOf
from gateway.api.jobs import own_job
from gateway.backend import Backend, BackendOf
from gateway.datasets import delete_dataset, dropped_on, own_dataset, record_upload, upload_ref
from gateway.downloads import JSON_LINES, ConditionsOf, download, file_answers
from gateway.errors import refusals
from gateway.texts import storable
from gateway.uploads import FORM_BYTES, refuse_declared, store_stream
from gateway.v1.file_objects import (
    METRICS_NAME,
    UNNAMED,
    FileDeleted,
    FileObject,
    file_object,
    has_results,
    metrics_csv,
    result_object,
)
from gateway.v1.idempotency import KeyOf, RetryOf, command_key, fingerprint
from gateway.v1.multipart import Form
from gateway.v1.pages import AfterOf, Page, page_of
from gateway.v1.vocabulary import (
    FINE_TUNE,
    RESULT_PREFIX,
    RESULTS,
    dataset_of,
    file_name,
    job_of_result,
    result_name,
)
from infrastructure.profiles import dataset_names
from projections import datasets as rows
from projections.job_detail import jobs_of
from projections.job_timeline import ended_at
from projections.projection import Row

FILES_PATH = "/files"
NAME_CHARACTERS = 200

FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["purpose", "file"],
                "properties": {
                    "purpose": {"const": FINE_TUNE},
                    "file": {"type": "string", "format": "binary", "description": "Chat JSONL."},
                },
            }
        }
    },
}
"""What OpenAPI says of an upload's body, which no model reads: it is streamed."""

router = APIRouter(prefix=FILES_PATH)


@dataclass
class Upload:
    """A form as far as it has come."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None  # None: no file yet
    size: int = 0  # bytes
    sha256: str = ""


@router.post("", openapi_extra={"requestBody": FORM}, responses=refusals(413))
async def create_file(
    request: Request,
    caller: CallerOf,
    backend: BackendOf,
    idempotency_key: KeyOf = None,
    retries: RetryOf = 0,
) -> FileObject:
    """Take a file of chats; its validation begins."""
    limit, ref = backend.settings.dataset_max_bytes, upload_ref(caller)
    refuse_declared(request, limit, FORM_BYTES)
    upload = Upload()
    try:
        await _receive(request, backend, ref, upload)
        _require_purpose(upload.fields)
        if upload.filename is None:
            raise Invalid("send the file in the form's field `file`", field="file")
    except BaseException:
        if upload.filename is not None:
            await run_in_threadpool(backend.artifacts.delete, ref)
        raise
    return await run_in_threadpool(_record, backend, caller, ref, upload, idempotency_key, retries)


async def _receive(request: Request, backend: Backend, ref: str, upload: Upload) -> None:
    """Store the form's file under a ref; raises Invalid, and TooLarge, as early as it can."""
    form = Form(request.headers.get("content-type", ""), request.stream())
    async for part in form.parts():
        if part.name == "file" and upload.filename is None:
            if "purpose" in upload.fields:
                _require_purpose(upload.fields)
            upload.size, upload.sha256 = await store_stream(
                part.chunks, backend.artifacts, ref, backend.settings.dataset_max_bytes
            )
            upload.filename = _kept_name(part.filename)
        elif part.name == "purpose":
            upload.fields["purpose"] = await part.text()
        else:
            raise Invalid("only `file` and `purpose` are known, each once", field=part.name)


def _kept_name(sent: str | None) -> str:
    """What of a file's name is kept: the end of it, without what the database cannot keep."""
    return storable(sent or "")[-NAME_CHARACTERS:] or UNNAMED


def _require_purpose(fields: dict[str, str]) -> None:
    if fields.get("purpose") != FINE_TUNE:
        raise Invalid(f"files are for training: send {FINE_TUNE!r}", field="purpose")


def _record(
    backend: Backend,
    caller: Caller,
    ref: str,
    upload: Upload,
    idempotency_key: str | None,
    retries: int,
) -> FileObject:
    name = upload.filename or UNNAMED
    request_sha256 = fingerprint(FILES_PATH, [name, upload.sha256])
    with dropped_on(Exception, backend, ref):
        key = command_key(backend, caller, idempotency_key, retries, request_sha256)
    dataset_id = created_id(caller.account_id, "dataset", key)
    dataset = record_upload(backend, caller, dataset_id, name, ref, upload.sha256, upload.size)
    return _shown(backend, caller, dataset)


def _shown(backend: Backend, caller: Caller, dataset: Dataset) -> FileObject:
    """An upload, also if its row is late."""
    with backend.pool.connection() as connection:
        row = rows.dataset(connection, caller.account_id, dataset.id)
        names = dataset_names(connection, [dataset.id])
    new = {
        "dataset_id": dataset.id,
        "status": DatasetStatus.VALIDATING,
        "total_bytes": dataset.total_bytes,
        "uploaded_at": dataset.created_on,
    }
    return file_object(row or new, names.get(dataset.id), backend.artifacts)


@router.get("")
def list_files(
    caller: CallerOf,
    backend: BackendOf,
    purpose: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    after: AfterOf = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> Page[FileObject]:
    """The caller's uploads, and the metrics of jobs that are over."""
    with backend.pool.connection() as connection:
        uploads = rows.datasets_of(connection, caller.account_id)
        jobs = [row for row in jobs_of(connection, caller.account_id) if has_results(row)]
        ends = ended_at(connection, jobs)
    known = [
        *((row["uploaded_at"], file_name(row["dataset_id"]), row) for row in uploads),
        *((ends[row["job_id"]], result_name(row["job_id"]), row) for row in jobs),
    ]
    if purpose is not None:
        wanted = {FINE_TUNE: False, RESULTS: True}.get(purpose)
        known = [each for each in known if each[1].startswith(RESULT_PREFIX) is wanted]
    known.sort(key=lambda each: each[:2], reverse=order == "desc")

    def show(entries: Sequence[tuple[object, str, Row]]) -> list[FileObject]:
        own = [row["dataset_id"] for _, _, row in entries]
        with backend.pool.connection() as connection:
            names = dataset_names(connection, own)
        return [
            result_object(row["job_id"], ends[row["job_id"]], _metrics(backend, row["job_id"]))
            if name.startswith(RESULT_PREFIX)
            else file_object(row, names.get(row["dataset_id"]), backend.artifacts)
            for _, name, row in entries
        ]

    return page_of(known, lambda each: each[1], after, limit, show)


@router.get("/{file_id}")
def retrieve_file(file_id: str, caller: CallerOf, backend: BackendOf) -> FileObject:
    """One file."""
    if file_id.startswith(RESULT_PREFIX):
        job = _job_with_results(backend, caller, file_id)
        with backend.pool.connection() as connection:
            (end,) = ended_at(connection, [job]).values()
        return result_object(job["job_id"], end, _metrics(backend, job["job_id"]))
    row = own_dataset(backend, caller, dataset_of(file_id))
    with backend.pool.connection() as connection:
        names = dataset_names(connection, [row["dataset_id"]])
    return file_object(row, names.get(row["dataset_id"]), backend.artifacts)


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={**file_answers(JSON_LINES, "text/csv"), **refusals(409)},
)
def file_content(
    file_id: str, wanted: ConditionsOf, caller: CallerOf, backend: BackendOf
) -> Response:
    """What was uploaded, byte by byte, or a job's metrics as CSV."""
    if file_id.startswith(RESULT_PREFIX):
        content = _metrics(backend, _job_with_results(backend, caller, file_id)["job_id"])
        disposition = f'attachment; filename="{METRICS_NAME}"'
        return Response(content, 200, {"content-disposition": disposition}, "text/csv")
    row = own_dataset(backend, caller, dataset_of(file_id))
    if row["status"] == DatasetStatus.REJECTED:
        raise WrongState("the file was rejected, and is not kept; its status_details say why")
    dataset = backend.log.load(Dataset, row["dataset_id"])
    with backend.pool.connection() as connection:
        names = dataset_names(connection, [dataset.id])
    return download(
        backend.artifacts,
        dataset.upload_ref,
        dataset.upload_sha256,
        wanted,
        name=names.get(dataset.id) or UNNAMED,
        media_type=JSON_LINES,
    )


@router.delete("/{file_id}")
def delete_file(file_id: str, caller: CallerOf, backend: BackendOf) -> FileDeleted:
    """Delete an upload; 409 while a job that is not over trains on it."""
    if file_id.startswith(RESULT_PREFIX):
        _job_with_results(backend, caller, file_id)
        raise WrongState("a job's metrics are kept with the job")
    delete_dataset(backend, caller, dataset_of(file_id))
    return FileDeleted(id=file_id)


def _job_with_results(backend: Backend, caller: Caller, file_id: str) -> Row:
    """The row of a result file's job; raises NotFound, also before the job is over."""
    row = own_job(backend, caller, job_of_result(file_id))
    if not has_results(row):
        raise NotFound(f"no file {file_id}")
    return row


def _metrics(backend: Backend, job_id: UUID) -> bytes:
    with backend.pool.connection() as connection:
        return metrics_csv(connection, job_id)
