"""The bench of memory: what is run, and what it is held against."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from deploy.bench import memory
from deploy.bench.memory import SETTINGS, Found, drawn, measured
from domain.training.precision import Precision
from tests.bench.measured_run import RunConfig, RunResult
from tests.builders.tiny_model import TINY_SHAPE


def test_a_setting_is_run_as_it_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[RunConfig] = []

    def learn(config: RunConfig) -> RunResult:
        configs.append(config)
        return RunResult.model_construct(shape=TINY_SHAPE, peak_memory_bytes=10**9)

    monkeypatch.setattr(memory, "learn", learn)
    found = [measured(each, tmp_path, tmp_path) for each in SETTINGS]
    assert len(set(SETTINGS)) == len(found) >= 6
    held = {(each.precision, each.checkpointing) for each in configs}
    assert held == set(product(("bf16", "nf4"), (False, True)))
    for each, config in zip(found, configs, strict=True):
        assert each.predicted == each.setting.predicted_bytes(TINY_SHAPE)
        assert config.hyperparameters.micro_batch_size == each.setting.micro_batch_size


def test_the_table_ends_with_the_worst() -> None:
    setting = SETTINGS[0]
    assert setting.precision is Precision.BF16
    table = drawn([Found(setting, 12, 10), Found(setting, 9, 10)])
    assert table.caption == "predicted: 0.90 to 1.20 of what was measured"
