"""The trainer's loop without a platform, for benchmarks of its speed and memory.

`python -m tests.bench.measured_run CONFIG.json`, where CONFIG.json is a RunConfig, prints a
RunResult as JSON in its last line. With `--tokenize` it is a TokenizeConfig, and the number of
examples is printed. With `--peak` it is a PeakConfig, and operations per second are printed.
Importing the configurations does not import torch.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from domain.catalog.model_shape import ModelShape
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision
from infrastructure.chat.chat_labels import Example
from services.model_libraries import choose_dtype, lean_imports
from services.trainer.clock import SegmentClock
from services.trainer.examples import Renderer
from services.trainer.lease import Lease
from services.trainer.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel

    from services.trainer.processes.ranks import Ranks
    from services.trainer.training import Step

MODULE = "tests.bench.measured_run"

LARGER_ON_GPU = 4
"""Factor of the matrices' edge on a GPU, which smaller ones do not fill."""


class Settled(BaseModel):
    """Base of configurations and results."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenizeConfig(Settled):
    """Chats to render for a base model."""

    model: Path
    chats: Path  # JSONL
    data: Path  # output
    examples: int  # at most
    max_tokens: int


class RunConfig(Settled):
    """One run."""

    model: Path
    data: Path  # {"train": [{"input_ids", "labels"}, ..]}
    hyperparameters: Hyperparameters
    precision: Literal["fp32", "bf16", "nf4"]  # nf4 computes in the machine's best format
    steps: int | None = None  # the first ones of the plan; None: all
    compiled: bool = False  # layers
    checkpointing: bool = False  # gradient checkpointing
    batch_tokens: int = 0  # tokens computed at once, if more than a micro-batch


class PeakConfig(Settled):
    """Square matrices to multiply on all threads, or on a GPU."""

    dtype: Literal["float32", "bfloat16"]
    sizes: tuple[int, ...]
    times: int  # of each size


class RunResult(Settled):
    """Measurements of a run."""

    first_step_seconds: float  # from the process's start to the end of the first optimizer step
    step_tokens: tuple[int, ...]  # without padding
    step_seconds: tuple[float, ...]
    compile_seconds: float  # before the first step
    peak_memory_bytes: int
    threads: int  # of torch
    torch: str  # its version
    adapter_dtype: str
    shape: ModelShape  # of the base


Rows = dict[str, list[dict[str, list[int]]]]


def plan_of(rows: Rows, hyperparameters: Hyperparameters, batch_tokens: int = 0) -> Plan:
    """The plan over a data file's training examples."""
    return Plan(
        lengths=tuple(len(row["input_ids"]) for row in rows["train"]),
        epochs=hyperparameters.epochs,
        micro_batch_size=hyperparameters.micro_batch_size,
        gradient_accumulation=hyperparameters.gradient_accumulation,
        seed=hyperparameters.seed,
        batch_tokens=batch_tokens,
    )


def tokenize(config: TokenizeConfig) -> Rows:
    """Render chats and write them to the data file."""
    from services.trainer.model import load_tokenizer

    renderer = Renderer(load_tokenizer(config.model), config.max_tokens)
    chats = (json.loads(line) for line in config.chats.read_text().splitlines())
    rendered = renderer.render_all(chats, lambda: None)
    examples = [
        {"input_ids": list(example.input_ids), "labels": list(example.labels)}
        for conversation in rendered.conversations
        for example in conversation
    ]
    rows: Rows = {"train": examples[: config.examples]}
    config.data.write_text(json.dumps(rows))
    return rows


def run(config: RunConfig) -> RunResult:
    clock = SegmentClock()
    lean_imports(quantized=config.precision == "nf4")
    import torch

    from services.trainer.peak_memory import PeakMemory
    from services.trainer.processes.ranks import Ranks

    ranks = Ranks.alone()
    memory = PeakMemory(ranks.device)
    model, shape = _model(config, ranks)
    rows: Rows = json.loads(config.data.read_text())
    lease = Lease(clock, math.inf, math.inf)
    trained = _train(config, model, rows, ranks, lease)
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    return RunResult(
        first_step_seconds=trained.first_step_seconds,
        step_tokens=tuple(step.tokens for step in trained.steps),
        step_seconds=tuple(step.seconds for step in trained.steps),
        compile_seconds=trained.compile_seconds,
        peak_memory_bytes=memory.bytes,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        adapter_dtype=" and ".join(sorted(dtypes)),
        shape=shape,
    )


