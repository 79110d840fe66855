"""`ecolink jobs launch`: price a job, approve it, and follow it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Annotated, Any, get_origin
from uuid import uuid4

import typer
from pydantic.fields import FieldInfo

from domain.training.hyperparameters import FIELDS, Group, use_of, written
from gateway.cli import job_tables
from gateway.cli.client import Client, Unreachable
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, client_of, interrupted, note, show, show_line
from gateway.cli.watching import follow


def _option(name: str, field: FieldInfo) -> Any:
    """The annotation of the option for a hyperparameter."""
    kind: Any = list[str] if get_origin(field.annotation) is tuple else field.annotation
    default = "" if field.default is None else f"  \\[default: {written(field.default)}]"
    return Annotated[
        kind | None,
        typer.Option(
            help=f"{field.description}{default}",
            show_default=False,
            rich_help_panel="LoRA" if use_of(name).group is Group.BASIC else "Advanced",
        ),
    ]


def _with_hyperparameters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with `**tuned` an option for each hyperparameter."""
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
    dataset: Annotated[str, typer.Option(help="Id of a dataset that is ready_for_training.")],
    base_model: Annotated[str, typer.Option(help="One of `ecolink models list`.")],
    validation_dataset: Annotated[
        str | None,
        typer.Option(help="Id of another dataset to evaluate on; else a part is held out."),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="Where the GPUs stand.  \\[default: where the job costs least]"),
    ] = None,
    gpu_type: Annotated[
        str | None,
        typer.Option(help="One of `ecolink jobs gpus`.  \\[default: the one it costs least on]"),
    ] = None,
    gpu_count: Annotated[int, typer.Option(help="More are faster and cost more an hour.")] = 1,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again makes no second job.")
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="A part of the model's name.")] = None,
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Deploy the model as soon as it is registered.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stand in the queue, free of charge, if no GPU is free.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the job until it is over or paused.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only show fit, estimate and gates; exit code 5 if a gate is closed.",
        ),
    ] = False,
    as_json: AsJson = False,
    **tuned: Any,
) -> None:
    """Approve a job, if the balance covers its upper bound and a GPU is free."""
    if dry_run and watch:
        raise typer.BadParameter("--dry-run launches nothing that --watch could follow")
    body = {
        "dataset": dataset,
        "validation_dataset": validation_dataset,
        "base_model": base_model,
        "region": region,
        "gpu_type": gpu_type,
        "gpu_count": gpu_count,
        "hyperparameters": {
            name: value for name, value in tuned.items() if value not in (None, [])
        },
        "suffix": suffix,
        "deploy": deploy,
        "wait": wait,
    }
    with client_of(ctx) as client:
        if dry_run:
            quote = client.post("/estimates", body)
            show(quote, as_json, job_tables.quote)
            raise typer.Exit(ExitCode.DONE if quote["approvable"] else ExitCode.GATED)
        key = idempotency_key or str(uuid4())
        job = _approved(client, body, key)
        if not watch:
            show(job, as_json, job_tables.job)
            return
        if as_json:
            show_line(job)
        else:
            note(f"Approved {job['id']}; Ctrl-C leaves it running.")
            for warning in job["warnings"]:
                note(f"note: {warning}")
        raise typer.Exit(follow(client, job["id"], as_json))


def _approved(client: Client, approval: dict[str, Any], key: str) -> dict[str, Any]:
    """The job; if nobody knows whether there is one, how to ask again without making two."""
    again = f"It may be approved; with --idempotency-key {key} the command makes no second job."
    try:
        return client.post("/jobs", approval, idempotency_key=key)
    except Unreachable as error:
        raise Unreachable(f"{error}. {again}") from error
    except KeyboardInterrupt:
        interrupted(again)
