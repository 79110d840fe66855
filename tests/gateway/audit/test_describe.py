"""Descriptions of every event."""

from __future__ import annotations

import pytest
from eventsourcing.persistence import StoredEvent

from domain.core.aggregate import Event
from gateway.audit.describe import describe_any
from tests.domain.test_stored_events import MAPPER, STORED


@pytest.mark.parametrize("row", STORED, ids=lambda row: row.topic)
def test_every_event_has_a_sentence(row: StoredEvent) -> None:
    event = MAPPER.to_domain_event(row)
    assert isinstance(event, Event)
    text = describe_any(event, "ft:model")
    assert text.endswith(".")
    assert text != f"{event.TOPIC}."
    assert "\n" not in text
