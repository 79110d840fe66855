"""The format of the log: which events may be stored, and in which version."""

from __future__ import annotations

import json
from typing import Any, ClassVar
from uuid import UUID

import pytest
from eventsourcing.persistence import JSONTranscoder, StoredEvent
from eventsourcing.utils import register_topic

from domain.core.aggregate import Event
from domain.core.errors import UpgradeUnfinished
from domain.core.event_format import FORMAT, NewerEvent, format_of, version_in
from domain.core.event_log import PydanticMapper
from tests.builders.commands import NOW


class TableLaid(Event):
    """An event whose second version names the room, and whose third counts lamps."""

    class_version: ClassVar[int] = 3
    formats = {2: 2, 3: 4}
    weight: float
    room: str
    lamps: int

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["room"] = "hall"

    @staticmethod
    def downcast_v1_v2(state: dict[str, Any]) -> None:
        del state["room"]

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        state["lamps"] = 1

    @staticmethod
    def downcast_v2_v3(state: dict[str, Any]) -> None:
        del state["lamps"]


class TableMoved(Event):
    """An event that format 2 added."""

    formats = {1: 2}


for each in (TableLaid, TableMoved):
    register_topic(each.TOPIC, each)


def of(kind: type[Event], **fields: Any) -> Any:
    return kind(
        originator_id=UUID(int=1),
        originator_version=1,
        timestamp=NOW,
        account_id=UUID(int=2),
        actor="service:tests",
        command_id="lay",
        **fields,
    )


def mapper(format: int) -> PydanticMapper:
    found = PydanticMapper(JSONTranscoder())
    found.format_in_use = format
    return found


def stored_version(row: StoredEvent) -> int:
    return json.loads(row.state).get("class_version", 1)


def test_a_version_belongs_to_the_format_that_added_it_or_one_before() -> None:
    assert [format_of(TableLaid, each) for each in (1, 2, 3)] == [1, 2, 4]
    assert [version_in(TableLaid, each) for each in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
    assert [version_in(TableMoved, each) for each in (1, 2)] == [None, 1]
    assert version_in(Event, 1) == 1


@pytest.mark.parametrize(
    ("format", "room", "lamps", "version"),
    [(4, "cellar", 7, 3), (3, "cellar", 1, 2), (2, "hall", 1, 2), (1, "hall", 1, 1)],
)
@pytest.mark.parametrize("weight", [0.1, float("nan")])
def test_an_event_is_stored_in_the_newest_version_of_the_format(
    format: int, room: str, lamps: int, version: int, weight: float
) -> None:
    event = of(TableLaid, weight=weight, room=room, lamps=lamps)
    row = mapper(format).to_stored_event(event)
    assert stored_version(row) == version
    assert ("room" in json.loads(row.state), "lamps" in json.loads(row.state)) == (
        version > 1,
        version > 2,
    )
    read: Any = mapper(format).to_domain_event(row)
    assert (read.room, read.lamps, str(read.weight)) == (room, lamps, str(weight))


@pytest.mark.parametrize(
    ("format", "room", "lamps"), [(3, "hall", 2), (1, "hall", 2), (1, "cellar", 1)]
)
def test_a_value_that_the_older_version_cannot_express_is_refused(
    format: int, room: str, lamps: int
) -> None:
    with pytest.raises(UpgradeUnfinished):
        mapper(format).to_stored_event(of(TableLaid, weight=1, room=room, lamps=lamps))


def test_an_event_of_a_newer_format_is_refused_until_the_format_rises() -> None:
    raised = mapper(1)
    with pytest.raises(UpgradeUnfinished):
        raised.to_stored_event(of(TableMoved))
    raised.format_in_use = 2
    assert raised.to_stored_event(of(TableMoved)).topic == "TableMoved"
    assert mapper(1).to_domain_event(raised.to_stored_event(of(TableMoved))) == of(TableMoved)


def test_a_process_without_a_database_writes_the_format_of_its_code() -> None:
    assert PydanticMapper(JSONTranscoder()).format_in_use == FORMAT


@pytest.mark.parametrize(
    ("topic", "state"), [("TableLaid", {"class_version": 4}), ("TableSold", {"price": 1})]
)
def test_an_event_of_a_newer_version_of_ecolink_is_recognized(
    topic: str, state: dict[str, Any]
) -> None:
    row = StoredEvent(UUID(int=1), 1, topic, json.dumps(state).encode())
    with pytest.raises(NewerEvent):
        mapper(1).to_domain_event(row)
