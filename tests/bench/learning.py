"""Shared by training benchmarks: a base model, tokenised chats, and the trainer's loop."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from deploy.demo.chats import write_jsonl
from deploy.demo.preparing import BASE_MODEL, SOURCE
from deploy.local.errors import StackError
from deploy.operator.model_import import run_import
from domain.training.hyperparameters import Hyperparameters
from infrastructure.settings import Settings
from tests.bench.measured_run import MODULE, RunConfig, RunResult, TokenizeConfig

EXAMPLES_PER_STEP = 4
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

    def seeded(self, seed: int) -> Material:
        """The same inputs with another seed."""
        chosen = self.hyperparameters.model_copy(update={"seed": seed})
        return replace(self, hyperparameters=chosen)


def material(
    folder: Path,
    steps: int,
    model: Path | None = None,
    hyperparameters: Hyperparameters | None = None,
) -> Material:
    """Chats for at least this many steps of full batches, tokenised for a base.

    Raises StackError and CorpusMissing.
    """
    model = model or smollm2(folder)
    chosen = hyperparameters or Hyperparameters(
        micro_batch_size=EXAMPLES_PER_STEP,
        gradient_accumulation=1,
        target_modules=LINEAR_LAYERS,
    )
    per_step = chosen.micro_batch_size * chosen.gradient_accumulation
    epochs = ceil(steps * per_step / AVAILABLE)
    chats, data = folder / "chats.jsonl", folder / "data.json"
    write_jsonl(chats, CHATS)
    config = TokenizeConfig(
        model=model,
        chats=chats,
        data=data,
        examples=ceil(steps / epochs) * per_step,
        max_tokens=MAX_TOKENS,
    )
    run_module(config, "--tokenize")
    return Material(model, data, chosen.model_copy(update={"epochs": epochs}))


def learn(config: RunConfig, environment: Mapping[str, str] | None = None) -> RunResult:
    """Run the trainer's loop in a separate process; raises StackError."""
    return RunResult.model_validate_json(run_module(config, environment=environment))


def run_module(
    config: BaseModel, *options: str, environment: Mapping[str, str] | None = None
) -> str:
    """The last line that the measured run prints; raises StackError."""
    command = [sys.executable, "-P", "-m", MODULE, *options]
    return last_line(command, config.model_dump_json(), environment)


def last_line(command: list[str], config: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command with a configuration file, and return its last line.

    The environment defaults to this process's. If the command fails, StackError has the end of its
    output.
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
    """The demos' base model, imported into a separate store."""
    store = folder / "store"
    settings = Settings().model_copy(update={"artifacts_url": store.as_uri()})
    return store / run_import(settings, SOURCE, BASE_MODEL).ref
