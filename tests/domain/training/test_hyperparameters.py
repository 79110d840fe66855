"""Hyperparameters: the document's defaults, and refusals that name the field."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from domain.training.hyperparameters import Hyperparameters, settings_of
from tests.builders.examples import PLAN


def test_the_defaults_of_the_wizard() -> None:
    assert Hyperparameters().model_dump() == {
        "method": "supervised",
        "epochs": 3,
        "learning_rate": 2e-4,
        "beta": None,
        "lora_r": 16,
        "lora_alpha": 32,
        "micro_batch_size": 4,
        "load_best_model_at_end": False,
        "dropout": 0.05,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": ("q_proj", "v_proj"),
        "gradient_accumulation": 4,
        "max_sequence_length": None,
        "schedule": "cosine",
        "warmup_share": 0.03,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "save_steps": 50,
        "eval_steps": None,
        "early_stopping_patience": None,
        "early_stopping_threshold": 0.0,
        "n_checkpoints": None,
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
        ("use_rslora", "yes"),
        ("target_modules", []),
        ("target_modules", ["q_proj; rm"]),
        ("gradient_accumulation", 0),
        ("max_sequence_length", 1),
        ("schedule", "polynomial"),
        ("warmup_share", 0.51),
        ("warmup_share", -0.01),
        ("weight_decay", 1.1),
        ("max_grad_norm", 0.0),
        ("save_steps", 0),
        ("eval_steps", 0),
        ("early_stopping_patience", 0),
        ("early_stopping_threshold", -0.1),
        ("n_checkpoints", 0),
        ("n_checkpoints", 21),
        ("seed", -1),
        ("warmup", 3),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        Hyperparameters.model_validate({field: value})
    assert refusal.value.errors()[0]["loc"][0] == field


def test_events_name_some_hyperparameters_only_if_they_are_set() -> None:
    assert "use_dora" not in Hyperparameters().stored
    assert Hyperparameters().stored.keys() >= {"use_rslora", "eval_steps"}
    stored = Hyperparameters(use_dora=True).stored
    assert stored["use_dora"] is True
    assert Hyperparameters.recorded(stored).use_dora
    assert not Hyperparameters.recorded(Hyperparameters().stored).use_dora


def test_the_scale_of_the_adapter_is_alpha_over_r_or_over_its_root() -> None:
    assert Hyperparameters(lora_r=64, lora_alpha=32).adapter_scale == 0.5
    assert Hyperparameters(lora_r=64, lora_alpha=32, use_rslora=True).adapter_scale == 4


def test_without_an_interval_of_its_own_evaluation_comes_with_every_checkpoint() -> None:
    assert Hyperparameters(save_steps=7).evaluation_steps == 7
    assert Hyperparameters(save_steps=7, eval_steps=3).evaluation_steps == 3


def test_a_plan_of_before_a_field_existed_means_its_default_and_is_the_same_choice() -> None:
    later = {"schedule", "warmup_share", "weight_decay", "max_grad_norm", "eval_steps"}
    recorded = {name: each for name, each in PLAN.hyperparameters.items() if name not in later}
    before = PLAN.model_copy(update={"hyperparameters": recorded})
    assert before.lora == Hyperparameters()
    assert before.choices == PLAN.choices


def test_the_earliest_stop_follows_evaluations_that_lower_nothing() -> None:
    assert Hyperparameters(eval_steps=10).earliest_stop(100) == 100
    patient = Hyperparameters(eval_steps=10, early_stopping_patience=3)
    assert patient.earliest_stop(100) == 40
    assert patient.earliest_stop(25) == 25


@pytest.mark.parametrize(
    ("after", "stop"), [(0, 40), (39, 40), (40, 40), (41, 50), (70, 70), (95, 100), (100, 100)]
)
def test_a_resumed_job_can_stop_at_its_next_evaluation(after: int, stop: int) -> None:
    """The evaluation of the last step before the resume may still be missing."""
    patient = Hyperparameters(eval_steps=10, early_stopping_patience=3)
    assert patient.earliest_stop(100, after) == stop
    assert Hyperparameters(eval_steps=10).earliest_stop(100, after) == 100


def test_settings_have_the_display_name_of_the_method() -> None:
    assert settings_of({"method": "dpo"}) == {"Method": "DPO"}
    assert settings_of({"suffix": "dpo"}) == {"Suffix": "dpo"}
