"""Pages for the list of datasets and for a single dataset."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Form, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from domain.core.errors import WrongState
from domain.core.identity import created_id
from domain.datasets.columns import TITLES, Role
from domain.datasets.dataset import Dataset, DatasetStatus
from gateway.backend import Backend, BackendOf
from gateway.datasets import hub_import, service
from gateway.datasets.columns import read_again, shown_columns
from gateway.datasets.histogram import histogram
from gateway.datasets.preview_worker import Preview, PreviewRequest
from gateway.datasets.previews import PreviewsOf
from gateway.datasets.sample import create_sample
from gateway.datasets.schemas import (
    ColumnsRequest,
    DatasetResponse,
    HubDatasetRequest,
)
from gateway.datasets.service import BaseView, base_views, show_dataset
from gateway.datasets.uploads import NATIVE_PATH, upload_slot
from gateway.http.access import Caller
from gateway.http.paging import MOST_POSITION
from gateway.http.permissions import MayDownload, MayRead, MayTrain
from gateway.http.slow_work import run_slowly
from gateway.web.rendering import fragment, is_htmx, page, panel_data

PAGE_SIZE, EXAMPLES_SHOWN = 50, 5
MAX_NAME, MOST_FIELDS = 200, 20

STATUSES: dict[DatasetStatus, tuple[str, str]] = {
    DatasetStatus.VALIDATING: ("validating", "calm is-live"),
    DatasetStatus.READY_FOR_TRAINING: ("ready to train", "good"),
    DatasetStatus.REJECTED: ("rejected", "bad"),
}
"""Label and tone of each status."""

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
    request: Request,
    caller: MayRead,
    backend: BackendOf,
    after: Before = None,
    parent: Annotated[UUID | None, Query()] = None,
) -> Response:
    """Show the list of datasets and the upload form, which may add a version of `parent`."""
    found = service.list_datasets(backend, caller, after, PAGE_SIZE)
    shown: dict[str, Any] = {
        "datasets": found.data,
        "has_more": found.has_more,
        "after": after,
        "statuses": STATUSES,
        "format": FORMAT,
        "validating": sum(each.status is DatasetStatus.VALIDATING for each in found.data),
        "moving": any(map(_is_changing, found.data)),
    }
    if is_htmx(request):
        return fragment("datasets/table.html", **shown)
    return page(
        request,
        backend,
        caller,
        "datasets/list.html",
        upload_path=NATIVE_PATH,
        upload_limit=backend.settings.dataset_max_bytes,
        titles=TITLES,
        parent=show_dataset(backend, caller, parent) if parent else None,
        hub=backend.settings.hub_endpoint is not None,
        **shown,
    )


@router.post("/from-hub")
async def import_from_hub(
    form: Annotated[HubDatasetRequest, Form()], caller: MayTrain, backend: BackendOf
) -> Response:
    """Download a split of a repository on a hub, and open the new dataset."""
    dataset_id = created_id(caller.account_id, "dataset", str(uuid4()))
    async with upload_slot(backend, caller) as most_bytes:
        await run_slowly(hub_import.import_from_hub, backend, caller, dataset_id, form, most_bytes)
    return Response(headers={"hx-redirect": f"/datasets/{dataset_id}"})


@router.post("/from-sample")
async def use_sample(caller: MayTrain, backend: BackendOf) -> Response:
    """Create a dataset from the sample, and open it."""
    dataset_id = created_id(caller.account_id, "dataset", str(uuid4()))
    async with upload_slot(backend, caller):
        await run_in_threadpool(create_sample, backend, caller, dataset_id)
    return Response(headers={"hx-redirect": f"/datasets/{dataset_id}"})


@router.get("/{dataset_id}")
def show_one(dataset_id: UUID, request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show a dataset: its validation progress, its errors, or its lengths and examples."""
    dataset = show_dataset(backend, caller, dataset_id)
    shown: dict[str, Any] = {
        "dataset": dataset,
        "statuses": STATUSES,
        "report": None,
        "bases": [],
        "titles": TITLES,
        "moving": _is_changing(dataset),
        "versions": [],
        "source": None,
    }
    if dataset.hub_commit is not None:
        shown["source"] = hub_import.source_of(backend, caller, dataset_id)
    if dataset.status is not DatasetStatus.VALIDATING:
        shown["report"] = service.report_of(backend, caller, dataset_id)
    if dataset.status is DatasetStatus.READY_FOR_TRAINING:
        shown["bases"] = base_views(backend, dataset_id)
        shown["versions"] = service.versions_of(backend, caller, dataset_id)
        shown |= panel_data("dataset.cards", backend, caller, dataset)
    if is_htmx(request):
        return fragment("datasets/state.html", **shown)
    return page(request, backend, caller, "datasets/one.html", **shown)


