"""`ecolink jobs`: fine-tuning jobs, and the commands that are given to them."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli import job_tables
from gateway.cli.client import Client
from gateway.cli.deploying import give_deployment
from gateway.cli.downloads import Directory, fetch
from gateway.cli.exits import ExitCode
from gateway.cli.following import (
    MOST_LINES,
    job_events,
    leaving_it_running,
    log_lines,
    patiently,
)
from gateway.cli.launching import launch
from gateway.cli.tables import tame
from gateway.cli.terminal import AsJson, client_of, fail, note, screen, show, show_line
from gateway.cli.watching import follow as follow_job

jobs = typer.Typer(no_args_is_help=True, help="Launch fine-tuning jobs and follow them.")
jobs.command()(launch)

JobName = Annotated[str, typer.Argument(help="ftjob-...", show_default=False)]


@jobs.command()
def gpus(ctx: typer.Context, as_json: AsJson = False) -> None:
    """GPUs to choose from: memory, price of an hour, what is free where, and the wait."""
    with client_of(ctx) as client:
        show(client.get("/catalog"), as_json, job_tables.gpus)


@jobs.command("list")
def list_jobs(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Your jobs, the newest first."""
    with client_of(ctx) as client:
        show(client.get("/jobs"), as_json, job_tables.jobs)


@jobs.command("show")
def show_job(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """All that is known of a job."""
    with client_of(ctx) as client:
        show(client.get(f"/jobs/{job}"), as_json, job_tables.job)


@jobs.command()
def watch(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Follow a job until it is over or paused; Ctrl-C leaves it running.

    With --json each new state is one line.
    """
    with client_of(ctx) as client:
        raise typer.Exit(follow_job(client, job, as_json))


@jobs.command("logs")
def show_logs(
    ctx: typer.Context,
    job: JobName,
    lines: Annotated[
        int, typer.Option(min=1, max=MOST_LINES, help="How many of the last lines.")
    ] = 50,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines until the job rests.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The last lines of a job's trainer; with --follow and --json one a line.

    They are deleted some time after the end of the job.
    """
    with client_of(ctx) as client:
        if following:
            with leaving_it_running(job):
                for line in log_lines(client, job, lines):
                    show_line(line) if as_json else print(tame(line["text"]), flush=True)
            answer = patiently(lambda: client.get(f"/jobs/{job}/log", lines=1))
        else:
            answer = client.get(f"/jobs/{job}/log", lines=lines)
            show(answer, as_json, job_tables.log)
        if (days := answer["deleted_after_days"]) is not None:
            note(
                f"Log lines are kept for {days} {'day' if days == 1 else 'days'} after the end of "
                "a job; those of this one were deleted."
            )


@jobs.command("events")
def show_events(
    ctx: typer.Context,
    job: JobName,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new events until the job rests.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What happened to a job, as the event log has it; with --follow and --json one a line."""
    with client_of(ctx) as client:
        if following:
            with leaving_it_running(job):
                for event in job_events(client, job):
                    if as_json:
                        show_line(event)
                    else:
                        screen().print(job_tables.event(event), soft_wrap=True)
        else:
            show(client.whole(f"/jobs/{job}/timeline", "position"), as_json, job_tables.events)


@jobs.command("evaluations")
def show_evaluations(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Held-out loss, perplexity and token accuracy by step; step 0 is the base alone."""
    with client_of(ctx) as client:
        show(client.get(f"/jobs/{job}/evaluations"), as_json, job_tables.evaluations)


@jobs.command("checkpoints")
def show_checkpoints(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """The checkpoints that exist, with what the adapter answered to a fixed prompt."""
    with client_of(ctx) as client:
        show(client.get(f"/jobs/{job}/checkpoints"), as_json, job_tables.checkpoints)


@jobs.command()
def pause(ctx: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Save a checkpoint and free the GPUs; nothing is billed until you resume."""
    _give(ctx, job, "pause", {}, as_json)


@jobs.command()
def resume(
    ctx: typer.Context,
    job: JobName,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stand in the queue, free of charge, if no GPU is free.")
    ] = False,
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


@jobs.command("download")
def download_job(
    ctx: typer.Context,
    job: JobName,
    step: Annotated[
        int | None, typer.Option(min=0, help="The checkpoint of this step, not the model.")
    ] = None,
    to: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Download the model that a job registered; what was cut off goes on, all is checked."""
    with client_of(ctx) as client:
        if step is not None:
            path = f"/jobs/{job}/checkpoints/{step}"
            fetch(client, path, f"{job}-step-{step}", to, as_json)
        else:
            model = _model_of(client, job)
            fetch(client, f"/models/{quote(model)}", model, to, as_json)


@jobs.command()
def deploy(
    ctx: typer.Context,
    job: JobName,
    step: Annotated[
        int | None, typer.Option(min=0, help="The checkpoint of this step, not the model.")
    ] = None,
    follow: Annotated[
        bool, typer.Option(help="Wait until it answers; exit code 1 if it cannot be served.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Have the model that a job registered answer requests, or one of its checkpoints."""
    with client_of(ctx) as client:
        if step is not None:
            path = f"/jobs/{job}/checkpoints/{step}/deploy"
        else:
            path = f"/models/{quote(_model_of(client, job))}/deploy"
        give_deployment(client, path, follow, as_json)


def _model_of(client: Client, job: str) -> str:
    """The name of a job's model; exits if it has none, and says what it has."""
    found = client.get(f"/jobs/{job}")
    if found["model"] is None:
        saved = client.get(f"/jobs/{job}/checkpoints")["data"]
        steps = ", ".join(str(each["step"]) for each in saved)
        fail(
            f"{job} is {found['status']} and has registered no model; "
            + (f"--step takes one of its checkpoints: {steps}" if steps else "nothing is saved"),
            ExitCode.WRONG_STATE,
        )
    return found["model"]


def _give(ctx: typer.Context, job: str, command: str, body: dict[str, Any], as_json: bool) -> None:
    with client_of(ctx) as client:
        show(client.post(f"/jobs/{job}/{command}", body), as_json, job_tables.job)
