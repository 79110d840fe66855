"""Fine-tuning jobs under /v1: create, list, retrieve, cancel, pause, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from domain.aggregate import because
from domain.job import Job
from domain.quoting import Choices
from domain.training_plan import Order
from gateway.access import Caller, CallerOf
from gateway.answers import job_name
from gateway.api.jobs import own_job
from gateway.availability import loads_now
from gateway.backend import Backend, BackendOf
from gateway.freshness import caught_up
from gateway.placing import placed
from gateway.v1.idempotency import KeyOf, RetryOf, command_key, fingerprint
from gateway.v1.job_form import CreateJob, ResumeJob
from gateway.v1.job_objects import JobObject, job_objects
from gateway.v1.pages import AfterOf, LimitOf, Page, page_from
from gateway.v1.readiness import ready
from gateway.v1.vocabulary import dataset_of, job_of
from infrastructure.profiles import set_job_metadata
from projections import JOB_DETAIL, MODELS
from projections.job_detail import jobs_of
from projections.projection import Row

JOBS_PATH = "/fine_tuning/jobs"
TRAINING_FILE, VALIDATION_FILE = "training_file", "validation_file"

router = APIRouter(prefix=JOBS_PATH)


@router.post("")
async def create_job(
    request: Request,
    wanted: CreateJob,
    caller: CallerOf,
    backend: BackendOf,
    idempotency_key: KeyOf = None,
    retries: RetryOf = 0,
) -> JobObject:
    """Approve a job, once its files are validated; it waits for its GPUs, free of charge.

    A region or a GPU type that is left open is chosen so that the job costs least. Its model is
    deployed as soon as it is registered.
    """
    choices = _choices(wanted)
    request_sha256 = fingerprint(JOBS_PATH, await request.json())
    key = await run_in_threadpool(
        command_key, backend, caller, idempotency_key, retries, request_sha256
    )
    known = await run_in_threadpool(
        backend.launching.approved_before, caller.account_id, key, request_sha256
    )
    if known is None:
        await ready(backend, caller, choices.dataset_id, wanted.model, TRAINING_FILE)
        if (validation := choices.validation_dataset_id) is not None:
            await ready(backend, caller, validation, wanted.model, VALIDATION_FILE)
        if await request.is_disconnected():
            raise ClientDisconnect  # nobody would know of the job, and its owner would pay for it
        order = Order(wanted.suffix, deploy=True, request_sha256=request_sha256)
        known = await run_in_threadpool(_approve, backend, caller, key, wanted, choices, order)
    return await run_in_threadpool(_answer_new, backend, caller, known, wanted.metadata)


def _choices(wanted: CreateJob) -> Choices:
    """What is wanted in the words of the use cases; GPUs that are left open are blank."""
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


def _approve(
    backend: Backend, caller: Caller, key: str, wanted: CreateJob, choices: Choices, order: Order
) -> Job:
    loads = loads_now(backend)
    there = placed(backend, caller.account_id, choices, wanted.region, wanted.gpu_type, loads)
    with because(caller.cause(backend)):
        return backend.launching.approve(
            caller.account_id, key, there, wait=True, loads=lambda: loads, order=order
        )


def _answer_new(
    backend: Backend, caller: Caller, job: Job, metadata: dict[str, str] | None
) -> JobObject:
    with backend.pool.connection() as connection:
        set_job_metadata(connection, job.id, metadata or {})
    caught_up(backend, JOB_DETAIL)
    return job_object(backend, caller, job.id)


@router.get("")
def list_jobs(
    request: Request,
    caller: CallerOf,
    backend: BackendOf,
    after: AfterOf = None,
    limit: LimitOf = 20,
) -> Page[JobObject]:
    """The caller's jobs, the newest first; `metadata[key]=value` are those with such notes."""

    def show(some: Sequence[Row]) -> list[JobObject]:
        return job_objects(backend, caller, some)

    last = None if after is None else own_job(backend, caller, job_of(after))["job_id"]
    noted = _wanted_metadata(request)
    with backend.pool.connection() as connection:
        rows = jobs_of(connection, caller.account_id, last, limit + 1, noted=noted)
    return page_from(rows, _name, limit, show)


def _name(row: Row) -> str:
    return job_name(row["job_id"])


def _wanted_metadata(request: Request) -> dict[str, str] | None:
    """The notes that a query asks for: none at all, by `metadata=null`; None if it does not ask."""
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
def retrieve_job(job_id: str, caller: CallerOf, backend: BackendOf) -> JobObject:
    """One job."""
    return job_object(backend, caller, job_of(job_id))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, caller: CallerOf, backend: BackendOf) -> JobObject:
    """Stop for good; what was saved is kept for a while."""
    return _give(backend, caller, job_id, backend.launching.cancel)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, caller: CallerOf, backend: BackendOf) -> JobObject:
    """Save a checkpoint, free the GPUs and stop the meter."""
    return _give(backend, caller, job_id, backend.launching.pause)


@router.post("/{job_id}/resume")
def resume_job(
    job_id: str,
    caller: CallerOf,
    backend: BackendOf,
    how: Annotated[ResumeJob | None, Body()] = None,
) -> JobObject:
    """Go on from the last checkpoint, at today's rate, when GPUs are free."""
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
    """Give a command, and answer the job as it is then."""
    job_id = job_of(name)
    with because(caller.cause(backend)):
        command(caller.account_id, job_id)
    caught_up(backend, JOB_DETAIL, MODELS)
    return job_object(backend, caller, job_id)


def job_object(backend: Backend, caller: Caller, job_id: UUID) -> JobObject:
    """A caller's job; raises NotFound."""
    (shown,) = job_objects(backend, caller, [own_job(backend, caller, job_id)])
    return shown
