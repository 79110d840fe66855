"""OpenAI's job fields map to EcoLink's, and responses return the sent numbers."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from domain.core.errors import Invalid
from domain.training.hyperparameters import DPO, SUPERVISED, Hyperparameters
from gateway.http import openai_vocabulary as vocabulary
from gateway.jobs.openai.form import CreateJob


def form(**fields: Any) -> CreateJob:
    return CreateJob.model_validate({"model": "tiny", "training_file": "file-x"} | fields)


def supervised(**numbers: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": numbers}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hyperparameters": {"n_epochs": "auto", "batch_size": "auto"}},
        {"method": supervised(learning_rate_multiplier="auto")},
        {"method": {"type": "supervised"}},
    ],
)
def test_auto_is_the_wizards_default(fields: dict[str, Any]) -> None:
    assert form(**fields).translated() == Hyperparameters()


def test_numbers_are_accepted_in_either_place() -> None:
    numbers = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    for given in ({"hyperparameters": numbers}, {"method": supervised(**numbers)}):
        found = form(**given, seed=7).translated()
        assert (found.epochs, found.learning_rate, found.seed) == (2, 1e-4, 7)
        assert (found.micro_batch_size, found.gradient_accumulation) == (4, 2)


def test_names_of_hugging_face_are_accepted_once() -> None:
    found = form(num_train_epochs=2, r=8, hyperparameters={"batch_size": 8}).translated()
    assert (found.epochs, found.lora_r, found.micro_batch_size) == (2, 8, 4)
    with pytest.raises(Invalid, match="the same as epochs"):
        form(num_train_epochs=2, hyperparameters={"n_epochs": 2}).translated()
    with pytest.raises(RequestValidationError) as refused:
        form(num_train_epochs=2, epochs=2, lora_rank=8).translated()
    assert [(each["loc"], each["msg"]) for each in refused.value.errors()] == [
        (
            ("body", "num_train_epochs"),
            "This field means the same as epochs. Send only one of the two",
        ),
        (("body", "lora_rank"), "Unknown field. Did you mean lora_r?"),
    ]


@pytest.mark.parametrize(("beta", "expected"), [("auto", 0.1), (0.3, 0.3), (1, 1.0)])
def test_dpo_has_its_own_hyperparameters(beta: Any, expected: float) -> None:
    numbers = {"beta": beta, "n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    found = form(method={"type": DPO, DPO: {"hyperparameters": numbers}}).translated()
    assert (found.method, found.beta, found.epochs) == (DPO, expected, 2)
    assert found.learning_rate == pytest.approx(1e-5)
    assert vocabulary.learning_rate_multiplier(found.stored) == 0.5


def test_dpo_without_settings_has_its_defaults() -> None:
    found = form(method={"type": DPO}).translated()
    assert found == Hyperparameters(method=DPO)
    assert (found.learning_rate, found.beta) == (2e-5, 0.1)


@pytest.mark.parametrize(
    "method",
    [
        {"type": "dpo", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        {"type": "supervised", "dpo": {"hyperparameters": {"beta": 0.2}}},
        {"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.2}}},
        {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}},
        {"type": "reinforcement"},
    ],
)
def test_settings_of_another_method_are_refused(method: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        form(method=method)


@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize("each", [1, 2, 3, 5, 6, 7, 12, 64, 100])
def test_the_response_has_the_sent_batch_size(each: int, gpus: int) -> None:
    parts = vocabulary.batch(each * gpus, gpus)
    assert vocabulary.batch_size(parts, gpus) == each * gpus
    assert parts["micro_batch_size"] <= vocabulary.MOST_IN_A_MICRO_BATCH


@pytest.mark.parametrize(
    ("name", "accepted", "refused", "most", "gpus"),
    [
        ("batch_size", 4096, 4100, r"\b4\b.*4,096", 1),
        ("batch_size", 1023, 1025, r"\b4\b.*4,096", 1),
        ("batch_size", 4, 3, "batch", 2),
        ("learning_rate_multiplier", 5000, 5001, "5,000", 1),
    ],
)
def test_a_number_that_is_refused_has_the_sent_name(
    name: str, accepted: float, refused: float, most: str, gpus: int
) -> None:
    form(hyperparameters={name: accepted}, gpu_count=gpus).translated()
    with pytest.raises(Invalid, match=most) as refusal:
        form(hyperparameters={name: refused}, gpu_count=gpus).translated()
    assert refusal.value.field == name


@pytest.mark.parametrize("multiplier", [0.1, 0.3, 1, 1.7, 2, 10, 0.123456789])
def test_the_response_has_the_sent_multiplier(multiplier: float) -> None:
    rate = vocabulary.learning_rate(multiplier, SUPERVISED)
    assert vocabulary.learning_rate_multiplier({"learning_rate": rate}) == multiplier


def test_our_own_fields_are_at_the_top_level() -> None:
    found = form(lora_r=8, target_modules=["q_proj"], warmup_share=0.1).translated()
    assert (found.lora_r, found.target_modules, found.warmup_share) == (8, ("q_proj",), 0.1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"surprise": 1}, "surprise"),
        ({"lora_r": 0}, "lora_r"),
        ({"target_modules": ["q proj"]}, "target_modules"),
        ({"hyperparameters": {"n_epochs": 0}}, "n_epochs"),
        ({"seed": -1}, "seed"),
        ({"beta": 0.2}, "beta"),
    ],
)
def test_problems_have_the_sent_field_names(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestValidationError) as refused:
        form(**fields).translated()
    assert {each["loc"][1] for each in refused.value.errors()} == {named}


@pytest.mark.parametrize(
    "fields",
    [
        {"hyperparameters": {"n_epochs": 2}, "epochs": 3},
        {"hyperparameters": {"n_epochs": 2}, "method": supervised(n_epochs=3)},
        {"hyperparameters": {"batch_size": 8}, "micro_batch_size": 2},
    ],
)
def test_a_number_that_is_given_twice_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        form(**fields).translated()


@pytest.mark.parametrize(
    "fields",
    [
        {"method": {"type": "reinforcement"}},
        {"suffix": "not:this"},
        {"suffix": "x" * 65},
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {str(n): "v" for n in range(17)}},
        {"hyperparameters": {"n_epochs": "many"}},
        {"integrations": [{"type": "wandb"}]},
        {"gpu_count": 0},
    ],
)
def test_a_malformed_request_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        form(**fields)
