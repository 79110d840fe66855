"""`ecolink bench saving`: what a checkpoint every few steps costs a run."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.bench.aims import Verdict, conclude
from deploy.bench.learning import LINEAR_LAYERS
from deploy.bench.trainer_runs import TINY, Saving, Setting, Trainers, nats_server
from deploy.demo.preparing import BASE_MODEL, SOURCE
from domain.estimating.estimate import Precision
from domain.training.hyperparameters import Hyperparameters

AIM = 0.01
"""Of the time between the first step and the last, for all that checkpoints cost."""

CHATS = 48

ACCUMULATIONS = (Hyperparameters().gradient_accumulation, 1)
"""What jobs have unless they are told otherwise, and the shortest steps there are."""


def bench(
    steps: Annotated[int, typer.Option(min=30, help="Of each run, on all linear layers.")] = 60,
    save_steps: Annotated[int, typer.Option(min=2, help="Steps between two checkpoints.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each size of step.")] = 3,
) -> None:
    """Train with a checkpoint every few steps; tell what they cost: waits, and slower steps."""
    console = Console(highlight=False)
    base = BASE_MODEL if find_spec(SOURCE.partition(":")[2]) is not None else TINY
    with tempfile.TemporaryDirectory(prefix="ecolink-saving-") as folder, nats_server() as url:
        trainers = Trainers(Path(folder), url, CHATS)
        trainers.offer(base)
        setting = Setting(base, Precision.BF16, 1)
        chosen = [_hyperparameters(each, steps, save_steps) for each in ACCUMULATIONS]
        sizes: dict[int, list[Saving]] = defaultdict(list)
        for _ in range(repeats):
            for each in chosen:
                sizes[each.examples_per_step(1)].append(trainers.saving(setting, each))
    console.print(drawn(sizes, f"A checkpoint of {base} every {save_steps} steps"))
    conclude(console, verdicts(sizes))


def _hyperparameters(accumulation: int, steps: int, save_steps: int) -> Hyperparameters:
    """Those of a run of at least so many steps of short chats."""
    chosen = Hyperparameters(
        gradient_accumulation=accumulation,
        target_modules=LINEAR_LAYERS,
        save_steps=save_steps,
        eval_steps=100_000,  # the time of evaluations is not that of checkpoints
        max_sequence_length=64,
    )
    epochs = math.ceil(steps * chosen.examples_per_step(1) / CHATS)
    return chosen.model_copy(update={"epochs": epochs})


def drawn(sizes: Mapping[int, Sequence[Saving]], title: str) -> Table:
    """The table: a row for each run, by the chats of a step."""
    table = Table(title=title)
    columns = (
        "chats",
        "steps",
        "saves",
        "trained",
        "waited",
        "step beside",
        "else",
        "of the time",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for chats, runs in sizes.items():
        for run in runs:
            beside, others = run.steps
            table.add_row(
                str(chats),
                str(len(run.times)),
                str(len(run.saves)),
                f"{run.wall:.1f} s",
                f"{run.waited:.3f} s",
                f"{median(beside):.3f} s",
                f"{median(others):.3f} s",
                f"{run.share:.2%}",
            )
    return table


def verdicts(sizes: Mapping[int, Sequence[Saving]]) -> list[Verdict]:
    """Of each size of step, whether the middle run met the aim."""
    middle = {chats: median(run.share for run in runs) for chats, runs in sizes.items()}
    return [
        Verdict(f"{chats} chats a step: {share:.2%}", f"{AIM:.0%}", share <= AIM)
        for chats, share in middle.items()
    ]