@router.get("/{dataset_id}/examples")
async def show_examples(
    dataset_id: UUID,
    caller: MayDownload,
    backend: BackendOf,
    previews: PreviewsOf,
    base_model: BaseName = None,
    first: Number = 1,
) -> Response:
    """Show the lengths and examples of a valid dataset for one base model."""
    dataset, bases, ref = await run_in_threadpool(_for_bases, dataset_id, caller, backend)
    base = _chosen(bases, base_model)
    first = min(first, dataset.examples or 1)
    preview = Preview()
    if base is not None:
        request = PreviewRequest(
            artifacts=backend.settings.artifacts,
            dataset_ref=ref,
            base_ref=base.ref,
            manifest_sha256=base.manifest_sha256,
            context_length=base.context_length,
            first=first,
            count=EXAMPLES_SHOWN,
        )
        preview = await previews.shown(caller.account_id, request)
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


@router.get("/{dataset_id}/columns")
def show_columns(
    dataset_id: UUID, request: Request, caller: MayDownload, backend: BackendOf
) -> Response:
    """Show the form that creates a new dataset with other columns, or its preview of rows."""
    if not is_htmx(request):
        dataset = show_dataset(backend, caller, dataset_id)
        found = shown_columns(backend, caller, dataset_id)
        return page(
            *(request, backend, caller, "datasets/columns.html"),
            dataset=dataset,
            found=found,
            titles=TITLES,
            key=str(uuid4()),
        )
    entered = _entered(dict(request.query_params))
    found = shown_columns(backend, caller, dataset_id, entered)
    return fragment("datasets/column_preview.html", found=found)


@router.post("/{dataset_id}/columns")
async def change_columns(
    dataset_id: UUID, request: Request, caller: MayTrain, backend: BackendOf
) -> Response:
    """Create a new dataset from the same upload with other columns, and open it."""
    form = await request.form(max_files=0, max_fields=MOST_FIELDS)
    entered = {name: value for name, value in form.items() if isinstance(value, str)}
    key = entered.get("key") or str(uuid4())
    wanted = ColumnsRequest(
        columns=_entered(entered), name=entered.get("name", "").strip()[:MAX_NAME] or None
    )
    new_id = created_id(caller.account_id, "dataset", key)
    await run_in_threadpool(read_again, backend, caller, dataset_id, new_id, wanted)
    return Response(headers={"hx-redirect": f"/datasets/{new_id}"})


def _entered(fields: dict[str, str]) -> dict[str, str]:
    """Return the column of each role in a form. Roles without a column are empty."""
    return {role: fields[role] for role in Role if fields.get(role)}


@router.post("/{dataset_id}/ignore-tools")
def ignore_tools(dataset_id: UUID, caller: MayTrain, backend: BackendOf) -> Response:
    """Confirm that training ignores tool definitions, and reload the page."""
    service.ignore_tools(backend, caller, dataset_id)
    return Response(headers={"hx-redirect": f"/datasets/{dataset_id}"})


@router.post("/{dataset_id}/delete")
def delete(dataset_id: UUID, caller: MayTrain, backend: BackendOf) -> Response:
    """Delete a dataset and return to the list."""
    service.delete_dataset(backend, caller, dataset_id)
    return Response(headers={"hx-redirect": "/datasets"})


def _for_bases(
    dataset_id: UUID, caller: Caller, backend: Backend
) -> tuple[DatasetResponse, list[BaseView], str]:
    """Return a valid dataset, its lengths for each base model, and the ref of its examples."""
    dataset = show_dataset(backend, caller, dataset_id)
    if dataset.status is not DatasetStatus.READY_FOR_TRAINING:
        raise WrongState(f"The dataset is {dataset.status}. Only a ready dataset has examples.")
    return dataset, base_views(backend, dataset_id), backend.log.load(Dataset, dataset_id).ref


def _chosen(bases: list[BaseView], name: str | None) -> BaseView | None:
    """Return the named base model. Without a name, prefer one that accepts the dataset."""
    named = [base for base in bases if base.name == name]
    best = sorted(bases, key=lambda base: (base.refusal is not None, base.lengths is None))
    return next(iter(named or best), None)


def _is_changing(dataset: DatasetResponse) -> bool:
    return dataset.status is DatasetStatus.VALIDATING or bool(dataset.counting)
