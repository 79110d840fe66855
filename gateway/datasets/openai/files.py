"""Files under /v1: uploads that become datasets, and the metrics of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from domain.core.errors import Invalid, NotFound, WrongState
from domain.core.identity import created_id
from domain.datasets.dataset import Dataset, DatasetStatus, UploadOptions
from gateway.backend import Backend, BackendOf
from gateway.datasets.openai.objects import (
    METRICS_NAME,
    UNNAMED,
    FileDeleted,
    FileObject,
    file_object,
    metrics_csv,
    metrics_sizes,
    result_object,
)
from gateway.datasets.service import (
    StoredFile,
    delete_dataset,
    dropped_on,
    own_dataset,
    record_upload,
    upload_ref,
    upload_slot,
)
from gateway.http.access import Caller, CallerOf
from gateway.http.downloads import JSON_LINES, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.http.multipart import Form
from gateway.http.openai_idempotency import KeyOf, RetryOf, command_key, fingerprint
from gateway.http.openai_paging import AfterOf, Page, page_from
from gateway.http.openai_vocabulary import (
    FINE_TUNE,
    RESULT_PREFIX,
    RESULTS,
    dataset_of,
    file_name,
    job_of_result,
    result_name,
)
from gateway.http.text_validation import storable
from gateway.http.uploads import FORM_BYTES, refuse_declared, store_stream
from gateway.jobs.results import has_results, trained_tokens
from gateway.jobs.service import own_job
from infrastructure.profiles import dataset_names
from projections import datasets as rows
from projections.file_list import FileKey, files_of
from projections.job_timeline import ended_at
from projections.projection import Row

FILES_PATH = "/files"
OPTIONS = ("keep_duplicates", "ignore_tools")
NAME_CHARACTERS = 200
SHOWN_AT_ONCE = 100

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
                    "keep_duplicates": {
                        "type": "boolean",
                        "description": "Beyond OpenAI's: train on repeated lines as well.",
                    },
                    "ignore_tools": {
                        "type": "boolean",
                        "description": "Beyond OpenAI's: confirm that tools' definitions in its "
                        "lines are ignored.",
                    },
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
    options: dict[str, bool] = field(default_factory=dict)
    filename: str | None = None  # None: no file yet
    size: int = 0  # bytes
    sha256: str = ""


@router.post("", openapi_extra={"requestBody": FORM}, responses=refusals(413, 503))
async def create_file(
    request: Request,
    caller: CallerOf,
    backend: BackendOf,
    idempotency_key: KeyOf = None,
    retries: RetryOf = 0,
) -> FileObject:
    """Upload a file of chats and start its validation."""
    ref, upload = upload_ref(caller), Upload()
    try:
        async with upload_slot(backend, caller) as most_bytes:
            refuse_declared(request, most_bytes, FORM_BYTES)
            await _receive(request, backend, ref, upload, most_bytes)
        _require_purpose(upload.fields)
        if upload.filename is None:
            raise Invalid("send the file in the form's field `file`", field="file")
    except BaseException:
        if upload.filename is not None:
            await run_in_threadpool(backend.artifacts.delete, ref)
        raise
    return await run_in_threadpool(_record, backend, caller, ref, upload, idempotency_key, retries)


async def _receive(
    request: Request, backend: Backend, ref: str, upload: Upload, most_bytes: int
) -> None:
    """Store the form's file under a ref; raises Invalid, and TooLarge, as early as it can."""
    form = Form(request.headers.get("content-type", ""), request.stream())
    async for part in form.parts():
        if part.name == "file" and upload.filename is None:
            if "purpose" in upload.fields:
                _require_purpose(upload.fields)
            upload.size, upload.sha256 = await store_stream(
                part.chunks, backend.artifacts, ref, most_bytes
            )
            upload.filename = _kept_name(part.filename)
        elif part.name == "purpose":
            upload.fields["purpose"] = await part.text()
        elif part.name in OPTIONS:
            upload.options[part.name] = _flag(part.name, await part.text())
        else:
            name, _, _ = part.name.partition("[")  # objects are sent as name[key]
            if name == "expires_after":
                raise Invalid("files are kept until they are deleted; leave it out", field=name)
            raise Invalid(
                "only `file` and `purpose` are known, each once, and `keep_duplicates` and "
                "`ignore_tools`",
                field=name,
            )


