"""Queries and commands on fine-tuning jobs, for the API, /v1 and the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache, partial
from math import ceil
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import ValidationError

from domain.billing.account import Account
from domain.core.aggregate import because
from domain.core.errors import DomainError, NotFound
from domain.core.identity import created_id
from domain.core.money import Toward, exact_dollars
from domain.deployments.deployment import DeploymentStatus
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus
from domain.training.checkpoint import checkpoint_model
from domain.use_cases.spending_limits import CostRange
from gateway.backend import Backend
from gateway.catalog.availability import loads_now, remaining_seconds, waits_of
from gateway.http.access import Caller
from gateway.http.permissions import DOWNLOAD
from gateway.http.read_your_writes import caught_up, found
from gateway.jobs.curve import Curve, curve_of
from gateway.jobs.dataset_warnings import dataset_warnings, recorded_warnings
from gateway.jobs.describe import Description, describe
from gateway.jobs.kept_log import joined
from gateway.jobs.launch.integrations import receiver
from gateway.jobs.launch.job_form import JobRequest, max_cost_micros
from gateway.jobs.launch.service import place
from gateway.jobs.names import names_of
from gateway.jobs.overruns import overrun_of
from gateway.jobs.price_note import price_note
from gateway.jobs.schemas import (
    CheckpointResponse,
    Computed,
    Evaluation,
    JobDetail,
    JobLog,
    JobSummary,
    ListedJob,
    LogLine,
    RequestedJob,
    ResumeGate,
    ResumeRequest,
    SampleResponse,
    Step,
    TimelineEntry,
    best_step,
    checkpoints_in,
    detail,
    summary,
)
from gateway.jobs.unstarted import require_started
from gateway.schemas import Money, Page, job_name
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.bus.consumer import recorded
from infrastructure.training.measurements import (
    evaluations_of,
    last_evaluations_of,
    last_steps_of,
    log_lines_of,
    steps_of,
)
from infrastructure.training.reports import SAMPLE
from projections import JOB_DETAIL, JOB_REQUESTS, MODELS
from projections.account_events import events_named
from projections.accounts import accounts_of
from projections.deployments import statuses_of_jobs
from projections.job_detail import WAITING_FOR_GPU, jobs_by_status, jobs_of
from projections.job_detail import job as job_row
from projections.job_timeline import timeline_of
from projections.projection import Row

MOST_LINES = 1000  # maximum log lines per call
KEPT_SAMPLES = 1000


class Approval(NamedTuple):
    """An approved job. `repeated` is true if an earlier request with the same key approved it."""

    job: JobSummary
    repeated: bool


def approve(backend: Backend, caller: Caller, form: JobRequest, key: str) -> Approval:
    """Approve a job. A repeated key returns the existing job.

    Raise Invalid if the account has no connection to a tracker that the form names. Raise
    SpendingLimitReached if a budget is used up. Raise InsufficientBalance if the balance is
    below the estimate's upper bound and the maximum cost. Raise NoCapacity if too few GPUs are free
    and the form does not set `wait`.
    """
    choices = form.choices
    repeated = backend.log.find(Job, created_id(caller.account_id, "job", key)) is not None
    if not repeated:
        receiver().require_connected(backend, caller, form.integrations)
        choices = place(backend, caller.account_id, choices, form.order)
    with because(caller.cause(backend)):
        job = backend.launching.approve(
            caller.account_id,
            key,
            choices,
            wait=form.wait,
            loads=partial(loads_now, backend),
            order=form.order,
        )
    receiver().track(backend, caller, job.id, form.integrations)
    caught_up(backend, JOB_DETAIL)
    with backend.pool.connection() as connection:
        row = job_row(connection, caller.account_id, job.id)
    approved = summary(row or _new_row(job))
    plan = job.plan
    about_datasets = dataset_warnings(
        backend,
        caller.account_id,
        plan.dataset_id,
        plan.validation.dataset_id if plan.validation else None,
    )
    warnings = [*about_datasets, *approved.warnings]
    return Approval(approved.model_copy(update={"warnings": warnings}), repeated)


def request(backend: Backend, caller: Caller, form: JobRequest, key: str) -> RequestedJob:
    """Request a job, once per key, which EcoLink approves when its tokens are counted."""
    job_id = created_id(caller.account_id, "job", key)
    with because(caller.cause(backend)):
        requested = backend.launching.request(caller.account_id, key, form.choices, form.order)
    receiver().track(backend, caller, job_id, form.integrations)
    caught_up(backend, JOB_REQUESTS)
    return RequestedJob(id=job_id, status=requested.status)


def _new_row(job: Job) -> dict[str, Any]:
    """Return the row that the projection will have, for use while it lags behind."""
    validation, start = job.plan.validation, job.plan.start
    return job.plan.model_dump() | {
        "job_id": job.id,
        "validation_dataset_id": validation and validation.dataset_id,
        "continued_from": start and start.model,
        "continued_job_id": start and start.job_id,
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
        "max_cost_micros": job.max_cost_micros,
        "guaranteed_micros": job.guarantee and job.guarantee.micros,
    }


def own_job(backend: Backend, caller: Caller, job_id: UUID) -> Row:
    """Return the row of a caller's job. Raise NotFound, also for the job of another account.

    Raise NotStarted if the job was requested, but was not approved.
    """
    try:
        return found(
            backend,
            JOB_DETAIL,
            lambda connection: job_row(connection, caller.account_id, job_id),
            f"Unknown job {job_name(job_id)}. See `ecolink jobs list`.",
        )
    except NotFound:
        require_started(backend, caller, job_id)
        raise


def request_of(backend: Backend, caller: Caller, job_id: UUID) -> JobRequest:
    """Return the request of a job like this one. Raise NotFound without such a job."""
    own_job(backend, caller, job_id)
    job = backend.log.load(Job, job_id)
    with backend.pool.connection() as connection:
        integrations = receiver().of_jobs(connection, [job_id]).get(job_id, [])
    plan, most = job.plan, job.order.max_cost_micros
    return JobRequest(
        dataset=plan.dataset_id,
        validation_dataset=plan.validation.dataset_id if plan.validation else None,
        base_model=plan.start.model if plan.start else plan.base_model,
        region=plan.region,
        gpu_type=plan.gpu_type,
        gpu_count=plan.gpu_count,
        hyperparameters=plan.lora,
        suffix=job.order.suffix,
        deploy=job.order.deploy,
        max_cost=None if most is None else _amount(most),
        integrations=list(integrations),
    )


def _amount(micros: int) -> str:
    """Return an amount in the form that requests have, such as `1234.50`."""
    return exact_dollars(micros).replace("$", "").replace(",", "")


def list_jobs(
    backend: Backend,
    caller: Caller,
    limit: int,
    *,
    after: UUID | None = None,
    statuses: Sequence[JobStatus] | None = None,
) -> Page[ListedJob]:
    """Return the caller's jobs, newest first. Raise NotFound for an unknown `after`."""
    if after is not None:
        own_job(backend, caller, after)
    with backend.pool.connection() as connection:
        page = Page[Row].of(
            lambda most: jobs_of(connection, caller.account_id, after, most, statuses), limit, dict
        )
        registered = JobStatus.REGISTERED  # a registered job took all of its steps
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


