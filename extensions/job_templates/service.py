"""Use cases and queries of job templates."""

from __future__ import annotations

from uuid import UUID, uuid4

from pydantic import ValidationError

from domain.core.errors import Invalid, NotFound
from extensions.job_templates import tables
from extensions.job_templates.schemas import JobTemplateResponse, TemplateForm
from extensions.job_templates.tables import JobTemplate
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.jobs.launch.job_form import JobRequest
from gateway.jobs.service import request_of

MOST_TEMPLATES = 100


def templates(backend: Backend, caller: Caller) -> list[JobTemplateResponse]:
    """Return the templates of the account, by name."""
    with backend.pool.connection() as connection:
        found = tables.templates_of(connection, caller.account_id)
    return [_answer(each) for each in found]


def template(backend: Backend, caller: Caller, template_id: UUID) -> JobTemplateResponse:
    """Return a template of the account. Raise NotFound."""
    with backend.pool.connection() as connection:
        found = tables.template_of(connection, caller.account_id, template_id)
    if found is None:
        raise _unknown(template_id)
    return _answer(found)


def save(backend: Backend, caller: Caller, form: TemplateForm) -> JobTemplateResponse:
    """Save the choices of a job, or a request, under a name.

    A repeated call returns the existing template. Raise NotFound without such a job, and Invalid if
    the name is taken or the account has too many templates.
    """
    request = form.request
    if request is None:
        assert form.job is not None
        request = request_of(backend, caller, form.job)
    return _add(backend, caller, form.name, request, form.job)


def usable_request(backend: Backend, caller: Caller, template_id: UUID) -> JobRequest:
    """Return the request of a template. Raise NotFound, or Invalid if it is not valid any more."""
    found = template(backend, caller, template_id)
    if found.request is None:
        raise Invalid(f"The template {found.name!r} cannot be used: {found.problem}")
    return found.request


def rename(backend: Backend, caller: Caller, template_id: UUID, name: str) -> JobTemplateResponse:
    """Rename a template. Raise NotFound, or Invalid if the name is taken."""
    with backend.pool.connection() as connection:
        if not tables.rename_template(connection, caller.account_id, template_id, name):
            raise _taken(name)
    return template(backend, caller, template_id)


def delete(backend: Backend, caller: Caller, template_id: UUID) -> None:
    """Delete a template. Jobs that it started stay. Raise NotFound."""
    with backend.pool.connection() as connection:
        if not tables.delete_template(connection, caller.account_id, template_id):
            raise _unknown(template_id)


def _add(
    backend: Backend, caller: Caller, name: str, request: JobRequest, job_id: UUID | None
) -> JobTemplateResponse:
    new = JobTemplate(uuid4(), name, request.model_dump(mode="json"), job_id, backend.clock.now())
    with backend.pool.connection() as connection:
        if tables.add_template(connection, caller.account_id, new, MOST_TEMPLATES):
            return _answer(new)
        known = tables.templates_of(connection, caller.account_id)
    for each in known:
        if each.name == name:
            if (each.request, each.job_id) == (new.request, job_id):
                return _answer(each)
            raise _taken(name)
    raise Invalid(
        f"Your account has {MOST_TEMPLATES} job templates, which is the maximum. Delete one."
    )


def _answer(known: JobTemplate) -> JobTemplateResponse:
    request, problem = None, None
    try:
        request = JobRequest.model_validate(known.request)
    except ValidationError as error:  # another version of EcoLink saved it
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        problem = f"{field}: {first['msg']} (the value is {first['input']!r})."
    return JobTemplateResponse(
        id=known.template_id,
        name=known.name,
        job=known.job_id,
        request=request,
        problem=problem,
        created_at=known.created_at,
    )


def _taken(name: str) -> Invalid:
    return Invalid(
        f"You already have a template with the name {name!r}. Choose another name, or delete that "
        "template.",
        field="name",
    )


def _unknown(template_id: UUID) -> NotFound:
    return NotFound(f"Unknown job template {template_id}. See `ecolink templates list`.")
