"""`ecolink jobs launch`: price a job, approve it, and follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import uuid4

import typer

from domain.training.hyperparameters import Hyperparameters, Schedule
from gateway.cli import job_tables
from gateway.cli.client import Client, Unreachable
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, client_of, interrupted, note, show, show_line
from gateway.cli.watching import follow

TIER_1 = frozenset({"epochs", "learning_rate", "lora_r", "lora_alpha", "micro_batch_size"})
"""What most users look at; the wizard has the rest under Advanced."""


def _tuning(name: str) -> Any:
    """The option of one hyperparameter, described as the API describes it."""
    field = Hyperparameters.model_fields[name]
    default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
    shown = "" if default is None else f"  \\[default: {default}]"  # else the description says it
    return typer.Option(
        help=f"{field.description}{shown}",
        show_default=False,
        rich_help_panel="LoRA" if name in TIER_1 else "Advanced",
    )


def _form(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `launch` as the API has them: they are named as its fields are."""
    top = ("dataset", "validation_dataset", "base_model", "region", "gpu_type", "gpu_count")
    chosen = {name: given[name] for name in Hyperparameters.model_fields}
    tuned = {name: value for name, value in chosen.items() if value not in (None, (), [])}
    return {name: given[name] for name in top} | {"hyperparameters": tuned}


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
    epochs: Annotated[int | None, _tuning("epochs")] = None,
    learning_rate: Annotated[float | None, _tuning("learning_rate")] = None,
    lora_r: Annotated[int | None, _tuning("lora_r")] = None,
    lora_alpha: Annotated[int | None, _tuning("lora_alpha")] = None,
    micro_batch_size: Annotated[int | None, _tuning("micro_batch_size")] = None,
    dropout: Annotated[float | None, _tuning("dropout")] = None,
    target_modules: Annotated[list[str] | None, _tuning("target_modules")] = None,
    gradient_accumulation: Annotated[int | None, _tuning("gradient_accumulation")] = None,
    max_sequence_length: Annotated[int | None, _tuning("max_sequence_length")] = None,
    schedule: Annotated[Schedule | None, _tuning("schedule")] = None,
    warmup_share: Annotated[float | None, _tuning("warmup_share")] = None,
    weight_decay: Annotated[float | None, _tuning("weight_decay")] = None,
    max_grad_norm: Annotated[float | None, _tuning("max_grad_norm")] = None,
    save_steps: Annotated[int | None, _tuning("save_steps")] = None,
    eval_steps: Annotated[int | None, _tuning("eval_steps")] = None,
    seed: Annotated[int | None, _tuning("seed")] = None,
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
) -> None:
    """Approve a job, if the balance covers its upper bound and a GPU is free."""
    if dry_run and watch:
        raise typer.BadParameter("--dry-run launches nothing that --watch could follow")
    body = _form(ctx.params) | {"suffix": suffix, "deploy": deploy, "wait": wait}
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
