"""`ecolink jobs`: list, follow and control fine-tuning jobs."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from gateway.catalog.schemas import CatalogResponse
from gateway.cli import job_tables
from gateway.cli.client import Client, Reply
from gateway.cli.downloads import Directory, fetch
from gateway.cli.exits import ExitCode
from gateway.cli.following import MOST_LINES, job_events, leaving_it_running, log_lines, patiently
from gateway.cli.following import follow as follow_job
from gateway.cli.launching import launch
from gateway.cli.models import give_deployment
from gateway.cli.tables import tame
from gateway.cli.terminal import CommandGroup, fail, for_programs, note, screen, show, show_line
from gateway.jobs.schemas import (
    CheckpointResponse,
    Evaluation,
    JobDetail,
    JobLog,
    ListedJob,
    TimelineEntry,
)
from gateway.schemas import Listed

jobs = CommandGroup(no_args_is_help=True, help="Launch fine-tuning jobs and follow them.")
jobs.command()(launch)

JobName = Annotated[
    str, typer.Argument(help="ID of the job, such as ftjob-...", show_default=False)
]
Step = Annotated[
    int | None, typer.Option(min=0, help="Step of a checkpoint to use in place of the final model.")
]


@jobs.command()
def gpus(client: Client) -> None:
    """List GPUs by region, with memory, hourly price, free GPUs and expected wait."""
    show(client.read(CatalogResponse, "/catalog"), job_tables.gpus)


@jobs.command("list")
def list_jobs(client: Client) -> None:
    """List your jobs, newest first."""
    show(client.read(Listed[ListedJob], "/jobs"), job_tables.jobs)


@jobs.command("show")
def show_job(client: Client, job: JobName) -> None:
    """Show the details of a job."""
    show(client.read(JobDetail, f"/jobs/{job}"), job_tables.job)


@jobs.command()
def watch(client: Client, job: JobName) -> None:
    """Follow a job until it ends or pauses. Ctrl-C does not stop the job.

    --json prints one line per state.
    """
    raise typer.Exit(follow_job(client, job))


@jobs.command("logs")
def show_logs(
    client: Client,
    job: JobName,
    lines: Annotated[
        int, typer.Option(min=1, max=MOST_LINES, help="Number of lines from the end of the log.")
    ] = 50,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until the job ends or pauses.")
    ] = False,
) -> None:
    """Show the last log lines of a job.

    With --follow, --json prints one JSON object per line. EcoLink deletes the log lines after a
    retention time, by default 90 days after the job ends.
    """
    if following:
        with leaving_it_running(job):
            for line in log_lines(client, job, lines):
                if for_programs.get():
                    show_line(line.document)
                else:
                    print(tame(line.model.text), flush=True)
        answer = patiently(lambda: client.read(JobLog, f"/jobs/{job}/log", lines=1))
    else:
        answer = client.read(JobLog, f"/jobs/{job}/log", lines=lines)
        show(answer, job_tables.log)
    if (days := answer.model.deleted_after_days) is not None:
        note(
            f"EcoLink keeps log lines for {days} {'day' if days == 1 else 'days'} after the "
            "end of a job. It has deleted the lines of this job."
        )


@jobs.command("events")
def show_events(
    client: Client,
    job: JobName,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new events until the job ends or pauses.")
    ] = False,
) -> None:
    """Show the events of a job. With --follow, --json prints one JSON object per line."""
    if following:
        with leaving_it_running(job):
            for event in job_events(client, job):
                if for_programs.get():
                    show_line(event.document)
                else:
                    screen().print(job_tables.event(event.model), soft_wrap=True)
    else:
        entries = client.read_all(TimelineEntry, f"/jobs/{job}/timeline", "position")
        show(entries, job_tables.events)


@jobs.command("evaluations")
def show_evaluations(client: Client, job: JobName) -> None:
    """Show held-out loss, and perplexity and token accuracy or rewards, by step.

    Step 0 is the base model.
    """
    path = f"/jobs/{job}/evaluations"
    show(client.read(Listed[Evaluation], path), job_tables.evaluations)


@jobs.command("checkpoints")
def show_checkpoints(client: Client, job: JobName) -> None:
    """List the checkpoints of a job, each with a sample response to a fixed prompt."""
    show(_checkpoints(client, job), job_tables.checkpoints)


@jobs.command()
def pause(client: Client, job: JobName) -> None:
    """Pause a job: save a checkpoint, free the GPUs and stop billing until you resume it."""
    show(client.send(JobDetail, f"/jobs/{job}/pause", {}), job_tables.job)


@jobs.command()
def resume(
    client: Client,
    job: JobName,
    wait: Annotated[
        bool, typer.Option("--wait", help="If no GPU is free, queue the job free of charge.")
    ] = False,
    gpu_count: Annotated[
        int | None, typer.Option(help="Number of GPUs.  \\[default: as many as before]")
    ] = None,
) -> None:
    """Resume a paused job from the latest checkpoint, if the balance covers the rest."""
    options = {"wait": wait, "gpu_count": gpu_count}
    show(client.send(JobDetail, f"/jobs/{job}/resume", options), job_tables.job)


@jobs.command("max-cost")
def change_max_cost(
    client: Client,
    job: JobName,
    amount: Annotated[
        str,
        typer.Argument(
            help="Dollars, or `none`.",
            show_default=False,
        ),
    ],
) -> None:
    """Change or remove the maximum cost of a job, which pauses before it costs more."""
    body = {"max_cost": None if amount == "none" else amount}
    show(client.send(JobDetail, f"/jobs/{job}/max-cost", body), job_tables.job)


@jobs.command()
def cancel(client: Client, job: JobName) -> None:
    """Stop a job permanently. EcoLink keeps its last checkpoint for a limited time."""
    show(client.send(JobDetail, f"/jobs/{job}/cancel", {}), job_tables.job)


@jobs.command()
def promote(client: Client, job: JobName) -> None:
    """Register the last checkpoint of a cancelled or failed job as a model."""
    show(client.send(JobDetail, f"/jobs/{job}/promote", {}), job_tables.job)


@jobs.command("download")
def download_job(client: Client, job: JobName, step: Step = None, to: Directory = None) -> None:
    """Download the model of a job. Repeat the command to resume an interrupted download."""
    if step is not None:
        path = f"/jobs/{job}/checkpoints/{step}"
        fetch(client, path, f"{job}-step-{step}", to)
    else:
        model = _model_of(client, job)
        fetch(client, f"/models/{quote(model)}", model, to)


@jobs.command()
def deploy(
    client: Client,
    job: JobName,
    step: Step = None,
    follow: Annotated[
        bool,
        typer.Option(
            help="Wait until the deployment is active. The exit code is 1 if the deployment fails."
        ),
    ] = True,
) -> None:
    """Deploy the model of a job, or one of its checkpoints."""
    if step is not None:
        path = f"/jobs/{job}/checkpoints/{step}/deploy"
    else:
        path = f"/models/{quote(_model_of(client, job))}/deploy"
    give_deployment(client, path, follow)


def _checkpoints(client: Client, job: str) -> Reply[Listed[CheckpointResponse]]:
    return client.read(Listed[CheckpointResponse], f"/jobs/{job}/checkpoints")


def _model_of(client: Client, job: str) -> str:
    """Return the name of a job's model. Exit if it has none."""
    found = client.read(JobDetail, f"/jobs/{job}").model
    if found.model is None:
        steps = ", ".join(str(each.step) for each in _checkpoints(client, job).model.data)
        fail(
            f"{job} is {found.status} and has no registered model. "
            + (
                f"Pass one of its checkpoints with --step: {steps}."
                if steps
                else "It has no checkpoints."
            ),
            ExitCode.WRONG_STATE,
        )
    return found.model
