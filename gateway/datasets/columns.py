"""Columns of datasets: the choice of a user, a preview, and a new dataset with other columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypedDict
from uuid import UUID

from domain.core.errors import Invalid, WrongState
from domain.datasets.columns import Columns, Role, chosen_columns, columns_sha256
from domain.datasets.dataset import Dataset, DatasetStatus, UploadOptions
from gateway.backend import Backend
from gateway.datasets.schemas import ColumnsRequest, ColumnsResponse, PreviewMessage, PreviewRow
from gateway.datasets.service import own_dataset, report_of
from gateway.datasets.uploads import (
    Choices,
    StoredFile,
    record_upload,
    repeated_version,
    require_room_for,
    upload_ref,
)
from gateway.http.access import Caller
from infrastructure.accounts.profiles import dataset_names
from infrastructure.datasets.chat_columns import BadColumn, to_example
from infrastructure.datasets.preference_columns import INPUT, PREFERRED, REJECTED, to_pair

MAX_COLUMNS_TEXT = 4_000
SHOWN_CHARACTERS = 600
SHOWN_MESSAGES = 12
UNNAMED = "dataset"


class _Sample(TypedDict):
    """The stored columns and first rows of an upload."""

    names: list[str]
    rows: list[dict[str, Any]]


def columns_of(text: str | None) -> Columns | None:
    """Return the columns in a JSON object, or None for None. Raise Invalid if they are unusable."""
    if text is None:
        return None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw.values()):
        raise Invalid(
            f"The columns are {text[:60]!r}. Send a JSON object with the column of each role, such "
            'as {"user": "question", "assistant": "answer"}.',
            field="columns",
        )
    return chosen_columns(raw)


def shown_columns(
    backend: Backend, caller: Caller, dataset_id: UUID, columns: Mapping[str, str] | None = None
) -> ColumnsResponse:
    """Return the columns of a dataset, and its first rows as messages.

    With `columns`, by role, the messages are those that the given columns would make. Raise
    NotFound if the account has no such dataset, and WrongState until it is validated.
    """
    report = report_of(backend, caller, dataset_id)
    sample = _sample(backend, dataset_id)
    known = report.columns if columns is None else columns
    roles: Columns | None = None
    problem = None
    if sample["names"]:
        try:
            roles = chosen_columns(known)
        except Invalid as error:
            problem = error.message
    return ColumnsResponse(
        format=report.format,
        shape=report.shape if columns is None else None,
        unit=report.unit,
        names=sample["names"],
        columns=dict(known),
        unused=[each for each in sample["names"] if known and each not in known.values()],
        chosen=report.columns_chosen if columns is None else True,
        problem=problem,
        rows=[_preview(row["number"], row["value"], roles) for row in sample["rows"]],
    )


def read_again(
    backend: Backend, caller: Caller, dataset_id: UUID, new_id: UUID, wanted: ColumnsRequest
) -> Mapping[str, Any]:
    """Create a dataset from the upload of another one with other columns. Return its row.

    Raise NotFound if the account has no such dataset, Invalid if the columns do not suit its file,
    WrongState until it is validated or if its file was deleted, and QuotaExceeded at a quota.
    """
    columns = chosen_columns(wanted.columns)

    def options(like: Dataset) -> UploadOptions:
        return replace(
            like.options,
            parent=dataset_id,
            source=None,
            synthesis_id=None,
            columns_sha256=columns_sha256(columns),
        )

    known = repeated_version(backend, caller, new_id, wanted.name, options)
    if known is not None:
        return known
    own_dataset(backend, caller, dataset_id)
    dataset = backend.log.load(Dataset, dataset_id)
    if dataset.status is DatasetStatus.VALIDATING:
        raise WrongState(
            "EcoLink is still validating the dataset. Try again when the validation is complete."
        )
    if dataset.options.is_filtered:
        raise WrongState(
            "Filters made this dataset, so it has no columns. Change the columns of the dataset "
            f"that was filtered, {dataset.options.parent}."
        )
    names = _sample(backend, dataset_id)["names"]
    has_header = not report_of(backend, caller, dataset_id).is_json
    if (
        has_header
        and names
        and (missing := [each for each in columns.values() if each not in names])
    ):
        raise Invalid(
            f"The file has no column {missing[0]!r}. It has {', '.join(names[:10])}.",
            field="columns",
        )
    require_room_for(backend, caller, dataset.total_bytes, "The copy of the upload")
    file = StoredFile(upload_ref(caller), dataset.upload_sha256, dataset.total_bytes)
    try:
        backend.artifacts.copy(dataset.upload_ref, file.ref)
    except FileNotFoundError:
        raise WrongState(
            "EcoLink no longer has the file of this dataset. EcoLink 0.1 deleted rejected files, "
            "and backups do not contain them. Upload the file again."
        ) from None
    with backend.pool.connection() as connection:
        name = wanted.name or dataset_names(connection, [dataset_id]).get(dataset_id) or UNNAMED
    choices = Choices(options(dataset), columns)
    return record_upload(backend, caller, new_id, name, file, choices)


def _sample(backend: Backend, dataset_id: UUID) -> _Sample:
    """Return the first rows of an upload. Datasets of EcoLink 0.1 have none."""
    dataset = backend.log.load(Dataset, dataset_id)
    try:
        return json.loads(backend.artifacts.get(f"{dataset.home}/sample.json"))
    except FileNotFoundError:
        return {"names": [], "rows": []}


def _preview(number: int, value: dict[str, Any], columns: Columns | None) -> PreviewRow:
    values = {name: _short(each) for name, each in value.items()}
    row = PreviewRow(row=number, messages=[], tools=0, values=values)
    if columns is None:
        return row
    try:
        if Role.CHOSEN in columns:
            made = _pair_preview(to_pair(value, columns))
        else:
            example = to_example(value, columns)
            made = {"messages": _messages(example["messages"]), "tools": _tools(example)}
    except BadColumn as error:
        made = {"problem": str(error)}
    return row.model_copy(update=made)


def _pair_preview(pair: dict[str, Any]) -> dict[str, Any]:
    return {
        "messages": _messages(pair[INPUT]["messages"]),
        "chosen": _messages(pair[PREFERRED]),
        "rejected": _messages(pair[REJECTED]),
        "tools": _tools(pair[INPUT]),
    }


def _messages(raw: list[Any]) -> list[PreviewMessage]:
    return [_message(each) for each in raw[:SHOWN_MESSAGES]]


def _tools(example: dict[str, Any]) -> int:
    tools = example.get("tools")
    return len(tools) if isinstance(tools, list) else 0


def _message(raw: Any) -> PreviewMessage:
    """Return a message for a reader. Its parts need not be valid."""
    if not isinstance(raw, dict):
        return PreviewMessage(role="?", content=_short(raw))
    content = raw.get("content")
    parts = [] if content is None else [_short(content)]
    if calls := raw.get("tool_calls") or raw.get("function_call"):
        parts.append(_short(calls))
    return PreviewMessage(role=_short(raw.get("role")), content="\n".join(parts))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
