"""The envelope of events, which the cause of a command fills."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from pydantic import ValidationError

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Cause, Event, because
from domain.core.event_log import EventLog
from tests.builders.commands import NOW

SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def opened(traceparent: str | None) -> Event:
    """Return the event of a command."""
    with because(Cause("service:test", "command-1", NOW, traceparent=traceparent)):
        (event,) = Account.open(uuid4(), Role.OWNER, "UTC").pending_events
    assert isinstance(event, Event)
    return event


@pytest.mark.parametrize("traceparent", [None, SPAN])
def test_an_event_stores_the_span_of_its_command_only_if_there_is_one(
    traceparent: str | None,
) -> None:
    mapper, event = EventLog().mapper, opened(traceparent)
    stored = mapper.to_stored_event(event)
    assert mapper.to_domain_event(stored) == event
    assert json.loads(stored.state).get("traceparent", "absent") == (traceparent or "absent")


def test_an_event_refuses_a_malformed_span() -> None:
    with pytest.raises(ValidationError):
        opened("not a span")
