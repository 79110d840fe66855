"""The page of datasets."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.access import CallerOf
from gateway.api.datasets import list_datasets
from gateway.backend import BackendOf
from gateway.web.pages import page

router = APIRouter(prefix="/datasets")


@router.get("")
def show_datasets(request: Request, caller: CallerOf, backend: BackendOf) -> Response:
    """The caller's datasets, the newest first."""
    datasets = list_datasets(caller, backend).data
    return page(request, backend, caller, "datasets/list.html", datasets=datasets)
