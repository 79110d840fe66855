"""Answers match their schema, whatever the model prefers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from services.serving.grammar import COMPILERS, CompilersBusy, UnusableSchema
from tests.builders.serving import open_engine
from tests.services.serving.answers import Answers

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "score": {"type": "integer", "enum": [1, 2, 3]},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "score", "tags"],
    "additionalProperties": False,
}


@pytest.fixture
def answers(tiny_model: Path) -> Iterator[Answers]:
    with open_engine() as engine:
        answers = Answers(engine, tiny_model)
        answers.attach()
        yield answers


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_every_answer_matches_the_schema(answers: Answers, temperature: float) -> None:
    options: dict[str, Any] = {"temperature": temperature, "max_tokens": 500}
    found = [
        answers.ask("base", f"Hello {seed}!", response_schema=SCHEMA, seed=seed, **options)
        for seed in range(4)
    ]
    for each in found:
        assert each.wait().finish_reason == "stop"
        jsonschema_rs.validate(SCHEMA, json.loads(each.text))


def test_a_seed_gives_the_same_answer_beside_others(answers: Answers) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_tokens": 500}
    alone = answers.ask("base", "Hi.", response_schema=SCHEMA, **options).wait()
    others = [answers.ask("base", "Thanks.", max_tokens=20) for _ in range(3)]
    again = answers.ask("base", "Hi.", response_schema=SCHEMA, **options).wait()
    assert again.text == alone.text
    assert all(each.wait().error is None for each in others)


def test_any_object_is_an_object(answers: Answers) -> None:
    found = answers.ask("base", "Hi.", response_schema={"type": "object"}, max_tokens=30).wait()
    assert found.text.startswith("{")
    if found.finish_reason == "stop":
        assert isinstance(json.loads(found.text), dict)


def test_an_answer_that_is_cut_off_has_the_reason_length(answers: Answers) -> None:
    found = answers.ask("base", "Hi.", response_schema=SCHEMA, max_tokens=3).wait()
    assert found.finish_reason == "length"
    assert found.text.startswith('{"')


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "object", "not": {}}, id="keyword without support"),
        pytest.param({"$ref": "https://example.com/schema.json"}, id="remote reference"),
        pytest.param({"type": "string", "pattern": "("}, id="invalid pattern"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(
    answers: Answers, schema: dict[str, Any]
) -> None:
    with pytest.raises(UnusableSchema) as refused:
        answers.ask("base", "Hi.", response_schema=schema)
    assert refused.value.field == "response_format"


def test_schemas_of_one_account_do_not_stop_known_ones(answers: Answers) -> None:
    answers.ask("base", "Hi.", response_schema=SCHEMA, max_tokens=1)
    with COMPILERS, COMPILERS:
        with pytest.raises(CompilersBusy):
            answers.ask("base", "Hi.", response_schema={"type": "string", "maxLength": 3})
        answers.ask("base", "Hi.", response_schema=SCHEMA, max_tokens=1)
