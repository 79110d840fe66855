"""Datasets: streamed uploads, their status, and the report of their validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import Field, StringConstraints

from domain.core.errors import NotFound, WrongState
from domain.core.identity import created_id
from domain.datasets.dataset import Dataset, DatasetStatus, Trainability, UploadOptions
from gateway.backend import Backend, BackendOf
from gateway.datasets.service import (
    StoredFile,
    delete_dataset,
    ignore_tools,
    own_dataset,
    record_upload,
    upload_ref,
    upload_slot,
)
from gateway.http.access import Caller, CallerOf
from gateway.http.downloads import JSON_LINES, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.http.paging import LARGEST_PAGE, Limit, Page
from gateway.http.uploads import store_upload
from gateway.schemas import Answer
from infrastructure.measurements import progress_of
from infrastructure.profiles import dataset_names
from infrastructure.store import Connection
from projections import datasets as rows
from projections.projection import Row

UPLOAD_PATH = "/api/datasets"

router = APIRouter(tags=["datasets"])

DatasetName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Progress(Answer):
    """How far a validation has got."""

    lines: int
    bytes: int
    total_bytes: int


class TokenCount(Answer):
    """A dataset's length in tokens of one base model, and that of its longest example."""

    base_model: str
    tokens: int
    longest_example: int


class DatasetAnswer(Answer):
    """A dataset; its counts are known once it was validated."""

    id: UUID
    name: str | None = Field(examples=["support chats"])
    status: DatasetStatus
    total_bytes: int
    examples: int | None = None
    duplicates: int | None = None
    tool_lines: int | None = Field(
        default=None, description="Lines that define tools, which training leaves out."
    )
    tools_ignored: bool = Field(
        default=False, description="Its owner confirmed that tools' definitions are ignored."
    )
    obstacle: str | None = Field(
        default=None, description="Why no job may train on it alone, once it is ready."
    )
    errors: int | None = None
    uploaded_at: datetime
    validated_at: datetime | None = None
    progress: Progress | None = Field(default=None, description="While it is validating.")
    tokens: list[TokenCount] = Field(description="By the base models under which it is counted.")
    counting: list[str] = Field(
        examples=[["smollm2-135m-instruct"]],
        description="The base models under which it is still being counted, once it is ready.",
    )


class Excerpt(Answer):
    """A part of a line; from `start` up to, but not with, `end` is what is wrong, if they differ.

    Characters that cannot be seen are shown as pictures of them, one for one.
    """

    text: str
    column: int = Field(description="Of its first character in the line, from 1.")
    goes_on: bool = Field(description="Whether the line has more after it.")
    start: int
    end: int


class LineProblem(Answer):
    """One error; `line` counts from 1 and is null for the file as a whole."""

    line: int | None
    code: str
    message: str
    excerpt: Excerpt | None = Field(default=None, description="Of the line.")


class Notice(Answer):
    """One kind of warning, how many lines it concerns, and the first of them."""

    code: str
    message: str
    count: int
    lines: list[int]


class ValidationReport(Answer):
    """What the validation found: at most one error for each line, the first hundred of them."""

    status: DatasetStatus
    examples: int
    duplicates: int
    lines: int
    bytes: int
    warnings: list[Notice]
    errors: list[LineProblem]
    error_count: int


def _options(
    keep_duplicates: Annotated[
        bool, Query(description="Train on repeated lines as often as they are in the file.")
    ] = False,
    ignore_tools: Annotated[
        bool, Query(description="Confirm that definitions of tools in its lines are ignored.")
    ] = False,
) -> UploadOptions:
    return UploadOptions(keep_duplicates, ignore_tools)


OptionsOf = Annotated[UploadOptions, Depends(_options)]


