"""Commands on a job: pause, resume, cancel, and promoting what a cancelled one had saved.

Each is idempotent: given twice it does one thing, and answers the job as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from domain.core.aggregate import because
from domain.jobs.job import Job
from gateway.backend import Backend, BackendOf
from gateway.catalog.availability import loads_now
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import refusals
from gateway.http.read_your_writes import caught_up
from gateway.jobs.api.jobs import job_detail
from gateway.jobs.schemas import JobDetail
from gateway.schemas import JobId
from projections import JOB_DETAIL, MODELS

router = APIRouter(prefix="/jobs", tags=["jobs"])


class ResumeRequest(BaseModel):
    """How to resume; an empty body is one, too."""

    model_config = ConfigDict(extra="forbid")

    wait: bool = Field(
        default=False,
        strict=True,
        description="Stand in the queue, free of charge, if no GPU is free.",
    )
    gpu_count: int | None = Field(
        default=None,
        ge=1,
        le=64,
        strict=True,
        description="GPUs to go on with; as many as before if unset. What a step trains on stays.",
    )


@router.post("/{job_id}/pause", responses=refusals(404, 409))
def pause_job(job_id: JobId, caller: CallerOf, backend: BackendOf) -> JobDetail:
    """Save a checkpoint, free the GPUs and stop the meter, until the job is resumed."""
    return _give(
        backend, caller, job_id, lambda: backend.launching.pause(caller.account_id, job_id)
    )


@router.post("/{job_id}/resume", responses=refusals(402, 404, 409, 422))
def resume_job(
    job_id: JobId,
    caller: CallerOf,
    backend: BackendOf,
    how: Annotated[ResumeRequest | None, Body()] = None,
) -> JobDetail:
    """Go on from the latest checkpoint, at today's rate, through both gates anew."""
    how = how or ResumeRequest()
    return _give(
        backend,
        caller,
        job_id,
        lambda: backend.launching.resume(
            caller.account_id,
            job_id,
            wait=how.wait,
            loads=partial(loads_now, backend),
            gpu_count=how.gpu_count,
        ),
    )


@router.post("/{job_id}/cancel", responses=refusals(404, 409))
def cancel_job(job_id: JobId, caller: CallerOf, backend: BackendOf) -> JobDetail:
    """Settle what was used and stop for good; `kept` says what of it is kept, and until when."""
    return _give(
        backend, caller, job_id, lambda: backend.launching.cancel(caller.account_id, job_id)
    )


@router.post("/{job_id}/promote", responses=refusals(404, 409))
def promote_job(job_id: JobId, caller: CallerOf, backend: BackendOf) -> JobDetail:
    """Make a registered model of what a cancelled or failed job had saved."""
    return _give(
        backend, caller, job_id, lambda: backend.launching.promote(caller.account_id, job_id)
    )


def _give(backend: Backend, caller: Caller, job_id: JobId, command: Callable[[], Job]) -> JobDetail:
    """Give a command, and answer the job as it is then."""
    with because(caller.cause(backend)):
        command()
    caught_up(backend, JOB_DETAIL, MODELS)
    return job_detail(backend, caller, job_id)
