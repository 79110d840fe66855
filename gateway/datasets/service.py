"""Datasets of an account."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from domain.core.aggregate import because
from domain.core.errors import NotFound, WrongState
from domain.datasets.dataset import Dataset, DatasetStatus, Trainability
from domain.datasets.validation_report import ValidationReport
from domain.training.token_lengths import TokenLengths
from gateway.backend import Backend
from gateway.datasets.schemas import DatasetResponse, Progress, TokenCount
from gateway.http.access import Caller
from gateway.http.permissions import DOWNLOAD
from gateway.http.read_your_writes import caught_up, found
from gateway.schemas import Page
from infrastructure.accounts.profiles import dataset_names
from infrastructure.bus.exchange import read
from infrastructure.extensions import loaded
from infrastructure.postgres.store import Connection
from infrastructure.training.measurements import progress_of
from projections import DATASETS, JOB_DETAIL
from projections import datasets as rows
from projections.base_models import all_base_models
from projections.job_detail import unfinished_on
from projections.projection import Row

SUMMARY_ERRORS = 3


def own_dataset(backend: Backend, caller: Caller, dataset_id: UUID) -> Row:
    """Return the row of the account's dataset. Raise NotFound if there is none."""
    return found(
        backend,
        DATASETS,
        lambda connection: rows.dataset(connection, caller.account_id, dataset_id),
        f"Unknown dataset {dataset_id}. See `ecolink datasets list`.",
    )


def list_datasets(
    backend: Backend, caller: Caller, after: UUID | None, limit: int
) -> Page[DatasetResponse]:
    """Return the datasets of the account, newest first."""
    if after is not None:
        own_dataset(backend, caller, after)
    with backend.pool.connection() as connection:
        read = partial(rows.datasets_of, connection, caller.account_id, after)
        page = Page[Row].of(read, limit, lambda row: row)
        return Page(data=dataset_answers(connection, page.data), has_more=page.has_more)


def show_dataset(backend: Backend, caller: Caller, dataset_id: UUID) -> DatasetResponse:
    """Return a dataset of the account. Raise NotFound if there is none."""
    return dataset_answer(backend, own_dataset(backend, caller, dataset_id))


def versions_of(backend: Backend, caller: Caller, dataset_id: UUID) -> list[DatasetResponse]:
    """Return all versions of a dataset, oldest first. Raise NotFound if there is none."""
    own_dataset(backend, caller, dataset_id)
    with backend.pool.connection() as connection:
        found = rows.versions_of(connection, caller.account_id, dataset_id)
        return dataset_answers(connection, found)


def dataset_answer(backend: Backend, row: Mapping[str, Any]) -> DatasetResponse:
    """Return the schema of a dataset's row."""
    with backend.pool.connection() as connection:
        return dataset_answers(connection, [row])[0]


def ignore_tools(backend: Backend, caller: Caller, dataset_id: UUID) -> DatasetResponse:
    """Confirm that jobs ignore the tool definitions of a valid dataset."""
    own_dataset(backend, caller, dataset_id)
    with because(caller.cause(backend)):
        backend.ecolink.ignore_tools(caller.account_id, dataset_id)
    caught_up(backend, DATASETS)
    return show_dataset(backend, caller, dataset_id)


def delete_dataset(backend: Backend, caller: Caller, dataset_id: UUID) -> None:
    """Delete a dataset that no unfinished job uses, and no extension."""
    own_dataset(backend, caller, dataset_id)
    caught_up(backend, JOB_DETAIL)
    with backend.pool.connection() as connection:
        used_by = unfinished_on(connection, caller.account_id, dataset_id)
    if not used_by:
        for require_unused in loaded(lambda extension: extension.dataset_users):
            require_unused(backend, caller, dataset_id)
    with because(caller.cause(backend)):
        backend.ecolink.delete_dataset(caller.account_id, dataset_id, used_by)
    caught_up(backend, DATASETS)


