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
    """Estimate the waits of 200 jobs on a pool of 8 GPUs, and compare them with the real ones."""
    jobs = simulate(seed, noise=noise)
    inside = sum(
        each.estimate.low_seconds <= each.duration <= each.estimate.high_seconds for each in jobs
    )
    table = Table("", "jobs that waited", "median error", "p90 error", box=None)
    for name, estimate_of in (
        ("from the remaining estimates of running jobs", lambda job: job.eta),
        ("naive: expected GPU seconds of earlier jobs / GPUs", lambda job: job.naive),
    ):
        accuracy = Accuracy.of(jobs, estimate_of)
        table.add_row(
            name,
            str(accuracy.waited),
            f"{accuracy.median_error:.1%}",
            f"{accuracy.p90_error:.1%}",
        )
    console = Console(highlight=False)
    console.print(
        f"{JOBS} jobs on {CAPACITY} GPUs, seed {seed}; {inside} ended inside their range."
    )
    console.print(table)


if __name__ == "__main__":
    typer.run(bench)
