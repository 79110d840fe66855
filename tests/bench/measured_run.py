"""The trainer's loop without a platform around it, for benches: what it learns, and how fast.

`python -m tests.bench.measured_run CONFIG.json`, where CONFIG.json is a RunConfig, prints a
RunResult as JSON in its last line; with `--tokenize` it is a TokenizeConfig, and the numbers of
examples are printed; with `--peak` a PeakConfig, and operations a second are. Whoever starts it
imports the configurations without torch.
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
from infrastructure.chat_labels import Example
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
"""Times the edge of a CPU's matrices: smaller ones do not fill a GPU."""


class Settled(BaseModel):
    """Base of what goes in and comes out."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenizeConfig(Settled):
    """Chats to be rendered for a base and split, with a limit for each side."""

    model: Path
    chats: Path  # JSONL
    data: Path  # is written
    train: int  # examples, at most
    held_out: int
    max_tokens: int


class RunConfig(Settled):
    """One run; without steps it only evaluates an adapter."""

    model: Path
    data: Path  # {"train": [{"input_ids", "labels"}, ..], "eval": [..]}
    hyperparameters: Hyperparameters
    precision: Literal["fp32", "bf16", "nf4"]  # nf4 computes in what the machine is good at
    adapter: Path | None = None  # to begin from; None: a fresh one
    output: Path | None = None  # directory that the adapter is written to
    train: bool = True
    steps: int | None = None  # of the plan, from its first; None: all
    compiled: bool = False  # layers
    checkpointing: bool = False  # activations are computed again
    batch_tokens: int = 0  # that may run at once, if more than a micro batch's


class PeakConfig(Settled):
    """Square matrices to be multiplied on all threads, or on a GPU."""

    dtype: Literal["float32", "bfloat16"]
    sizes: tuple[int, ...]
    times: int  # each size


class RunResult(Settled):
    """What a run measured."""

    first_step_seconds: float  # from the process's start to the end of the first optimizer step
    step_tokens: tuple[int, ...]  # trained on, without padding
    step_seconds: tuple[float, ...]
    compile_seconds: float  # before the first step
    losses: tuple[float, ...]
    peak_memory_bytes: int  # of training, evaluation left out
    threads: int  # of torch
    torch: str  # its version
    adapter_dtype: str
    shape: ModelShape  # of the base
    eval_loss_before: float  # nats per label token, of the base
    eval_loss: float

    @property
    def tokens(self) -> int:
        """Trained on, without padding."""
        return sum(self.step_tokens)


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
    """Render chats and write them to the data file; the first ones are held out."""
    from services.trainer.model import load_tokenizer

    renderer = Renderer(load_tokenizer(config.model), config.max_tokens)
    chats = (json.loads(line) for line in config.chats.read_text().splitlines())
    rendered = renderer.render_all(chats, lambda: None)
    examples = [
        {"input_ids": list(example.input_ids), "labels": list(example.labels)}
        for conversation in rendered.conversations
        for example in conversation
    ]
    held_out, rest = examples[: config.held_out], examples[config.held_out :]
    rows: Rows = {"train": rest[: config.train], "eval": held_out}
    config.data.write_text(json.dumps(rows))
    return rows


def run(config: RunConfig) -> RunResult:
    """Train with the trainer's own Training, evaluate with its HeldOut, keep the adapter."""
    clock = SegmentClock()
    lean_imports(quantised=config.precision == "nf4")
    import torch

    from services.trainer.evaluation import HeldOut
    from services.trainer.model import save_adapter
    from services.trainer.peak_memory import PeakMemory
    from services.trainer.processes.ranks import Ranks

    ranks = Ranks.alone()
    memory = PeakMemory(ranks.device)
    model, shape = _model(config, ranks)
    rows: Rows = json.loads(config.data.read_text())
    lease = Lease(clock, math.inf, math.inf)
    trained = _train(config, model, rows, ranks, lease)
    peak_memory_bytes = memory.bytes
    scorer = HeldOut(_examples(rows["eval"]), plan_of(rows, config.hyperparameters), ranks)
    with model.disable_adapter():
        before = scorer.score(model, lease)
    after = scorer.score(model, lease)
    assert before is not None
    assert after is not None
    if config.output is not None:
        save_adapter(model, config.output)
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    return RunResult(
        first_step_seconds=trained.first_step_seconds,
        step_tokens=tuple(step.tokens for step in trained.steps),
        step_seconds=tuple(step.seconds for step in trained.steps),
        compile_seconds=trained.compile_seconds,
        losses=tuple(step.loss for step in trained.steps),
        peak_memory_bytes=peak_memory_bytes,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        adapter_dtype=" and ".join(sorted(dtypes)),
        shape=shape,
        eval_loss_before=before.loss,
        eval_loss=after.loss,
    )


class _Trained(NamedTuple):
    steps: list[Step]
    compile_seconds: float
    first_step_seconds: float  # without a step: up to where it would begin


def _train(
    config: RunConfig,
    model: PeftModel,
    rows: Rows,
    ranks: Ranks,
    lease: Lease,
) -> _Trained:
    """The first steps of the plan, or all, or none."""
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
    for number in range(total if config.train else 0):
        step = training.step(number)
        assert step is not None
        first_step_seconds = first_step_seconds if steps else lease.clock.elapsed()
        steps.append(step)
    return _Trained(steps, training.compile_seconds, first_step_seconds)


def peak(config: PeakConfig) -> float:
    """Operations a second of matrix products, the median over all of them.

    On the GPU, if there is one, else on all threads of the CPU.
    """
    lean_imports()
    import torch

    dtype, on_gpu = getattr(torch, config.dtype), torch.cuda.is_available()
    speeds: list[float] = []
    for edge in config.sizes:
        size = LARGER_ON_GPU * edge if on_gpu else edge
        a, b = (torch.randn(size, size).to("cuda" if on_gpu else "cpu", dtype) for _ in range(2))
        out = a @ b  # the first of a size is not counted: kernels are chosen, pages are faulted in
        for _ in range(config.times):
            _wait(on_gpu)
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            _wait(on_gpu)
            speeds.append(2 * size**3 / (time.perf_counter() - began))
    return median(speeds)


def _wait(on_gpu: bool) -> None:
    """For what a GPU was told to do."""
    import torch

    if on_gpu:
        torch.cuda.synchronize()


def _model(config: RunConfig, ranks: Ranks) -> tuple[PeftModel, ModelShape]:
    """Base and adapter, drawn as a segment draws it, and the base's shape."""
    import torch
    from peft import load_peft_weights, set_peft_model_state_dict

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
    if config.adapter is not None:
        weights = load_peft_weights(str(config.adapter), device=str(ranks.device))
        set_peft_model_state_dict(model, weights)
    return model, shape


def _examples(rows: list[dict[str, list[int]]]) -> list[Example]:
    return [Example(tuple(row["input_ids"]), tuple(row["labels"])) for row in rows]


def main(arguments: list[str]) -> None:
    """The command line."""
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
