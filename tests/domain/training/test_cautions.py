"""Hyperparameters that are possible and rarely work."""

from __future__ import annotations

from typing import Any

import pytest

from domain.training.cautions import cautions
from domain.training.hyperparameters import Hyperparameters


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"learning_rate": 2e-4 * 2e-5}, "2e-05 times the default of 0.0002"),
        ({"learning_rate": 1.9e-6}, "billed all the same"),
        ({"learning_rate": 1.0}, "learning rate 1 is above 0.005"),
        ({"dropout": 0.9}, "dropout of 0.9"),
        ({"lora_alpha": 1024, "lora_r": 8}, "by 128"),
    ],
)
def test_what_rarely_works_is_cautioned_against(chosen: dict[str, Any], words: str) -> None:
    (caution,) = cautions(Hyperparameters(**chosen))
    assert words in caution


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"learning_rate": 2e-6},
        {"learning_rate": 5e-3},
        {"dropout": 0.5},
        {"dropout": 0.0, "lora_r": 64, "lora_alpha": 128},
    ],
)
def test_what_works_is_not(chosen: dict[str, Any]) -> None:
    assert cautions(Hyperparameters(**chosen)) == []


def test_each_counts() -> None:
    both = Hyperparameters(learning_rate=1.0, dropout=0.9)
    assert len(cautions(both)) == 2
