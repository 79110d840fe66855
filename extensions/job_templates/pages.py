"""The page of job templates, and the commands of other pages that save one."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from domain.core.errors import Invalid
from domain.training.hyperparameters import METHODS
from extensions.job_templates import service
from extensions.job_templates.schemas import MOST_CHARACTERS, TemplateForm
from gateway.backend import Backend, BackendOf
from gateway.catalog.service import display_names
from gateway.http.access import Caller
from gateway.http.permissions import MayRead, MayTrain
from gateway.jobs.pages.wizard.entries import Entries, read
from gateway.schemas import JobId
from gateway.web.rendering import fragment, page
from infrastructure.accounts.profiles import dataset_names
from projections.datasets import datasets_among

ADDRESS = "/fine-tune/templates"

router = APIRouter()


NameField = Annotated[str, Form(max_length=1000)]


def _name(name: str) -> str:
    """Return the entered name of a template. Raise Invalid."""
    if 0 < len(stripped := name.strip()) <= MOST_CHARACTERS:
        return stripped
    raise Invalid(
        f"The name of the template has {len(stripped):,} characters. Enter 1 to {MOST_CHARACTERS}.",
        field="name",
    )


@router.get(ADDRESS)
def show_templates(request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show the templates of the account."""
    return page(request, backend, caller, "job_templates/page.html", **_shown(backend, caller))


@router.post(f"{ADDRESS}/{{template_id}}/rename")
def rename(
    template_id: UUID, caller: MayTrain, backend: BackendOf, name: NameField = ""
) -> Response:
    """Rename a template."""
    service.rename(backend, caller, template_id, _name(name))
    return fragment("job_templates/list.html", **_shown(backend, caller))


@router.post(f"{ADDRESS}/{{template_id}}/delete")
def delete(template_id: UUID, caller: MayTrain, backend: BackendOf) -> Response:
    """Delete a template."""
    service.delete(backend, caller, template_id)
    return fragment("job_templates/list.html", **_shown(backend, caller))


@router.post("/fine-tune/ftjob-{job_id}/template")
def save_job(job_id: JobId, caller: MayTrain, backend: BackendOf, name: NameField = "") -> Response:
    """Save the choices of a job as a template."""
    return _saved(backend, caller, TemplateForm(name=_name(name), job=job_id))


@router.post("/fine-tune/new/template")
def save_form(
    entries: Annotated[Entries, Form()],
    caller: MayTrain,
    backend: BackendOf,
    template_name: NameField = "",
) -> Response:
    """Save the form of the wizard as a template. Raise Invalid if it is incomplete."""
    reading = read(entries.followed())
    if reading.problems:
        raise Invalid(next(iter(reading.problems.values())))
    if reading.request is None:
        raise Invalid(f"The form is incomplete. Choose {', '.join(reading.missing)}.")
    form = TemplateForm(name=_name(template_name), request=reading.request)
    return _saved(backend, caller, form)


def _saved(backend: Backend, caller: Caller, form: TemplateForm) -> Response:
    """Save a template, and return the notice for a page that stays open."""
    service.save(backend, caller, form)
    return fragment("job_templates/saved.html", name=form.name, address=ADDRESS)


def _shown(backend: Backend, caller: Caller) -> dict[str, Any]:
    """Return the variables of the list."""
    templates = service.templates(backend, caller)
    used = [each.request.dataset for each in templates if each.request]
    with backend.pool.connection() as connection:
        own = datasets_among(connection, used)
        ids = [row["dataset_id"] for row in own if row["account_id"] == caller.account_id]
        datasets = dataset_names(connection, ids)
    return {
        "templates": templates,
        "address": ADDRESS,
        "datasets": datasets,
        "places": display_names(backend),
        "methods": METHODS,
    }
