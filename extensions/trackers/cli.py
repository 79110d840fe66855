"""`ecolink trackers`, and the commands of `ecolink jobs` about the trackers of a job."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from domain.training.integrations import Tracker
from extensions.trackers.schemas import (
    ConnectionForm,
    ConnectionResponse,
    ConnectionStatus,
    RunResponse,
)
from gateway.cli.client import Client, ClientError
from gateway.cli.jobs import JobName
from gateway.cli.tables import fields, listing, selected
from gateway.cli.terminal import CommandGroup, client_of, note, show
from gateway.schemas import Listed
from infrastructure.extras import require

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
"""Maximum wait for the result of a test. One request takes at most 30 s."""

trackers = CommandGroup(
    no_args_is_help=True, help="Send the metrics of jobs to MLflow or Weights & Biases."
)

job_commands = CommandGroup()
"""Commands that the group `jobs` also has."""

Name = Annotated[Tracker, typer.Argument(help="Tracker: mlflow or wandb.", show_default=False)]


@trackers.command()
def connect(
    client: Client,
    tracker: Name,
    url: Annotated[
        str | None,
        typer.Option(
            help="Tracking URI of MLflow, or API of Weights & Biases.  \\[default for wandb: "
            "https://api.wandb.ai]",
            show_default=False,
        ),
    ] = None,
    username: Annotated[
        str | None, typer.Option(help="User name at an MLflow server with basic authentication.")
    ] = None,
    no_secret: Annotated[
        bool, typer.Option("--no-secret", help="The MLflow server needs no credentials.")
    ] = False,
) -> None:
    """Connect your account to a tracker, or replace the connection.

    The command asks for the password, token or API key. In scripts, it reads it from standard
    input.
    """
    secret = None if no_secret else _secret()
    form = ConnectionForm.model_construct(url=url, username=username, secret=secret)
    body = form.model_dump(mode="json", exclude_none=True)
    show(client.replace(ConnectionResponse, f"/trackers/{tracker}", body), fields)


@trackers.command("list")
def list_connections(client: Client) -> None:
    """List your connections to trackers."""
    show(client.read(Listed[ConnectionResponse], "/trackers"), _connections)


@trackers.command()
def test(ctx: typer.Context, tracker: Name) -> None:
    """Test a connection. The exit code is 1 if the tracker refuses it."""
    path = f"/trackers/{tracker}"
    with client_of(ctx) as client:
        found = client.send(ConnectionResponse, f"{path}/test", {})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while found.model.status is ConnectionStatus.TESTING:
            if time.monotonic() > deadline:
                raise ClientError(
                    "The connection is not tested yet. See `ecolink trackers list` later."
                )
            time.sleep(POLL_SECONDS)
            found = client.read(ConnectionResponse, path)
    show(found, fields)
    if found.model.status is ConnectionStatus.FAILING:
        raise ClientError(found.model.error or "The test failed.")


@trackers.command()
def disconnect(client: Client, tracker: Name) -> None:
    """Delete a connection with its credentials."""
    client.delete(f"/trackers/{tracker}")
    note(f"The connection to {tracker.product} is deleted.")


@job_commands.command("tensorboard")
def write_tensorboard(
    client: Client,
    job: JobName,
    logdir: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for `tensorboard --logdir`.")
    ] = Path("runs"),
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Add new steps until the job ends or pauses.")
    ] = False,
) -> None:
    """Write the metrics of a job as event files of TensorBoard, also while it runs."""
    require("trackers", "This command")
    from extensions.trackers import growing_event_file

    path = growing_event_file.write(client, job, logdir, follow=following)
    note(f"Wrote {path}. Run `tensorboard --logdir {logdir}` to see it.")


@job_commands.command("trackers")
def show_trackers(client: Client, job: JobName) -> None:
    """Show the trackers of a job: the run, the last step that it has, and the last error."""
    show(client.read(Listed[RunResponse], f"/jobs/{job}/trackers"), _runs)


@job_commands.command("retry-tracker")
def retry_tracker(
    client: Client,
    job: JobName,
    tracker: Annotated[Tracker, typer.Argument(help="mlflow or wandb.", show_default=False)],
) -> None:
    """Send the metrics of a job to a failing tracker immediately."""
    show(client.send(RunResponse, f"/jobs/{job}/trackers/{tracker}/retry", {}), fields)


def _secret() -> str:
    if sys.stdin.isatty():
        return typer.prompt("Password, token or API key", hide_input=True)
    return sys.stdin.readline().strip()


def _connections(answer: Listed[ConnectionResponse]) -> RenderableType:
    return listing(
        (
            {
                "tracker": each.tracker,
                "status": each.status,
                "url": each.url or "the operator's server",
                "tested at": each.tested_at,
                "reason": each.error,
            }
            for each in answer.data
        ),
        empty="You have no trackers. `ecolink trackers connect mlflow` connects one.",
    )


def _runs(answer: Listed[RunResponse]) -> RenderableType:
    """Render one line per tracker of a job."""
    rows = (
        selected(each, "tracker", "status", "last_step", "sent_at", "url", "error")
        | {"next attempt at": each.next_attempt_at}
        for each in answer.data
    )
    return listing(rows, empty="The job has no trackers. `ecolink jobs launch --track` adds one.")
