"""The bench of speed: which steps count, whose turn it is, what a token costs, what is drawn."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.bench import trainer
from deploy.bench.learning import Material
from deploy.bench.trainer import (
    CHECKPOINTED,
    COMPILED,
    OURS,
    TRL_COMPILED,
    TRL_DEFAULT,
    TRL_TUNED,
    Contest,
    Found,
)
from deploy.bench.training_speed import Measured, Speed, operations_per_token, rotated
from deploy.bench.trl_run import TrlConfig, TrlResult
from deploy.local.errors import StackError
from domain.training.hyperparameters import Hyperparameters
from services.scheduler.launchers.local import MALLOC
from tests.bench.measured_run import RunConfig, RunResult
from tests.builders.tiny_model import TINY_SHAPE


def measured(tokens: list[int], seconds: list[float], compiling: float = 0.0) -> Measured:
    return Measured(tokens, seconds, compiling, seconds[0] + 2, 100)


def test_the_first_step_does_not_count() -> None:
    run = measured([10, 20, 40, 90], [9, 1, 1, 3], 4.0)
    assert run.counted == [(20, 1), (40, 1), (90, 3)]
    assert run.tokens_per_second == 30
    assert run.overall_tokens_per_second == 30
    assert Speed([run]).compile_seconds == 4.0


def test_a_speed_is_the_median_of_its_runs() -> None:
    speed = Speed([measured([1, each], [1, 1]) for each in (30, 10, 80)])
    assert (speed.tokens_per_second, speed.spread) == (30, (10, 80))
    assert speed.first_step_seconds == 3


def test_each_contestant_is_first_once() -> None:
    assert [rotated("abc", repeat) for repeat in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_a_token_costs_what_it_needs_there_and_back() -> None:
    chosen = Hyperparameters(lora_r=1, target_modules=("q_proj",))
    rows = [{"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}]
    shape = TINY_SHAPE.model_copy(update={"layers": 2, "linears": {"q_proj": (32, 32)}})
    linear, adapter = 2 * 32 * 32, 2 * (32 + 32)
    head = 0.5 * shape.vocab_size * shape.hidden_size
    attention = 2 * 2 * shape.attention_heads * shape.head_dim * 4
    assert operations_per_token(shape, chosen, rows) == (
        4 * linear + 6 * adapter + 4 * head + 3 * attention
    )


def ours(seconds: float, adapter_dtype: str = "float32") -> RunResult:
    return RunResult(
        first_step_seconds=4.0,
        step_tokens=(100,) * 3,
        step_seconds=(9.0, seconds, seconds),
        compile_seconds=0.0,
        losses=(),
        peak_memory_bytes=1024**3,
        threads=2,
        torch="2.13",
        adapter_dtype=adapter_dtype,
        shape=TINY_SHAPE,
        eval_loss_before=1.0,
        eval_loss=1.0,
    )


def theirs(seconds: float, threads: int = 2) -> TrlResult:
    return TrlResult(
        version="1.16",
        tokens=300,
        first_step_seconds=8.0,
        train_seconds=9.0,
        step_seconds=[seconds] * 3,
        losses=[],
        peak_rss_bytes=3 * 1024**3,
        peak_gpu_bytes=0,
        eval_loss=None,
        adapter="adapter",
        step_tokens=[100] * 3,
        threads=threads,
        torch="2.13",
        adapter_dtype="float32",
    )


@pytest.fixture
def contest(tmp_path: Path) -> Contest:
    rows = [{"input_ids": [n] * (n + 2), "labels": [n] * (n + 2)} for n in range(32)]
    (tmp_path / "data.json").write_text(json.dumps({"train": rows, "eval": rows[:1]}))
    chosen = Hyperparameters(epochs=1, micro_batch_size=4, gradient_accumulation=4)
    made = Material(tmp_path / "model", tmp_path / "data.json", chosen)
    return Contest(made, tmp_path, Path("python"), 12, "bf16")


def test_each_runs_in_its_turn_as_it_would(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    turns: list[tuple[Any, dict[str, str]]] = []

    def learn(config: RunConfig, environment: dict[str, str]) -> RunResult:
        turns.append((config, environment))
        return ours(0.5 if config.compiled else 1.0)

    def trl(_: list[str], config: str, environment: dict[str, str]) -> str:
        turns.append((TrlConfig(**json.loads(config)), environment))
        return json.dumps(asdict(theirs(8.0 if turns[-1][0].gradient_checkpointing else 2.0)))

    monkeypatch.setattr(trainer, "learn", learn)
    monkeypatch.setattr(trainer, "last_line", trl)
    monkeypatch.setattr(trainer, "run_module", lambda *_, **__: "1e9")
    found = contest.run(2, lambda _: None, compiled=True)
    assert list(found.runs) == [
        *(OURS, COMPILED, CHECKPOINTED, TRL_DEFAULT),
        *(*TRL_TUNED, TRL_COMPILED),
    ]
    eager, compiled, checkpointed = (False, False), (True, False), (False, True)
    runs = [config for config, _ in turns if isinstance(config, RunConfig)]
    assert [(each.compiled, each.checkpointing) for each in runs] == [
        *(eager, compiled, checkpointed),
        *(compiled, checkpointed, eager),  # the second repeat begins with the second
    ]
    default, tuned, whole, faster = (config for config, _ in turns[3:7])
    assert default == TrlConfig(
        **{k: v for k, v in asdict(default).items() if k not in trainer.TRL_OWN}
    )
    assert [len(each.learning_rates) for each in (default, tuned, whole)] == [4, 12, 12]
    assert (tuned.dtype, tuned.sampling, tuned.gradient_checkpointing) == (
        "bfloat16",
        "group_by_length",
        False,
    )
    assert (whole.micro_batch_size, whole.gradient_accumulation) == (16, 1)
    assert faster == replace(tuned, torch_compile=True)
    assert [MALLOC.items() <= given.items() for _, given in turns[:7]] == [1, 1, 1, 0, 1, 1, 1]
    assert not any("GOMP_SPINCOUNT" in given for _, given in turns)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(trainer.drawn(found, 1e6))
    assert "200-200" in captured.get()
    lines = [str(each) for each in trainer.verdicts(found, OURS, 1e6)]
    assert lines[0] == f"{OURS}: 2.00 x TRL, tuned, 4 x 4, all steps together 2.00 x (aim 2: met)"
    assert lines[1] == f"{OURS}: 0.33 of the memory of TRL, tuned, 4 x 4 (aim 0.5: met)"
    assert lines[-1] == f"{OURS}: 10.0% of the GEMM peak (aim 35%: missed)"
    compiled = [str(each) for each in trainer.verdicts(found, COMPILED, 1e6)]
    assert f"{COMPILED}: 16.00 x {TRL_DEFAULT}, all steps together 16.00 x (aim 6: met)" in compiled


def test_runs_that_are_not_alike_are_refused() -> None:
    found = Found({}, [], {})
    found.note(OURS, ours(1.0))
    with pytest.raises(StackError, match="threads: 2, but 4"):
        found.note(TRL_DEFAULT, theirs(1.0, threads=4))
    with pytest.raises(StackError, match="bfloat16"):
        found.note(OURS, ours(1.0, adapter_dtype="bfloat16"))


def test_a_python_without_trl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"--python .*nowhere: No such file"):
        trainer.require_trl(tmp_path / "nowhere")
    (tmp_path / "without").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (tmp_path / "without").chmod(0o755)
    with pytest.raises(StackError, match="extra `bench`"):
        trainer.require_trl(tmp_path / "without")
