"""The measured loop trains and evaluates as a segment does, and saves the adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domain.training.hyperparameters import Hyperparameters
from tests.bench import measured_run
from tests.bench.measured_run import PeakConfig, RunConfig, TokenizeConfig, peak, run, tokenize
from tests.builders.tiny_model import TINY_SHAPE
from tests.services.trainer.conftest import chats


def test_a_run_learns_and_its_adapter_scores_the_same_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_run, "lean_imports", lambda **_: None)  # it would last
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in chats(20)))
    data = tmp_path / "data.json"
    rows = tokenize(
        TokenizeConfig(
            model=tiny_model,
            chats=tmp_path / "chats.jsonl",
            data=data,
            train=8,
            held_out=4,
            max_tokens=64,
        )
    )
    assert [len(rows["train"]), len(rows["eval"])] == [8, 4]
    config = RunConfig(
        model=tiny_model,
        data=data,
        hyperparameters=Hyperparameters(
            epochs=2, micro_batch_size=2, gradient_accumulation=2, learning_rate=0.02
        ),
        precision="fp32",
        output=tmp_path / "adapter",
    )
    result = run(config)
    assert len(result.step_seconds) == len(result.losses) == 4
    assert result.tokens == 2 * sum(len(row["input_ids"]) for row in rows["train"])
    assert result.eval_loss < result.eval_loss_before
    assert result.peak_memory_bytes > 0
    assert (result.adapter_dtype, result.shape) == ("float32", TINY_SHAPE)
    assert result.compile_seconds == 0.0
    again = run(config.model_copy(update={"adapter": config.output, "train": False}))
    assert (again.eval_loss, again.losses) == (result.eval_loss, ())
    begun = run(config.model_copy(update={"output": None, "steps": 1}))
    assert (begun.losses, begun.step_tokens) == (result.losses[:1], result.step_tokens[:1])


def test_the_machine_s_peak_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_run, "lean_imports", lambda **_: None)
    assert peak(PeakConfig(dtype="bfloat16", sizes=(16, 32), times=2)) > 0