def count_jobs(backend: Backend, caller: Caller) -> dict[JobStatus, int]:
    """Return the number of the caller's jobs by status, without empty statuses."""
    with backend.pool.connection() as connection:
        return jobs_by_status(connection, caller.account_id)


def job_detail(backend: Backend, caller: Caller, job_id: UUID) -> JobDetail:
    """Return the details of a caller's job. Raise NotFound if there is no such job."""
    return job_details(backend, [own_job(backend, caller, job_id)], caller.key_id)[0]


def job_details(
    backend: Backend, rows: Sequence[Row], key_id: UUID | None = None
) -> list[JobDetail]:
    """Return the details of jobs. The number of queries does not depend on the number of jobs.

    `key_id` is the API key that would resume the jobs. By default, it is the last one that did, or
    the one that approved the job.
    """
    job_ids = [row["job_id"] for row in rows]
    with backend.pool.connection() as connection:
        steps = last_steps_of(connection, job_ids)
        evaluations = last_evaluations_of(connection, job_ids)
        accounts = accounts_of(connection, {row["account_id"] for row in rows})
        deployed = statuses_of_jobs(connection, job_ids)
        about_datasets = recorded_warnings(connection, rows)
    waits = waits_of(backend, rows)
    details: list[JobDetail] = []
    for row in rows:
        job_id, step = row["job_id"], steps.get(row["job_id"])
        account = accounts.get(row["account_id"])
        if account is None:  # the projection lags behind
            account = vars(backend.log.load(Account, row["account_id"]))
        wait = waits.get(job_id)
        now = backend.clock.now()
        left = remaining_seconds(row, step, wait, now)
        computed = Computed(
            balance=Money.of(account["balance_micros"]),
            resume=resume_gate(backend, row, key_id=key_id),
            wait_seconds=None if wait is None else round(wait),
            remaining_seconds=None if left is None else ceil(left),
            overrun=overrun_of(row, step, now),
            deployment=deployed[job_id].get(row["model"]),
        )
        shown = detail(row, step, evaluations.get(job_id), computed)
        warnings = [*about_datasets[job_id], *shown.warnings]
        details.append(shown.model_copy(update={"warnings": warnings}))
    return details


