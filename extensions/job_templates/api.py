"""Routes of job templates under /api."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from extensions.job_templates import service
from extensions.job_templates.schemas import JobTemplateResponse, TemplateChange, TemplateForm
from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayRead, MayTrain
from gateway.schemas import Listed

router = APIRouter(prefix="/job-templates", tags=["jobs"], route_class=Operation)


@router.get("")
def list_job_templates(caller: MayRead, backend: BackendOf) -> Listed[JobTemplateResponse]:
    """List your job templates by name."""
    return Listed(data=service.templates(backend, caller))


@router.post("", status_code=201, responses=refusals(404))
def save_job_template(
    form: TemplateForm, caller: MayTrain, backend: BackendOf
) -> JobTemplateResponse:
    """Save the choices of a job, or a request, under a name. Names are unique in your account."""
    return service.save(backend, caller, form)


@router.get("/{template_id}", responses=refusals(404))
def show_job_template(
    template_id: UUID, caller: MayRead, backend: BackendOf
) -> JobTemplateResponse:
    """Show a job template. To use it, send its `request` to `POST /api/jobs`."""
    return service.template(backend, caller, template_id)


@router.patch("/{template_id}", responses=refusals(404))
def rename_job_template(
    template_id: UUID, change: TemplateChange, caller: MayTrain, backend: BackendOf
) -> JobTemplateResponse:
    """Rename a job template."""
    return service.rename(backend, caller, template_id, change.name)


@router.delete("/{template_id}", status_code=204, responses=refusals(404))
def delete_job_template(template_id: UUID, caller: MayTrain, backend: BackendOf) -> None:
    """Delete a job template. The jobs that it started stay."""
    service.delete(backend, caller, template_id)
