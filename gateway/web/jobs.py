"""The page of jobs."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.access import CallerOf
from gateway.api.jobs import list_jobs
from gateway.backend import BackendOf
from gateway.web.pages import page

router = APIRouter(prefix="/fine-tune")


@router.get("")
def show_jobs(request: Request, caller: CallerOf, backend: BackendOf) -> Response:
    """The caller's jobs, the newest first."""
    jobs = list_jobs(caller, backend).data
    return page(request, backend, caller, "jobs/list.html", jobs=jobs)
