"""The account holder's commands: datasets, jobs, models and billing, through the JSON API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console

from domain.hyperparameters import Hyperparameters
from gateway import tables
from gateway.client import Client, ClientError, Endpoint, Unreachable

WATCH_SECONDS = 1.0
UNREACHABLE_SECONDS = 60.0  # how long `watch` puts up with a gateway that does not answer
PIPE_COLUMNS = 200
FINAL = frozenset({"registered", "failed"})

errors = Console(stderr=True, highlight=False)

datasets = typer.Typer(no_args_is_help=True, help="Upload datasets and see what became of them.")
jobs = typer.Typer(no_args_is_help=True, help="Launch fine-tuning jobs and follow them.")
models = typer.Typer(no_args_is_help=True, help="Base models, and the models that jobs made.")
billing = typer.Typer(no_args_is_help=True, help="The balance, and every posting.")

GROUPS = {"datasets": datasets, "jobs": jobs, "models": models, "billing": billing}

Locate = Callable[[], Endpoint]
"""Finds the gateway, or raises ClientError; whoever assembles the commands puts it in `ctx.obj`."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as it is.")]
JobName = Annotated[str, typer.Argument(help="ftjob-...", show_default=False)]
DatasetId = Annotated[str, typer.Argument(show_default=False)]


@contextmanager
def client_of(ctx: typer.Context) -> Generator[Client]:
    """A client of the located gateway; an error is one sentence, and exit status 1."""
    locate: Locate = ctx.obj
    try:
        with Client(locate()) as client:
            yield client
    except (ClientError, OSError) as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


def screen() -> Console:
    """Standard output, without markup; wide in a pipe, since what reads it wants whole ids."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def show(answer: dict[str, Any], as_json: bool, draw: Callable[[dict[str, Any]], object]) -> None:
    """Print an answer as JSON or drawn."""
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        screen().print(draw(answer))


@datasets.command()
def upload(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Chat JSONL.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file; its validation begins."""
    with client_of(ctx) as client:
        show(client.upload(file, name or file.stem), as_json, tables.fields)


@datasets.command("list")
def list_datasets(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Your datasets, the newest first."""
    with client_of(ctx) as client:
        show(client.get("/datasets"), as_json, tables.datasets)


@datasets.command("show")
def show_dataset(ctx: typer.Context, dataset: DatasetId, as_json: AsJson = False) -> None:
    """One dataset, and how far its validation has got."""
    with client_of(ctx) as client:
        show(client.get(f"/datasets/{dataset}"), as_json, tables.fields)


@datasets.command()
def report(ctx: typer.Context, dataset: DatasetId, as_json: AsJson = False) -> None:
    """What the validation found, line by line."""
    with client_of(ctx) as client:
        show(client.get(f"/datasets/{dataset}/report"), as_json, tables.report)


def _tuning(name: str) -> Any:
    """The option of one hyperparameter, described as the API describes it."""
    field = Hyperparameters.model_fields[name]
    default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
    shown = "the base's context" if default is None else default
    return typer.Option(help=f"{field.description}  \\[default: {shown}]", show_default=False)


@jobs.command()
def launch(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option(help="Id of a dataset that is ready_for_training.")],
    base_model: Annotated[str, typer.Option(help="One of `ecolink models list`.")],
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
    save_steps: Annotated[int | None, _tuning("save_steps")] = None,
    seed: Annotated[int | None, _tuning("seed")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again makes no second job.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Approve a job; it starts when a GPU is free."""
    # The parameters are named as the fields are, so that a new field needs one line above.
    chosen = {name: ctx.params[name] for name in Hyperparameters.model_fields}
    body = {
        "dataset": dataset,
        "base_model": base_model,
        "region": region,
        "gpu_type": gpu_type,
        "gpu_count": gpu_count,
        "hyperparameters": {
            name: value for name, value in chosen.items() if value not in (None, (), [])
        },
    }
    with client_of(ctx) as client:
        job = client.post("/jobs", body, idempotency_key=idempotency_key or str(uuid4()))
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
    """Follow a job until it is over; exit status 1 if it failed."""
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
                if found["status"] in FINAL:
                    break
            time.sleep(WATCH_SECONDS)
    if found["status"] == "failed":
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


@models.command("list")
def list_models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Base models, and your own."""
    with client_of(ctx) as client:
        show(client.get("/models"), as_json, tables.models)


@billing.command()
def balance(ctx: typer.Context, as_json: AsJson = False) -> None:
    """What your account holds, and what of it running jobs have reserved."""
    with client_of(ctx) as client:
        show(client.get("/account"), as_json, tables.fields)


@billing.command()
def ledger(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only this job's postings.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every posting of your account."""
    with client_of(ctx) as client:
        show(client.get("/ledger", job=job), as_json, tables.ledger)
