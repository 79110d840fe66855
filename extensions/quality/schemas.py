"""Schemas of filters and comparisons."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, Field

from domain.datasets.filters import Filters
from extensions.quality.comparisons import ComparisonState
from extensions.quality.domain.quality_report import Contamination, Difference
from gateway.schemas import ResponseModel


class FiltersRequest(BaseModel, extra="forbid"):
    """Filters of a new version of a dataset."""

    filters: Filters
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Display name of the new version. By default, that of the dataset, and "
        "`(filtered)`.",
    )


class ContaminationResponse(ResponseModel):
    """A comparison of a training dataset with a validation dataset."""

    state: ComparisonState = Field(
        description="`waiting` until the comparison is done. `failed` if it exceeded a limit."
    )
    result: Contamination | None = None


class DifferenceResponse(ResponseModel):
    """The difference between an older and a newer dataset."""

    state: ComparisonState = Field(
        description="`waiting` until the comparison is done. `failed` if it exceeded a limit."
    )
    base: UUID = Field(description="The older dataset.")
    result: Difference | None = None