def report_of(backend: Backend, caller: Caller, dataset_id: UUID) -> ValidationReport:
    """Return a validation's report, without the file's texts unless the caller may download."""
    row = own_dataset(backend, caller, dataset_id)
    if row["report_ref"] is None:
        raise WrongState(
            "EcoLink is still validating the dataset. Try again when the validation is complete."
        )
    report = _stored_report(backend, caller, row["report_ref"])
    if report is None:
        raise NotFound(f"Dataset {dataset_id} was deleted. See `ecolink datasets list`.")
    return report


def content_of(backend: Backend, caller: Caller, dataset_id: UUID) -> Dataset:
    """Return a valid dataset, which has normalized examples."""
    own_dataset(backend, caller, dataset_id)
    dataset = backend.log.load(Dataset, dataset_id)
    if dataset.status is DatasetStatus.VALIDATING:
        raise WrongState(
            "EcoLink is still validating the dataset. Try again when the validation is complete."
        )
    if dataset.status is DatasetStatus.REJECTED:
        raise WrongState(
            "EcoLink rejected the dataset. Upload a corrected file, or choose other columns."
        )
    return dataset


def rejection_summary(backend: Backend, caller: Caller, report_ref: str) -> str | None:
    """Return the first errors of a rejected file, or None if its report was deleted."""
    report = _stored_report(backend, caller, report_ref)
    if report is None:
        return None
    errors = [
        f"{'file' if error.line is None else f'{report.unit} {error.line:,}'}: {error.message}"
        for error in report.errors[:SUMMARY_ERRORS]
    ]
    further = report.error_count - len(errors)
    return "; ".join(errors + ([f"and {further:,} more"] if further else []))


def obstacle_of(row: Mapping[str, Any]) -> str | None:
    """Return why no job can train on this dataset alone, or None if jobs can."""
    if row["status"] != DatasetStatus.READY_FOR_TRAINING:
        return None
    facts = ("examples", "duplicates", "tool_lines", "tools_ignored")
    return Trainability(*(row[name] for name in facts)).obstacle()


@dataclass(frozen=True)
class BaseView:
    """A base model and the dataset's lengths for it; None without a count."""

    name: str
    ref: str
    manifest_sha256: str
    context_length: int
    lengths: TokenLengths | None
    refusal: str | None


def base_views(backend: Backend, dataset_id: UUID) -> list[BaseView]:
    """Return the lengths of a valid dataset for every base model, by name."""
    dataset = backend.log.load(Dataset, dataset_id)
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
    views = []
    for row in bases:
        name, sha256 = row["name"], row["manifest_sha256"]
        lengths = dataset.counted[name].lengths if dataset.is_counted(name, sha256) else None
        refusal = dataset.why_uncountable(name, sha256)
        views.append(BaseView(name, row["ref"], sha256, row["context_length"], lengths, refusal))
    return views


def _stored_report(backend: Backend, caller: Caller, report_ref: str) -> ValidationReport | None:
    """Return a stored report without texts the caller may not have; None if it was deleted."""
    try:
        report = read(ValidationReport, backend.artifacts.get(report_ref))
    except FileNotFoundError:
        return None
    return report if DOWNLOAD.allows(caller.rights) else report.without_texts()


def dataset_answers(
    connection: Connection, datasets: Sequence[Mapping[str, Any]]
) -> list[DatasetResponse]:
    """Return the schemas of rows of datasets."""
    ids = [row["dataset_id"] for row in datasets]
    names = dataset_names(connection, ids)
    # First what is missing: a count that arrives between the two queries is then in both answers.
    counting = _by_dataset(rows.uncounted_of(connection, ids))
    tokens = _by_dataset(rows.token_counts(connection, ids))
    return [
        DatasetResponse(
            **{name: row[name] for name in DatasetResponse.model_fields if name in row},
            id=row["dataset_id"],
            name=names.get(row["dataset_id"]),
            obstacle=obstacle_of(row),
            progress=_progress(connection, row),
            tokens=[TokenCount(**each) for each in tokens[row["dataset_id"]]],
            counting=[each["base_model"] for each in counting[row["dataset_id"]]],
        )
        for row in datasets
    ]


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
