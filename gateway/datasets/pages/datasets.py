"""The pages of datasets: the list with its uploads, and one dataset with what it teaches."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from domain.core.errors import WrongState
from domain.datasets.dataset import Dataset, DatasetStatus
from gateway.backend import Backend, BackendOf
from gateway.datasets.api import (
    UPLOAD_PATH,
    DatasetAnswer,
    drop_dataset,
    ignore_tool_definitions,
    list_datasets,
    show_dataset,
    show_report,
)
from gateway.datasets.bases import BaseView, base_views
from gateway.datasets.pages.histogram import histogram
from gateway.datasets.preview_worker import Preview, PreviewRequest
from gateway.datasets.previews import PreviewsOf
from gateway.http.access import Caller, CallerOf
from gateway.http.paging import MOST_POSITION
from gateway.web.rendering import fragment, is_htmx, page

LISTED, EXAMPLES_SHOWN = 50, 5

STATUSES: dict[DatasetStatus, tuple[str, str]] = {
    DatasetStatus.VALIDATING: ("validating", "calm is-live"),
    DatasetStatus.READY_FOR_TRAINING: ("ready to train", "good"),
    DatasetStatus.REJECTED: ("rejected", "bad"),
}
"""What people read of a status, and the tone of it."""

FORMAT = (
    '{"messages": [{"role": "system", "content": "You answer for the shop."}, '
    '{"role": "user", "content": "Where is my order?"}, '
    '{"role": "assistant", "content": "On its way: it arrives tomorrow."}]}'
)

Before = Annotated[UUID | None, Query(alias="after")]
BaseName = Annotated[str | None, Query(max_length=200)]
Number = Annotated[int, Query(ge=1, le=MOST_POSITION)]

router = APIRouter(prefix="/datasets")


@router.get("")
def show_datasets(
    request: Request, caller: CallerOf, backend: BackendOf, after: Before = None
) -> Response:
    """The caller's datasets, the newest first, and what uploads others."""
    found = list_datasets(caller, backend, after=after, limit=LISTED)
    shown: dict[str, Any] = {
        "datasets": found.data,
        "has_more": found.has_more,
        "after": after,
        "statuses": STATUSES,
        "format": FORMAT,
        "validating": sum(each.status is DatasetStatus.VALIDATING for each in found.data),
        "moving": any(map(_moves, found.data)),
    }
    if is_htmx(request):
        return fragment("datasets/table.html", **shown)
    return page(
        request,
        backend,
        caller,
        "datasets/list.html",
        upload_path=UPLOAD_PATH,
        upload_limit=backend.settings.dataset_max_bytes,
        **shown,
    )


@router.get("/{dataset_id}")
def show_one(dataset_id: UUID, request: Request, caller: CallerOf, backend: BackendOf) -> Response:
    """One dataset: how far its validation is, why it was rejected, or what it teaches."""
    dataset = show_dataset(dataset_id, caller, backend)
    shown: dict[str, Any] = {
        "dataset": dataset,
        "statuses": STATUSES,
        "report": None,
        "bases": [],
        "moving": _moves(dataset),
    }
    if dataset.status is not DatasetStatus.VALIDATING:
        shown["report"] = show_report(dataset_id, caller, backend)
    if dataset.status is DatasetStatus.READY_FOR_TRAINING:
        shown["bases"] = base_views(backend, dataset_id)
    if is_htmx(request):
        return fragment("datasets/state.html", **shown)
    return page(request, backend, caller, "datasets/one.html", **shown)


@router.get("/{dataset_id}/examples")
async def show_examples(
    dataset_id: UUID,
    caller: CallerOf,
    backend: BackendOf,
    previews: PreviewsOf,
    base_model: BaseName = None,
    first: Number = 1,
) -> Response:
    """A ready dataset under one base: the lengths, and some examples from a number on."""
    dataset, bases, ref = await run_in_threadpool(_under_bases, dataset_id, caller, backend)
    base = _chosen(bases, base_model)
    first = min(first, dataset.examples or 1)
    preview = Preview()
    if base is not None:
        preview = await previews.shown(caller.account_id, _asked(backend, base, ref, first))
    return await run_in_threadpool(
        fragment,
        "datasets/examples.html",
        dataset=dataset,
        bases=bases,
        base=base,
        histogram=histogram(base.lengths, base.context_length) if base and base.lengths else None,
        conversations=preview.conversations,
        problem=preview.problem,
        first=first,
        shown=EXAMPLES_SHOWN,
    )


@router.post("/{dataset_id}/ignore-tools")
def ignore_tools(dataset_id: UUID, caller: CallerOf, backend: BackendOf) -> Response:
    """Confirm that definitions of tools are ignored, and show the dataset again."""
    ignore_tool_definitions(dataset_id, caller, backend)
    return Response(headers={"hx-redirect": f"/datasets/{dataset_id}"})


@router.post("/{dataset_id}/delete")
def delete(dataset_id: UUID, caller: CallerOf, backend: BackendOf) -> Response:
    """Delete a dataset, and go back to the list."""
    drop_dataset(dataset_id, caller, backend)
    return Response(headers={"hx-redirect": "/datasets"})


def _under_bases(
    dataset_id: UUID, caller: Caller, backend: Backend
) -> tuple[DatasetAnswer, list[BaseView], str]:
    """A ready dataset, its lengths under each base, and where its examples are stored.

    Raises WrongState for one that is not ready.
    """
    dataset = show_dataset(dataset_id, caller, backend)
    if dataset.status is not DatasetStatus.READY_FOR_TRAINING:
        raise WrongState(f"the dataset is {dataset.status}; a ready one has examples")
    return dataset, base_views(backend, dataset_id), backend.log.load(Dataset, dataset_id).ref


def _asked(backend: Backend, base: BaseView, ref: str, first: int) -> PreviewRequest:
    return PreviewRequest(
        artifacts=backend.settings.artifacts,
        dataset_ref=ref,
        base_ref=base.ref,
        manifest_sha256=base.manifest_sha256,
        context_length=base.context_length,
        first=first,
        count=EXAMPLES_SHOWN,
    )


def _chosen(bases: list[BaseView], name: str | None) -> BaseView | None:
    """The base with a name, else one that is counted, or not yet, or that refuses the dataset."""
    named = [base for base in bases if base.name == name]
    best = sorted(bases, key=lambda base: (base.refusal is not None, base.lengths is None))
    return next(iter(named or best), None)


def _moves(dataset: DatasetAnswer) -> bool:
    """Whether its page will soon say something else."""
    return dataset.status is DatasetStatus.VALIDATING or bool(dataset.counting)
