"""`ecolink bench saving`: what a checkpoint every few steps costs a run."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.bench.learning import LINEAR_LAYERS
from deploy.bench.trainer_runs import TINY, Saving, Setting, Trainers, nats_server
from deploy.demo.preparing import BASE_MODEL, SOURCE
from domain.estimate import Precision
from domain.hyperparameters import Hyperparameters

AIM = 0.01
"""Of the time between the first step and the last, for all that checkpoints cost."""


def bench(
    epochs: Annotated[
        int, typer.Option(min=3, help="Of 10 steps of 4 short chats, on all linear layers.")
    ] = 12,
    save_steps: Annotated[int, typer.Option(min=2, help="Steps between two checkpoints.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Runs.")] = 3,
) -> None:
    """Train with a checkpoint every few steps; tell what they cost: waits, and slower steps."""
    console = Console(highlight=False)
    base = BASE_MODEL if find_spec(SOURCE.partition(":")[2]) is not None else TINY
    chosen = Hyperparameters(
        epochs=epochs,
        gradient_accumulation=1,
        target_modules=LINEAR_LAYERS,
        save_steps=save_steps,
        eval_steps=100_000,  # the time of evaluations is not that of checkpoints
        max_sequence_length=64,
    )
    with tempfile.TemporaryDirectory(prefix="ecolink-saving-") as folder, nats_server() as url:
        trainers = Trainers(Path(folder), url)
        trainers.offer(base)
        setting = Setting(base, Precision.BF16, 1)
        runs = [trainers.saving(setting, chosen) for _ in range(repeats)]
    console.print(drawn(runs, f"A checkpoint of {base} every {save_steps} steps"))


def drawn(runs: list[Saving], title: str) -> Table:
    """The table: a row for each run, and whether the middle one met the aim."""
    middle = median(run.share for run in runs)
    verdict = "met" if middle <= AIM else "missed"
    table = Table(
        title=title,
        caption=f"{middle:.2%} of the time in the middle (aim {AIM:.0%}: {verdict})",
    )
    columns = (
        "steps",
        "checkpoints",
        "trained, s",
        "waited, s",
        "step beside it",
        "else",
        "of the time",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for run in runs:
        beside, others = run.steps
        table.add_row(
            str(len(run.times)),
            str(len(run.saves)),
            f"{run.wall:.1f} s",
            f"{run.waited:.3f} s",
            f"{median(beside):.3f} s",
            f"{median(others):.3f} s",
            f"{run.share:.2%}",
        )
    return table
