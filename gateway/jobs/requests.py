"""Job requests. A background task approves or rejects each once its files are validated."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from uuid import UUID, uuid4

import psycopg
from eventsourcing.persistence import PersistenceError
from fastapi.concurrency import run_in_threadpool

from domain.core.aggregate import Cause, because
from domain.core.errors import (
    DomainError,
    Invalid,
    NotFound,
    SeveralProblems,
    UpgradeUnfinished,
    VersionConflict,
)
from domain.core.identity import created_id, job_request_id
from domain.datasets.dataset import Dataset, DatasetStatus
from domain.jobs.choices import Choices
from domain.jobs.job_request import JobRequest
from domain.training.training_plan import Order
from domain.use_cases.quoting import Draft
from gateway.backend import Backend
from gateway.catalog.availability import loads_now
from gateway.http.access import Caller
from gateway.http.errors import NotYetVisible
from gateway.http.openai_vocabulary import file_name
from gateway.jobs.launch.service import place
from infrastructure.process import tracing
from projections.job_requests import open_requests

POLL_SECONDS = 1.0
"""Seconds between two polls. Of two gateways, the second finds the request ended."""

TRAINING_FILE, VALIDATION_FILE = "training_file", "validation_file"

log = logging.getLogger("requested_jobs")


class FileRejected(Invalid):
    """A file failed validation. The message does not quote the errors."""

    code = "file_rejected"


def order_job(backend: Backend, caller: Caller, key: str, choices: Choices, order: Order) -> UUID:
    """Approve a job, or create a job request if its files are not ready. Return the job ID.

    A key creates at most one job. Raise FileRejected or NotFound if a file cannot be used, and any
    error that does not depend on the files.
    """
    account_id = caller.account_id
    known = backend.launching.made_before(account_id, key, order.request_sha256)
    if known is not None:
        return known
    with because(caller.cause(backend)):
        if files_ready(backend, account_id, choices):
            there = place(backend, account_id, choices, order)
            loads = partial(loads_now, backend)
            backend.launching.approve(account_id, key, there, wait=True, loads=loads, order=order)
        else:
            _require_possible(backend, account_id, choices)
            backend.launching.request(account_id, key, choices, order)
    return created_id(account_id, "job", key)


def _require_possible(backend: Backend, account_id: UUID, choices: Choices) -> None:
    """Raise any error that prevents the job regardless of its files."""
    draft = Draft(
        base_model=choices.base_model,
        region=choices.region or None,
        gpu_type=choices.gpu_type or None,
        gpu_count=choices.gpu_count,
    )
    problems = backend.quoting.problems(account_id, draft)
    if problems:
        raise problems[0] if len(problems) == 1 else SeveralProblems(problems)


def files_of(choices: Choices) -> dict[str, UUID]:
    """Return the dataset IDs of a job by the name of the request field."""
    files = {TRAINING_FILE: choices.dataset_id, VALIDATION_FILE: choices.validation_dataset_id}
    return {field: dataset_id for field, dataset_id in files.items() if dataset_id is not None}


def files_ready(backend: Backend, account_id: UUID, choices: Choices) -> bool:
    """Return True if each file is validated and its tokens counted, or raise for its field."""
    ready = [
        _is_ready(backend, account_id, dataset_id, choices.base_model, field)
        for field, dataset_id in files_of(choices).items()
    ]
    return all(ready)


def _is_ready(
    backend: Backend, account_id: UUID, dataset_id: UUID, base_model: str, field: str
) -> bool:
    dataset, name = backend.log.find(Dataset, dataset_id), file_name(dataset_id)
    if (
        dataset is None
        or dataset.account_id != account_id
        or dataset.status is DatasetStatus.DELETED
    ):
        raise NotFound(f"Unknown file {name}. See GET /v1/files.", field=field)
    if dataset.status is DatasetStatus.REJECTED:
        raise FileRejected(f"EcoLink rejected {name}", field=field)
    if dataset.status is DatasetStatus.VALIDATING:
        return False
    if backend.quoting.problems(account_id, Draft(base_model=base_model)):
        return True  # the approval rejects this base model, for which tokens may never be counted
    base = backend.quoting.base_of(account_id, base_model)
    content = (base.name, base.manifest_sha256)
    ready = dataset.is_counted(*content) or dataset.why_uncountable(*content) is not None
    if not ready:
        backend.want_count(dataset_id, base.name)
    return ready


async def settle_until_cancelled(backend: Backend) -> None:
    """Settle open requests until cancelled. Log failures and continue."""
    while True:
        try:
            await run_in_threadpool(settle_all, backend)
        except (psycopg.Error, PersistenceError, OSError) as error:
            log.warning("%s; reading the requests again soon", error or type(error).__name__)
        except Exception:
            log.exception("cannot read the requests; trying again")
        await asyncio.sleep(POLL_SECONDS)


def settle_all(backend: Backend) -> None:
    """Settle each open request. The failure of one does not stop the others."""
    with backend.pool.connection() as connection:
        waiting = open_requests(connection)
    for job_id in waiting:
        try:
            settle(backend, job_id)
        except Exception:
            log.exception("cannot settle the request of job %s; trying again", job_id)


def settle(backend: Backend, job_id: UUID) -> None:
    """Approve a request if its files are ready, or end it with the error."""
    request = backend.log.find(JobRequest, job_request_id(job_id))
    if request is None or not request.is_open:  # the read model lags behind
        return
    account_id, choices = request.account_id, request.choices
    parent = backend.log.first_event(request.id).traceparent if tracing.is_on() else None
    with tracing.continued(parent, "settle job request") as step, because(_cause(backend, request)):
        try:
            if not files_ready(backend, account_id, choices):
                return
            there = place(backend, account_id, choices, request.order)
            backend.launching.approve_requested(job_id, there)
        except (NotYetVisible, UpgradeUnfinished, VersionConflict):
            return  # temporary: the next poll retries
        except DomainError as refusal:
            backend.launching.refuse_requested(job_id, refusal)
        step.kept = True


def _cause(backend: Backend, request: JobRequest) -> Cause:
    """Return the cause of the approval: the request and its actor, with a new command ID."""
    return Cause(
        actor=request.actor,
        command_id=str(uuid4()),
        now=backend.clock.now(),
        causation_id=f"{request.id}:1",
        traceparent=tracing.traceparent(),
    )
