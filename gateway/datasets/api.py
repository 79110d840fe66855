"""Routes of datasets under /api."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import StringConstraints

from domain.core.identity import created_id
from domain.datasets.dataset import UploadOptions
from domain.datasets.validation_report import ValidationReport
from gateway.backend import BackendOf
from gateway.datasets import service
from gateway.datasets.columns import MAX_COLUMNS_TEXT, columns_of, read_again, shown_columns
from gateway.datasets.hub_import import import_from_hub, source_of
from gateway.datasets.sample import create_sample
from gateway.datasets.schemas import (
    ColumnsRequest,
    ColumnsResponse,
    DatasetResponse,
    HubDatasetRequest,
    HubSourceResponse,
)
from gateway.datasets.uploads import Choices, StoredFile, record_upload, upload_ref, upload_slot
from gateway.http.downloads import JSON_LINES, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.paging import LARGEST_PAGE, Limit
from gateway.http.permissions import MayDownload, MayRead, MayTrain
from gateway.http.slow_work import run_slowly
from gateway.http.uploads import store_upload
from gateway.schemas import Listed, Page

router = APIRouter(prefix="/datasets", tags=["datasets"], route_class=Operation)

DatasetName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def _options(
    keep_duplicates: Annotated[
        bool, Query(description="Keep repeated lines instead of removing them.")
    ] = False,
    ignore_tools: Annotated[
        bool, Query(description="Remove tool definitions from the examples.")
    ] = False,
    columns: Annotated[
        str | None,
        Query(
            description="Column or key of each role, as a JSON object. By default, EcoLink guesses "
            "them.",
            examples=['{"user": "question", "assistant": "answer"}'],
            max_length=MAX_COLUMNS_TEXT,
        ),
    ] = None,
    parent: Annotated[
        UUID | None, Query(description="Dataset of which the file is a new version.")
    ] = None,
) -> Choices:
    options = UploadOptions(keep_duplicates, ignore_tools, parent=parent)
    return Choices.of(options, columns_of(columns))


ChoicesOf = Annotated[Choices, Depends(_options)]


@router.post(
    "",
    status_code=202,
    responses=refusals(404, 409, 413, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "Chats or preference pairs in a format of the user guide, such as "
            "JSONL, CSV or Parquet. EcoLink detects the format from the content.",
            "content": {
                "application/jsonl": {
                    "schema": {"type": "string", "format": "binary"},
                    "example": '{"messages": [{"role": "user", "content": "Hello?"}, '
                    '{"role": "assistant", "content": "Hello!"}]}\n',
                }
            },
        }
    },
)
async def upload_dataset(
    request: Request,
    name: Annotated[DatasetName, Query(description="Display name of the dataset.")],
    caller: MayTrain,
    backend: BackendOf,
    choices: ChoicesOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> DatasetResponse:
    """Upload a file and start its validation.

    Repeating a request with the same `Idempotency-Key` returns the existing dataset.
    """
    dataset_id = created_id(caller.account_id, "dataset", idempotency_key or str(uuid4()))
    if (parent := choices.options.parent) is not None:
        await run_in_threadpool(service.own_dataset, backend, caller, parent)
    ref = upload_ref(caller)
    async with upload_slot(backend, caller) as most_bytes:
        size, sha256 = await store_upload(request, backend.artifacts, ref, most_bytes)
    file = StoredFile(ref, sha256, size)

    def record() -> DatasetResponse:
        row = record_upload(backend, caller, dataset_id, name, file, choices)
        return service.dataset_answer(backend, row)

    return await run_in_threadpool(record)


@router.post("/from-hub", status_code=202, responses=refusals(409, 503))
async def import_dataset(
    wanted: HubDatasetRequest,
    caller: MayTrain,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> DatasetResponse:
    """Download a split of a repository on a hub, and start its validation.

    The response comes when the download is complete. Repeating a request with the same
    `Idempotency-Key` returns the existing dataset.
    """
    dataset_id = created_id(caller.account_id, "dataset", idempotency_key or str(uuid4()))
    async with upload_slot(backend, caller) as most_bytes:
        row = await run_slowly(import_from_hub, backend, caller, dataset_id, wanted, most_bytes)
    return await run_in_threadpool(service.dataset_answer, backend, row)


@router.post("/from-sample", status_code=202)
async def upload_sample(
    caller: MayTrain,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> DatasetResponse:
    """Create a dataset from the sample of EcoLink, 150 chats for a first job.

    Repeating a request with the same `Idempotency-Key` returns the existing dataset.
    """
    dataset_id = created_id(caller.account_id, "dataset", idempotency_key or str(uuid4()))
    async with upload_slot(backend, caller):
        row = await run_in_threadpool(create_sample, backend, caller, dataset_id)
    return await run_in_threadpool(service.dataset_answer, backend, row)


@router.get("/{dataset_id}/source", responses=refusals(404))
def show_source(dataset_id: UUID, caller: MayRead, backend: BackendOf) -> HubSourceResponse:
    """Show the repository, commit and files that a dataset is from."""
    return source_of(backend, caller, dataset_id)


@router.get("", responses=refusals(404))
def list_datasets(
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[
        UUID | None, Query(description="Return only datasets after this one in the list.")
    ] = None,
    limit: Limit = LARGEST_PAGE,
) -> Page[DatasetResponse]:
    """List your datasets, newest first."""
    return service.list_datasets(backend, caller, after, limit)


@router.get("/{dataset_id}", responses=refusals(404))
def show_dataset(dataset_id: UUID, caller: MayRead, backend: BackendOf) -> DatasetResponse:
    """Show a dataset with its validation progress and its token counts."""
    return service.show_dataset(backend, caller, dataset_id)


@router.post("/{dataset_id}/ignore-tools", responses=refusals(404, 409))
def ignore_tool_definitions(
    dataset_id: UUID, caller: MayTrain, backend: BackendOf
) -> DatasetResponse:
    """Confirm that jobs ignore the tool definitions of a dataset."""
    return service.ignore_tools(backend, caller, dataset_id)


@router.get("/{dataset_id}/columns", responses=refusals(404, 409))
def show_columns(dataset_id: UUID, caller: MayDownload, backend: BackendOf) -> ColumnsResponse:
    """Show the format and columns of a dataset, and its first rows as messages."""
    return shown_columns(backend, caller, dataset_id)


@router.post("/{dataset_id}/columns", status_code=202, responses=refusals(404, 409))
def change_columns(
    dataset_id: UUID,
    wanted: ColumnsRequest,
    caller: MayTrain,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> DatasetResponse:
    """Create a new dataset from the same upload with other columns.

    The existing dataset does not change. Repeating a request with the same `Idempotency-Key`
    returns the existing new dataset.
    """
    key = idempotency_key or str(uuid4())
    new_id = created_id(caller.account_id, "dataset", key)
    row = read_again(backend, caller, dataset_id, new_id, wanted)
    return service.dataset_answer(backend, row)


@router.get("/{dataset_id}/versions", responses=refusals(404))
def list_versions(dataset_id: UUID, caller: MayRead, backend: BackendOf) -> Listed[DatasetResponse]:
    """List all versions of a dataset, oldest first. Each names its `parent`."""
    return Listed(data=service.versions_of(backend, caller, dataset_id))


@router.delete("/{dataset_id}", status_code=204, responses=refusals(404, 409))
def drop_dataset(dataset_id: UUID, caller: MayTrain, backend: BackendOf) -> None:
    """Delete a dataset and its file. Returns 409 while an unfinished job or synthesis uses it."""
    service.delete_dataset(backend, caller, dataset_id)


@router.get("/{dataset_id}/report", responses=refusals(404, 409))
def show_report(dataset_id: UUID, caller: MayRead, backend: BackendOf) -> ValidationReport:
    """Show the validation report of a dataset: its errors and warnings."""
    return service.report_of(backend, caller, dataset_id)


@router.get(
    "/{dataset_id}/content",
    response_class=Response,
    responses={**file_answers(JSON_LINES), **refusals(409)},
)
def download_dataset(
    dataset_id: UUID, wanted: ConditionsOf, caller: MayDownload, backend: BackendOf
) -> Response:
    """Download the normalized examples that jobs train on. The file excludes removed duplicates."""
    dataset = service.content_of(backend, caller, dataset_id)
    name = f"{dataset_id}.jsonl"
    return download(
        backend.artifacts, dataset.ref, dataset.sha256, wanted, name=name, media_type=JSON_LINES
    )
