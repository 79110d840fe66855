"""`ecolink jobs`: launch fine-tuning jobs and follow them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import uuid4

import typer

from domain.hyperparameters import Hyperparameters, Schedule
from gateway import tables
from gateway.cli.terminal import AsJson, client_of, screen, show
from gateway.client import Unreachable

WATCH_SECONDS = 1.0
UNREACHABLE_SECONDS = 60.0  # how long `watch` puts up with a gateway that does not answer
RESTING = frozenset({"registered", "failed", "cancelled", "paused"})
FAILED = frozenset({"failed", "cancelled"})

jobs = typer.Typer(no_args_is_help=True, help="Launch fine-tuning jobs and follow them.")

JobName = Annotated[str, typer.Argument(help="ftjob-...", show_default=False)]


def _tuning(name: str) -> Any:
    """The option of one hyperparameter, described as the API describes it."""
    field = Hyperparameters.model_fields[name]
    default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
    shown = "" if default is None else f"  \\[default: {default}]"  # else the description says it
    return typer.Option(help=f"{field.description}{shown}", show_default=False)


def _form(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `launch` as the API has them: they are named as its fields are."""
    top = ("dataset", "validation_dataset", "base_model", "region", "gpu_type", "gpu_count")
    chosen = {name: given[name] for name in Hyperparameters.model_fields}
    tuned = {name: value for name, value in chosen.items() if value not in (None, (), [])}
    return {name: given[name] for name in top} | {"hyperparameters": tuned}


@jobs.command()
def launch(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option(help="Id of a dataset that is ready_for_training.")],
    base_model: Annotated[str, typer.Option(help="One of `ecolink models list`.")],
    validation_dataset: Annotated[
        str | None,
        typer.Option(help="Id of another dataset to evaluate on; else a part is held out."),
    ] = None,
    region: str = "local",
    gpu_type: str = "cpu",
    gpu_count: int = 1,
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
    wait: Annotated[bool, typer.Option(help="Stand in the queue if no GPU is free.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show fit, estimate and gates.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Approve a job, if the balance covers its upper bound and a GPU is free."""
    body = _form(ctx.params)
    with client_of(ctx) as client:
        if dry_run:
            show(client.post("/estimates", body), as_json, tables.quote)
        else:
            approval = body | {"wait": wait}
            job = client.post("/jobs", approval, idempotency_key=idempotency_key or str(uuid4()))
            show(job, as_json, tables.fields)


@jobs.command("list")
def list_jobs(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Your jobs, the newest first."""
    with client_of(ctx) as client:
        show(client.get("/jobs"), as_json, tables.jobs)


@jobs.command("show")
def show_job(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """All that is known of a job."""
    with client_of(ctx) as client:
        show(client.get(f"/jobs/{job}"), as_json, tables.fields)


@jobs.command()
def watch(ctx: typer.Context, job: JobName) -> None:
    """Follow a job until it is over or paused; exit status 1 if it failed or was cancelled."""
    shown, silent_since = "", None
    with client_of(ctx) as client:
        while True:
            try:
                found, silent_since = client.get(f"/jobs/{job}"), None
            except Unreachable:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > UNREACHABLE_SECONDS:
                    raise
            else:
                if (line := tables.progress(found)) != shown:
                    screen().print(shown := line)
                if found["status"] in RESTING:
                    break
            time.sleep(WATCH_SECONDS)
    if found["status"] in FAILED:
        raise typer.Exit(1)


@jobs.command("log")
def show_log(
    ctx: typer.Context,
    job: JobName,
    lines: Annotated[int, typer.Option(min=1, max=1000, help="How many of the last lines.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The last lines of a job's trainer."""
    with client_of(ctx) as client:
        show(client.get(f"/jobs/{job}/log", lines=lines), as_json, tables.log)


@jobs.command("evaluations")
def show_evaluations(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Held-out loss, perplexity and token accuracy by step; step 0 is the base alone."""
    with client_of(ctx) as client:
        show(client.get(f"/jobs/{job}/evaluations"), as_json, tables.evaluations)


@jobs.command("checkpoints")
def show_checkpoints(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """The checkpoints that exist, with what the adapter answered to a fixed prompt."""
    with client_of(ctx) as client:
        show(client.get(f"/jobs/{job}/checkpoints"), as_json, tables.checkpoints)


@jobs.command()
def pause(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Save a checkpoint and free the GPUs; nothing is billed until you resume."""
    _give(ctx, job, "pause", {}, as_json)


@jobs.command()
def resume(
    ctx: typer.Context,
    job: JobName,
    wait: Annotated[bool, typer.Option(help="Stand in the queue if no GPU is free.")] = False,
    gpu_count: Annotated[
        int | None, typer.Option(help="GPUs to go on with; as many as before if unset.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Go on from the latest checkpoint, if the balance covers the rest."""
    _give(ctx, job, "resume", {"wait": wait, "gpu_count": gpu_count}, as_json)


@jobs.command()
def cancel(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Stop for good; what was checkpointed is kept for a while."""
    _give(ctx, job, "cancel", {}, as_json)


@jobs.command()
def promote(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Make a model of what a cancelled or failed job had checkpointed."""
    _give(ctx, job, "promote", {}, as_json)


def _give(ctx: typer.Context, job: str, command: str, body: dict[str, Any], as_json: bool) -> None:
    with client_of(ctx) as client:
        show(client.post(f"/jobs/{job}/{command}", body), as_json, tables.fields)
