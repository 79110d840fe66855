"""`make bench-trl-presets`: compare every loss of each LoRA preset with TRL's SFTTrainer."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from deploy.local.errors import StackError
from domain.training.hyperparameters import Hyperparameters
from services.model_libraries import lean_imports
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
from tests.bench import trl_run
from tests.bench.corpus import CorpusMissing
from tests.bench.learning import (
    LINEAR_LAYERS,
    ModelOption,
    PythonOption,
    last_line,
    material,
)
from tests.bench.measured_run import plan_of
from tests.bench.trainer import require_trl
from tests.bench.trl_run import TrlConfig, TrlResult

if TYPE_CHECKING:
    from services.trainer.training import Step

AIM = 1e-4
"""Largest difference between two losses, in nats per trainable token."""

FOREVER = 1e9
MICRO_BATCH, ACCUMULATION = 2, 2
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "attention only": {},
    "all linear layers": {"target_modules": LINEAR_LAYERS},
    "rsLoRA, all linear layers": {"target_modules": LINEAR_LAYERS, "use_rslora": True},
    "DoRA, attention only": {"use_dora": True},
    "DoRA, all linear layers": {"target_modules": LINEAR_LAYERS, "use_dora": True},
}


def bench(
    python: PythonOption = Path(sys.executable),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 50,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-4,
    max_tokens: Annotated[int, typer.Option(help="Longest example.")] = 256,
    model: ModelOption = None,
) -> None:
    """Train on the same examples in the same order with both trainers, in float32."""
    console = Console(highlight=False)
    chosen = Hyperparameters(
        epochs=1,
        learning_rate=rate,
        dropout=0.0,
        micro_batch_size=MICRO_BATCH,
        gradient_accumulation=ACCUMULATION,
    )
    missed = False
    try:
        require_trl(python)
        with tempfile.TemporaryDirectory(prefix="ecolink-bench-") as folder:
            made = material(Path(folder), steps, model, chosen)
            rows = _short(json.loads(made.data.read_text()), max_tokens)
            for name, fields in PRESETS.items():
                tuned = chosen.model_copy(update=dict(fields))
                differences = _compared(made.model, Path(folder), rows, tuned, steps, python)
                missed = missed or differences[0] > AIM
                console.print(
                    f"{name}: {steps} steps of {MICRO_BATCH * ACCUMULATION} examples, largest "
                    f"difference of a loss {differences[0]:.2e} (aim {AIM:g}), of an adapter "
                    f"weight {differences[1]:.2e}; loss {differences[2]:.4f} to "
                    f"{differences[3]:.4f}"
                )
    except (StackError, CorpusMissing) as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(1) from error
    if missed:
        raise typer.Exit(1)


def _short(rows: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """Return the rows without the tokens of long examples that exceed the limit."""
    short = [
        {"input_ids": row["input_ids"][:max_tokens], "labels": row["labels"][:max_tokens]}
        for row in rows["train"]
    ]
    return {"train": [row for row in short if any(label >= 0 for label in row["labels"][1:])]}


def _compared(
    base: Path,
    folder: Path,
    rows: dict[str, Any],
    chosen: Hyperparameters,
    steps: int,
    python: Path,
) -> tuple[float, float, float, float]:
    """Return the largest difference of a loss and of a weight, and the first and last loss."""
    ours, config = _train(base, folder, rows, chosen, steps)
    command = [str(python), "-P", trl_run.__file__]
    theirs = TrlResult(**json.loads(last_line(command, json.dumps(vars(config)))))
    losses = [abs(step.loss - other) for step, other in zip(ours, theirs.losses, strict=True)]
    weights = _largest_difference(folder / "end", Path(config.output))
    return max(losses), weights, ours[0].loss, ours[-1].loss


def _train(
    base: Path, folder: Path, rows: dict[str, Any], chosen: Hyperparameters, steps: int
) -> tuple[list[Step], TrlConfig]:
    """Train with EcoLink. Return the steps, and TRL's settings.

    TRL starts with the same adapter, and reads the examples in the order of EcoLink's plan.
    """
    lean_imports()
    import torch

    from infrastructure.chat.chat_labels import Example
    from services.trainer.model import attach_adapter, load_base
    from services.trainer.packing import pack_if_able
    from services.trainer.processes.ranks import Ranks
    from services.trainer.training import Training

    plan = plan_of(rows, chosen)
    ranks, lease = Ranks.alone(), Lease(SegmentClock(), FOREVER, FOREVER)
    loaded = load_base(base, torch.float32, ranks.device)
    pack_if_able(loaded)
    torch.manual_seed(chosen.seed)
    model = attach_adapter(loaded, chosen, base.name)
    model.save_pretrained(str(folder / "start"), save_embedding_layers=False)
    examples = [Example(tuple(row["input_ids"]), tuple(row["labels"])) for row in rows["train"]]
    training = Training(model, plan, examples, chosen, ranks, lease)
    taken = [step for number in range(steps) if (step := training.step(number)) is not None]
    model.save_pretrained(str(folder / "end"), save_embedding_layers=False)
    order = [i for number in range(steps) for batch in plan.micro_batches(number) for i in batch]
    data = folder / "ordered.json"
    data.write_text(json.dumps({"train": [rows["train"][index] for index in order]}))
    return taken, TrlConfig(
        model=str(base),
        data=str(data),
        output=str(folder / "trl"),
        learning_rates=[plan.learning_rate(number, chosen) for number in range(steps)],
        target_modules=list(chosen.target_modules),
        lora_r=chosen.lora_r,
        lora_alpha=chosen.lora_alpha,
        dropout=0.0,
        micro_batch_size=MICRO_BATCH,
        gradient_accumulation=ACCUMULATION,
        weight_decay=chosen.weight_decay,
        max_grad_norm=chosen.max_grad_norm,
        seed=chosen.seed,
        bf16=False,
        sampling="sequential",
        gradient_checkpointing=False,
        adapter=str(folder / "start"),
    )


def _largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference between two weights of two adapters."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors"
    ours, theirs = load_file(one / name), load_file(other / name)
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours)


if __name__ == "__main__":
    typer.run(bench)
