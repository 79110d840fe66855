"""`make bench-memory`: compare predicted with measured GPU memory."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.commands import fail
from deploy.local.errors import StackError
from domain.catalog.catalog_entries import shipped_offers
from domain.catalog.model_shape import ModelShape
from domain.core.quantities import GIB
from domain.estimating.footprint import Layout, memory_items
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision
from services.scheduler.launchers.nvidia_smi import nvidia_devices
from tests.bench.learning import LINEAR_LAYERS, ModelOption, learn, smollm2
from tests.bench.measured_run import RunConfig

STEPS = 2
"""The optimizer's state exists from the end of the first step."""

SIZES = ((1, 2048), (4, 512), (8, 512))
"""(examples per micro-batch, tokens per example): all as long as the longest, with a loss on every
token."""


@dataclass(frozen=True)
class Setting:
    """The parameters that determine the memory of a job."""

    precision: Precision
    checkpointing: bool
    micro_batch_size: int
    length: int

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Return those of one micro-batch per step, and an adapter on all linear layers."""
        return Hyperparameters(
            epochs=1,
            micro_batch_size=self.micro_batch_size,
            gradient_accumulation=1,
            target_modules=LINEAR_LAYERS,
        )

    def predicted_bytes(self, shape: ModelShape) -> int:
        """Return the prediction of the memory fit, for any NVIDIA GPU."""
        gpu = next(each for each in shipped_offers().gpu_types if each.backing == "nvidia")
        layout = Layout(shape, self.hyperparameters, self.length, 1)
        return sum(memory_items(layout, self.precision, self.checkpointing, gpu).values())

    def __str__(self) -> str:
        checkpointing = ", checkpointing" if self.checkpointing else ""
        return f"{self.precision}{checkpointing}, {self.micro_batch_size} x {self.length} tokens"


SETTINGS = tuple(
    Setting(precision, checkpointing, *size)
    for precision, checkpointing, size in product(Precision, (False, True), SIZES)
)


def bench(model: ModelOption = None) -> None:
    """Run two steps in each setting, each in a separate process. Needs a GPU."""
    console = Console(highlight=False)
    if not nvidia_devices():
        fail("This machine has no NVIDIA GPU to measure.")
    try:
        with tempfile.TemporaryDirectory(prefix="ecolink-bench-") as folder:
            base = model or smollm2(Path(folder))
            memory = {each: compared(each, base, Path(folder)) for each in SETTINGS}
    except StackError as error:
        fail(str(error))
    console.print(drawn(memory))


def compared(setting: Setting, model: Path, folder: Path) -> tuple[int, int]:
    """Return the predicted and measured bytes of a run. Raise StackError if it fails."""
    ids = [5 + n % 50 for n in range(setting.length)]
    examples = [{"input_ids": ids, "labels": ids}] * setting.micro_batch_size * STEPS
    data = folder / f"rows-{setting.length}.json"
    data.write_text(json.dumps({"train": examples}))
    result = learn(
        RunConfig(
            model=model,
            data=data,
            hyperparameters=setting.hyperparameters,
            precision="nf4" if setting.precision is Precision.NF4 else "bf16",
            checkpointing=setting.checkpointing,
            steps=STEPS,
        )
    )
    return setting.predicted_bytes(result.shape), result.peak_memory_bytes


def drawn(memory: dict[Setting, tuple[int, int]]) -> Table:
    """Return a table with a row per setting, and the range of the ratios."""
    ratios = [predicted / measured for predicted, measured in memory.values()]
    table = Table(
        title="GPU memory, GiB",
        caption=f"predicted / measured: {min(ratios):.2f} to {max(ratios):.2f}",
    )
    table.add_column("setting")
    for column in ("predicted", "measured", "ratio"):
        table.add_column(column, justify="right")
    for (setting, sizes), ratio in zip(memory.items(), ratios, strict=True):
        table.add_row(str(setting), *(f"{size / GIB:.2f}" for size in sizes), f"{ratio:.2f}")
    return table


if __name__ == "__main__":
    typer.run(bench)
