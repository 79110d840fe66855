"""`make bench-wait-eta`: compare estimated waits with the waits of a simulated pool."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.simulation.pool import CAPACITY, JOBS, NOISE, SEED, Accuracy, simulate


def bench(
    seed: Annotated[int, typer.Option(help="Of arrivals and durations.")] = SEED,
    noise: Annotated[float, typer.Option(help="Log-deviation of true durations.")] = NOISE,
) -> None:
    """Tell 200 jobs on a pool of 8 GPUs how long they will wait, and see how long they do."""
    jobs = simulate(seed, noise=noise)
    inside = sum(
        each.estimate.low_seconds <= each.duration <= each.estimate.high_seconds for each in jobs
    )
    table = Table("", "jobs that waited", "median error", "p90 error", box=None)
    for name, told in (
        ("from the running jobs' own remaining estimates", lambda job: job.eta),
        ("naive: expected GPU seconds before it / GPUs", lambda job: job.naive),
    ):
        accuracy = Accuracy.of(jobs, told)
        table.add_row(
            name,
            str(accuracy.waited),
            f"{accuracy.median_error:.1%}",
            f"{accuracy.p90_error:.1%}",
        )
    console = Console(highlight=False)
    console.print(
        f"{JOBS} jobs on {CAPACITY} GPUs, seed {seed}; {inside} took as long as their range said."
    )
    console.print(table)


if __name__ == "__main__":
    typer.run(bench)
