"""`ecolink estimates`, which compares approved cost ranges with actual costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from deploy.operator.accounts import console
from deploy.operator.store import open_store
from domain.core.money import exact_dollars
from domain.core.quantities import counted
from gateway.cli.terminal import screen
from projections import ESTIMATES
from projections.estimate_accuracy import Scored, Summary, csv_lines, scored_jobs, summary

commands = typer.Typer(
    name="estimates", no_args_is_help=True, help="Compare estimates with actual costs."
)


NO_ESTIMATES, NONE_ENDED = "No job has an estimate yet.", "No job has ended yet."


@commands.callback()
def root() -> None:
    """Compare estimates with actual costs."""


@commands.command()
def report(as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False) -> None:
    """Show the approved range and the actual cost of each job, and the accuracy of all ranges."""
    with open_store() as store:
        store.fold(ESTIMATES)
        jobs, accuracy = scored_jobs(store.connection), summary(store.connection)
    if as_csv:
        typer.echo("".join(csv_lines(jobs)), nl=False)
        return
    if not jobs:
        console.print(NO_ESTIMATES)
        return
    show(jobs, accuracy)


def show(jobs: Sequence[Scored], accuracy: Summary | None) -> None:
    """Print each job, and the accuracy of all ranges."""
    screen().print(_table(jobs))
    console.print(str(accuracy or NONE_ENDED))


def _table(jobs: Sequence[Scored]) -> Table:
    table = Table(box=None)
    for name in ("job", "base", "GPUs", "precision"):
        table.add_column(name, overflow="fold")
    for name in (
        "tokens",
        "range",
        "cost",
        "range s",
        "took s",
        "inside",
        "at",
        "from",
        "training",
    ):
        table.add_column(name, justify="right")
    for each in jobs:
        table.add_row(
            each.job,
            each.base_model,
            f"{each.gpu_count} x {each.gpu_type}",
            each.precision,
            f"{each.tokens:,}",
            f"{exact_dollars(each.low_micros)}-{exact_dollars(each.high_micros)}",
            "" if each.actual_micros is None else exact_dollars(each.actual_micros),
            f"{each.low_seconds}-{each.high_seconds}",
            "" if each.actual_seconds is None else str(each.actual_seconds),
            {None: "", True: "yes", False: "no"}[each.inside],
            "" if each.position is None else f"{each.position:.0%}",
            counted(each.calibrated_from, "job") if each.calibrated_from else "catalog",
            "" if each.training_share is None else f"{each.training_share:.0%}",
        )
    return table
