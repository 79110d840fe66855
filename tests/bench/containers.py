"""`make bench-containers`: measure `docker compose up` on empty volumes until all is healthy."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.commands import fail
from deploy.local.ports import free_port
from deploy.processes import PROCESSES, grouped
from tests.bench.aims import Verdict, conclude
from tests.deploy.docker.installation import Installation, docker_answers

AIM_SECONDS = 60.0
CONTAINERS = ("postgres", "nats", "s3", "migrate", *grouped(PROCESSES, ()))

MOMENTS = {
    "created": "create",
    "started": "start",
    "healthy": "health_status: healthy",
    "ended": "die",
}
"""Moments of a container, and Docker's events for them."""


def bench(
    runs: Annotated[int, typer.Option(min=1, help="starts to measure")] = 5,
) -> None:
    """Build the images, then start them on empty volumes. Needs Docker. Exit with 1 above 60 s.

    ECOLINK_TEST_PYTHON_IMAGE and its siblings name images to use instead of the public ones.
    """
    if not docker_answers():
        fail("This benchmark needs a Docker engine with compose. Start one, and try again.")
    console = Console()
    seconds: list[float] = []
    timelines: list[dict[str, dict[str, float]]] = []
    with TemporaryDirectory(prefix="ecolink-containers-") as home:
        installation = Installation(Path(home), free_port())
        installation.prepare()
        for number in range(1, runs + 1):
            installation.remove()
            load = os.getloadavg()[0]
            try:
                with _timeline(installation.project) as timeline:
                    seconds.append(installation.up())
            finally:
                installation.remove()
            timelines.append(timeline)
            console.print(
                f"run {number}: {seconds[-1]:.1f} s; load average {load:.1f} before, "
                f"{os.getloadavg()[0]:.1f} after"
            )
    console.print(_table(timelines))
    conclude(console, [verdict(seconds)])


def verdict(seconds: Sequence[float]) -> Verdict:
    """Compare the median with the aim."""
    typical = median(seconds)
    return Verdict(f"median {typical:.1f} s", f"{AIM_SECONDS:.0f} s", typical <= AIM_SECONDS)


@contextmanager
def _timeline(project: str) -> Iterator[dict[str, dict[str, float]]]:
    """Yield the events of each container, which are complete at the end of the block.

    They are in seconds from the start of the block. Of several events, the first counts.
    """
    began, found = time.time(), dict[str, dict[str, float]]()
    command = ["docker", "events", "--format", "{{json .}}", "--since", f"{began:.6f}"]
    command += ["--filter", f"label=com.docker.compose.project={project}"]
    for event in ("create", "start", "health_status", "die"):
        command += ["--filter", f"event={event}"]
    with TemporaryFile() as written, subprocess.Popen(command, stdout=written) as events:
        try:
            yield found
        finally:
            events.terminate()
            events.wait()
        written.seek(0)
        lines = written.readlines()
    for event in map(json.loads, lines):
        service = event["Actor"]["Attributes"].get("com.docker.compose.service")
        moments = found.setdefault(service, {})
        moments.setdefault(event["Action"], event["timeNano"] / 1e9 - began)


def _table(timelines: Sequence[dict[str, dict[str, float]]]) -> Table:
    table = Table(title="Seconds after the start, median", title_justify="left")
    table.add_column("container")
    for moment in MOMENTS:
        table.add_column(moment, justify="right")
    for container in CONTAINERS:
        row = (
            [each[container][action] for each in timelines if action in each[container]]
            for action in MOMENTS.values()
        )
        table.add_row(container, *(f"{median(known):.1f}" if known else "" for known in row))
    return table


if __name__ == "__main__":
    typer.run(bench)
