"""`/api/estimates`: quotes of a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body

from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.permissions import MayTrain
from gateway.launch import service
from gateway.launch.job_form import JobFormRoute, JobRequest
from gateway.launch.schemas import QuoteAnswer

router = APIRouter(prefix="/estimates", tags=["jobs"], route_class=JobFormRoute)


@router.post("", responses=refusals(404, 409))
def estimate_job(
    wanted: Annotated[JobRequest, Body()], caller: MayTrain, backend: BackendOf
) -> QuoteAnswer:
    """Quote a job without approving it. EcoLink stores nothing.

    The quote makes the same checks as the approval, based on the current balance and the GPUs that
    are free now.
    """
    return service.quote(backend, caller, wanted)
