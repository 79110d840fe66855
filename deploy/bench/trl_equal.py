"""`ecolink bench trl-equal`: the same run with our trainer and TRL's, and what each learned."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from deploy.bench import trl_run
from deploy.bench.aims import Verdict, conclude
from deploy.bench.learning import (
    Material,
    ModelOption,
    PythonOption,
    last_line,
    learn,
    material,
)
from deploy.bench.trl_run import TrlConfig, TrlResult
from deploy.demo.chats import CorpusMissing
from deploy.local.commands import fail
from deploy.local.errors import StackError
from domain.training.hyperparameters import Hyperparameters
from tests.bench.measured_run import Rows, RunConfig, plan_of

AIM_NATS = 0.02
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def bench(
    python: PythonOption = Path(sys.executable),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 200,
    seed: Annotated[int, typer.Option(help="Of data order, dropout and init.")] = 42,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the base.")] = "bf16",
    model: ModelOption = None,
) -> None:
    """The same data, steps and settings for both; both adapters are evaluated alike, in fp32."""
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="ecolink-bench-") as folder:
            made = material(Path(folder), steps, model).seeded(seed)
            table, verdict = compare(made, Path(folder), python, precision)
    except (StackError, CorpusMissing) as error:
        fail(str(error))
    console.print(table)
    conclude(console, [verdict])


def compare(
    made: Material, folder: Path, python: Path, precision: Literal["fp32", "bf16"]
) -> tuple[Table, Verdict]:
    """Train with both, evaluate both adapters in fp32, and draw what came out."""
    ours = learn(
        RunConfig(
            model=made.model,
            data=made.data,
            hyperparameters=made.hyperparameters,
            precision=precision,
            output=folder / "ours",
        )
    )
    theirs = _train_with_trl(made, folder, python, precision)
    losses = [_loss(made, adapter) for adapter in (folder / "ours", Path(theirs.adapter))]
    difference = losses[0] - losses[1]
    verdict = Verdict(
        f"EcoLink: {difference:+.4f} nats from TRL", f"{AIM_NATS}", abs(difference) <= AIM_NATS
    )
    steps = len(ours.step_seconds)
    table = Table(title=f"Held-out loss after {steps} steps in {precision}, nats a label token")
    for column in ("trainer", "held-out loss", "as it says itself", "tokens"):
        table.add_column(column, justify="left" if column == "trainer" else "right")
    table.add_row("base", f"{ours.eval_loss_before:.4f}", "", "")
    table.add_row("EcoLink", f"{losses[0]:.4f}", f"{ours.eval_loss:.4f}", str(ours.tokens))
    said = f"{theirs.eval_loss:.4f}"
    table.add_row(f"TRL {theirs.version}", f"{losses[1]:.4f}", said, str(theirs.tokens))
    return table, verdict


def _train_with_trl(made: Material, folder: Path, python: Path, precision: str) -> TrlResult:
    """TRL on the same examples in each step, at the same learning rates; we cut them otherwise."""
    rows: Rows = json.loads(made.data.read_text())
    plan = plan_of(rows, made.hyperparameters)
    steps = range(plan.total_steps)
    ordered = [
        rows["train"][index]
        for step in steps
        for micro_batch in plan.micro_batches(step)
        for index in micro_batch
    ]
    data = folder / "trl.json"
    data.write_text(json.dumps({"train": ordered, "eval": rows["eval"]}))
    config = trl_config(
        made.hyperparameters,
        model=made.model,
        data=data,
        output=folder / "trl",
        learning_rates=[plan.learning_rate(step, made.hyperparameters) for step in steps],
        precision=precision,
    )
    command = [str(python), "-P", trl_run.__file__]
    return TrlResult(**json.loads(last_line(command, json.dumps(asdict(config)))))


def trl_config(
    hyperparameters: Hyperparameters,
    *,
    model: Path,
    data: Path,
    output: Path,
    learning_rates: list[float],
    precision: str,
) -> TrlConfig:
    """Our hyperparameters as TRL has them, the examples in the order in which they are given."""
    return TrlConfig(
        model=str(model),
        data=str(data),
        output=str(output),
        learning_rates=learning_rates,
        target_modules=list(hyperparameters.target_modules),
        lora_r=hyperparameters.lora_r,
        lora_alpha=hyperparameters.lora_alpha,
        dropout=hyperparameters.dropout,
        micro_batch_size=hyperparameters.micro_batch_size,
        gradient_accumulation=hyperparameters.gradient_accumulation,
        weight_decay=hyperparameters.weight_decay,
        max_grad_norm=hyperparameters.max_grad_norm,
        seed=hyperparameters.seed,
        dtype=DTYPES[precision],
        bf16=precision == "bf16",
        sampling="sequential",
        gradient_checkpointing=False,
        max_length=None,
    )


def _loss(made: Material, adapter: Path) -> float:
    """Held-out loss of an adapter, by the trainer's evaluation in fp32."""
    return learn(
        RunConfig(
            model=made.model,
            data=made.data,
            hyperparameters=made.hyperparameters,
            precision="fp32",
            adapter=adapter,
            train=False,
        )
    ).eval_loss
