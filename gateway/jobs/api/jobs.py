"""Fine-tuning jobs: approval, and everything that the detail page shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from math import ceil
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Header, Query, Response

from domain.billing.account import Account
from domain.core.aggregate import because
from domain.core.errors import DomainError
from domain.core.identity import created_id
from domain.core.money import Toward
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus
from gateway.backend import Backend, BackendOf
from gateway.catalog.availability import loads_now, remaining_seconds, waits_of
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import refusals
from gateway.http.paging import LARGEST_PAGE, MOST_POSITION, After, Limit, Page
from gateway.http.read_your_writes import caught_up, found
from gateway.jobs.kept_log import joined
from gateway.jobs.names import names_of
from gateway.jobs.overruns import overrun_of
from gateway.jobs.schemas import (
    Evaluation,
    JobDetail,
    JobLog,
    JobSummary,
    ListedJob,
    LogLine,
    ResumeGate,
    Step,
    TimelineEntry,
    detail,
    summary,
)
from gateway.launch.job_form import JobFormRoute, JobRequest
from gateway.launch.placing import placed
from gateway.schemas import JobId, Money, job_name
from infrastructure.measurements import (
    evaluations_of,
    last_evaluations_of,
    last_steps_of,
    log_lines_of,
    steps_of,
)
from projections import JOB_DETAIL
from projections.accounts import accounts_of
from projections.deployments import statuses_of_jobs
from projections.job_detail import job as job_row
from projections.job_detail import jobs_by_status, jobs_of
from projections.job_row import WAITING_FOR_GPU
from projections.job_timeline import timeline_of
from projections.projection import Row

MOST_LINES = 1000  # of a log at once

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=JobFormRoute)


@router.post(
    "",
    status_code=201,
    responses={200: {"model": JobSummary, "description": "A repeat."}, **refusals(402, 404, 409)},
)
def approve_job(
    wanted: JobRequest,
    response: Response,
    caller: CallerOf,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JobSummary:
    """Approve a job. The same Idempotency-Key makes one job; without it each request makes one.

    402 when the balance is below the estimate's upper bound; 409 when no GPU is free, with the
    expected wait and what is free elsewhere, unless `wait` is set.
    """
    command_key = idempotency_key or str(uuid4())
    choices = wanted.choices
    if backend.log.find(Job, created_id(caller.account_id, "job", command_key)) is not None:
        response.status_code = 200
    elif wanted.leaves_gpus_open:
        loads = loads_now(backend)
        choices = placed(backend, caller.account_id, choices, wanted.region, wanted.gpu_type, loads)
    with because(caller.cause(backend)):
        job = backend.launching.approve(
            caller.account_id,
            command_key,
            choices,
            wait=wanted.wait,
            loads=partial(loads_now, backend),
            order=wanted.order,
        )
    caught_up(backend, JOB_DETAIL)
    with backend.pool.connection() as connection:
        row = job_row(connection, caller.account_id, job.id)
    return summary(row or _new_row(job))


def _new_row(job: Job) -> dict[str, Any]:
    """What the projection will say, should it be late."""
    validation = job.plan.validation
    return job.plan.model_dump() | {
        "job_id": job.id,
        "validation_dataset_id": validation and validation.dataset_id,
        "status": job.status,
        "phase": WAITING_FOR_GPU,
        "approved_at": job.created_on,
        "changed_at": job.modified_on,
        "charged_micros": 0,
        "credited_micros": 0,
        "model": job.model,
        "step": 0,
        "total_steps": None,
        "pause_reason": None,
    }


@router.get("", responses=refusals(404))
def list_jobs(
    caller: CallerOf,
    backend: BackendOf,
    after: Annotated[JobId | None, Query(description="Only jobs that come after this one.")] = None,
    limit: Limit = LARGEST_PAGE,
    status: Annotated[
        list[JobStatus] | None, Query(description="Only those in one of these.")
    ] = None,
) -> Page[ListedJob]:
    """The caller's jobs, the newest first."""
    if after is not None:
        own_job(backend, caller, after)
    with backend.pool.connection() as connection:
        page = Page[Row].of(
            lambda most: jobs_of(connection, caller.account_id, after, most, status), limit, dict
        )
        registered = JobStatus.REGISTERED  # which has taken all of its steps
        steps = last_steps_of(
            connection, [row["job_id"] for row in page.data if row["status"] != registered]
        )
    jobs = [summary(row, steps.get(row["job_id"])) for row in page.data]
    names = names_of(backend, jobs)
    shown = [
        ListedJob(**dict(job), name=names[job.id].title, dataset=names[job.id].dataset)
        for job in jobs
    ]
    return Page[ListedJob](data=shown, has_more=page.has_more)


def jobs_in(backend: Backend, caller: Caller) -> dict[JobStatus, int]:
    """How many jobs the caller has in each status that any is in."""
    with backend.pool.connection() as connection:
        return jobs_by_status(connection, caller.account_id)


@router.get("/{job_id}", responses=refusals(404))
def show_job(job_id: JobId, caller: CallerOf, backend: BackendOf) -> JobDetail:
    """One job: its state, its progress, its cost so far and the balance."""
    return job_detail(backend, caller, job_id)


def job_detail(backend: Backend, caller: Caller, job_id: UUID) -> JobDetail:
    """All that is known of a caller's job; raises NotFound."""
    return job_details(backend, [own_job(backend, caller, job_id)])[0]