def _flag(name: str, value: str) -> bool:
    """A yes or no of a form; raises Invalid."""
    known = {"true": True, "1": True, "false": False, "0": False}
    if value.lower() not in known:
        raise Invalid(f"{value!r} is neither true nor false", field=name)
    return known[value.lower()]


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
    options = UploadOptions(**upload.options)
    request_sha256 = fingerprint(FILES_PATH, [name, upload.sha256, *astuple(options)])
    with dropped_on(Exception, backend, ref):
        key = command_key(backend, caller, idempotency_key, retries, request_sha256)
    dataset_id = created_id(caller.account_id, "dataset", key)
    file = StoredFile(ref, upload.sha256, upload.size)
    dataset = record_upload(backend, caller, dataset_id, name, file, options)
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
    """List your uploads and the metrics of finished jobs.

    A page has a hundred at the most; `has_more` says that there are others, and the client goes on.
    A page after a file that was deleted meanwhile begins where that file was.
    """
    wanted = purpose if purpose is None else {FINE_TUNE: False, RESULTS: True}.get(purpose)
    if purpose is not None and wanted is None:
        return Page(data=[], first_id=None, last_id=None, has_more=False)
    key = None if after is None else _key(backend, caller, after)
    limit = min(limit, SHOWN_AT_ONCE)
    with backend.pool.connection() as connection:
        keys = files_of(
            connection,
            caller.account_id,
            limit + 1,
            key,
            ascending=order == "asc",
            result=None if wanted is None else bool(wanted),
        )
    return page_from(keys, _name, limit, partial(_listed, backend))


def _name(key: FileKey) -> str:
    return result_name(key.id) if key.is_result else file_name(key.id)


def _key(backend: Backend, caller: Caller, file_id: str) -> FileKey:
    """Where a file is in the list, or was before it was deleted; raises Invalid."""
    try:
        if file_id.startswith(RESULT_PREFIX):
            job = _job_with_results(backend, caller, file_id)
            with backend.pool.connection() as connection:
                (end,) = ended_at(connection, [job]).values()
            return FileKey(end, True, job["job_id"])
        dataset = backend.log.find(Dataset, dataset_of(file_id))
    except NotFound:
        dataset = None
    if dataset is None or dataset.account_id != caller.account_id:
        raise Invalid(f"no {file_id} in this list", field="after")
    return FileKey(dataset.created_on, False, dataset.id)


def _listed(backend: Backend, keys: Sequence[FileKey]) -> list[FileObject]:
    """Files of a page; what is deleted at this moment is left out."""
    uploads = [key.id for key in keys if not key.is_result]
    with backend.pool.connection() as connection:
        found = {row["dataset_id"]: row for row in rows.datasets_among(connection, uploads)}
        names = dataset_names(connection, uploads)
        sizes = metrics_sizes(connection, [key.id for key in keys if key.is_result])
    return [
        result_object(key.id, key.at, sizes[key.id])
        if key.is_result
        else file_object(found[key.id], names.get(key.id), backend.artifacts)
        for key in keys
        if key.is_result or key.id in found
    ]


@router.get("/{file_id}")
def retrieve_file(file_id: str, caller: CallerOf, backend: BackendOf) -> FileObject:
    """Retrieve a file."""
    if file_id.startswith(RESULT_PREFIX):
        job = _job_with_results(backend, caller, file_id)
        job_id, end = job["job_id"], _measured_until(backend, job)
        with backend.pool.connection() as connection:
            size = metrics_sizes(connection, [job_id])[job_id]
        return result_object(job_id, end, size)
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
    """Download an upload, or the metrics of a job as CSV."""
    if file_id.startswith(RESULT_PREFIX):
        content = _metrics(backend, _job_with_results(backend, caller, file_id))
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
    """Delete an upload. Returns 409 while an unfinished job uses it."""
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


def _measured_until(backend: Backend, job: Row) -> datetime:
    """When a job was over; waits for its last measurements, if that was just now."""
    with backend.pool.connection() as connection:
        ends = ended_at(connection, [job])
    trained_tokens(backend, [job], ends)
    return ends[job["job_id"]]


def _metrics(backend: Backend, job: Row) -> bytes:
    _measured_until(backend, job)
    with backend.pool.connection() as connection:
        return metrics_csv(connection, job["job_id"])
