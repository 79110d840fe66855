"""Events of a released format never change. See docs/operate/upgrades.md."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from domain.core.event_format import FORMAT, format_of
from infrastructure.extensions import aggregates
from tests.docs.stored_events import current_version

RELEASED = 0
"""Newest format of a release, whose events cannot change any more. 0: none is released."""

PINNED = Path(__file__).with_name("event_formats.txt")
"""Each version of each event: its topic, version, format, and a hash of its fields."""

EVENTS = [kind for aggregate in aggregates() for kind in aggregate.event_classes()]

ADD_LINE = "Add the line to tests/domain/event_formats.txt."
RAISE = (
    f"Format {RELEASED} is released. Increase FORMAT, increase class_version with an upcast and a "
    "downcast unless the event is new, and add the version to `formats`. See "
    "docs/operate/upgrades.md."
)


def fields_of(kind: Any) -> str:
    """Return a hash of an event's fields and of the models and enums in them."""
    schema = kind.model_json_schema()
    return sha256(json.dumps(_plain(schema), sort_keys=True).encode()).hexdigest()[:12]


def _plain(schema: Any, inside: bool = False) -> Any:
    """Return a schema without the texts for readers. `inside` names are those of fields."""
    match schema:
        case dict():
            texts = () if inside else ("description", "title", "examples")
            return {
                key: _plain(value, key in ("properties", "$defs") and not inside)
                for key, value in schema.items()
                if key not in texts
            }
        case list():
            return [_plain(each) for each in schema]
        case _:
            return schema


def line_of(kind: Any) -> str:
    version = current_version(kind)
    return f"{kind.TOPIC} {version} {format_of(kind, version)} {fields_of(kind)}"


def pinned() -> list[str]:
    return PINNED.read_text().splitlines()


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.TOPIC)
def test_an_event_changes_only_in_a_format_that_is_not_released(kind: Any) -> None:
    line, known = line_of(kind), pinned()
    if line in known:
        return
    fresh = format_of(kind, current_version(kind)) > RELEASED
    pytest.fail(f"{line!r} is not pinned. {ADD_LINE if fresh else RAISE}")


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.TOPIC)
def test_the_formats_of_an_event_are_complete(kind: Any) -> None:
    version, formats = current_version(kind), dict(kind.formats)
    assert set(formats) <= set(range(1, version + 1))
    assert list(formats.values()) == sorted(set(formats.values()))
    assert all(1 < each <= FORMAT for each in formats.values()), "increase FORMAT"
    for each in range(1, version):
        assert hasattr(kind, f"upcast_v{each}_v{each + 1}")
        if format_of(kind, each + 1) > format_of(kind, each):
            assert hasattr(kind, f"downcast_v{each}_v{each + 1}")


def test_the_pinned_lines_are_of_events_that_exist() -> None:
    topics = {kind.TOPIC for kind in EVENTS}
    assert {line.split()[0] for line in pinned()} <= topics, "an event is never removed or renamed"


def test_a_release_raises_the_format_by_at_most_one() -> None:
    assert FORMAT in (RELEASED, RELEASED + 1)


if __name__ == "__main__":
    print("\n".join(sorted({*pinned(), *map(line_of, EVENTS)})))