def job_details(backend: Backend, rows: Sequence[Row]) -> list[JobDetail]:
    """All that is known of some jobs, from few queries however many they are."""
    job_ids = [row["job_id"] for row in rows]
    with backend.pool.connection() as connection:
        steps = last_steps_of(connection, job_ids)
        evaluations = last_evaluations_of(connection, job_ids)
        accounts = accounts_of(connection, {row["account_id"] for row in rows})
        deployed = statuses_of_jobs(connection, job_ids)
    waits = waits_of(backend, rows)
    found: list[JobDetail] = []
    for row in rows:
        job_id, step = row["job_id"], steps.get(row["job_id"])
        account = accounts.get(row["account_id"])
        if account is None:  # the projection is late
            account = vars(backend.log.load(Account, row["account_id"]))
        wait = waits.get(job_id)
        now = backend.clock.now()
        left = remaining_seconds(row, step, wait, now)
        told = detail(
            row,
            step,
            evaluations.get(job_id),
            account["balance_micros"],
            resume=resume_gate(backend, row),
            wait_seconds=None if wait is None else round(wait),
            remaining_seconds=None if left is None else ceil(left),
            overrun=overrun_of(row, step, now),
            deployment=deployed[job_id].get(row["model"]),
        )
        found.append(told)
    return found


def resume_gate(backend: Backend, row: Row, gpu_count: int | None = None) -> ResumeGate | None:
    """The gate before a paused job, quoted anew, on the balance that a resume would find.

    `gpu_count` is how many GPUs it would go on with; None: with as many as it had.
    """
    if row["status"] != JobStatus.PAUSED:
        return None
    try:
        rest = backend.quoting.rest_of(backend.log.load(Job, row["job_id"]), gpu_count).estimate
    except DomainError as problem:
        return ResumeGate(allowed=False, needed=None, missing=None, problem=problem.message)
    balance_micros = backend.log.load(Account, row["account_id"]).balance_micros
    missing = max(0, rest.high_micros - balance_micros)
    return ResumeGate(
        allowed=missing == 0,
        needed=Money.of(rest.high_micros, Toward.UP),
        missing=Money.of(missing, Toward.UP),
        problem=None,
    )


@router.get("/{job_id}/steps", responses=refusals(404))
def show_steps(
    job_id: JobId,
    caller: CallerOf,
    backend: BackendOf,
    after: Annotated[After, Query(description="Only steps with a higher number.")] = 0,
    limit: Limit = LARGEST_PAGE,
) -> Page[Step]:
    """The measured optimizer steps, in order; of a step that was taken twice, the last."""
    own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        return Page[Step].of(
            partial(steps_of, connection, job_id, after), limit, lambda row: Step(**row)
        )


@router.get("/{job_id}/evaluations", responses=refusals(404))
def show_evaluations(
    job_id: JobId,
    caller: CallerOf,
    backend: BackendOf,
    after: Annotated[
        int, Query(ge=-1, le=MOST_POSITION, description="Only of steps with a higher number.")
    ] = -1,
    limit: Limit = LARGEST_PAGE,
) -> Page[Evaluation]:
    """The evaluations by step; step 0 is the base alone. Of one that was made twice, the last."""
    own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        return Page[Evaluation].of(
            partial(evaluations_of, connection, job_id, after), limit, Evaluation.of
        )


@router.get("/{job_id}/timeline", responses=refusals(404))
def show_timeline(
    job_id: JobId,
    caller: CallerOf,
    backend: BackendOf,
    after: Annotated[After, Query(description="Only events at a higher position.")] = 0,
    limit: Limit = LARGEST_PAGE,
) -> Page[TimelineEntry]:
    """The events of the job, its meters and its deployments, in the order of the log."""
    own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        return Page[TimelineEntry].of(
            partial(timeline_of, connection, job_id, after),
            limit,
            lambda row: TimelineEntry(**row),
        )


@router.get("/{job_id}/log", responses=refusals(404))
def show_log(
    job_id: JobId,
    caller: CallerOf,
    backend: BackendOf,
    lines: Annotated[
        int, Query(ge=1, le=MOST_LINES, description="How many of the last lines.")
    ] = 50,
) -> JobLog:
    """The trainer's last lines; of a failed job, with all that was kept of its output.

    Some time after the end of a job (90 days, if the operator set no other) they are deleted; the
    end of a failed job's output stays.
    """
    row = own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        told = log_lines_of(connection, job_id, MOST_LINES)
    if row["status"] == JobStatus.FAILED and row["log_ref"] is not None:
        shown = joined(told, row["segment"], _kept_output(backend, row["log_ref"]))
    else:
        shown = [LogLine(**line) for line in told]
    days = backend.settings.log_days if _log_is_deleted(backend, row) else None
    return JobLog(data=shown[-lines:], deleted_after_days=days)


def _kept_output(backend: Backend, log_ref: str) -> str:
    """The end of a failed job's output; nothing while the store has yet to take it."""
    try:
        return backend.artifacts.get(log_ref).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _log_is_deleted(backend: Backend, row: Row) -> bool:
    """Whether a job that ran is over for so long that its log lines are not kept any more."""
    over_for = backend.clock.now() - row["changed_at"]
    ran_and_is_over = row["segment"] > 0 and JobStatus(row["status"]).is_final
    return ran_and_is_over and over_for > timedelta(days=backend.settings.log_days)


def own_job(backend: Backend, caller: Caller, job_id: JobId) -> dict[str, Any]:
    """The row of a caller's job; raises NotFound, also for another account's."""
    return found(
        backend,
        JOB_DETAIL,
        lambda connection: job_row(connection, caller.account_id, job_id),
        f"no job {job_name(job_id)}",
    )
