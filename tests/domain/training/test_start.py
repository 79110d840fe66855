"""The adapter with which a job starts."""

from __future__ import annotations

from typing import Any

import pytest

from domain.core.errors import Invalid
from domain.training.hyperparameters import Hyperparameters
from domain.training.start import inherited, split_checkpoint

PARENT = Hyperparameters(
    lora_r=8, lora_alpha=64, use_rslora=True, target_modules=("q_proj", "k_proj"), epochs=9
)


def test_a_job_inherits_the_shape_that_it_does_not_set() -> None:
    tuned = inherited(Hyperparameters(epochs=1), PARENT, "ft:a")
    assert (tuned.lora_r, tuned.lora_alpha, tuned.use_rslora) == (8, 64, True)
    assert tuned.target_modules == ("q_proj", "k_proj")
    assert tuned.epochs == 1
    same = Hyperparameters(lora_r=8, target_modules=("k_proj", "q_proj"))
    assert inherited(same, PARENT, "ft:a") == tuned.model_copy(update={"epochs": same.epochs})


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"lora_r": 16}, "lora_r 8"),
        ({"use_dora": True}, "use_dora no"),
        ({"lora_alpha": 16}, "lora_alpha 64"),
        ({"use_rslora": False}, "use_rslora yes"),
        ({"target_modules": ("q_proj",)}, "target_modules q_proj, k_proj"),
    ],
)
def test_another_shape_is_refused_with_the_one_that_fits(given: Any, shown: str) -> None:
    with pytest.raises(Invalid) as refused:
        inherited(Hyperparameters(**given), PARENT, "ft:a")
    assert refused.value.field == next(iter(given))
    assert shown in refused.value.message
    assert "ft:a" in refused.value.message


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ft:tiny:0123", ("ft:tiny:0123", None)),
        ("ft:tiny:0123:ckpt-step-40", ("ft:tiny:0123", 40)),
        ("ft:tiny:0123:ckpt-step-x", ("ft:tiny:0123:ckpt-step-x", None)),
        ("ft:tiny:0123:ckpt-step-²", ("ft:tiny:0123:ckpt-step-²", None)),
    ],
)
def test_the_name_of_a_checkpoint_has_a_step(name: str, parts: tuple[str, int | None]) -> None:
    assert split_checkpoint(name) == parts
