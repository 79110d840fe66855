"""`ecolink jobs launch`: quote, approve and follow a job."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Annotated, Any, get_origin
from uuid import uuid4

import typer
from pydantic.fields import FieldInfo

from domain.core.errors import Invalid
from domain.jobs.job_request import RequestStatus
from domain.training.hyperparameters import (
    FIELDS,
    HUGGING_FACE,
    OURS,
    SUPERVISED,
    Group,
    Hyperparameters,
    names_of,
    use_of,
    written,
)
from domain.training.integrations import integration_of
from gateway.cli import job_tables
from gateway.cli.client import Client, Refused, Reply, Unreachable
from gateway.cli.exits import ExitCode
from gateway.cli.following import follow
from gateway.cli.terminal import agreed, client_of, for_programs, interrupted, note, show, show_line
from gateway.jobs.launch.job_form import JobRequest
from gateway.jobs.launch.schemas import JobEstimateResponse
from gateway.jobs.schemas import JobSummary
from gateway.schemas import job_name
from infrastructure.extensions import selected

POLL_SECONDS = 2.0

OMITTED = (
    *("suffix", "max_cost", "validation_dataset", "region", "gpu_type", "gpu_count"),
    *("deploy", "wait", "integrations"),
)
"""Choices of a template that a job does not need, besides hyperparameters."""


def _option(name: str, field: FieldInfo) -> Any:
    kind: Any = list[str] if get_origin(field.annotation) is tuple else field.annotation
    # Without names, the option has that of its parameter.
    names = (
        [f"--{each.replace('_', '-')}" for each in names_of(name)] if name in HUGGING_FACE else []
    )
    default = "" if field.default is None else f"  \\[default: {written(field.default)}]"
    return Annotated[
        kind | None,
        typer.Option(
            *names,
            help=f"{field.description}{default}",
            show_default=False,
            rich_help_panel="LoRA" if use_of(name).group is Group.BASIC else "Advanced",
        ),
    ]


def _with_hyperparameters(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each hyperparameter to a command with `**tuned`."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    tuned = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field))
        for name, field in FIELDS.items()
    ]
    command.__signature__ = signature.replace(parameters=[*own, *tuned])  # pyright: ignore
    return command


@_with_hyperparameters
def launch(
    ctx: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="ID of a dataset that is ready_for_training. Required, unless you set --like or "
            "--template."
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Name of a base model, or of your model (ft:...) or checkpoint to continue from. "
            "See `ecolink models list`. Required, unless you set --like or --template."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="ID of a job to use as a template. Other options replace its choices."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Name or ID of a job template. Other options replace its choices. See "
            "`ecolink templates`."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Choice of the template to leave out, such as suffix, max-cost, "
            "validation-dataset or early-stopping-patience. Repeat for several.",
            metavar="NAME",
        ),
    ] = None,
    validation_dataset: Annotated[
        str | None,
        typer.Option(help="ID of another dataset to evaluate on.  \\[default: hold out a part]"),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Region of the GPUs.  \\[default: the cheapest]")
    ] = None,
    gpu_type: Annotated[
        str | None,
        typer.Option(help="GPU type. See `ecolink jobs gpus`.  \\[default: the cheapest]"),
    ] = None,
    gpu_count: Annotated[
        int | None,
        typer.Option(
            help="Number of GPUs. More GPUs are faster and cost more.  \\[default: 1]",
            show_default=False,
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Idempotency key. A repeated key does not start a second job."),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="Name of the job, which becomes a part of the model's name.")
    ] = None,
    deploy: Annotated[
        bool | None,
        typer.Option(
            "--deploy/--no-deploy",
            help="Deploy the model after registration.  \\[default: --no-deploy]",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="If tokens are not counted or no GPU is free, wait free of charge."
        ),
    ] = False,
    max_cost: Annotated[
        str | None,
        typer.Option(
            help="Pause before the job costs more than this many dollars. By default, charges stop "
            "at the upper bound of the estimate, and the job goes on."
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Tracker of the metrics: mlflow:EXPERIMENT, wandb:PROJECT, wandb:TEAM/PROJECT or "
            "tensorboard. To name the run or set tags, pass an integration of the API in JSON. "
            "Repeat for several. See `ecolink trackers`."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the job until it ends or pauses.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="Do not ask whether to start a job with unusual hyperparameters. Without a "
            "terminal, EcoLink never asks.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show memory, estimate and gates without starting a job. The exit code is 5 "
            "if a gate is closed.",
        ),
    ] = False,
    **tuned: Any,
) -> None:
    """Start a job, if the balance covers its highest cost and a GPU is free."""
    if dry_run and watch:
        raise typer.BadParameter(
            "You cannot combine --dry-run and --watch, because --dry-run starts no job. Choose one."
        )
    copies = like is not None or template is not None
    if like is not None and template is not None:
        raise typer.BadParameter("You cannot combine --like and --template. Choose one.")
    if not copies and None in (dataset, base_model):
        raise typer.BadParameter(
            "Set --dataset and --base-model, or --like with a job's ID, or --template."
        )
    if without and not copies:
        raise typer.BadParameter("--without needs --like or --template.")
    left_out = [_choice(each) for each in without or ()]
    chosen = {
        "dataset": dataset,
        "validation_dataset": validation_dataset,
        "base_model": base_model,
        "region": region,
        "gpu_type": gpu_type,
        "gpu_count": gpu_count,
        "suffix": suffix,
        "deploy": deploy,
        "wait": wait or None,
        "max_cost": max_cost,
        **({"integrations": _integrations(track)} if track else {}),
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    given["hyperparameters"] = {
        name: value for name, value in tuned.items() if value not in (None, [])
    }
    with client_of(ctx) as client:
        body = given
        if like is not None:
            body = _changed(client.get(f"/jobs/{like}/request"), left_out, given)
        elif template is not None:
            request = _form_of(client, "template", template)
            body = _changed(request.model_dump(mode="json"), left_out, given)
        if dry_run:
            quote = client.send(JobEstimateResponse, "/estimates", body)
            show(quote, job_tables.quote)
            raise typer.Exit(ExitCode.DONE if quote.model.approvable else ExitCode.GATED)
        shown = _warned(client, body, yes=yes)
        job = _approved(client, body, idempotency_key or str(uuid4()))
        new = [each for each in job.model.warnings if each not in shown]
        if not watch:
            show(
                Reply(job.document, job.model.model_copy(update={"warnings": new})), job_tables.job
            )
            return
        name = job_name(job.model.id)
        if for_programs.get():
            show_line(job.document)
        else:
            note(f"Approved {name}. Ctrl-C does not stop the job.")
            for warning in new:
                note(f"warning: {warning}")
        raise typer.Exit(follow(client, name))


def _form_of(client: Client, option: str, name: str) -> JobRequest:
    """Return the request that an option of an extension names. Raise BadParameter without one."""
    for extension in selected():
        if (form := extension.job_forms.get(option)) is not None:
            request: JobRequest = extension.load(form.command)(client, name)
            return request
    raise typer.BadParameter(f"No installed extension has the option --{option}.")


def _warned(client: Client, body: dict[str, Any], *, yes: bool) -> list[str]:
    """Print the warnings of a job before its approval, and return them.

    If hyperparameters are unusual, ask for consent, unless `yes` is true. If there is no quote, the
    approval reports the reason. The approval of a repeated key needs no quote.
    """
    if for_programs.get():
        return []
    try:
        quote = client.send(JobEstimateResponse, "/estimates", body).model
    except Refused:
        return []
    for warning in quote.warnings:
        note(f"warning: {warning}")
    if quote.cautions and not yes and not agreed("Start the job anyway?"):
        note("EcoLink started no job.")
        raise typer.Exit(ExitCode.FAILED)
    return quote.warnings


def _integrations(named: Sequence[str]) -> list[dict[str, Any]]:
    try:
        return [integration_of(each).model_dump(mode="json") for each in named]
    except Invalid as error:
        raise typer.BadParameter(error.message) from None


def _choice(option: str) -> str:
    """Return the field that an option names. Raise BadParameter if no template can omit it."""
    name = option.replace("-", "_")
    name = OURS.get(name, name)
    if name in OMITTED or name in FIELDS:
        return name
    known = ", ".join(each.replace("_", "-") for each in (*OMITTED, *FIELDS))
    raise typer.BadParameter(f"Unknown choice {option!r} in --without. Use one of: {known}.")


def _changed(
    template: dict[str, Any], left_out: Sequence[str], given: dict[str, Any]
) -> dict[str, Any]:
    """Return a request with changes. Another method has its own default learning rate and beta."""
    own, tuned = dict(template), dict(template["hyperparameters"])
    method = tuned.get("method", SUPERVISED)
    for name in left_out:
        (tuned if name in FIELDS else own).pop(name, None)
    if (tuned | given["hyperparameters"]).get("method", SUPERVISED) != method:
        tuned.pop("beta", None)
        if tuned.get("learning_rate") == Hyperparameters(method=method).learning_rate:
            del tuned["learning_rate"]
    return own | given | {"hyperparameters": tuned | given["hyperparameters"]}


def _approved(client: Client, approval: dict[str, Any], key: str) -> Reply[JobSummary]:
    """Approve a job. If the outcome is unknown, print how to retry safely."""
    again = (
        f"EcoLink may have approved the job. Repeat the command with --idempotency-key {key}, "
        "which does not start a second job."
    )
    try:
        answer = client.post("/jobs", approval, idempotency_key=key)
        if answer["status"] == RequestStatus.VALIDATING_FILES:
            note("EcoLink is still counting tokens. The approval follows. Ctrl-C does not stop it.")
        while answer["status"] == RequestStatus.VALIDATING_FILES:
            time.sleep(POLL_SECONDS)
            answer = client.post("/jobs", approval, idempotency_key=key)
        return Reply.of(JobSummary, answer)
    except Unreachable as error:
        raise Unreachable(f"{error}. {again}") from error
    except KeyboardInterrupt:
        interrupted(again)
