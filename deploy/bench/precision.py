"""`ecolink bench precision`: what is learned in fp32, in bf16 and on a 4-bit base."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal, get_args

import typer
from rich.console import Console
from rich.table import Table

from deploy.bench.aims import Verdict, conclude
from deploy.bench.learning import Material, ModelOption, learn, material
from deploy.demo.chats import CorpusMissing
from deploy.local.commands import fail
from deploy.local.errors import StackError
from tests.bench.measured_run import RunConfig

Precision = Literal["fp32", "bf16", "nf4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
AIM_NATS = 0.01  # of bf16, from fp32


def bench(
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="Runs in each precision.")] = 3,
    model: ModelOption = None,
) -> None:
    """Held-out loss after some steps in each precision, the same base, data and seeds."""
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="ecolink-bench-") as folder:
            made = material(Path(folder), steps, model)
            losses = measure(made, range(seeds), console.print)
    except (StackError, CorpusMissing) as error:
        fail(str(error))
    console.print(drawn(losses, steps))
    conclude(console, [verdict(losses)])


def measure(
    made: Material, seeds: Sequence[int], say: Callable[[str], None]
) -> dict[Precision, list[float]]:
    """Held-out losses by precision, one for each seed; the precisions take turns."""
    losses: dict[Precision, list[float]] = defaultdict(list)
    for seed in seeds:
        for precision in PRECISIONS:
            hyperparameters = made.seeded(seed).hyperparameters
            result = learn(
                RunConfig(
                    model=made.model,
                    data=made.data,
                    hyperparameters=hyperparameters,
                    precision=precision,
                )
            )
            losses[precision].append(result.eval_loss)
            say(
                f"seed {seed}, {precision}: {result.eval_loss_before:.4f} before, "
                f"{result.eval_loss:.4f} after {len(result.step_seconds)} steps, "
                f"{result.tokens / sum(result.step_seconds):.0f} tokens/s"
            )
    return losses


def drawn(losses: dict[Precision, list[float]], steps: int) -> Table:
    """The table: means, their spread over the seeds, and the difference of each seed to fp32."""
    seeds = len(losses["fp32"])
    table = Table(title=f"Held-out loss at step {steps}, nats a label token, {seeds} seeds")
    for column in ("precision", "mean", "spread", "from fp32"):
        table.add_column(column, justify="left" if column == "precision" else "right")
    for precision in PRECISIONS:
        found = losses[precision]
        spread = f"{stdev(found):.4f}" if seeds > 1 else ""
        difference = f"{_difference(losses, precision):+.4f}"
        table.add_row(precision, f"{fmean(found):.4f}", spread, difference)
    return table


def verdict(losses: dict[Precision, list[float]]) -> Verdict:
    """How far bf16 is from fp32. NF4 has no aim: what it costs is told beside what it saves."""
    difference = _difference(losses, "bf16")
    met = abs(difference) <= AIM_NATS
    return Verdict(f"bf16: {difference:+.4f} nats from fp32", f"{AIM_NATS:g}", met)


def _difference(losses: dict[Precision, list[float]], precision: Precision) -> float:
    return fmean(losses[precision]) - fmean(losses["fp32"])
