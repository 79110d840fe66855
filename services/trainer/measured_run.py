"""The trainer's loop without a platform around it, for benches: what it learns, and how fast.

`python -m services.trainer.measured_run CONFIG.json`, where CONFIG.json is a RunConfig, prints a
RunResult as JSON in its last line; with `--tokenize` it is a TokenizeConfig, and the numbers of
examples are printed. Whoever starts it imports the configurations without torch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from domain.hyperparameters import Hyperparameters
from domain.precision import Precision
from services.trainer.examples import Example, Renderer
from services.trainer.plan import Plan
from services.trainer.stack import lean_imports

if TYPE_CHECKING:
    from peft import PeftModel

    from services.trainer.ranks import Ranks

MODULE = "services.trainer.measured_run"


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


class RunResult(Settled):
    """What a run measured."""

    tokens: int  # trained on, without padding
    first_step_seconds: float  # from the module's start to the end of the first optimizer step
    step_seconds: tuple[float, ...]
    losses: tuple[float, ...]
    peak_memory_bytes: int
    eval_loss_before: float  # nats per label token, of the base
    eval_loss: float


Rows = dict[str, list[dict[str, list[int]]]]


def plan_of(rows: Rows, hyperparameters: Hyperparameters) -> Plan:
    """The plan over a data file's training examples."""
    return Plan(
        lengths=tuple(len(row["input_ids"]) for row in rows["train"]),
        epochs=hyperparameters.epochs,
        micro_batch_size=hyperparameters.micro_batch_size,
        gradient_accumulation=hyperparameters.gradient_accumulation,
        seed=hyperparameters.seed,
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
    started = time.monotonic()
    lean_imports(quantised=config.precision == "nf4")
    from services.trainer.evaluation import HeldOut
    from services.trainer.model import load_tokenizer, pad_id, save_adapter
    from services.trainer.peak_memory import PeakMemory
    from services.trainer.ranks import Ranks
    from services.trainer.training import Training

    ranks, hyperparameters = Ranks.alone(), config.hyperparameters
    memory = PeakMemory(ranks.device)
    padding = pad_id(load_tokenizer(config.model))
    model = _model(config, ranks)
    rows: Rows = json.loads(config.data.read_text())
    plan = plan_of(rows, hyperparameters)
    training = Training(
        model, plan, _examples(rows["train"]), hyperparameters, padding, ranks, _never
    )
    steps, ended = [], [time.monotonic()]
    for number in range(plan.total_steps if config.train else 0):
        step = training.step(number)
        assert step is not None
        steps.append(step)
        ended.append(time.monotonic())
    scorer = HeldOut(_examples(rows["eval"]), hyperparameters.micro_batch_size, padding, ranks)
    with model.disable_adapter():
        before = scorer.score(model, _never)
    after = scorer.score(model, _never)
    assert before is not None
    assert after is not None
    if config.output is not None:
        save_adapter(model, config.output)
    return RunResult(
        tokens=sum(step.tokens for step in steps),
        first_step_seconds=ended[:2][-1] - started,
        step_seconds=tuple(step.seconds for step in steps),
        losses=tuple(step.loss for step in steps),
        peak_memory_bytes=memory.bytes,
        eval_loss_before=before.loss,
        eval_loss=after.loss,
    )


def _model(config: RunConfig, ranks: Ranks) -> PeftModel:
    """Base and adapter, drawn as a segment draws it."""
    import torch
    from peft import load_peft_weights, set_peft_model_state_dict

    from services.trainer.model import attach_adapter, choose_dtype, load_base

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    dtype = dtypes.get(config.precision) or choose_dtype(ranks.device)
    precision = Precision.NF4 if config.precision == "nf4" else Precision.BF16
    base = load_base(config.model, dtype, ranks.device, precision)
    torch.manual_seed(config.hyperparameters.seed)
    model = attach_adapter(base, config.hyperparameters, config.model.name)
    if config.adapter is not None:
        weights = load_peft_weights(str(config.adapter), device=str(ranks.device))
        set_peft_model_state_dict(model, weights)
    return model


def _examples(rows: list[dict[str, list[int]]]) -> list[Example]:
    return [Example(tuple(row["input_ids"]), tuple(row["labels"])) for row in rows]


def _never() -> bool:
    """Whether the run has to end before: nobody would say so."""
    return False


def main(arguments: list[str]) -> None:
    """The command line."""
    match arguments:
        case ["--tokenize", path]:
            lean_imports()
            rows = tokenize(TokenizeConfig.model_validate_json(Path(path).read_text()))
            print(json.dumps({name: len(examples) for name, examples in rows.items()}))
        case [path]:
            print(run(RunConfig.model_validate_json(Path(path).read_text())).model_dump_json())
        case _:
            raise SystemExit(f"usage: python -m {MODULE} [--tokenize] CONFIG.json")


if __name__ == "__main__":
    main(sys.argv[1:])
