"""The benches of learning: whose turn it is, what TRL is given, what is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from deploy.bench import precision, trl_equal
from deploy.bench.learning import Material, last_line
from deploy.bench.trl_run import TrlConfig, TrlResult
from deploy.local.errors import StackError
from domain.training.hyperparameters import Hyperparameters
from tests.bench.measured_run import RunConfig, RunResult, plan_of
from tests.builders.tiny_model import TINY_SHAPE

ROWS = {
    "train": [{"input_ids": [n] * (n + 2), "labels": [n] * (n + 2)} for n in range(8)],
    "eval": [{"input_ids": [1, 2], "labels": [1, 2]}],
}


@pytest.fixture
def made(tmp_path: Path) -> Material:
    (tmp_path / "data.json").write_text(json.dumps(ROWS))
    chosen = Hyperparameters(epochs=2, micro_batch_size=2, gradient_accumulation=2)
    return Material(tmp_path / "model", tmp_path / "data.json", chosen)


def result(eval_loss: float) -> RunResult:
    return RunResult(
        first_step_seconds=1.0,
        step_tokens=(50, 50),
        step_seconds=(1.0, 1.0),
        compile_seconds=0.0,
        losses=(3.0, 2.0),
        peak_memory_bytes=1,
        threads=2,
        torch="2",
        adapter_dtype="float32",
        shape=TINY_SHAPE,
        eval_loss_before=3.0,
        eval_loss=eval_loss,
    )


def noting(configs: list[RunConfig], losses: dict[str, float]) -> Callable[[RunConfig], RunResult]:
    def learn(config: RunConfig) -> RunResult:
        configs.append(config)
        return result(losses[config.precision])

    return learn


def text(table: Table) -> str:
    console = Console(width=200, record=True, quiet=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_precisions_take_turns_on_the_same_seeds(
    made: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[RunConfig] = []
    losses = {"fp32": 2.0, "bf16": 2.009, "nf4": 2.3}
    monkeypatch.setattr(precision, "learn", noting(configs, losses))
    found = precision.measure(made, range(2), lambda _: None)
    turns = [(config.hyperparameters.seed, config.precision) for config in configs]
    assert turns == [(seed, each) for seed in (0, 1) for each in ("fp32", "bf16", "nf4")]
    drawn = text(precision.drawn(found, 2))
    assert "+0.0090" in drawn
    assert str(precision.verdict(found)) == "bf16: +0.0090 nats from fp32 (aim 0.01: met)"
    assert not precision.verdict(found | {"bf16": [2.011]}).met


def test_trl_gets_the_same_micro_batches_at_the_same_rates(
    made: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[TrlConfig] = []

    def trl(command: list[str], config: str) -> str:
        given.append(TrlConfig(**json.loads(config)))
        said = ("1", 9, 1.0, 1.0, [1.0], [], 1, 0, 2.1, "adapter", [9], 2, "2", "float32")
        return json.dumps(asdict(TrlResult(*said)))

    configs: list[RunConfig] = []
    monkeypatch.setattr(trl_equal, "last_line", trl)
    monkeypatch.setattr(trl_equal, "learn", noting(configs, {"fp32": 2.0, "bf16": 1.9}))
    table, verdict = trl_equal.compare(made, tmp_path, Path("python"), "bf16")
    assert "TRL 1" in text(table)
    assert str(verdict) == "EcoLink: +0.0000 nats from TRL (aim 0.02: met)"
    (config,) = given
    plan, chosen = plan_of(ROWS, made.hyperparameters), made.hyperparameters
    assert config.learning_rates == [plan.learning_rate(step, chosen) for step in range(4)]
    assert (config.dtype, config.bf16, config.sampling) == ("bfloat16", True, "sequential")
    data: dict[str, Any] = json.loads(Path(config.data).read_text())
    order = [row["input_ids"][0] for row in data["train"]]
    batches = [batch for step in range(4) for batch in plan.micro_batches(step)]
    assert order == [index for batch in batches for index in batch]
    assert [(each.precision, each.train) for each in configs] == [
        ("bf16", True),
        ("fp32", False),
        ("fp32", False),
    ]


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(StackError, match="No such file"):
        last_line(["cat", "/nowhere"], "{}")
    assert last_line(["cat"], '{"a": 1}') == '{"a": 1}'
