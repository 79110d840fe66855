"""Stored events can be read for ever: one golden event for each topic and version."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest
from eventsourcing.persistence import JSONTranscoder, StoredEvent
from eventsourcing.utils import resolve_topic

from domain import AGGREGATES
from domain.core.aggregate import Event
from domain.core.event_log import PydanticMapper

GOLDEN = Path(__file__).parent / "golden"
MAPPER = PydanticMapper(JSONTranscoder())

TOPICS = sorted(
    value.TOPIC
    for aggregate in AGGREGATES
    for name, value in vars(aggregate).items()
    if name != "Event" and isinstance(value, type) and issubclass(value, Event)
)


def stored(path: Path) -> StoredEvent:
    row = json.loads(path.read_text())
    return StoredEvent(
        originator_id=UUID(row["originator_id"]),
        originator_version=row["originator_version"],
        topic=row["topic"],
        state=json.dumps(row["state"]).encode(),
    )


@pytest.mark.parametrize("topic", TOPICS)
def test_every_event_has_a_golden_one_of_its_present_version(topic: str) -> None:
    version = getattr(resolve_topic(topic), "class_version", 1)
    assert (GOLDEN / f"{topic}.v{version}.json").exists(), f"store one {topic} of v{version}"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_golden_event_is_read_and_written_as_it_stands(path: Path) -> None:
    row = stored(path)
    event = MAPPER.to_domain_event(row)
    assert isinstance(event, Event)
    written = MAPPER.to_stored_event(event)
    if path.stem.endswith(f".v{getattr(type(event), 'class_version', 1)}"):
        assert json.loads(written.state) == json.loads(row.state)
    assert (written.topic, written.originator_id) == (row.topic, row.originator_id)


def test_the_published_names_are_the_topics() -> None:
    published = {"JobApproved", "MinuteMetered", "BalanceDepleted", "CheckpointSaved", "Registered"}
    assert published <= set(TOPICS)
    assert all(resolve_topic(topic).__name__ == topic for topic in TOPICS)
