"""JSON schemas of users. Only here, the library is offline: it would fetch URLs in a schema."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

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
