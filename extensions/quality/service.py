"""Quality of datasets: reports, filters and comparisons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel

from domain.core.errors import Invalid, NotFound, WrongState
from domain.datasets.dataset import Dataset, DatasetStatus, UploadOptions
from extensions.quality.comparisons import (
    ComparisonKind,
    ComparisonState,
    comparison,
    request_comparison,
)
from extensions.quality.domain.quality_report import Contamination, Difference, QualityReport
from extensions.quality.schemas import (
    ContaminationResponse,
    DifferenceResponse,
    FiltersRequest,
)
from gateway.backend import Backend
from gateway.datasets.schemas import DatasetResponse
from gateway.datasets.service import content_of, own_dataset, versions_of
from gateway.datasets.uploads import (
    Choices,
    StoredFile,
    record_version,
    repeated_version,
    require_room_for,
)
from gateway.http.access import Caller
from gateway.http.permissions import DOWNLOAD
from infrastructure.accounts.profiles import dataset_names
from infrastructure.bus.exchange import read

UNNAMED = "dataset"

FILTERED = re.compile(r" \(filtered(?: [0-9]+)?\)\Z", re.ASCII)
MOST_BASE_NAME = 180
"""Characters of a name that has a suffix."""

R = TypeVar("R", bound=BaseModel)


def quality_of(backend: Backend, caller: Caller, dataset_id: UUID) -> QualityReport:
    """Return the quality report of a valid dataset. Raise WrongState until it is analyzed."""
    row = own_dataset(backend, caller, dataset_id)
    if row["status"] != DatasetStatus.READY_FOR_TRAINING:
        raise WrongState(
            f"The dataset is {row['status']}, and EcoLink analyzes only datasets that are "
            "ready_for_training. "
            + (
                "Try again when the validation is complete."
                if row["status"] == DatasetStatus.VALIDATING
                else "Upload a corrected file, or choose other columns."
            )
        )
    report = stored_quality(backend, caller, row)
    if report is None:
        raise WrongState(
            "EcoLink is still analyzing the dataset. Try again when the analysis is complete."
        )
    return report


def stored_quality(
    backend: Backend, caller: Caller, row: Mapping[str, Any]
) -> QualityReport | None:
    """Return a dataset's quality report, or None; with excerpts if the caller may download."""
    if row["quality_ref"] is None:
        return None
    report = _stored(backend, QualityReport, row["quality_ref"])
    return report if DOWNLOAD.allows(caller.rights) else report.without_excerpts()


def apply_filters(
    backend: Backend, caller: Caller, dataset_id: UUID, new_id: UUID, wanted: FiltersRequest
) -> Mapping[str, Any]:
    """Create a new version of a dataset with its filtered examples. Return its row.

    If the ID exists, return the existing version, also after the deletion of the parent. Raise
    NotFound if the account has no such dataset or validation dataset, Invalid without a filter,
    WrongState unless both datasets are valid, or if tool definitions were lost unconfirmed, and
    QuotaExceeded at a quota.
    """
    filters = wanted.filters
    filters.require_some()

    def options(like: Dataset) -> UploadOptions:
        return UploadOptions(
            keep_duplicates=like.options.keep_duplicates, parent=dataset_id, filters=filters
        )

    known = repeated_version(backend, caller, new_id, wanted.name, options)
    if known is not None:
        return known
    parent = content_of(backend, caller, dataset_id)
    if (lost := parent.trainability.lost_tools) is not None:  # a new version would not know it
        raise WrongState(lost)
    if (other_id := filters.contaminates) is not None:
        _require_other(dataset_id, other_id, "filters.contaminates")
        content_of(backend, caller, other_id)
    size = backend.artifacts.size(parent.ref)
    require_room_for(backend, caller, size, "The new version")
    with backend.pool.connection() as connection:
        named = dataset_names(connection, [dataset_id]).get(dataset_id)
    name = wanted.name or filtered_name(named, versions_of(backend, caller, dataset_id))
    file = StoredFile(parent.ref, parent.sha256, size)
    return record_version(backend, caller, new_id, name, file, Choices(options(parent)))


def _require_other(dataset_id: UUID, validation_id: UUID, field: str) -> None:
    if validation_id == dataset_id:
        raise Invalid(
            f"The validation dataset {validation_id} is the dataset itself. Choose another one.",
            field=field,
        )


def filtered_name(parent: str | None, versions: Sequence[DatasetResponse]) -> str:
    """Return a name for a filtered version that differs from those of all versions."""
    base = FILTERED.sub("", parent or UNNAMED)[:MOST_BASE_NAME]
    taken = {each.name for each in versions}
    names = (f"{base} (filtered{f' {number}' if number > 1 else ''})" for number in count(1))
    return next(name for name in names if name not in taken)


def contamination_of(
    backend: Backend, caller: Caller, dataset_id: UUID, validation_id: UUID
) -> ContaminationResponse:
    """Return the examples that two valid datasets share. The first call asks for a comparison."""
    _require_other(dataset_id, validation_id, "validation_dataset")
    for each in (dataset_id, validation_id):
        content_of(backend, caller, each)
    kind = ComparisonKind.CONTAMINATION
    row = _requested(backend, caller, (dataset_id, validation_id, kind))
    return ContaminationResponse(state=row["state"], result=_result(backend, Contamination, row))


def difference_of(
    backend: Backend, caller: Caller, dataset_id: UUID, base: UUID | None = None
) -> DifferenceResponse:
    """Return how a dataset differs from the one that it is a version of, or from `base`.

    The first call asks for the comparison. Raise NotFound if the account lacks one of them, Invalid
    if there is no parent and no base, and WrongState unless both are valid.
    """
    dataset = content_of(backend, caller, dataset_id)
    base = base or dataset.options.parent
    if base is None:
        raise Invalid(
            f"The dataset {dataset_id} has no earlier version. Give another dataset to compare it "
            "with.",
            field="base",
        )
    if base == dataset_id:
        raise Invalid(
            f"The dataset {base} cannot be compared with itself. Give another one.", field="base"
        )
    content_of(backend, caller, base)
    row = _requested(backend, caller, (dataset_id, base, ComparisonKind.DIFFERENCE))
    result = _result(backend, Difference, row)
    return DifferenceResponse(state=row["state"], base=base, result=result)


def _requested(
    backend: Backend, caller: Caller, key: tuple[UUID, UUID, ComparisonKind]
) -> Mapping[str, Any]:
    """Return the row of a comparison. Ask for it first if necessary."""
    with backend.pool.connection() as connection:
        row = comparison(connection, key)
        if row is None:
            request_comparison(connection, caller.account_id, key)
    return row or {"state": ComparisonState.WAITING, "ref": None}


def _result(backend: Backend, kind: type[R], row: Mapping[str, Any]) -> R | None:
    return None if row["ref"] is None else _stored(backend, kind, row["ref"])


def _stored(backend: Backend, kind: type[R], ref: str) -> R:
    try:
        return read(kind, backend.artifacts.get(ref))
    except FileNotFoundError:
        raise NotFound("The dataset was deleted. See `ecolink datasets list`.") from None
