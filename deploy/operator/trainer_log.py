"""`ecolink trainer-log`, which prints the complete output of a job's trainer."""

from __future__ import annotations

import sys
from typing import Annotated
from uuid import UUID

import typer

from deploy.operator.events import job_id_of
from deploy.operator.store import open_store
from domain.core.errors import NotFound
from domain.jobs.job import Job
from infrastructure.artifacts.store import Artifacts
from infrastructure.training.job_artifacts import kept_log

commands = typer.Typer()


@commands.command("trainer-log")
def trainer_log(
    job: Annotated[
        UUID,
        typer.Argument(
            parser=job_id_of,
            metavar="JOB",
            help="ID of the job, such as ftjob-...",
            show_default=False,
        ),
    ],
    segment: Annotated[
        int | None, typer.Option(min=1, help="Number of the launch.  \\[default: the last launch]")
    ] = None,
) -> None:
    """Print the complete output of a job's trainer, with stack traces and paths.

    The job's owner cannot see stack traces and paths. When a launch ends, EcoLink keeps the last
    MiB of its output.
    """
    with open_store() as store:
        found = store.log.find(Job, job)
        if found is None:
            raise NotFound(f"Unknown job ftjob-{job.hex}. See `ecolink events subscribe`.")
        artifacts = Artifacts(store.settings.artifacts)
        sys.stdout.write(kept_log(artifacts, found, segment or found.segment))
