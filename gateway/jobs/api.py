"""Routes of quotes and fine-tuning jobs in the native API."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Body, Header, Query, Response

from domain.core.errors import StillCounting
from domain.jobs.lifecycle import JobStatus
from gateway.backend import BackendOf
from gateway.events import service as events
from gateway.events.schemas import EventPage, PageAsked
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.paging import LARGEST_PAGE, MOST_POSITION, After, Limit
from gateway.http.permissions import MayRead, MayTrain
from gateway.jobs import service
from gateway.jobs.launch import service as launch
from gateway.jobs.launch.job_form import JobRequest
from gateway.jobs.launch.job_form_route import JobFormRoute
from gateway.jobs.launch.schemas import JobEstimateResponse
from gateway.jobs.schemas import (
    CheckpointResponse,
    Evaluation,
    JobDetail,
    JobLog,
    JobSummary,
    ListedJob,
    MaxCostRequest,
    RequestedJob,
    ResumeRequest,
    Step,
    TimelineEntry,
)
from gateway.schemas import JobId, Listed, Page

forms = APIRouter(route_class=JobFormRoute)


@forms.post("/estimates", responses=refusals(404, 409))
def estimate_job(
    wanted: Annotated[JobRequest, Body()], caller: MayTrain, backend: BackendOf
) -> JobEstimateResponse:
    """Quote a job without approving it. EcoLink stores nothing.

    The quote makes the same checks as the approval, based on the current balance and the GPUs that
    are free now.
    """
    return launch.quote(backend, caller, wanted)


@forms.post(
    "/jobs",
    status_code=201,
    responses={
        200: {
            "model": JobSummary,
            "description": "The same `Idempotency-Key` already approved this job.",
        },
        202: {
            "model": RequestedJob,
            "description": "With `wait`, EcoLink approves the job when the tokens are counted.",
        },
        **refusals(402, 404, 409),
    },
)
def approve_job(
    form: JobRequest,
    response: Response,
    caller: MayTrain,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JobSummary | RequestedJob:
    """Approve a job. A repeated `Idempotency-Key` returns the existing job.

    If the balance is below the estimate's upper bound, or the maximum cost if that is lower,
    approval fails with 402. The same applies if a budget leaves less than a minute of the job. If
    no GPU is free and `wait` is not set, approval fails with 409, and the error shows the expected
    wait and free GPUs elsewhere. The same applies until EcoLink has counted the tokens of the
    datasets. With `wait`, the response is then 202, and EcoLink approves or refuses the job later.
    """
    key = idempotency_key or str(uuid4())
    try:
        approval = service.approve(backend, caller, form, key)
    except StillCounting:
        if not form.wait:
            raise
        response.status_code = 202
        return service.request(backend, caller, form, key)
    if approval.repeated:
        response.status_code = 200
    return approval.job


router = APIRouter(tags=["jobs"], route_class=Operation)
router.include_router(forms)


@router.get("/jobs", responses=refusals(404))
def list_jobs(
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[
        JobId | None, Query(description="Return only jobs after this one in the list.")
    ] = None,
    limit: Limit = LARGEST_PAGE,
    status: Annotated[
        list[JobStatus] | None, Query(description="Return only jobs in one of these statuses.")
    ] = None,
) -> Page[ListedJob]:
    """List your jobs, newest first."""
    return service.list_jobs(backend, caller, limit, after=after, statuses=status)


@router.get("/jobs/{job_id}", responses=refusals(404))
def show_job(job_id: JobId, caller: MayRead, backend: BackendOf) -> JobDetail:
    """Show a job's state, progress and cost, and the balance."""
    return service.job_detail(backend, caller, job_id)


@router.get("/jobs/{job_id}/request", responses=refusals(404))
def show_request(job_id: JobId, caller: MayRead, backend: BackendOf) -> JobRequest:
    """Show the request that starts the same job again. Change it to use the job as a template."""
    return service.request_of(backend, caller, job_id)


@router.get("/jobs/{job_id}/steps", responses=refusals(404))
def show_steps(
    job_id: JobId,
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[After, Query(description="Return only steps with a higher number.")] = 0,
    limit: Limit = LARGEST_PAGE,
) -> Page[Step]:
    """List the measured optimizer steps in order. A repeated step shows its latest measurement."""
    return service.steps(backend, caller, job_id, after, limit)


