"""`make bench-step-times`: compare the seconds of steps of each kind of job with the estimate's.

Calibration multiplies all kinds of jobs by the same factor. A kind is therefore estimated well if
the ratio of its measured to its modeled seconds is about that of the other kinds.

The measured seconds are the computing time of the main thread. It takes part in all parallel work
and does everything else, so they are about the elapsed seconds of an idle machine.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.commands import fail
from deploy.local.errors import StackError
from domain.catalog.catalog_entries import GpuType, shipped_offers
from domain.catalog.model_shape import ModelShape
from domain.estimating.footprint import Layout
from domain.estimating.memory import decide
from domain.estimating.pricing import (
    EVALUATION_SECONDS,
    HEADROOM,
    LABEL_SHARE,
    held_out_examples,
)
from domain.estimating.workload import Work, phase_seconds
from domain.training.hyperparameters import DPO, Hyperparameters
from domain.training.phases import Phase
from domain.training.precision import Dtype
from domain.training.token_lengths import TokenLengths
from infrastructure.chat.chat_labels import IGNORED, Example
from services.model_libraries import choose_dtype, lean_imports
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
from services.trainer.pairs import Item, Pair, length_of
from services.trainer.plan import Plan
from tests.bench.learning import LINEAR_LAYERS, ModelOption, smollm2

if TYPE_CHECKING:
    from peft import PeftModel

    from services.trainer.processes.ranks import Ranks
    from services.trainer.training import Training

STEP, SCORE = "step", "evaluation"
ALL_LINEAR = {"target_modules": LINEAR_LAYERS}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "attention (q, v)": {},
    "attention (q, k, v, o)": {"target_modules": LINEAR_LAYERS[:4]},
    "all linear layers": ALL_LINEAR,
    "rsLoRA, r = 64": {"use_rslora": True, "lora_r": 64},
    "rsLoRA, r = 64, all linear layers": ALL_LINEAR | {"use_rslora": True, "lora_r": 64},
    "DoRA": {"use_dora": True},
    "DoRA, r = 64": {"use_dora": True, "lora_r": 64},
    "DoRA, all linear layers": ALL_LINEAR | {"use_dora": True},
    "DPO": {"method": DPO},
    "DPO, all linear layers": ALL_LINEAR | {"method": DPO},
}
"""Kinds of jobs, and the hyperparameters of each."""

SHAPES = ((2, 40), (8, 40), (12, 64))
"""Sequences of a batch, and tokens of each."""

MOST_OFF = math.sqrt(HEADROOM)
"""Largest ratio between a kind and the middle of all kinds. A range is that wide on each side."""

LONG = 100_000


class Case(NamedTuple):
    """A kind of job, an operation, and the size of its batch."""

    kind: str
    operation: str
    sequences: int
    tokens: int  # of each sequence


@dataclass(frozen=True)
class Timed:
    """Measured and modeled seconds of a case."""

    kind: str
    operation: str
    sequences: int
    tokens: int
    measured: float
    modeled: float

    @property
    def ratio(self) -> float:
        return self.measured / self.modeled


def bench(
    rounds: Annotated[int, typer.Option(min=1, help="Times of each batch.")] = 5,
    output: Annotated[Path | None, typer.Option(help="JSON file for all times.")] = None,
    model: ModelOption = None,
) -> None:
    """Measure steps and evaluations of all kinds in turns, on SmolLM2-135M."""
    console = Console(highlight=False)
    lean_imports()
    try:
        with TemporaryDirectory(prefix="ecolink-bench-") as folder:
            found = _measured(model or smollm2(Path(folder)), rounds)
    except StackError as error:
        fail(str(error))
    if output is not None:
        output.write_text(json.dumps([asdict(each) for each in found], indent=1))
    console.print(_table(found))
    middle = median(each.ratio for each in found if each.operation == STEP)
    off = [each for each in _by_kind(found) if not 1 / MOST_OFF < each[2] / middle < MOST_OFF]
    for kind, operation, ratio in _by_kind(found):
        console.print(f"{kind}, {operation}: {ratio / middle:.2f} times the middle")
    console.print(f"middle of all steps: {middle:.2f} times the modeled seconds")
    if off:
        raise typer.Exit(1)


def _by_kind(found: list[Timed]) -> list[tuple[str, str, float]]:
    """Return the median ratio of each kind and operation."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for each in found:
        ratios.setdefault((each.kind, each.operation), []).append(each.ratio)
    return [(*names, median(some)) for names, some in ratios.items()]


def _measured(model: Path, rounds: int) -> list[Timed]:
    runs, modeled = _cases(model)
    times: dict[Case, list[float]] = {case: [] for case in runs}
    for number in range(rounds + 1):
        for case, run in runs.items():
            began = time.thread_time()
            run()
            if number:  # the first round warms up
                times[case].append(time.thread_time() - began)
    return [Timed(*case, median(spent), modeled[case]) for case, spent in times.items()]


