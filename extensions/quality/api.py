"""Routes of the quality of datasets under /api."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Header, Query

from domain.core.identity import created_id
from extensions.quality import service
from extensions.quality.domain.quality_report import QualityReport
from extensions.quality.schemas import ContaminationResponse, DifferenceResponse, FiltersRequest
from gateway.backend import BackendOf
from gateway.datasets.schemas import DatasetResponse
from gateway.datasets.service import dataset_answer
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayDownload, MayRead, MayTrain

router = APIRouter(prefix="/datasets", tags=["datasets"], route_class=Operation)


@router.get("/{dataset_id}/quality", responses=refusals(404, 409, 503))
def show_quality(dataset_id: UUID, caller: MayRead, backend: BackendOf) -> QualityReport:
    """Show the quality report of a dataset: findings with line numbers, and statistics.

    An excerpt hides personal data. `before` and `after` show what masking would change. Returns
    409 until the analysis is complete.
    """
    return service.quality_of(backend, caller, dataset_id)


@router.post("/{dataset_id}/filters", status_code=202, responses=refusals(404, 409))
def apply_filters(
    dataset_id: UUID,
    wanted: FiltersRequest,
    caller: MayTrain,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> DatasetResponse:
    """Create a new version of a dataset from its filtered examples.

    The existing dataset does not change. The same filters of the same dataset give the same
    examples. Repeating a request with the same `Idempotency-Key` returns the existing new version.
    """
    new_id = created_id(caller.account_id, "dataset", idempotency_key or str(uuid4()))
    row = service.apply_filters(backend, caller, dataset_id, new_id, wanted)
    return dataset_answer(backend, row)


@router.get("/{dataset_id}/difference", responses=refusals(404, 409))
def show_difference(
    dataset_id: UUID,
    caller: MayDownload,
    backend: BackendOf,
    base: Annotated[
        UUID | None, Query(description="Dataset to compare with. By default, the parent.")
    ] = None,
) -> DifferenceResponse:
    """Show the examples that a version adds, removes or changes.

    The first request starts the comparison. Repeat it until `state` is `done`.
    """
    return service.difference_of(backend, caller, dataset_id, base)


@router.get("/{dataset_id}/contamination", responses=refusals(404, 409))
def show_contamination(
    dataset_id: UUID,
    validation_dataset: Annotated[UUID, Query(description="The validation dataset.")],
    caller: MayRead,
    backend: BackendOf,
) -> ContaminationResponse:
    """Show the training examples that are also in a validation dataset, exactly or nearly.

    The first request starts the comparison. Repeat it until `state` is `done`.
    """
    return service.contamination_of(backend, caller, dataset_id, validation_dataset)
