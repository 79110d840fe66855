"""Fine-tuning jobs under /v1: create, list, retrieve, cancel, pause, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Request
from fastapi.concurrency import run_in_threadpool

from domain.core.aggregate import because
from domain.core.identity import job_request_id
from domain.jobs.choices import Choices
from domain.jobs.job_request import JobRequest
from domain.training.training_plan import Order
from gateway.backend import Backend, BackendOf
from gateway.catalog.availability import loads_now
from gateway.http.access import Caller
from gateway.http.errors import refusals
from gateway.http.openai_idempotency import KeyOf, RetryOf, command_key, fingerprint
from gateway.http.openai_paging import AfterOf, LimitOf, Page, page_from
from gateway.http.openai_vocabulary import dataset_of, job_of
from gateway.http.operations import OpenAIOperation
from gateway.http.permissions import MayRead, MayTrain
from gateway.http.read_your_writes import caught_up
from gateway.jobs.dataset_warnings import dataset_warnings
from gateway.jobs.launch.integrations import receiver
from gateway.jobs.launch.job_form import max_cost_micros
from gateway.jobs.openai.form import CreateJob, ResumeJob
from gateway.jobs.openai.objects import JobObject, job_objects, requested_object
from gateway.jobs.requests import TRAINING_FILE, VALIDATION_FILE, FileRejected, files_of, order_job
from gateway.jobs.service import own_job
from gateway.jobs.unstarted import explained
from gateway.schemas import job_name
from infrastructure.accounts.profiles import set_job_metadata
from projections import JOB_DETAIL, JOB_REQUESTS, MODELS
from projections.job_detail import jobs_with_ids
from projections.job_requests import ordered_jobs

JOBS_PATH = "/fine_tuning/jobs"

router = APIRouter(prefix=JOBS_PATH, route_class=OpenAIOperation)


@router.post("", responses=refusals(402, 404))
async def create_job(
    request: Request,
    wanted: CreateJob,
    caller: MayTrain,
    backend: BackendOf,
    idempotency_key: KeyOf = None,
    retries: RetryOf = 0,
) -> JobObject:
    """Create a job. While EcoLink validates its files, its status is `validating_files`.

    After validation, EcoLink approves the job, or the job fails with the reason. Waiting for GPUs
    is free of charge. If you omit the region or GPU type, EcoLink picks the cheapest. EcoLink
    deploys the model as soon as it is registered.
    """
    choices, integrations = _choices(wanted), wanted.integrations or []
    request_sha256 = fingerprint(JOBS_PATH, await request.json())

    def create() -> JobObject:
        key = command_key(backend, caller, idempotency_key, retries, request_sha256)
        if backend.launching.made_before(caller.account_id, key, request_sha256) is None:
            receiver().require_connected(backend, caller, integrations)
        order = Order(
            suffix=wanted.suffix,
            deploy=True,
            request_sha256=request_sha256,
            max_cost_micros=max_cost_micros(wanted.max_cost),
        )
        job_id = _ordered(backend, caller, key, choices, order)
        # If the files are validated, this starts a comparison for the warnings.
        dataset_warnings(
            backend, caller.account_id, choices.dataset_id, choices.validation_dataset_id
        )
        with backend.pool.connection() as connection:
            set_job_metadata(connection, job_id, wanted.metadata or {})
        receiver().track(backend, caller, job_id, integrations)
        caught_up(backend, JOB_DETAIL, JOB_REQUESTS)
        return job_object(backend, caller, job_id)

    return await run_in_threadpool(create)


def _choices(wanted: CreateJob) -> Choices:
    """Return the choices of a request. An omitted region or GPU type is an empty string."""
    hyperparameters, file = wanted.translated(), wanted.validation_file
    return Choices(
        dataset_of(wanted.training_file, TRAINING_FILE),
        wanted.model,
        wanted.region or "",
        wanted.gpu_type or "",
        wanted.gpu_count,
        hyperparameters,
        None if file is None else dataset_of(file, VALIDATION_FILE),
    )


def _ordered(backend: Backend, caller: Caller, key: str, choices: Choices, order: Order) -> UUID:
    """Request or approve a job. If a file was rejected, the error quotes its first errors."""
    try:
        return order_job(backend, caller, key, choices, order)
    except FileRejected as refusal:
        dataset_id = files_of(choices)[refusal.field or TRAINING_FILE]
        message = explained(backend, caller, refusal.message, dataset_id)
        raise FileRejected(message, field=refusal.field) from None


@router.get("")
def list_jobs(
    request: Request,
    caller: MayRead,
    backend: BackendOf,
    after: AfterOf = None,
    limit: LimitOf = 20,
) -> Page[JobObject]:
    """List your jobs, newest first. `metadata[key]=value` filters by metadata."""
    last = None if after is None else job_of(after)
    if last is not None and backend.launching.requested(caller.account_id, last) is None:
        own_job(backend, caller, last)
    noted = _wanted_metadata(request)
    with backend.pool.connection() as connection:
        found = ordered_jobs(connection, caller.account_id, last, limit + 1, noted)
    return page_from(found, job_name, limit, partial(_objects, backend, caller))


def _objects(backend: Backend, caller: Caller, job_ids: Sequence[UUID]) -> list[JobObject]:
    with backend.pool.connection() as connection:
        rows = jobs_with_ids(connection, caller.account_id, job_ids)
    known = {job_of(each.id): each for each in job_objects(backend, caller, rows)}
    for job_id in job_ids:
        if job_id not in known:
            request = backend.log.load(JobRequest, job_request_id(job_id))
            known[job_id] = requested_object(backend, caller, request)
    return [known[job_id] for job_id in job_ids]


def _wanted_metadata(request: Request) -> dict[str, str] | None:
    """Return the metadata filter. It is empty for `metadata=null`, and None without a filter."""
    query = request.query_params
    if query.get("metadata") == "null":
        return {}
    wanted = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in query.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    return wanted or None


@router.get("/{job_id}")
def retrieve_job(job_id: str, caller: MayRead, backend: BackendOf) -> JobObject:
    """Retrieve a job."""
    return job_object(backend, caller, job_of(job_id))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, caller: MayTrain, backend: BackendOf) -> JobObject:
    """Cancel a job permanently. EcoLink keeps its last checkpoint for a limited time."""
    return _give(backend, caller, job_id, backend.launching.cancel_requested)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, caller: MayTrain, backend: BackendOf) -> JobObject:
    """Pause a job: save a checkpoint, free the GPUs and stop billing."""
    return _give(backend, caller, job_id, backend.launching.pause)


@router.post("/{job_id}/resume", responses=refusals(402))
def resume_job(
    job_id: str,
    caller: MayTrain,
    backend: BackendOf,
    how: Annotated[ResumeJob | None, Body()] = None,
) -> JobObject:
    """Resume a job from the latest checkpoint, at today's rate, as soon as GPUs are free."""
    resume = partial(
        backend.launching.resume,
        wait=True,
        loads=partial(loads_now, backend),
        gpu_count=None if how is None else how.accepted(),
    )
    return _give(backend, caller, job_id, resume)


def _give(
    backend: Backend, caller: Caller, name: str, command: Callable[[UUID, UUID], Any]
) -> JobObject:
    job_id = job_of(name)
    with because(caller.cause(backend)):
        command(caller.account_id, job_id)
    caught_up(backend, JOB_DETAIL, JOB_REQUESTS, MODELS)
    return job_object(backend, caller, job_id)


def job_object(backend: Backend, caller: Caller, job_id: UUID) -> JobObject:
    """Return a caller's job or its request. Raise NotFound if there is neither."""
    if (request := backend.launching.requested(caller.account_id, job_id)) is not None:
        return requested_object(backend, caller, request)
    (shown,) = job_objects(backend, caller, [own_job(backend, caller, job_id)])
    return shown