def _cases(directory: Path) -> tuple[dict[Case, Callable[[], object]], dict[Case, float]]:
    """Return a function that runs each case, and the modeled seconds of each case."""
    from services.model_import.importer import shape_of
    from services.trainer.evaluation import HeldOut
    from services.trainer.model import attach_adapter, load_base
    from services.trainer.packing import pack_if_able
    from services.trainer.processes.ranks import Ranks

    ranks, lease = Ranks.alone(), Lease(SegmentClock(), math.inf, math.inf)
    runs: dict[Case, Callable[[], object]] = {}
    modeled: dict[Case, float] = {}
    (gpu,) = [each for each in shipped_offers().gpu_types if each.name == "cpu"]
    for kind, fields in KINDS.items():
        base = load_base(directory, choose_dtype(ranks.device), ranks.device)
        pack_if_able(base)
        shape, lot = shape_of(base), random.Random(0)
        adapted = attach_adapter(base, Hyperparameters(**fields), directory.name)
        for sequences, tokens in SHAPES:
            chosen = _chosen(fields, sequences)
            examples = [
                _item(lot, tokens, shape.vocab_size, chosen) for _ in range(chosen.micro_batch_size)
            ]
            training = _training(adapted, examples, chosen, ranks, lease)
            case = Case(kind, STEP, sequences, tokens)
            runs[case] = partial(training.step, 0)
            held_out = HeldOut(examples, training.plan, ranks, training.objective)
            scoring = case._replace(operation=SCORE)
            runs[scoring] = partial(held_out.score, adapted, lease)
            step, score = _modeled(shape, chosen, tokens, gpu)
            modeled |= {case: step, scoring: score}
    return runs, modeled


def _chosen(fields: Mapping[str, Any], sequences: int) -> Hyperparameters:
    chosen = Hyperparameters(
        **{"epochs": 1, "gradient_accumulation": 1, "save_steps": LONG, **fields}
    )
    size = max(1, sequences // chosen.sequences_per_example)
    return chosen.model_copy(update={"micro_batch_size": size})


def _item(lot: random.Random, tokens: int, vocabulary: int, chosen: Hyperparameters) -> Item:
    def sequence() -> Example:
        ids = tuple(lot.randrange(vocabulary) for _ in range(tokens))
        prompt = round((1 - LABEL_SHARE) * tokens)
        return Example(ids, (IGNORED,) * prompt + ids[prompt:])

    return Pair(sequence(), sequence()) if chosen.method == DPO else sequence()


def _training(
    adapted: PeftModel,
    examples: list[Item],
    chosen: Hyperparameters,
    ranks: Ranks,
    lease: Lease,
) -> Training:
    """Return training with a single step, of one batch of these examples."""
    import torch

    from services.trainer.objectives import PreferenceLoss
    from services.trainer.reference import Reference
    from services.trainer.training import Training

    plan = Plan(
        lengths=tuple(map(length_of, examples)),
        epochs=1,
        micro_batch_size=chosen.micro_batch_size,
        gradient_accumulation=1,
        seed=chosen.seed,
        sequences=chosen.sequences_per_example,
    )
    training = Training(adapted, plan, examples, chosen, ranks, lease)
    if isinstance(training.objective, PreferenceLoss):
        zeros = torch.zeros(len(examples), 2)
        training.objective.reference = Reference(zeros, zeros)
    return training


def _modeled(
    shape: ModelShape, chosen: Hyperparameters, tokens: int, gpu: GpuType
) -> tuple[float, float]:
    """Return the modeled seconds of a step and of an evaluated batch."""
    size, sequences = chosen.micro_batch_size, chosen.sequences_per_example
    trained = 100 * size
    examples = next(n for n in count(trained) if n - held_out_examples(n) == trained)
    lengths = TokenLengths.of([tokens] * examples * sequences)
    bf16 = gpu.model_copy(update={"dtype": Dtype.BF16})
    fit = decide(Layout(shape, chosen, tokens), bf16)
    work = Work(shape, lengths, chosen, tokens)
    seconds = phase_seconds(work, bf16, 1, fit)
    passes = 1 if chosen.method == DPO else 2
    scored = (seconds[Phase.EVALUATION] - EVALUATION_SECONDS) / passes
    return seconds[Phase.TRAINING] / work.total_steps(1), scored * size / work.held_out


def _table(found: list[Timed]) -> Table:
    table = Table(box=None)
    for name in ("kind", "operation"):
        table.add_column(name)
    for name in ("sequences", "tokens", "measured ms", "modeled ms", "ratio"):
        table.add_column(name, justify="right")
    for each in found:
        table.add_row(
            *(each.kind, each.operation, str(each.sequences), str(each.tokens)),
            f"{1000 * each.measured:.0f}",
            f"{1000 * each.modeled:.0f}",
            f"{each.ratio:.2f}",
        )
    return table


if __name__ == "__main__":
    typer.run(bench)
