"""Examples of stored events, one for each version of each topic.

An example never changes once it is here: it stands for the events in the logs of users, which later
versions must be able to read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

from domain.core.aggregate import Event
from infrastructure.extensions import aggregates

PATH = Path(__file__).parents[2] / "docs/reference/stored-events.ndjson"


def page() -> str:
    """Return the examples so far, and a new one for each event that has none."""
    rows = [json.loads(line) for line in PATH.read_text().splitlines()] if PATH.exists() else []
    known = {(row["topic"], version_of(row["state"])) for row in rows}
    kinds = [kind for aggregate in aggregates() for kind in aggregate.event_classes()]
    rows += [_example(kind) for kind in kinds if (kind.TOPIC, current_version(kind)) not in known]
    rows.sort(key=lambda row: (row["topic"], version_of(row["state"])))
    return "".join(json.dumps(row) + "\n" for row in rows)


def version_of(state: dict[str, Any]) -> int:
    """Return the version of its class by which an event was stored."""
    return state.get("class_version", 1)


def current_version(kind: type[Event]) -> int:
    """Return the current version of a class of events."""
    return getattr(kind, "class_version", 1)


def _example(kind: type[Event]) -> dict[str, Any]:
    schema = kind.model_json_schema(mode="serialization")
    state = _value(schema, schema.get("$defs", {}))
    del state["traceparent"]  # stored only if tracing is on
    row = {"topic": kind.TOPIC} | {
        name: state.pop(name) for name in ("originator_id", "originator_version")
    }
    version = current_version(kind)
    return row | {"state": state | ({"class_version": version} if version > 1 else {})}


def _value(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a value that a schema allows."""
    match schema:
        case {"$ref": ref}:
            return _value(definitions[ref.rpartition("/")[2]], definitions)
        case {"enum": [first, *_]} | {"const": first}:
            return first
        case {"anyOf": [{"$ref": _}, {"type": "null"}]}:
            return None  # the type may contain itself
        case {"anyOf": [{"pattern": _}, {"type": "null"}]}:
            return None  # "text" would not match
        case {"anyOf": [first, *_]}:
            return _value(first, definitions)
        case {"properties": fields}:
            return {name: _value(field, definitions) for name, field in fields.items()}
        case {"prefixItems": items}:
            return [_value(item, definitions) for item in items]
        case {"type": "array", "items": item}:
            return [_value(item, definitions)]
        case {"format": "uuid"}:
            return str(UUID(int=1))
        case {"format": "date-time"}:
            return "2026-11-24T12:00:00Z"
        case {"format": "date"}:
            return "2026-11-24"
        case _:
            values = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "object": {}}
            return values.get(schema.get("type", ""))
