"""The wizard: a form that updates its quote with every change, and its approval."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from domain.core.errors import DomainError, Invalid
from domain.core.identity import created_id
from domain.jobs.job import Job
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.origin import base_url
from gateway.http.permissions import MayRead, MayTrain
from gateway.jobs import service as jobs
from gateway.jobs.launch.job_form import JobRequest
from gateway.jobs.pages.wizard.entries import Entries, read
from gateway.jobs.pages.wizard.lists import Lists
from gateway.jobs.pages.wizard.view import View
from gateway.schemas import JobId, job_name
from gateway.web.rendering import fragment, page, sentence
from infrastructure.extensions import selected
from infrastructure.training.drafts import close_draft, delete_draft, draft_of, save_draft

PATH = "/fine-tune/new"
CHANGED = (
    "Your last change or a change of the catalog affected the estimate. Check the new "
    "estimate, then approve again."
)
USED = "You already started a job from this form. Approving again starts a second job."

router = APIRouter(prefix=PATH)


def _copied(
    request: Request, caller: MayRead, backend: BackendOf, like: JobId | None = None
) -> JobRequest | None:
    if like is not None:
        return jobs.request_of(backend, caller, like)
    for extension in selected():
        for name, form in extension.job_forms.items():
            if (found := request.query_params.get(name)) is not None:
                filled: JobRequest = extension.load(form.page)(backend, caller, _id(name, found))
                return filled
    return None


def _id(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Invalid(f"{name} is {text[:100]!r}, which is not a UUID.", field=name) from None


@router.get("")
def show_wizard(
    request: Request,
    caller: MayRead,
    backend: BackendOf,
    dataset: Annotated[str, Query(max_length=100)] = "",
    copied: Annotated[JobRequest | None, Depends(_copied)] = None,
    continue_from: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Show the draft, or the form that the URL requests. Editing that form replaces the draft."""
    draft = _draft(backend, caller)
    entries = draft or Lists.now(backend, caller).fresh()
    if copied is not None:
        entries = Entries.of_request(copied)
        if not (copied.region or copied.gpu_type):  # the form has no entry for the cheapest
            fresh = Lists.now(backend, caller).fresh()
            place = {"region": fresh.region, "gpu_type": fresh.gpu_type}
            entries = entries.model_copy(update=place)
    if continue_from:
        entries = entries.model_copy(update={"base_model": continue_from})
    if dataset:
        entries = entries.model_copy(update={"dataset": dataset.strip()})
    if other := draft is not None and not entries.same_as(draft):
        entries = entries.renewed()
    view = View.of(backend, caller, entries.opened())
    shown = _context(request, view, other_draft=other, kept=False)
    return page(request, backend, caller, "jobs/wizard/new.html", **shown)


@router.post("/estimate")
def estimate(
    request: Request,
    entries: Annotated[Entries, Form()],
    caller: MayTrain,
    backend: BackendOf,
    choose: Annotated[str, Query(max_length=500)] = "",
    keep: bool = True,
) -> Response:
    """Update the form after a change and save the draft.

    If `keep` is false, only refresh the quote.
    """
    entries = entries.followed().chosen(choose) if choose else entries.followed()
    if not keep:
        return _form(request, View.of(backend, caller, entries))
    kept = _keep(backend, caller, entries)
    alert = "" if kept.command_key == entries.command_key else USED
    answer = _form(request, View.of(backend, caller, kept), alert, kept=True)
    if "?" in request.headers.get("hx-current-url", ""):
        answer.headers["hx-replace-url"] = PATH  # the draft now has the form that the URL requested
    return answer


@router.post("")
def approve(
    request: Request, entries: Annotated[Entries, Form()], caller: MayTrain, backend: BackendOf
) -> Response:
    """Approve the job if the user saw its estimate. A form submitted twice creates one job."""
    entries = entries.followed()
    made = _made(backend, caller, entries)
    if made is not None and not _is_of(made, entries):
        entries = _keep(backend, caller, entries)
        return _form(request, View.of(backend, caller, entries), USED, kept=True)
    view = View.of(backend, caller, entries)
    if made is None and not view.approvable:
        return _form(request, view)
    if made is None and view.seen != entries.seen:
        return _form(request, view, CHANGED)
    if view.request is None:
        return _form(request, view)
    try:
        job = jobs.approve(backend, caller, view.request, entries.command_key).job
    except DomainError as refused:
        return _form(request, View.of(backend, caller, entries), sentence(refused.message))
    with backend.pool.connection() as connection:
        close_draft(connection, caller.account_id, entries.state)
    return Response(headers={"hx-redirect": f"/fine-tune/{job_name(job.id)}"})


@router.post("/start-over")
def start_over(caller: MayTrain, backend: BackendOf) -> Response:
    with backend.pool.connection() as connection:
        delete_draft(connection, caller.account_id)
    return Response(headers={"hx-redirect": PATH})


def _draft(backend: Backend, caller: Caller) -> Entries | None:
    """Return the account's draft if it exists, is readable and did not become a job."""
    with backend.pool.connection() as connection:
        fields = draft_of(connection, caller.account_id)
    if fields is None:
        return None
    try:
        entries = Entries.model_validate(fields)
    except ValidationError:
        return None
    if not entries.command_key:
        return None
    made = _made(backend, caller, entries)
    if made is None:
        return entries
    return None if _is_of(made, entries) else entries.renewed(job_name(made.id))


def _made(backend: Backend, caller: Caller, entries: Entries) -> Job | None:
    return backend.log.find(Job, created_id(caller.account_id, "job", entries.command_key))


def _is_of(made: Job, entries: Entries) -> bool:
    reading = read(entries)
    request = reading.request
    return (
        request is not None
        and not reading.problems
        and request.choices.recorded == made.plan.choices
        and request.order == made.order
    )


def _keep(backend: Backend, caller: Caller, entries: Entries) -> Entries:
    """Save a draft. If its form created a different job, set a new command key and link the job."""
    made = _made(backend, caller, entries)
    if made is not None and not _is_of(made, entries):
        entries = entries.renewed(job_name(made.id))
    fields = entries.model_dump(exclude={"seen", "tab", "revision"})
    with backend.pool.connection() as connection:
        save_draft(connection, caller.account_id, fields, entries.state)
    return entries


def _form(
    request: Request, view: View, alert: str | None = None, *, kept: bool = False
) -> Response:
    """Return the form. `alert` is the result of an approval; None keeps the current alert."""
    return fragment("jobs/wizard/form.html", **_context(request, view, alert, kept=kept))


def _context(
    request: Request, view: View, alert: str | None = None, **more: bool
) -> dict[str, Any]:
    return {**view.context(base_url(request)), "alert": alert, "used": alert == USED, **more}
