"""The page of one job: its state, curve, log, timeline and commands."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from domain.core.aggregate import because
from domain.core.errors import Invalid
from gateway.backend import Backend, BackendOf
from gateway.billing.service import account_of
from gateway.events.feed import FeedEvent
from gateway.events.schemas import PageAsked
from gateway.events.service import read_events
from gateway.http.access import Caller
from gateway.http.paging import After
from gateway.http.permissions import DOWNLOAD, MayDeploy, MayRead, MayTrain
from gateway.http.read_your_writes import caught_up
from gateway.jobs import service
from gateway.jobs.describe import MINOR_TOPICS, describe
from gateway.jobs.names import names_by_id
from gateway.jobs.pages.live import RECONNECTING, place_text
from gateway.jobs.pages.timeline import Entry, entries_of
from gateway.jobs.pages.view import PARTS, SAMPLES, views_of
from gateway.jobs.pages.watched_job import lines_html, partials
from gateway.jobs.pages.wizard.entries import gpu_count_of, refusal
from gateway.jobs.requests import TRAINING_FILE, VALIDATION_FILE, files_of
from gateway.jobs.schemas import ResumeRequest
from gateway.jobs.states import REQUEST_STATES, REQUEST_TONES
from gateway.jobs.unstarted import NotStarted
from gateway.models.deployments import deploy_checkpoint, deploy_model
from gateway.models.service import own_model
from gateway.schemas import JobId, job_name
from gateway.web.rendering import PRIVATE, SECURITY, fragment, page, panel_data
from infrastructure.accounts.profiles import dataset_names
from infrastructure.training.measurements import last_steps_of
from projections import JOB_DETAIL, JOB_REQUESTS
from projections.account_events import newest_events

FILE_LABELS = {TRAINING_FILE: "Dataset", VALIDATION_FILE: "Validation dataset"}

SHOWN_ENTRIES, SHOWN_LINES, SHOWN_EVENTS = 200, 200, 100

router = APIRouter(prefix="/fine-tune/ftjob-{job_id}")


@router.get("")
def show_job_page(job_id: JobId, request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show the details of a job. The WebSocket sends later changes."""
    try:
        service.own_job(backend, caller, job_id)
    except NotStarted as error:
        return _unstarted(request, caller, backend, error)
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
        parts=view.parts((*PARTS, SAMPLES) if DOWNLOAD.allows(caller.rights) else PARTS),
        entries=entries[::-1],
        minutes_from=minutes_from,
        lines=lines_html([line.model_dump() for line in log.data]),
        sequence=sequence,
        step=place_text((last_step["segment"], last_step["step"]) if last_step else (0, 0)),
        log_days=log.deleted_after_days,
        line=place_text(max(numbered, default=(0, 0))),
        reconnecting=RECONNECTING,
        job_id=job_id,
        **panel_data("job.cards", backend, caller, job_id),
    )


def _unstarted(request: Request, caller: Caller, backend: Backend, found: NotStarted) -> Response:
    """Show a job that has not started: its files, and the reason of a refusal."""
    files = files_of(found.request.choices)
    with backend.pool.connection() as connection:
        names = dataset_names(connection, list(files.values()))
    return page(
        request,
        backend,
        caller,
        "jobs/unstarted.html",
        found=found,
        wanted=found.request,
        files={FILE_LABELS[field]: (id, names.get(id)) for field, id in files.items()},
        state=REQUEST_STATES[found.request.status],
        tone=REQUEST_TONES[found.request.status],
    )


@router.get("/waiting")
def show_waiting(job_id: JobId, caller: MayRead, backend: BackendOf) -> Response:
    """Reload the page of a job that waits for its files when its state changes, otherwise 204."""
    requested = backend.launching.requested(caller.account_id, job_id)
    if requested is not None and requested.is_open:
        return Response(status_code=204)
    return Response(headers={"hx-refresh": "true"})


@router.post("/withdraw")
def withdraw(job_id: JobId, caller: MayTrain, backend: BackendOf) -> Response:
    """Cancel a job that waits for its files, and reload its page."""
    with because(caller.cause(backend)):
        backend.launching.cancel_requested(caller.account_id, job_id)
    caught_up(backend, JOB_REQUESTS, JOB_DETAIL)
    return Response(headers={"hx-refresh": "true"})


def _entries(backend: Backend, caller: Caller, job_id: UUID) -> tuple[list[Entry], int | None, int]:
    """Return the newest entries, the sequence from which minor ones are shown, and the last one."""
    with backend.pool.connection() as connection:
        found, known = newest_events(
            connection, caller.account_id, job_id, MINOR_TOPICS, SHOWN_ENTRIES
        )
    entries = entries_of(FeedEvent(backend.log, each) for each in found)
    if len(found) <= SHOWN_ENTRIES:
        return entries, None, known
    whole = [each.sequence for each in entries if each.sequence >= found[-SHOWN_ENTRIES].id]
    return entries, min(whole, default=None), known


