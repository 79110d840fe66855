"""Use cases and queries of job templates."""

from __future__ import annotations

from uuid import UUID, uuid4

from domain.core.errors import Invalid, NotFound
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.job_templates.schemas import TemplateAnswer, TemplateForm
from gateway.jobs.service import request_of
from gateway.launch.job_form import JobRequest
from infrastructure import job_templates
from infrastructure.job_templates import JobTemplate

MOST_TEMPLATES = 100


def templates(backend: Backend, caller: Caller) -> list[TemplateAnswer]:
    """Return the templates of the account, by name."""
    with backend.pool.connection() as connection:
        found = job_templates.templates_of(connection, caller.account_id)
    return [_answer(each) for each in found]


def template(backend: Backend, caller: Caller, template_id: UUID) -> TemplateAnswer:
    """Return a template of the account. Raise NotFound."""
    with backend.pool.connection() as connection:
        found = job_templates.template_of(connection, caller.account_id, template_id)
    if found is None:
        raise _unknown(template_id)
    return _answer(found)


def save(backend: Backend, caller: Caller, form: TemplateForm) -> TemplateAnswer:
    """Save the choices of a job, or a request, under a name.

    Raise NotFound without such a job, and Invalid if the name is taken or the account has too many
    templates.
    """
    request = form.request
    if request is None:
        assert form.job is not None
        request = request_of(backend, caller, form.job)
    return _add(backend, caller, form.name, request, form.job)


def rename(backend: Backend, caller: Caller, template_id: UUID, name: str) -> TemplateAnswer:
    """Rename a template. Raise NotFound, or Invalid if the name is taken."""
    template(backend, caller, template_id)
    with backend.pool.connection() as connection:
        renamed = job_templates.rename_template(connection, caller.account_id, template_id, name)
    known = template(backend, caller, template_id)
    if not renamed:
        raise _taken(name)
    return known


def delete(backend: Backend, caller: Caller, template_id: UUID) -> None:
    """Delete a template. Jobs that it started stay. Raise NotFound."""
    with backend.pool.connection() as connection:
        if not job_templates.delete_template(connection, caller.account_id, template_id):
            raise _unknown(template_id)


def _add(
    backend: Backend, caller: Caller, name: str, request: JobRequest, job_id: UUID | None
) -> TemplateAnswer:
    new = JobTemplate(uuid4(), name, request.model_dump(mode="json"), job_id, backend.clock.now())
    with backend.pool.connection() as connection:
        if job_templates.add_template(connection, caller.account_id, new, MOST_TEMPLATES):
            return _answer(new)
        known = job_templates.templates_of(connection, caller.account_id)
    if any(each.name == name for each in known):
        raise _taken(name)
    raise Invalid(
        f"Your account has {MOST_TEMPLATES} job templates, which is the maximum. Delete one."
    )


def _answer(known: JobTemplate) -> TemplateAnswer:
    return TemplateAnswer(
        id=known.template_id,
        name=known.name,
        job=known.job_id,
        request=JobRequest.model_validate(known.request),
        created_at=known.created_at,
    )


def _taken(name: str) -> Invalid:
    return Invalid(
        f"You already have a template with the name {name!r}. Choose another name, or delete that "
        "template.",
        field="name",
    )


def _unknown(template_id: UUID) -> NotFound:
    return NotFound(f"no job template {template_id}")
