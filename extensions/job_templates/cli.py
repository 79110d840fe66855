"""`ecolink templates`: named choices for similar jobs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import RenderableType

from domain.training.hyperparameters import title_of, written
from extensions.job_templates.schemas import JobTemplateResponse
from gateway.cli.client import Client, ClientError
from gateway.cli.tables import listing, pairs
from gateway.cli.terminal import CommandGroup, note, show
from gateway.jobs.launch.job_form import JobRequest
from gateway.schemas import Listed, job_name

templates = CommandGroup(no_args_is_help=True, help="Save choices for similar jobs under a name.")

Name = Annotated[str, typer.Argument(help="Name or ID of the template.", show_default=False)]


@templates.command("list")
def list_templates(client: Client) -> None:
    """List your job templates."""
    show(client.read(Listed[JobTemplateResponse], "/job-templates"), _listed)


@templates.command()
def save(
    client: Client,
    name: Annotated[str, typer.Argument(help="Name of the new template.", show_default=False)],
    job: Annotated[
        str, typer.Option(help="ID of the job whose choices it gets.", show_default=False)
    ],
) -> None:
    """Save the choices of a job. `ecolink jobs launch --template` uses them."""
    show(client.send(JobTemplateResponse, "/job-templates", {"name": name, "job": job}), _choices)


@templates.command("show")
def show_template(client: Client, name: Name) -> None:
    """Show the choices of a job template."""
    found = found_template(client, name)
    show(client.read(JobTemplateResponse, f"/job-templates/{found.id}"), _choices)


@templates.command()
def rename(
    client: Client,
    name: Name,
    new_name: Annotated[str, typer.Argument(help="The new name.", show_default=False)],
) -> None:
    """Rename a job template."""
    path = f"/job-templates/{found_template(client, name).id}"
    show(client.change(JobTemplateResponse, path, {"name": new_name}), _choices)


@templates.command()
def delete(client: Client, name: Name) -> None:
    """Delete a job template. The jobs that it started stay."""
    found = found_template(client, name)
    client.delete(f"/job-templates/{found.id}")
    note(f"The template {found.name} is deleted.")


def found_template(client: Client, name: str) -> JobTemplateResponse:
    """Return the template with a name or ID. Raise ClientError without one."""
    known = client.read(Listed[JobTemplateResponse], "/job-templates").model.data
    for each in known:
        if name in (each.name, str(each.id)):
            return each
    names = ", ".join(repr(each.name) for each in known) or "none"
    raise ClientError(f"You have no template {name!r}. Your templates: {names}.")


def usable_request(client: Client, name: str) -> JobRequest:
    """Return the request of a template. Raise ClientError if it cannot be used."""
    found = found_template(client, name)
    if found.request is None:
        raise ClientError(f"The template cannot be used: {found.problem}")
    return found.request


def _choices(template: JobTemplateResponse) -> RenderableType:
    request = template.request
    chosen = request.model_dump(mode="json", exclude_defaults=True) if request else {}
    tuned = chosen.pop("hyperparameters", {})
    own = {
        "name": template.name,
        "id": template.id,
        "from": template.job and job_name(template.job),
        "saved": template.created_at,
        "problem": template.problem,
    }
    return pairs(own | {title_of(n): written(v) for n, v in (chosen | tuned).items()})


def _listed(answer: Listed[JobTemplateResponse]) -> RenderableType:
    return listing(
        (
            {
                "name": each.name,
                "base model": each.request and each.request.base_model,
                "gpus": each.request
                and f"{each.request.gpu_count} × {each.request.gpu_type or 'the cheapest'}",
                "from": each.job and job_name(each.job),
                "saved": each.created_at,
                "reason": each.problem,
            }
            for each in answer.data
        ),
        empty="You have no templates. `ecolink templates save NAME --job ftjob-...` saves one.",
    )
