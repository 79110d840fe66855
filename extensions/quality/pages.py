"""Filters and comparisons on the pages of datasets."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from domain.core.identity import created_id
from extensions.quality import service
from extensions.quality.schemas import FiltersRequest
from extensions.quality.view import filters_of, marked, quality_view
from gateway.backend import BackendOf
from gateway.datasets.service import show_dataset
from gateway.http.permissions import MayDownload, MayRead, MayTrain
from gateway.web.rendering import fragment, is_htmx, page

MAX_NAME, MOST_FILTERS = 200, 100

router = APIRouter(prefix="/datasets")


@router.post("/{dataset_id}/filters")
async def apply_filters(
    dataset_id: UUID, request: Request, caller: MayTrain, backend: BackendOf
) -> Response:
    """Create a new version with the filtered examples of a dataset, and open it."""
    form = await request.form(max_files=0, max_fields=MOST_FILTERS)
    name, key = form.get("name"), form.get("key")
    wanted = FiltersRequest(
        filters=filters_of(form), name=str(name or "").strip()[:MAX_NAME] or None
    )
    new_id = created_id(caller.account_id, "dataset", str(key or uuid4()))
    await run_in_threadpool(service.apply_filters, backend, caller, dataset_id, new_id, wanted)
    return Response(headers={"hx-redirect": f"/datasets/{new_id}"})


@router.get("/{dataset_id}/difference")
def show_difference(
    dataset_id: UUID,
    request: Request,
    caller: MayDownload,
    backend: BackendOf,
    base: Annotated[UUID | None, Query()] = None,
) -> Response:
    """Show how a dataset differs from another version."""
    dataset = show_dataset(backend, caller, dataset_id)
    found = service.difference_of(backend, caller, dataset_id, base)
    shown: dict[str, Any] = {
        "dataset": dataset,
        "found": found,
        "older": show_dataset(backend, caller, found.base),
        "marked": marked,
    }
    if is_htmx(request):
        return fragment("quality/changes.html", **shown)
    return page(request, backend, caller, "quality/difference.html", **shown)


@router.get("/{dataset_id}/contamination")
def show_contamination(
    dataset_id: UUID,
    caller: MayRead,
    backend: BackendOf,
    validation_dataset: Annotated[UUID | None, Query()] = None,
) -> Response:
    """Show the examples that a dataset shares with a validation dataset."""
    found = None
    if validation_dataset is not None:
        found = service.contamination_of(backend, caller, dataset_id, validation_dataset)
    dataset = show_dataset(backend, caller, dataset_id)
    view = quality_view(backend, caller, dataset)
    return fragment(
        "quality/contamination.html",
        dataset=dataset,
        quality=view,
        found=found,
        chosen=validation_dataset,
    )