@router.post(
    "/datasets",
    status_code=202,
    responses=refusals(409, 413, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "Chat JSONL, one example a line.",
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
    name: Annotated[DatasetName, Query(description="What people call it.")],
    caller: CallerOf,
    backend: BackendOf,
    options: OptionsOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> DatasetAnswer:
    """Upload a dataset and start its validation. Each Idempotency-Key creates one dataset."""
    dataset_id = created_id(caller.account_id, "dataset", idempotency_key or str(uuid4()))
    ref = upload_ref(caller)
    async with upload_slot(backend, caller) as most_bytes:
        size, sha256 = await store_upload(request, backend.artifacts, ref, most_bytes)
    return await run_in_threadpool(
        _record_upload, backend, caller, dataset_id, name, StoredFile(ref, sha256, size), options
    )


def _record_upload(
    backend: Backend,
    caller: Caller,
    dataset_id: UUID,
    name: str,
    file: StoredFile,
    options: UploadOptions,
) -> DatasetAnswer:
    dataset = record_upload(backend, caller, dataset_id, name, file, options)
    with backend.pool.connection() as connection:
        row = rows.dataset(connection, caller.account_id, dataset_id) or _new_row(dataset)
        return _answers(connection, [row])[0]


def _new_row(dataset: Dataset) -> dict[str, Any]:
    """What the projection will say, should it be late."""
    return {
        "dataset_id": dataset.id,
        "status": dataset.status,
        "total_bytes": dataset.total_bytes,
        "uploaded_at": dataset.created_on,
    }


@router.get("/datasets", responses=refusals(404))
def list_datasets(
    caller: CallerOf,
    backend: BackendOf,
    after: Annotated[UUID | None, Query(description="Only those that come after this one.")] = None,
    limit: Limit = LARGEST_PAGE,
) -> Page[DatasetAnswer]:
    """List your datasets, newest first."""
    if after is not None:
        own_dataset(backend, caller, after)
    with backend.pool.connection() as connection:
        page = Page[Row].of(
            partial(rows.datasets_of, connection, caller.account_id, after), limit, lambda row: row
        )
        return Page(data=_answers(connection, page.data), has_more=page.has_more)


@router.get("/datasets/{dataset_id}", responses=refusals(404))
def show_dataset(dataset_id: UUID, caller: CallerOf, backend: BackendOf) -> DatasetAnswer:
    """Show a dataset, the progress of its validation and its lengths in tokens."""
    row = own_dataset(backend, caller, dataset_id)
    with backend.pool.connection() as connection:
        return _answers(connection, [row])[0]


@router.post("/datasets/{dataset_id}/ignore-tools", responses=refusals(404, 409))
def ignore_tool_definitions(
    dataset_id: UUID, caller: CallerOf, backend: BackendOf
) -> DatasetAnswer:
    """Confirm that jobs ignore the tool definitions of a dataset."""
    ignore_tools(backend, caller, dataset_id)
    return show_dataset(dataset_id, caller, backend)


@router.delete("/datasets/{dataset_id}", status_code=204, responses=refusals(404, 409))
def drop_dataset(dataset_id: UUID, caller: CallerOf, backend: BackendOf) -> None:
    """Delete a dataset. Returns 409 while an unfinished job uses it."""
    delete_dataset(backend, caller, dataset_id)


@router.get("/datasets/{dataset_id}/report", responses=refusals(404, 409))
def show_report(dataset_id: UUID, caller: CallerOf, backend: BackendOf) -> ValidationReport:
    """Show the errors of a rejected dataset, or the warnings of a ready one."""
    row = own_dataset(backend, caller, dataset_id)
    if row["report_ref"] is None:
        raise WrongState("the dataset is still validating; its report comes at the end")
    try:
        return ValidationReport.model_validate_json(backend.artifacts.get(row["report_ref"]))
    except FileNotFoundError as error:  # deleted, and the read models do not know yet
        raise NotFound(f"no dataset {dataset_id}") from error


@router.get(
    "/datasets/{dataset_id}/content",
    response_class=Response,
    responses={**file_answers(JSON_LINES), **refusals(409)},
)
def download_dataset(
    dataset_id: UUID, wanted: ConditionsOf, caller: CallerOf, backend: BackendOf
) -> Response:
    """Download the normalised examples that jobs train on."""
    own_dataset(backend, caller, dataset_id)
    dataset = backend.log.load(Dataset, dataset_id)
    if dataset.status is DatasetStatus.VALIDATING:
        raise WrongState("the dataset is still validating; its content comes at the end")
    if dataset.status is DatasetStatus.REJECTED:
        raise WrongState("the dataset was rejected, and its file is not kept")
    return download(
        backend.artifacts,
        dataset.ref,
        dataset.sha256,
        wanted,
        name=f"{dataset_id}.jsonl",
        media_type=JSON_LINES,
    )


def _answers(connection: Connection, datasets: Sequence[Mapping[str, Any]]) -> list[DatasetAnswer]:
    """Rows of datasets, with what other tables know of them."""
    ids = [row["dataset_id"] for row in datasets]
    names = dataset_names(connection, ids)
    tokens = _by_dataset(rows.token_counts(connection, ids))
    counting = _by_dataset(rows.uncounted_of(connection, ids))
    return [
        DatasetAnswer(
            **{name: row[name] for name in DatasetAnswer.model_fields if name in row},
            id=row["dataset_id"],
            name=names.get(row["dataset_id"]),
            obstacle=obstacle_of(row),
            progress=_progress(connection, row),
            tokens=[TokenCount(**each) for each in tokens[row["dataset_id"]]],
            counting=[each["base_model"] for each in counting[row["dataset_id"]]],
        )
        for row in datasets
    ]


def obstacle_of(row: Mapping[str, Any]) -> str | None:
    """Why no job may train on the ready dataset of a row alone; None if one may."""
    if row["status"] != DatasetStatus.READY_FOR_TRAINING:
        return None
    facts = ("examples", "duplicates", "tool_lines", "tools_ignored")
    return Trainability(*(row[name] for name in facts)).obstacle()


def _progress(connection: Connection, row: Mapping[str, Any]) -> Progress | None:
    if row["status"] != DatasetStatus.VALIDATING:
        return None
    progress = progress_of(connection, row["dataset_id"])
    return None if progress is None else Progress(**progress)


def _by_dataset(found: Sequence[Row]) -> defaultdict[UUID, list[Row]]:
    grouped: defaultdict[UUID, list[Row]] = defaultdict(list)
    for row in found:
        grouped[row["dataset_id"]].append(row)
    return grouped
