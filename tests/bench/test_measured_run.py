"""The measured loop runs the trainer's steps and measures them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domain.training.hyperparameters import Hyperparameters
from tests.bench import measured_run
from tests.bench.measured_run import PeakConfig, RunConfig, TokenizeConfig, peak, run, tokenize
from tests.builders.tiny_model import TINY_SHAPE, chats


def test_a_run_measures_each_step(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_run, "lean_imports", lambda **_: None)  # it affects later tests
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in chats(20)))
    data = tmp_path / "data.json"
    rows = tokenize(
        TokenizeConfig(
            model=tiny_model,
            chats=tmp_path / "chats.jsonl",
            data=data,
            examples=8,
            max_tokens=64,
        )
    )
    assert len(rows["train"]) == 8
    config = RunConfig(
        model=tiny_model,
        data=data,
        hyperparameters=Hyperparameters(epochs=2, micro_batch_size=2, gradient_accumulation=2),
        precision="fp32",
    )
    result = run(config)
    assert len(result.step_seconds) == 4
    assert sum(result.step_tokens) == 2 * sum(len(row["input_ids"]) for row in rows["train"])
    assert result.peak_memory_bytes > 0
    assert (result.adapter_dtype, result.shape) == ("float32", TINY_SHAPE)
    assert result.compile_seconds == 0.0
    first = run(config.model_copy(update={"steps": 1}))
    assert first.step_tokens == result.step_tokens[:1]


def test_the_machines_peak_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_run, "lean_imports", lambda **_: None)
    assert peak(PeakConfig(dtype="bfloat16", sizes=(16, 32), times=2)) > 0
