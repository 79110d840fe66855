from __future__ import annotations

import json
from typing import Any, ClassVar
from uuid import UUID

import pytest
from eventsourcing.persistence import JSONTranscoder, StoredEvent
from eventsourcing.utils import register_topic, resolve_topic

from domain.core.aggregate import Event
from domain.core.event_log import PydanticMapper
from infrastructure.extensions import aggregates
from tests.builders.commands import NOW
from tests.docs.stored_events import current_version, examples, version_of

MAPPER = PydanticMapper(JSONTranscoder())

TOPICS = sorted(kind.TOPIC for aggregate in aggregates() for kind in aggregate.event_classes())


def stored(row: dict[str, Any]) -> StoredEvent:
    return StoredEvent(
        originator_id=UUID(row["originator_id"]),
        originator_version=row["originator_version"],
        topic=row["topic"],
        state=json.dumps(row["state"]).encode(),
    )


STORED = [stored(row) for row in examples()]


def is_current(row: StoredEvent) -> bool:
    """Return True if an event was stored by the current version of its class."""
    return version_of(json.loads(row.state)) == current_version(resolve_topic(row.topic))


CURRENT = [row for row in STORED if is_current(row)]
EARLIER = [row for row in STORED if not is_current(row)]


def test_every_event_has_a_stored_example() -> None:
    assert sorted({row.topic for row in CURRENT}) == TOPICS, "run `make docs`"


@pytest.mark.parametrize("row", EARLIER, ids=lambda row: row.topic)
def test_a_stored_event_of_an_earlier_version_is_read(row: StoredEvent) -> None:
    event = MAPPER.to_domain_event(row)
    written = json.loads(MAPPER.to_stored_event(event).state)
    assert version_of(written) == current_version(type(event))


@pytest.mark.parametrize("row", CURRENT, ids=lambda row: row.topic)
def test_a_stored_event_is_read_and_written_unchanged(row: StoredEvent) -> None:
    event = MAPPER.to_domain_event(row)
    written = MAPPER.to_stored_event(event)
    assert json.loads(written.state) == json.loads(row.state)
    assert (written.topic, written.originator_id) == (row.topic, row.originator_id)


def test_the_topic_is_the_name_of_the_class() -> None:
    assert {"JobApproved", "MinuteMetered", "CheckpointSaved", "Registered"} <= set(TOPICS)
    assert all(resolve_topic(topic).__name__ == topic for topic in TOPICS)


class RoomBooked(Event):
    """An event whose second version counts guests and whose third names the room."""

    class_version: ClassVar[int] = 3
    guests: int
    room: str

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["guests"] = 1

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        state["room"] = f"for {state['guests']}"


@pytest.mark.parametrize(
    ("state", "guests", "room"),
    [
        ({}, 1, "for 1"),
        ({"class_version": 2, "guests": 4}, 4, "for 4"),
        ({"class_version": 3, "guests": 4, "room": "blue"}, 4, "blue"),
    ],
)
def test_an_event_of_an_earlier_version_is_upcast(
    state: dict[str, Any], guests: int, room: str
) -> None:
    register_topic(RoomBooked.TOPIC, RoomBooked)
    row = next(each for each in STORED if each.topic == "PauseRequested")
    envelope = {name: value for name, value in json.loads(row.state).items() if name != "reason"}
    stored_state = json.dumps(envelope | state).encode()
    event = MAPPER.to_domain_event(
        StoredEvent(row.originator_id, row.originator_version, "RoomBooked", stored_state)
    )
    assert isinstance(event, RoomBooked)
    assert (event.guests, event.room) == (guests, room)
    assert json.loads(MAPPER.to_stored_event(event).state)["class_version"] == 3


class SampleWeighed(Event):
    """An event with a number that may be no number."""

    kilograms: float


register_topic(SampleWeighed.TOPIC, SampleWeighed)


@pytest.mark.parametrize(
    "kilograms", [0.1, 1e300, 5e-324, -0.0, float("inf"), float("-inf"), float("nan")]
)
def test_a_number_is_read_as_it_was_stored(kilograms: float) -> None:
    weighed = SampleWeighed(
        originator_id=UUID(int=1),
        originator_version=1,
        timestamp=NOW,
        account_id=UUID(int=2),
        actor="service:tests",
        command_id="weigh",
        kilograms=kilograms,
    )
    row = MAPPER.to_stored_event(weighed)
    assert str(json.loads(row.state)["kilograms"]) == str(kilograms)
    read = MAPPER.to_domain_event(row)
    assert isinstance(read, SampleWeighed)
    assert str(read.kilograms) == str(kilograms)
