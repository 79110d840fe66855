"""The wizard: a job is chosen, priced with each change, and approved."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from domain.errors import CommandReused, DomainError
from domain.identity import created_id
from domain.job import Job
from gateway.access import Caller, CallerOf
from gateway.answers import JobId, job_name
from gateway.api.jobs import approve_job, own_job
from gateway.backend import Backend, BackendOf
from gateway.web.pages import fragment, page
from gateway.web.wizard_form import Entries
from gateway.web.wizard_lists import Lists
from gateway.web.wizard_view import View, context
from infrastructure.drafts import delete_draft, draft_of, save_draft

PATH = "/fine-tune/new"
CHANGED = (
    "The estimate changed with your last change, or with the catalog. This is the new one; "
    "approve it if it suits you."
)

router = APIRouter(prefix=PATH)


@router.get("")
def show_wizard(
    request: Request,
    caller: CallerOf,
    backend: BackendOf,
    dataset: Annotated[str, Query(max_length=100)] = "",
    like: JobId | None = None,
) -> Response:
    """The draft of the account; a dataset, or a job that it shall be like, goes into it first."""
    entries = _draft(backend, caller) or Lists.now(backend, caller).fresh()
    if like is not None:
        own_job(backend, caller, like)
        job = backend.log.load(Job, like)
        entries = Entries.like(job.plan, job.plan.gpu_count, job.order)
    if dataset:
        entries = entries.model_copy(update={"dataset": dataset.strip()})
    if dataset or like is not None:
        _keep(backend, caller, entries)
        return RedirectResponse(PATH, HTTPStatus.SEE_OTHER)
    view = View.of(backend, caller, entries)
    return page(request, backend, caller, "wizard/new.html", **_context(request, view))


@router.post("/estimate")
def estimate(
    request: Request,
    entries: Annotated[Entries, Form()],
    caller: CallerOf,
    backend: BackendOf,
    choose: Annotated[str, Query(max_length=500)] = "",
    keep: bool = True,
) -> Response:
    """All that follows from a change, which is kept; without `keep`, from the catalog as it is."""
    entries = entries.followed().chosen(choose) if choose else entries.followed()
    if keep:
        _keep(backend, caller, entries)
    alert = "" if keep else None
    return _form(request, View.of(backend, caller, entries), alert)


@router.post("")
def approve(
    request: Request,
    entries: Annotated[Entries, Form()],
    caller: CallerOf,
    backend: BackendOf,
) -> Response:
    """Approve the job whose estimate was seen; the same form makes one job."""
    entries = entries.followed()
    view = View.of(backend, caller, entries)
    made = _made(backend, caller, entries)
    if made is None and not view.approvable:
        return _form(request, view)
    if made is None and view.seen != entries.seen:
        return _form(request, view, alert=CHANGED)
    if view.request is None:
        return _form(request, view)
    try:
        job = approve_job(view.request, Response(), caller, backend, entries.command_key)
    except CommandReused:
        return _form(request, view, alert="This form has approved a job already.", made=made)
    except DomainError as refused:
        again = View.of(backend, caller, entries)
        return _form(request, again, alert=refused.message)
    _forget(backend, caller)
    return Response(headers={"hx-redirect": f"/fine-tune/{job_name(job.id)}"})


@router.post("/start-over")
def start_over(caller: CallerOf, backend: BackendOf) -> Response:
    """Forget the draft."""
    _forget(backend, caller)
    return Response(headers={"hx-redirect": PATH})


def _draft(backend: Backend, caller: Caller) -> Entries | None:
    """The account's draft, unless it became a job, or was kept by a version that had others."""
    with backend.pool.connection() as connection:
        fields = draft_of(connection, caller.account_id)
    if fields is None:
        return None
    try:
        entries = Entries.model_validate(fields)
    except ValidationError:
        return None
    if not entries.command_key or _made(backend, caller, entries) is not None:
        return None
    return entries


def _made(backend: Backend, caller: Caller, entries: Entries) -> Job | None:
    """The job that this form made."""
    return backend.log.find(Job, created_id(caller.account_id, "job", entries.command_key))


def _keep(backend: Backend, caller: Caller, entries: Entries) -> None:
    with backend.pool.connection() as connection:
        save_draft(connection, caller.account_id, entries.model_dump(exclude={"seen"}))


def _forget(backend: Backend, caller: Caller) -> None:
    with backend.pool.connection() as connection:
        delete_draft(connection, caller.account_id)


def _form(
    request: Request, view: View, alert: str | None = None, made: Job | None = None
) -> Response:
    """The form; `alert` is what an approval met, empty if nothing, None to leave what is shown."""
    return fragment("wizard/form.html", **_context(request, view, alert, made))


def _context(
    request: Request, view: View, alert: str | None = None, made: Job | None = None
) -> dict[str, Any]:
    base_url = str(request.base_url).rstrip("/")
    return context(view, base_url, alert=alert, made=made and made.id)
