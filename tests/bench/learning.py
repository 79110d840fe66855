"""A base model, tokenized chats, and the trainer's loop, for training benchmarks."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from deploy.demo.preparing import BASE_MODEL, SOURCE
from deploy.local.errors import StackError
from deploy.operator.model_import import run_import
from domain.training.hyperparameters import Hyperparameters
from infrastructure.settings import Settings
from tests.bench.corpus import write_jsonl
from tests.bench.measured_run import MODULE, RunConfig, RunResult, TokenizeConfig

CHATS, AVAILABLE = 898, 800  # the whole corpus
MAX_TOKENS = 512
ERROR_CHARACTERS = 2000
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

PythonOption = Annotated[Path, typer.Option(help="A Python that has TRL; default: this one.")]
ModelOption = Annotated[
    Path | None, typer.Option(help="Directory of a base; else SmolLM2-135M is imported.")
]


@dataclass(frozen=True)
class Material:
    """Inputs of every run of a benchmark."""

    model: Path
    data: Path
    hyperparameters: Hyperparameters


def material(
    folder: Path, steps: int, model: Path | None, hyperparameters: Hyperparameters
) -> Material:
    """Return chats for at least this many steps of full batches, tokenized for a base.

    Raise StackError or CorpusMissing.
    """
    model = model or smollm2(folder)
    per_step = hyperparameters.micro_batch_size * hyperparameters.gradient_accumulation
    epochs = ceil(steps * per_step / AVAILABLE)
    chats, data = folder / "chats.jsonl", folder / "data.json"
    write_jsonl(chats, CHATS)
    examples = ceil(steps / epochs) * per_step
    run_module(
        TokenizeConfig(
            model=model, chats=chats, data=data, examples=examples, max_tokens=MAX_TOKENS
        ),
        "--tokenize",
    )
    return Material(model, data, hyperparameters.model_copy(update={"epochs": epochs}))


def learn(config: RunConfig, environment: Mapping[str, str] | None = None) -> RunResult:
    """Run the trainer's loop in a separate process. Raise StackError if it fails."""
    return RunResult.model_validate_json(run_module(config, environment=environment))


def run_module(
    config: BaseModel, *options: str, environment: Mapping[str, str] | None = None
) -> str:
    """Return the last line that the measured run prints. Raise StackError if it fails."""
    command = [sys.executable, "-P", "-m", MODULE, *options]
    return last_line(command, config.model_dump_json(), environment)


def last_line(command: list[str], config: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command with a configuration file, and return its last line.

    If the command fails, raise StackError with the end of its output.
    """
    with tempfile.NamedTemporaryFile("w", prefix="ecolink-bench-", suffix=".json") as file:
        file.write(config)
        file.flush()
        done = subprocess.run(
            [*command, file.name], capture_output=True, text=True, env=environment
        )
    if done.returncode != 0:
        raise StackError(f"{command[0]} failed: {done.stderr[-ERROR_CHARACTERS:]}")
    return done.stdout.splitlines()[-1]


def smollm2(folder: Path) -> Path:
    """Return the directory of the demos' base model, imported into a separate store."""
    store = folder / "store"
    settings = Settings().model_copy(update={"artifacts_url": store.as_uri()})
    return store / run_import(settings, SOURCE, BASE_MODEL).ref