@router.get("/jobs/{job_id}/evaluations", responses=refusals(404))
def show_evaluations(
    job_id: JobId,
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[
        int, Query(ge=-1, le=MOST_POSITION, description="Return only steps with a higher number.")
    ] = -1,
    limit: Limit = LARGEST_PAGE,
) -> Page[Evaluation]:
    """List the evaluations by step, one per step. Step 0 is the base model."""
    return service.evaluations(backend, caller, job_id, after, limit)


@router.get("/jobs/{job_id}/timeline", responses=refusals(404))
def show_timeline(
    job_id: JobId,
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[After, Query(description="Return only events at a higher position.")] = 0,
    limit: Limit = LARGEST_PAGE,
) -> Page[TimelineEntry]:
    """List the events of the job, its meters and its deployments in order."""
    return service.timeline(backend, caller, job_id, after, limit)


@router.get("/jobs/{job_id}/events", responses=refusals(404))
def show_events(
    job_id: JobId,
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[After, Query(description="Return only events with a higher sequence.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of events.")] = 100,
) -> EventPage:
    """List the events of the log about this job, with all their public fields."""
    asked = PageAsked(job=job_id, after=after, limit=limit)
    return events.shown(events.read_events(backend, caller, asked))


@router.get("/jobs/{job_id}/log", responses=refusals(404))
def show_log(
    job_id: JobId,
    caller: MayRead,
    backend: BackendOf,
    lines: Annotated[
        int, Query(ge=1, le=service.MOST_LINES, description="Number of lines from the end.")
    ] = 50,
) -> JobLog:
    """Show the end of the trainer's log. If the job failed, include the process's other output.

    EcoLink deletes log lines after a retention time, by default 90 days after the job ends. It
    keeps the end of a failed job's output.
    """
    return service.log_of(backend, caller, job_id, lines)


@router.get("/jobs/{job_id}/checkpoints", responses=refusals(404))
def show_checkpoints(
    job_id: JobId, caller: MayRead, backend: BackendOf
) -> Listed[CheckpointResponse]:
    """List the stored checkpoints of a job, oldest first, each with a sample response."""
    return Listed(data=service.checkpoints(backend, caller, job_id))


@router.post("/jobs/{job_id}/pause", responses=refusals(404, 409))
def pause_job(job_id: JobId, caller: MayTrain, backend: BackendOf) -> JobDetail:
    """Pause a job: save a checkpoint, free the GPUs and stop billing until you resume it."""
    return service.give(backend, caller, job_id, backend.launching.pause)


@router.post("/jobs/{job_id}/resume", responses=refusals(402, 404, 409, 422))
def resume_job(
    job_id: JobId,
    caller: MayTrain,
    backend: BackendOf,
    how: Annotated[ResumeRequest | None, Body()] = None,
) -> JobDetail:
    """Resume a job from the latest checkpoint at today's rate. The approval checks apply again."""
    return service.resume(backend, caller, job_id, how or ResumeRequest())


@router.post("/jobs/{job_id}/max-cost", responses=refusals(404, 409, 422))
def change_max_cost(
    job_id: JobId, wanted: MaxCostRequest, caller: MayTrain, backend: BackendOf
) -> JobDetail:
    """Change or remove the maximum cost of an unfinished job.

    A lower amount applies from the next lease on. The job may use the GPU time that it has already
    paid for, which is 5 minutes at most by default. A paused job does not resume automatically.
    """
    return service.change_max_cost(backend, caller, job_id, wanted.max_cost)


@router.post("/jobs/{job_id}/cancel", responses=refusals(404, 409))
def cancel_job(job_id: JobId, caller: MayTrain, backend: BackendOf) -> JobDetail:
    """Cancel a job permanently and bill its used time. `kept` describes the checkpoint that EcoLink
    keeps.
    """
    return service.give(backend, caller, job_id, backend.launching.cancel)


@router.post("/jobs/{job_id}/promote", responses=refusals(404, 409))
def promote_job(job_id: JobId, caller: MayTrain, backend: BackendOf) -> JobDetail:
    """Register the last checkpoint of a cancelled or failed job as a model."""
    return service.give(backend, caller, job_id, backend.launching.promote)
