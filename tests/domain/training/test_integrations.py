"""Integrations of jobs, as OpenAI writes them and as options name them."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.fine_tuning import FineTuningJobWandbIntegrationObject
from pydantic import TypeAdapter, ValidationError

from domain.core.errors import Invalid
from domain.training.integrations import (
    INTEGRATION,
    Integrations,
    Tracker,
    integration_of,
    require_different,
    text_of,
)

LIST = TypeAdapter(Integrations)


def test_an_integration_has_the_fields_of_openai() -> None:
    given = {
        "type": "wandb",
        "wandb": {"project": "bot", "name": "first", "entity": "team", "tags": ["a", "b"]},
    }
    parsed = INTEGRATION.validate_python(given)
    assert parsed.model_dump(mode="json") == given
    assert FineTuningJobWandbIntegrationObject.model_validate(given).wandb.project == "bot"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mlflow:support: bot/2", {"experiment_name": "support: bot/2"}),
        ("wandb:bot", {"project": "bot", "entity": None}),
        ("wandb:team/bot", {"project": "bot", "entity": "team"}),
        ("tensorboard", {}),
    ],
)
def test_an_option_names_a_tracker(text: str, expected: dict[str, object]) -> None:
    found = integration_of(text).model_dump(mode="json")
    assert found["type"] == text.partition(":")[0]
    assert found[found["type"]].items() >= expected.items()


@pytest.mark.parametrize("text", ["", "comet:x", "mlflow", "mlflow:", "wandb:", "tensorboard:x"])
def test_an_option_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        integration_of(text)
    assert refused.value.field == "integrations"


@pytest.mark.parametrize(
    "given",
    [
        {"type": "comet"},
        {"type": "wandb"},
        {"type": "wandb", "wandb": {"project": "a b"}},
        {"type": "wandb", "wandb": {"project": "a", "tags": [""]}},
        {"type": "mlflow", "mlflow": {"experiment_name": " "}},
        {"type": "mlflow", "mlflow": {"experiment_name": "a", "tags": {"x`y": "1"}}},
        {"type": "mlflow", "mlflow": {"experiment_name": "a"}, "wandb": {"project": "b"}},
    ],
)
def test_a_wrong_integration_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LIST.validate_python([given])


def test_a_job_has_one_integration_of_each_type() -> None:
    different = [integration_of("mlflow:a"), integration_of("wandb:a")]
    require_different(different)
    with pytest.raises(Invalid):
        require_different([*different, integration_of("mlflow:b")])
    assert [each for each in Tracker if each.is_remote] == [Tracker.MLFLOW, Tracker.WANDB]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"type": "mlflow", "mlflow": {"experiment_name": "a: b"}}, "mlflow:a: b"),
        ({"type": "wandb", "wandb": {"project": "a", "entity": "b"}}, "wandb:b/a"),
        ({"type": "tensorboard"}, "tensorboard"),
        (
            {"type": "mlflow", "mlflow": {"experiment_name": "a", "run_name": "b"}},
            '{"type":"mlflow","mlflow":{"experiment_name":"a","run_name":"b"}}',
        ),
        (
            {"type": "wandb", "wandb": {"project": "a", "tags": ["é"]}},
            '{"type":"wandb","wandb":{"project":"a","tags":["é"]}}',
        ),
    ],
)
def test_a_text_has_all_of_an_integration(given: dict[str, Any], text: str) -> None:
    integration = INTEGRATION.validate_python(given)
    assert text_of(integration) == text
    assert integration_of(text) == integration


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ('{"type": "mlflow"}', "mlflow: Field required"),
        ('{"type": "wandb", "wandb": {"project": "a", "run_name": "b"}}', "wandb.run_name"),
        ('{"type": "x"}', "'x'"),
        ('{"type": ', "Invalid JSON"),
    ],
)
def test_a_wrong_integration_in_json_is_refused(text: str, figure: str) -> None:
    with pytest.raises(Invalid) as refused:
        integration_of(text)
    assert figure in refused.value.message
    assert refused.value.field == "integrations"