@router.get("/events")
def show_events(
    job_id: JobId,
    request: Request,
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[After, Query()] = 0,
) -> Response:
    """Show the events of a job in the log, with all their public fields."""
    found = read_events(backend, caller, PageAsked(job=job_id, after=after, limit=SHOWN_EVENTS))
    return page(
        request,
        backend,
        caller,
        "jobs/job/events.html",
        job_id=job_id,
        names=names_by_id(backend, [job_id])[job_id],
        events=found,
        after=after,
        describe=describe,
    )


@router.get("/curve")
def show_curve(job_id: JobId, caller: MayRead, backend: BackendOf) -> Response:
    """Return the losses of a job in as many points as a chart can show."""
    curve = service.curve(backend, caller, job_id)
    headers = SECURITY | PRIVATE
    return Response(curve.model_dump_json(), headers=headers, media_type="application/json")


@router.get("/log")
def show_lines(job_id: JobId, caller: MayRead, backend: BackendOf) -> Response:
    """Show the end of a job's log. If the job failed, include its stored output."""
    lines = service.log_of(backend, caller, job_id, SHOWN_LINES).data
    return fragment("jobs/job/lines.html", lines=[line.model_dump() for line in lines])


@router.post("/pause")
def pause(job_id: JobId, caller: MayTrain, backend: BackendOf) -> Response:
    """Pause a job: save a checkpoint and stop billing until the user resumes it."""
    service.give(backend, caller, job_id, backend.launching.pause)
    return _updated(backend, job_id)


@router.get("/resume")
def quote_resume(
    job_id: JobId,
    caller: MayRead,
    backend: BackendOf,
    gpu_count: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """Quote the rest of a job on a number of GPUs. Show no quote if it is no longer paused."""
    row, count = service.own_job(backend, caller, job_id), gpu_count_of(gpu_count)
    return fragment(
        "jobs/job/resume_quote.html",
        gate=(
            service.resume_gate(backend, row, gpu_count=count, key_id=caller.key_id)
            if count
            else None
        ),
        gpu_count=count,
        wanted=refusal("gpu_count", gpu_count),
        account=account_of(backend, caller),
    )


@router.post("/resume")
def resume(
    job_id: JobId,
    caller: MayTrain,
    backend: BackendOf,
    wait: Annotated[bool, Form()] = False,
    gpu_count: Annotated[str, Form(max_length=20)] = "",
    needed_micros: Annotated[int | None, Form(ge=0)] = None,
) -> Response:
    """Resume a job from the latest checkpoint, if its owner saw the cost of the rest."""
    if (count := gpu_count_of(gpu_count)) is None:
        raise Invalid(refusal("gpu_count", gpu_count), field="gpu_count")
    how = ResumeRequest(wait=wait, gpu_count=count, needed_micros=needed_micros)
    service.resume(backend, caller, job_id, how)
    return _updated(backend, job_id)


@router.post("/max-cost")
def change_max_cost(
    job_id: JobId,
    caller: MayTrain,
    backend: BackendOf,
    max_cost: Annotated[str, Form(max_length=40)] = "",
) -> Response:
    """Change the maximum cost of a job."""
    service.change_max_cost(backend, caller, job_id, max_cost.strip())
    return _updated(backend, job_id)


@router.post("/max-cost/remove")
def remove_max_cost(job_id: JobId, caller: MayTrain, backend: BackendOf) -> Response:
    """Remove the maximum cost of a job."""
    service.change_max_cost(backend, caller, job_id, None)
    return _updated(backend, job_id)


@router.post("/cancel")
def cancel(job_id: JobId, caller: MayTrain, backend: BackendOf) -> Response:
    """Cancel a job permanently and bill its used time."""
    service.give(backend, caller, job_id, backend.launching.cancel)
    return _updated(backend, job_id)


@router.post("/promote")
def promote(job_id: JobId, caller: MayTrain, backend: BackendOf) -> Response:
    """Register the last checkpoint as a model."""
    service.give(backend, caller, job_id, backend.launching.promote)
    return _updated(backend, job_id)


@router.post("/deploy")
def deploy(job_id: JobId, caller: MayDeploy, backend: BackendOf) -> Response:
    """Deploy the job's model."""
    model = service.own_job(backend, caller, job_id)["model"] or job_name(job_id)
    own_model(backend, caller, model)
    deploy_model(backend, caller, model)
    return _updated(backend, job_id)


@router.post("/checkpoints/{step}/deploy")
def deploy_step(job_id: JobId, step: int, caller: MayDeploy, backend: BackendOf) -> Response:
    """Deploy a checkpoint."""
    deploy_checkpoint(backend, caller, job_id, step)
    return _updated(backend, job_id)


def _updated(backend: Backend, job_id: UUID) -> Response:
    parts = views_of(backend, [job_id])[job_id].parts()
    return fragment("jobs/job/parts.html", parts=partials(parts))
