"""Schemas of users that refer to themselves."""

from __future__ import annotations

from typing import Any

import pytest

from infrastructure.chat.json_schema import InvalidSchema, require_schema, validator_of

LOOP = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
LONG = {str(place): {"$ref": f"#/$defs/{place + 1}"} for place in range(1_500)}


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"$ref": "#"}, id="itself"),
        pytest.param({"$ref": "#/$defs/a", "$defs": LOOP}, id="two definitions"),
        pytest.param({"items": {"$ref": "#/$defs/a"}, "$defs": LOOP}, id="in a list"),
        pytest.param({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, id="an alternative"),
        pytest.param({"dependentSchemas": {"a": {"$ref": "#"}}}, id="a dependency"),
        pytest.param({"$defs": {"a/b": {"not": {"$ref": "#/$defs/a~1b"}}}}, id="escaped"),
        pytest.param({"$defs": LONG | {"1500": {"$ref": "#/$defs/0"}}}, id="many definitions"),
    ],
)
def test_a_schema_that_refers_to_itself_without_end_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema):
        require_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"properties": {"next": {"$ref": "#"}}}, id="list"),
        pytest.param(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#"}}]}, id="tree"
        ),
        pytest.param({"then": {"additionalProperties": {"$ref": "#"}}}, id="of an alternative"),
        pytest.param({"not": {"not": {"required": ["a"]}, "items": {"$ref": "#"}}}, id="negated"),
        pytest.param({"$anchor": "a", "allOf": [{"properties": {"b": {"$ref": "#a"}}}]}, id="name"),
        pytest.param({"$defs": LONG | {"1500": {"type": "null"}}}, id="many definitions"),
    ],
)
def test_a_schema_of_nested_values_may_refer_to_itself(schema: dict[str, Any]) -> None:
    assert validator_of(schema).is_valid({"next": {}}) or validator_of(schema).is_valid([["a"]])
