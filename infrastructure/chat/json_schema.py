"""JSON schemas of users. Only here, the library is offline: it would fetch URLs in a schema."""

from __future__ import annotations

import json
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

MAX_DEPTH = 32
MAX_CHARACTERS = 65_536
MAX_SHOWN = 200

NEWEST_DRAFT = "https://json-schema.org/draft/2020-12/schema"
DRAFTS = (
    NEWEST_DRAFT,
    "https://json-schema.org/draft/2019-09/schema",
    *(f"http://json-schema.org/draft-0{number}/schema" for number in (7, 6, 4)),
)
"""The schemas of schemas, which the library contains."""


IN_PLACE = ("not", "if", "then", "else")
IN_PLACE_EACH = ("allOf", "anyOf", "oneOf", "dependentSchemas", "dependencies")
"""Keywords whose schema, or whose list or object of schemas, applies to the same value."""


class InvalidSchema(ValueError):
    """A schema is invalid. The message is a sentence, without text of the library."""


def require_schema(schema: Any) -> None:
    """Raise InvalidSchema unless a value is a schema of a draft, without compiling patterns."""
    layer = [schema]
    for _ in range(MAX_DEPTH + 1):
        if not all(_is_official(each) for each in layer):
            raise InvalidSchema(f'Change each "$schema" to "{NEWEST_DRAFT}", or remove it.')
        layer = [inner for each in layer for inner in inside(each)]
    if layer:
        raise InvalidSchema(f"Use at most {MAX_DEPTH} levels.")
    if (size := len(json.dumps(schema))) > MAX_CHARACTERS:
        raise InvalidSchema(f"It has {size:,} characters. Use at most {MAX_CHARACTERS:,}.")
    draft = schema.get("$schema") if isinstance(schema, dict) else None
    try:
        _draft(draft if isinstance(draft, str) else NEWEST_DRAFT).validate(schema)
    except jsonschema_rs.ValidationError as error:
        raise InvalidSchema(_correction(error, schema)) from None
    except ValueError:
        raise InvalidSchema("Use only valid Unicode.") from None
    require_end(schema)


def require_end(schema: Any) -> None:
    """Raise InvalidSchema if a "$ref" leads back to itself, without an inner value in between.

    Neither the check of a value nor the choice of the next token would then end.
    """
    graph: dict[int, list[int]] = {}
    layer = [schema]
    while layer:
        for each in (each for each in layer if isinstance(each, dict)):
            reached = [each.get(name) for name in IN_PLACE]
            reached += [part for name in IN_PLACE_EACH for part in inside(each.get(name))]
            graph[id(each)] = [id(part) for part in (*reached, _target(schema, each.get("$ref")))]
        layer = [part for each in layer for part in inside(each)]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        raise InvalidSchema('Remove each "$ref" that leads back to itself.') from None


def validator_of(schema: Any) -> jsonschema_rs.Validator:
    """Return the check of values, which can take long, or raise InvalidSchema."""
    require_schema(schema)
    try:
        return jsonschema_rs.validator_for(schema, offline=True)
    except jsonschema_rs.ValidationError as error:
        raise InvalidSchema(_correction(error, schema)) from None
    except (jsonschema_rs.ReferencingError, ValueError):
        raise InvalidSchema('Point each "$ref" to a definition in the schema itself.') from None


def inside(value: Any) -> list[Any]:
    """Return the values in an object or a list. Other values have none."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _target(schema: Any, ref: Any) -> Any:
    """Return the part of a schema to which a JSON pointer leads, or None."""
    if not isinstance(ref, str) or (ref != "#" and not ref.startswith("#/")):
        return None
    for step in unquote(ref[1:]).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list):
            schema = schema[int(key)] if key.isdecimal() and int(key) < len(schema) else None
        else:
            schema = schema.get(key) if isinstance(schema, dict) else None
    return schema


def _is_official(value: Any) -> bool:
    draft = value.get("$schema") if isinstance(value, dict) else None
    return not isinstance(draft, str) or draft.removesuffix("#") in DRAFTS


@cache
def _draft(uri: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(
        {"$schema": uri, "$ref": uri}, offline=True, validate_formats=False
    )


def _correction(error: jsonschema_rs.ValidationError, schema: Any) -> str:
    """Return what to correct. The library's own message could contain text of other documents."""
    if error.kind.name == "$ref":
        return 'Point each "$ref" to a definition in the schema itself.'
    place, value = error.instance_path, schema
    for each in place:
        value = value[each]
    rule = f'the rule "{error.kind.name}" of its draft'
    if not place:
        return f"It breaks {rule}."
    shown = f'"{"/".join(map(str, place))}" is {json.dumps(value)}'
    return f"{shown[:MAX_SHOWN]}, which breaks {rule}. Correct it."
