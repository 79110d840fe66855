"""Requested jobs: approved, or failed, as soon as their files are validated and counted."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID, uuid4

import psycopg
from eventsourcing.persistence import PersistenceError
from fastapi.concurrency import run_in_threadpool

from domain.core.aggregate import Cause, because
from domain.core.errors import DomainError, VersionConflict
from domain.core.identity import job_request_id
from domain.jobs.job_request import JobRequest
from gateway.backend import Backend
from gateway.catalog.availability import loads_now
from gateway.http.errors import NotYetVisible
from gateway.jobs.openai.readiness import files_ready
from gateway.launch.placing import placed
from projections.job_requests import open_requests

LOOK_SECONDS = 1.0
"""Time between two looks at the open requests. Gateways that look at once do no harm: the second
approval finds the request ended."""

log = logging.getLogger("requested_jobs")


async def settle_for_ever(backend: Backend) -> None:
    """Settle open requests until cancelled; a failure is logged and tried again."""
    while True:
        try:
            await run_in_threadpool(settle_all, backend)
        except (psycopg.Error, PersistenceError, OSError) as error:
            log.warning("%s; looking at the requests again soon", error or type(error).__name__)
        except Exception:
            log.exception("the requests cannot be looked at; trying again")
        await asyncio.sleep(LOOK_SECONDS)


def settle_all(backend: Backend) -> None:
    """Settle each open request; one that breaks does not keep the others from it."""
    with backend.pool.connection() as connection:
        waiting = open_requests(connection)
    for job_id in waiting:
        try:
            settle(backend, job_id)
        except Exception:
            log.exception("the request for job %s is looked at again", job_id)


def settle(backend: Backend, job_id: UUID) -> None:
    """Approve a request whose files are ready, or end it with what stands against it."""
    request = backend.log.find(JobRequest, job_request_id(job_id))
    if request is None or not request.is_open:  # the read model is behind
        return
    account_id, choices = request.account_id, request.choices
    with because(_cause(backend, request)):
        try:
            if not files_ready(backend, account_id, choices):
                return
            loads = loads_now(backend)
            there = placed(backend, account_id, choices, request.region, request.gpu_type, loads)
            backend.launching.approve_requested(job_id, there)
        except (NotYetVisible, VersionConflict):
            return  # of this moment
        except DomainError as refusal:
            backend.launching.refuse_requested(job_id, refusal)


def _cause(backend: Backend, request: JobRequest) -> Cause:
    """The owner's order, carried out by a command of its own."""
    return Cause(
        actor=f"account:{request.account_id}",
        command_id=str(uuid4()),
        now=backend.clock.now(),
        causation_id=f"{request.id}:1",
    )