def resume_gate(
    backend: Backend, row: Row, *, gpu_count: int | None = None, key_id: UUID | None = None
) -> ResumeGate | None:
    """Return a quote for the rest of a paused job, or None if the job is not paused.

    `gpu_count` is the number of GPUs to resume with; None keeps the current number. `key_id` is the
    API key that would resume the job; None stands for the last one that did.
    """
    if row["status"] != JobStatus.PAUSED:
        return None
    account_id = row["account_id"]
    try:
        job, account = backend.log.load(Job, row["job_id"]), backend.log.load(Account, account_id)
        account.require_active()
        rest = backend.quoting.rest_of(job, gpu_count).estimate
        limits, today = backend.spending_limits, backend.clock.now().date()
        left = limits.require_left_of_max_cost(job, rest.rate_micros_per_hour)
        cost = CostRange.of(rest, left)
        limits.require_left_of_budgets(account_id, key_id or job.key_id, cost, today)
    except DomainError as problem:
        message = problem.message
        return ResumeGate(
            allowed=False, needed=None, missing=None, basis=None, price_note=None, problem=message
        )
    missing = max(0, cost.high_micros - account.balance_micros)
    return ResumeGate(
        allowed=missing == 0,
        needed=Money.of(cost.high_micros, Toward.UP),
        missing=Money.of(missing, Toward.UP),
        basis=rest.basis,
        price_note=price_note(rest, cost, backend.settings.guarantee_factor, "the rest of the job"),
        problem=None,
    )


def steps(backend: Backend, caller: Caller, job_id: UUID, after: int, limit: int) -> Page[Step]:
    """Return the latest measurement of each step after `after`, in order."""
    own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        read = partial(steps_of, connection, job_id, after)
        return Page[Step].of(read, limit, lambda row: Step(**row))


def evaluations(
    backend: Backend, caller: Caller, job_id: UUID, after: int, limit: int
) -> Page[Evaluation]:
    """Return the evaluations of steps with a higher number than `after`, in order."""
    own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        read = partial(evaluations_of, connection, job_id, after)
        return Page[Evaluation].of(read, limit, Evaluation.of)


def curve(backend: Backend, caller: Caller, job_id: UUID) -> Curve:
    """Return the losses of a job in as many points as a chart can show."""
    own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        return curve_of(connection, job_id)


def timeline(
    backend: Backend, caller: Caller, job_id: UUID, after: int, limit: int
) -> Page[TimelineEntry]:
    """Return the events of a job, its meters and its deployments after a position, in order."""
    own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        page = Page[Row].of(partial(timeline_of, connection, job_id, after), limit, dict)
    described = describe_rows(backend, page.data)
    entries = [TimelineEntry(**row, text=described[row["event_id"]].text) for row in page.data]
    return Page[TimelineEntry](data=entries, has_more=page.has_more)


def describe_rows(backend: Backend, rows: Sequence[Row]) -> dict[str, Description]:
    """Return the descriptions of timeline rows by event ID."""
    served = {row["event_id"]: row["fields"].get("model") for row in rows}
    with backend.pool.connection() as connection:
        logged = events_named(connection, list(served))
    return {
        event_id: describe(recorded(backend.log, notification).event, served[event_id])
        for event_id, notification in logged.items()
    }


