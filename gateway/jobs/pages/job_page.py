"""The page of one job: a panel for each state, its curve and log, and the commands on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from domain.core.errors import Invalid
from gateway.backend import Backend, BackendOf
from gateway.billing.api.accounts import show_account
from gateway.catalog.service import display_names
from gateway.events.feed import FeedEvent
from gateway.http.access import Caller, CallerOf
from gateway.jobs import service
from gateway.jobs.pages.live import RECONNECTING, place_text
from gateway.jobs.pages.story import MINOR, Entry, entries_of
from gateway.jobs.pages.view import views_of
from gateway.jobs.pages.watched_job import lines_html, partials
from gateway.jobs.schemas import ResumeRequest
from gateway.launch.pages.entries import gpu_count_of, requirement
from gateway.models.deployments import deploy_checkpoint, deploy_model
from gateway.models.service import own_model
from gateway.schemas import JobId, job_name
from gateway.web.rendering import PRIVATE, SECURITY, fragment, page
from infrastructure.measurements import last_steps_of
from projections.account_events import newest_events

SHOWN_ENTRIES, SHOWN_LINES = 200, 200

router = APIRouter(prefix="/fine-tune/ftjob-{job_id}")


@router.get("")
def show_job_page(
    job_id: JobId, request: Request, caller: CallerOf, backend: BackendOf
) -> Response:
    """All of a job; what comes after it was read comes live."""
    service.own_job(backend, caller, job_id)
    entries, minutes_from, sequence = _entries(backend, caller, job_id)
    log = service.log_of(backend, caller, job_id, SHOWN_LINES)
    with backend.pool.connection() as connection:
        last_step = last_steps_of(connection, [job_id]).get(job_id)
    numbered = [(line.segment, line.n) for line in log.data if line.segment and line.n]
    return page(
        request,
        backend,
        caller,
        "jobs/job/page.html",
        view=(view := views_of(backend, [job_id])[job_id]),
        job=view.job,
        parts=view.parts(),
        entries=entries[::-1],
        minutes_from=minutes_from,
        lines=lines_html([line.model_dump() for line in log.data]),
        sequence=sequence,
        step=place_text((last_step["segment"], last_step["step"]) if last_step else (0, 0)),
        log_days=log.deleted_after_days,
        line=place_text(max(numbered, default=(0, 0))),
        reconnecting=RECONNECTING,
    )


def _entries(backend: Backend, caller: Caller, job_id: UUID) -> tuple[list[Entry], int | None, int]:
    """The newest lines of the timeline, in order.

    Also from which of them on every minute is there, if not from the first; and the sequence up to
    which these are all lines.
    """
    minor = [each.TOPIC for each in MINOR]
    with backend.pool.connection() as connection:
        found, known = newest_events(connection, caller.account_id, job_id, minor, SHOWN_ENTRIES)
    told = (FeedEvent(backend.log, each) for each in found)
    entries = entries_of(told, display_names(backend))
    if len(found) <= SHOWN_ENTRIES:
        return entries, None, known
    whole = [each.sequence for each in entries if each.sequence >= found[-SHOWN_ENTRIES].id]
    return entries, min(whole, default=None), known


@router.get("/curve")
def show_curve(job_id: JobId, caller: CallerOf, backend: BackendOf) -> Response:
    """The losses of a job in as many points as a chart can show."""
    curve = service.curve(backend, caller, job_id)
    headers = SECURITY | PRIVATE
    return Response(curve.model_dump_json(), headers=headers, media_type="application/json")


@router.get("/log")
def show_lines(job_id: JobId, caller: CallerOf, backend: BackendOf) -> Response:
    """The last lines of a job's log, with what was kept of a failed one's output."""
    lines = service.log_of(backend, caller, job_id, SHOWN_LINES).data
    return fragment("jobs/job/lines.html", lines=[line.model_dump() for line in lines])


@router.post("/pause")
def pause(job_id: JobId, caller: CallerOf, backend: BackendOf) -> Response:
    """Save a checkpoint and stop the meter, until the job is resumed."""
    return _give(backend, job_id, lambda: service.pause(backend, caller, job_id))


@router.get("/resume")
def quote_resume(
    job_id: JobId,
    caller: CallerOf,
    backend: BackendOf,
    gpu_count: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """What the rest would cost on so many GPUs; nothing of a job that is not paused any more."""
    service.own_job(backend, caller, job_id)
    count = gpu_count_of(gpu_count)
    return fragment(
        "jobs/job/resume_quote.html",
        gate=service.quote_resume(backend, caller, job_id, count) if count else None,
        gpu_count=count,
        wanted=requirement("gpu_count"),
        account=show_account(caller, backend),
    )


@router.post("/resume")
def resume(
    job_id: JobId,
    caller: CallerOf,
    backend: BackendOf,
    wait: Annotated[bool, Form()] = False,
    gpu_count: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    """Go on from the latest checkpoint."""
    if (count := gpu_count_of(gpu_count)) is None:
        raise Invalid(requirement("gpu_count"), field="gpu_count")
    how = ResumeRequest(wait=wait, gpu_count=count)
    return _give(backend, job_id, lambda: service.resume(backend, caller, job_id, how))


@router.post("/cancel")
def cancel(job_id: JobId, caller: CallerOf, backend: BackendOf) -> Response:
    """Settle what was used and stop for good."""
    return _give(backend, job_id, lambda: service.cancel(backend, caller, job_id))


@router.post("/promote")
def promote(job_id: JobId, caller: CallerOf, backend: BackendOf) -> Response:
    """Make a model of what was saved."""
    return _give(backend, job_id, lambda: service.promote(backend, caller, job_id))


@router.post("/deploy")
def deploy(job_id: JobId, caller: CallerOf, backend: BackendOf) -> Response:
    """Have the job's model answer requests."""
    model = service.own_job(backend, caller, job_id)["model"] or job_name(job_id)
    own_model(backend, caller, model)
    return _give(backend, job_id, lambda: deploy_model(backend, caller, model))


@router.post("/checkpoints/{step}/deploy")
def deploy_step(job_id: JobId, step: int, caller: CallerOf, backend: BackendOf) -> Response:
    """Have a checkpoint answer requests."""
    return _give(backend, job_id, lambda: deploy_checkpoint(backend, caller, job_id, step))


def _give(backend: Backend, job_id: UUID, command: Callable[[], object]) -> Response:
    """Give a command, and answer the page's parts as they are then; refusals become notices."""
    command()
    return fragment(
        "jobs/job/parts.html", parts=partials(views_of(backend, [job_id])[job_id].parts())
    )
