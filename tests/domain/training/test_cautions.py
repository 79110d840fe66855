"""Hyperparameters that are possible and rarely work."""

from __future__ import annotations

from typing import Any

import pytest

from domain.training.cautions import cautions
from domain.training.hyperparameters import Hyperparameters


@pytest.mark.parametrize(
    ("chosen", "figure"),
    [
        ({"learning_rate": 2e-4 * 2e-5}, "2e-05 times"),
        ({"learning_rate": 1.9e-6}, "1.9e-06"),
        ({"learning_rate": 1.0}, "0.005"),
        ({"method": "dpo", "learning_rate": 2e-4}, "10 times"),
        ({"method": "dpo", "learning_rate": 1.1e-4}, "5.5 times"),
        ({"dropout": 0.9}, "0.9"),
        ({"lora_alpha": 1024, "lora_r": 8}, "128"),
    ],
)
def test_an_unusual_value_gets_a_warning(chosen: dict[str, Any], figure: str) -> None:
    (caution,) = cautions(Hyperparameters(**chosen))
    assert figure in caution


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"learning_rate": 2e-6},
        {"learning_rate": 5e-3},
        {"method": "dpo"},
        {"method": "dpo", "learning_rate": 1e-4},
        {"dropout": 0.5},
        {"dropout": 0.0, "lora_r": 64, "lora_alpha": 128},
    ],
)
def test_what_works_is_not(chosen: dict[str, Any]) -> None:
    assert cautions(Hyperparameters(**chosen)) == []


def test_each_counts() -> None:
    both = Hyperparameters(learning_rate=1.0, dropout=0.9)
    assert len(cautions(both)) == 2