def log_of(backend: Backend, caller: Caller, job_id: UUID, lines: int) -> JobLog:
    """Return the last lines of a job's log. If the job failed, include its stored output."""
    row = own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        live = log_lines_of(connection, job_id, MOST_LINES)
    if row["status"] == JobStatus.FAILED and row["log_ref"] is not None:
        shown = joined(live, row["segment"], _kept_output(backend, row["log_ref"]))
    else:
        shown = [LogLine(**line) for line in live]
    days = backend.settings.log_retention_days if _log_is_deleted(backend, row) else None
    return JobLog(data=shown[-lines:], deleted_after_days=days)


def _kept_output(backend: Backend, log_ref: str) -> str:
    """Return the end of a failed job's output. It is empty until it is stored."""
    try:
        return backend.artifacts.get_document(log_ref).decode(errors="replace")
    except (FileNotFoundError, ArtifactCorrupt):
        return ""


def _log_is_deleted(backend: Backend, row: Row) -> bool:
    over_for = backend.clock.now() - row["changed_at"]
    ran_and_is_over = row["segment"] > 0 and JobStatus(row["status"]).is_final
    return ran_and_is_over and over_for > timedelta(days=backend.settings.log_retention_days)


def checkpoints(backend: Backend, caller: Caller, job_id: UUID) -> list[CheckpointResponse]:
    """Return a job's checkpoints, oldest first, for auditors without samples (dataset texts)."""
    row = own_job(backend, caller, job_id)
    with backend.pool.connection() as connection:
        deployed = statuses_of_jobs(connection, [job_id])[job_id]
    found = checkpoints_of(backend, row, deployed)
    if DOWNLOAD.allows(caller.rights):
        return found
    return [each.model_copy(update={"sample": None}) for each in found]


def checkpoints_of(
    backend: Backend, row: Row, deployed: Mapping[str, DeploymentStatus]
) -> list[CheckpointResponse]:
    """Return the checkpoints in a job's row. `deployed` has statuses by model name."""
    if not row["checkpoints"]:
        return []
    model = backend.log.load(Job, row["job_id"]).model_name
    best = best_step(row)
    return [
        CheckpointResponse(
            **saved,
            model=(name := checkpoint_model(model, saved["step"])),
            deployment=deployed.get(name),
            best=best is not None and saved["step"] == best.step,
            sample=_sample(backend, saved["ref"]),
        )
        for saved in checkpoints_in(row)
    ]


def _sample(backend: Backend, ref: str) -> SampleResponse | None:
    try:
        return _stored_sample(backend.artifacts, ref)
    except (FileNotFoundError, ArtifactCorrupt, ValidationError):  # never had one, or was pruned
        return None


@lru_cache(maxsize=KEPT_SAMPLES)
def _stored_sample(artifacts: Artifacts, ref: str) -> SampleResponse:
    """Return the sample answer of a checkpoint, which never changes."""
    return SampleResponse.model_validate_json(artifacts.get_document(f"{ref}/{SAMPLE}"))


def resume(backend: Backend, caller: Caller, job_id: UUID, how: ResumeRequest) -> JobDetail:
    """Resume from the latest checkpoint at the current rate, with the checks of the approval."""
    command = partial(
        backend.launching.resume,
        wait=how.wait,
        loads=partial(loads_now, backend),
        gpu_count=how.gpu_count,
        needed_micros=how.needed_micros,
    )
    return give(backend, caller, job_id, command)


def change_max_cost(
    backend: Backend, caller: Caller, job_id: UUID, max_cost: str | None
) -> JobDetail:
    """Change the maximum cost of a job. None removes it."""
    wanted = max_cost_micros(max_cost)
    command = partial(backend.launching.change_max_cost, max_cost_micros=wanted)
    return give(backend, caller, job_id, command)


def give(
    backend: Backend, caller: Caller, job_id: UUID, command: Callable[[UUID, UUID], Job]
) -> JobDetail:
    """Run an idempotent command of `backend.launching`. Return the resulting job."""
    with because(caller.cause(backend)):
        command(caller.account_id, job_id)
    caught_up(backend, JOB_DETAIL, MODELS)
    return job_detail(backend, caller, job_id)
