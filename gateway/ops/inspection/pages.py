"""Pages that show estimates, seals, checks and trainer output."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from domain.jobs.job import Job
from gateway.backend import Backend, BackendOf
from gateway.http.permissions import MayReadAll, OperatorReads
from gateway.ops.inspection.estimates import estimates, estimates_as_csv
from gateway.ops.inspection.seals import published_seals
from gateway.schemas import JobId
from gateway.web.rendering import PRIVATE, page
from infrastructure.accounts import security_log
from infrastructure.checks.machine import Level, machine_checks, server_checks
from infrastructure.http.limits import Limits
from infrastructure.training.job_artifacts import kept_log

LISTED = 200
LONGEST_HEAD = 4_000

router = APIRouter(prefix="/ops")


@router.get("/estimates")
def show_estimates(request: Request, caller: MayReadAll, backend: BackendOf) -> Response:
    """Show the approved range and the actual cost of the newest jobs, and the accuracy of all."""
    shown = estimates(backend, LISTED)
    return page(request, backend, caller, "ops/estimates_page.html", estimates=shown)


@router.get("/estimates.csv")
def download_estimates(caller: MayReadAll, backend: BackendOf) -> Response:
    """Download the approved ranges and actual costs of all jobs as CSV."""
    headers = PRIVATE | {"content-disposition": 'attachment; filename="estimates.csv"'}
    return StreamingResponse(estimates_as_csv(backend), headers=headers, media_type="text/csv")


@router.get("/seals")
def show_seals(
    request: Request,
    caller: MayReadAll,
    backend: BackendOf,
    kept_head: Annotated[str, Query(max_length=LONGEST_HEAD)] = "",
) -> Response:
    """Show the public key and the newest head. With a kept head, prove that the log only grew."""
    shown = {"seals": published_seals(backend, kept_head), "kept_head": kept_head}
    return page(request, backend, caller, "ops/seals_page.html", **shown)


@router.get("/security")
def show_security(request: Request, caller: OperatorReads, backend: BackendOf) -> Response:
    """Show the newest security events, with addresses of clients, and the limits in force."""
    with backend.pool.connection() as connection:
        events = security_log.newest(connection, LISTED)
    now = Limits(backend.settings.limits)
    shown = {"events": events, "limits": [(each, now[each.name]) for each in now.declared.values()]}
    return page(request, backend, caller, "ops/security_page.html", **shown)


@router.get("/checks")
def show_checks(request: Request, caller: OperatorReads, backend: BackendOf) -> Response:
    """Check the gateway's machine, and the servers that it uses.

    Each request writes and deletes a file in the artifact store, and starts `nvidia-smi`. Raise
    RateLimited while another request does.
    """
    with backend.quotas.slots.hold("all_checks", None):
        servers = server_checks(backend.settings, on_the_bus=False)
        checks = [*machine_checks(backend.settings), *servers]
    failed = sum(each.level is Level.FAILED for each in checks)
    return page(request, backend, caller, "ops/checks_page.html", checks=checks, failed=failed)


@router.get("/jobs/{job}/trainer-log")
def show_trainer_log(
    request: Request,
    job: JobId,
    caller: OperatorReads,
    backend: BackendOf,
    segment: Annotated[int | None, Query(ge=1)] = None,
) -> Response:
    """Show the complete output of the trainer of a launch, by default of the last one.

    It has stack traces and paths, which the owner of the job cannot see.
    """
    shown = _output(backend, backend.log.load(Job, job), segment)
    return page(request, backend, caller, "ops/trainer_log_page.html", **shown)


def _output(backend: Backend, job: Job, segment: int | None) -> dict[str, Any]:
    number = segment or job.segment
    return {"job": job, "segment": number, "output": kept_log(backend.artifacts, job, number)}
