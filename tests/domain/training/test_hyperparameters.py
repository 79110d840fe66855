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


@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [
        ("num_train_epochs", "epochs", 2),
        ("r", "lora_r", 8),
        ("per_device_train_batch_size", "micro_batch_size", 2),
        ("lora_dropout", "dropout", 0.1),
        ("gradient_accumulation_steps", "gradient_accumulation", 2),
        ("max_length", "max_sequence_length", 512),
        ("lr_scheduler_type", "schedule", "constant_with_warmup"),
        ("warmup_ratio", "warmup_share", 0.1),
        ("save_total_limit", "n_checkpoints", 3),
        *((each, each, 0.5) for each in ("weight_decay", "max_grad_norm", "learning_rate")),
        *((each, each, 7) for each in ("lora_alpha", "save_steps", "eval_steps", "seed")),
    ],
)
def test_names_of_hugging_face_mean_ours(theirs: str, ours: str, value: object) -> None:
    read = Hyperparameters.model_validate({theirs: value})
    assert read == Hyperparameters.model_validate({ours: value})
    assert read.model_dump()[ours] == value
    assert Hyperparameters.recorded(read.stored | {"seed": 1}).model_dump()[ours] in (value, 1)


def test_an_invalid_value_is_refused_under_the_name_that_was_sent() -> None:
    with pytest.raises(ValidationError) as refusal:
        Hyperparameters.model_validate({"num_train_epochs": 0, "lora_r": 0})
    assert {each["loc"][0] for each in refusal.value.errors()} == {"num_train_epochs", "lora_r"}


def test_two_names_of_one_hyperparameter_are_refused_even_with_one_value() -> None:
    with pytest.raises(ValidationError) as refusal:
        Hyperparameters.model_validate({"epochs": 2, "num_train_epochs": 2, "seed": 1})
    (problem,) = refusal.value.errors()
    assert problem["loc"] == ("num_train_epochs",)
    assert problem["msg"] == "This field means the same as epochs. Send only one of the two"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("learning_rat", "learning_rate"), ("n_epoch", "epochs"), ("warm_up_ratio", "warmup_ratio")],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Hyperparameters.model_validate({name: 1})
    (problem,) = refusal.value.errors()
    assert problem["loc"] == (name,)
    assert problem["msg"] == f"Unknown field. Did you mean {nearest}?"


def test_wrong_names_and_invalid_values_are_reported_together() -> None:
    given = {"epoch": 1, "lora_r": 0, "r": 8, "num_train_epochs": 0, "target_modules": ["{x}"]}
    with pytest.raises(ValidationError) as refusal:
        Hyperparameters.model_validate(given)
    found = {each["loc"][0]: each["msg"] for each in refusal.value.errors()}
    assert found.keys() == given.keys()
    assert found["lora_r"] == "Input should be greater than or equal to 1"


def test_a_request_of_many_unknown_names_is_refused_for_the_first_ones() -> None:
    with pytest.raises(ValidationError) as refusal:
        Hyperparameters.model_validate({f"epoch{n}": 1 for n in range(100_000)})
    assert refusal.value.error_count() == 10


def test_an_unknown_name_like_no_other_is_refused() -> None:
    with pytest.raises(ValidationError, match="See the reference"):
        Hyperparameters.model_validate({"x" * 1000: 1})


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
