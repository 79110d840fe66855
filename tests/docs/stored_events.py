"""Examples of stored events, one for each version of each topic.

An example never changes once it is here: it stands for the events in the logs of users, which later
versions must be able to read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from domain import AGGREGATES
from domain.core.aggregate import Aggregate, Event
from infrastructure.extensions import installed

ROOT = Path(__file__).parents[2]


def files() -> Iterator[tuple[Path, tuple[type[Aggregate], ...]]]:
    """Yield the files of the core and of installed extensions, with their aggregates."""
    yield ROOT / "docs/reference/stored-events.ndjson", AGGREGATES
    for each in installed():
        if each.aggregates:
            folder = ROOT / "tests" / each.package.replace(".", "/")
            yield folder / "stored-events.ndjson", each.aggregates


def examples() -> list[dict[str, Any]]:
    """Return the examples in all files, by topic and version."""
    return sorted((row for path, _ in files() for row in _rows(path)), key=_place)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def page(path: Path, aggregates: Iterable[type[Aggregate]]) -> str:
    """Return the examples of a file, and a new one for each event that has none."""
    rows = _rows(path)
    known = {(row["topic"], version_of(row["state"])) for row in rows}
    kinds = [kind for aggregate in aggregates for kind in aggregate.event_classes()]
    rows += [_example(kind) for kind in kinds if (kind.TOPIC, current_version(kind)) not in known]
    rows.sort(key=_place)
    return "".join(json.dumps(row) + "\n" for row in rows)


def _place(row: dict[str, Any]) -> tuple[str, int]:
    return row["topic"], version_of(row["state"])


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
