"""Hyperparameters: the document's defaults, and refusals that name the field."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from domain.hyperparameters import Hyperparameters


def test_the_defaults_of_the_wizard() -> None:
    assert Hyperparameters().model_dump() == {
        "epochs": 3,
        "learning_rate": 2e-4,
        "lora_r": 16,
        "lora_alpha": 32,
        "micro_batch_size": 4,
        "dropout": 0.05,
        "target_modules": ("q_proj", "v_proj"),
        "gradient_accumulation": 4,
        "max_sequence_length": None,
        "save_steps": 50,
        "seed": 42,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", "3"),
        ("epochs", 10**9),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("lora_r", -1),
        ("lora_alpha", 1.5),
        ("micro_batch_size", True),
        ("dropout", 1.0),
        ("target_modules", []),
        ("target_modules", ["q_proj; rm"]),
        ("gradient_accumulation", 0),
        ("max_sequence_length", 1),
        ("save_steps", 0),
        ("seed", -1),
        ("warmup", 3),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        Hyperparameters.model_validate({field: value})
    assert refusal.value.errors()[0]["loc"][0] == field
