"""Hyperparameters that are possible and rarely work."""

from __future__ import annotations

import re
from typing import Any

import pytest

from domain.training.cautions import cautions, stopping_cautions
from domain.training.hyperparameters import Hyperparameters, usual_alpha


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
        ({"early_stopping_threshold": 0.01}, "0.01"),
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
        {"early_stopping_threshold": 0.01, "early_stopping_patience": 2},
    ],
)
def test_what_works_is_not(chosen: dict[str, Any]) -> None:
    assert cautions(Hyperparameters(**chosen)) == []


@pytest.mark.parametrize(
    ("chosen", "total_steps", "figures"),
    [
        ({"early_stopping_patience": 1}, 90, "90 steps allow 1 evaluation before .* 44 or less"),
        ({"early_stopping_patience": 2}, 150, "150 steps allow 2 evaluations .* 49 or less"),
        ({"early_stopping_patience": 3}, 3, "3 steps allow 0 evaluations .* Lower early_stopping"),
    ],
)
def test_early_stopping_that_cannot_take_effect_gets_a_warning(
    chosen: dict[str, Any], total_steps: int, figures: str
) -> None:
    (caution,) = stopping_cautions(Hyperparameters(**chosen), total_steps)
    assert re.search(figures, caution)


@pytest.mark.parametrize(
    ("chosen", "total_steps"),
    [
        ({}, 10),
        ({"early_stopping_patience": 2}, 151),
        ({"early_stopping_patience": 2, "eval_steps": 49}, 150),
    ],
)
def test_early_stopping_that_can_take_effect_gets_none(
    chosen: dict[str, Any], total_steps: int
) -> None:
    assert stopping_cautions(Hyperparameters(**chosen), total_steps) == []


@pytest.mark.parametrize("r", [4, 16, 64, 65, 128, 256, 512])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_usual_alpha_of_each_rank_gets_no_warning(r: int, use_rslora: bool) -> None:
    alpha = usual_alpha(r, use_rslora)
    chosen = Hyperparameters(lora_r=r, lora_alpha=alpha, use_rslora=use_rslora)
    assert cautions(chosen) == []
    assert 1.9 <= chosen.adapter_scale <= 2.1


@pytest.mark.parametrize(("use_rslora", "r", "alpha"), [(False, 8, 1024), (True, 256, 512)])
def test_the_advice_about_alpha_leads_to_a_usual_scale(
    use_rslora: bool, r: int, alpha: int
) -> None:
    (caution,) = cautions(Hyperparameters(lora_r=r, lora_alpha=alpha, use_rslora=use_rslora))
    assert f"times {'√r' if use_rslora else 'r'}, the scale is 1 to 2." in caution


def test_each_counts() -> None:
    both = Hyperparameters(learning_rate=1.0, dropout=0.9)
    assert len(cautions(both)) == 2