class _Trained(NamedTuple):
    steps: list[Step]
    compile_seconds: float
    first_step_seconds: float


def _train(
    config: RunConfig,
    model: PeftModel,
    rows: Rows,
    ranks: Ranks,
    lease: Lease,
) -> _Trained:
    """Run the first steps of the plan, or all."""
    from services.trainer.training import Training

    plan = plan_of(rows, config.hyperparameters, config.batch_tokens)
    training = Training(
        model,
        plan,
        _examples(rows["train"]),
        config.hyperparameters,
        ranks,
        lease,
    )
    if config.compiled and (failure := training.compile()) is not None:
        raise RuntimeError(f"the compiler failed: {failure}")
    total = plan.total_steps if config.steps is None else min(config.steps, plan.total_steps)
    steps, first_step_seconds = [], lease.clock.elapsed()
    for number in range(total):
        step = training.step(number)
        assert step is not None
        first_step_seconds = first_step_seconds if steps else lease.clock.elapsed()
        steps.append(step)
    return _Trained(steps, training.compile_seconds, first_step_seconds)


def peak(config: PeakConfig) -> float:
    """Median operations per second of matrix products, on the GPU or on all threads of the CPU."""
    lean_imports()
    import torch

    dtype, on_gpu = getattr(torch, config.dtype), torch.cuda.is_available()
    speeds: list[float] = []
    for edge in config.sizes:
        size = LARGER_ON_GPU * edge if on_gpu else edge
        a, b = (torch.randn(size, size).to("cuda" if on_gpu else "cpu", dtype) for _ in range(2))
        out = a @ b  # not counted: it chooses kernels and faults pages in
        for _ in range(config.times):
            _wait(on_gpu)
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            _wait(on_gpu)
            speeds.append(2 * size**3 / (time.perf_counter() - began))
    return median(speeds)


def _wait(on_gpu: bool) -> None:
    import torch

    if on_gpu:
        torch.cuda.synchronize()


def _model(config: RunConfig, ranks: Ranks) -> tuple[PeftModel, ModelShape]:
    """Base with a new adapter, initialized as in a segment, and the base's shape."""
    import torch

    from services.model_import.importer import shape_of
    from services.trainer.model import attach_adapter, checkpoint_activations, load_base
    from services.trainer.packing import pack_if_able

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    dtype = dtypes.get(config.precision) or choose_dtype(ranks.device)
    precision = Precision.NF4 if config.precision == "nf4" else Precision.BF16
    base = load_base(config.model, dtype, ranks.device, precision)
    pack_if_able(base)
    if config.checkpointing:
        checkpoint_activations(base)
    shape = shape_of(base)
    torch.manual_seed(config.hyperparameters.seed)
    model = attach_adapter(base, config.hyperparameters, config.model.name)
    return model, shape


def _examples(rows: list[dict[str, list[int]]]) -> list[Example]:
    return [Example(tuple(row["input_ids"]), tuple(row["labels"])) for row in rows]


def main(arguments: list[str]) -> None:
    match arguments:
        case ["--tokenize", path]:
            lean_imports()
            rows = tokenize(TokenizeConfig.model_validate_json(Path(path).read_text()))
            print(json.dumps({name: len(examples) for name, examples in rows.items()}))
        case ["--peak", path]:
            print(peak(PeakConfig.model_validate_json(Path(path).read_text())))
        case [path]:
            print(run(RunConfig.model_validate_json(Path(path).read_text())).model_dump_json())
        case _:
            raise SystemExit(f"usage: python -m {MODULE} [--tokenize | --peak] CONFIG.json")


if __name__ == "__main__":
    main(sys.argv[1:])
