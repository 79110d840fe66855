"""A waiting request for events whose API key ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.events.feed import EventFeed
from gateway.events.schemas import EventPage, PageAsked
from gateway.events.service import next_events
from gateway.http.access import Caller
from gateway.http.errors import Unauthenticated
from projections.account_events import EventFilter
from tests.builders.platform import Person, Platform
from tests.polling import eventually

LONGEST_WAIT = 30


@pytest.fixture
def feed(client: TestClient) -> EventFeed:
    assert isinstance(client.app, FastAPI)
    return client.app.state.feed


async def waited(
    feed: EventFeed, person: Person, after: int, expires_at: datetime | None = None
) -> EventPage:
    rights = Rights(Role.OWNER, tuple(Scope), expires_at)
    caller = Caller(person.account_id, person.account_id, rights, person.key_id, "request")
    asked = PageAsked(after=after, wait=LONGEST_WAIT)
    return await next_events(feed, caller, EventFilter(person.account_id, None), asked)


def head_of(platform: Platform, feed: EventFeed) -> int:
    """Return the end of the log, after the feed has read it."""
    head = platform.log.recorder.max_notification_id() or 0
    eventually(lambda: feed.position >= head)
    return head


async def test_a_wait_ends_when_the_key_expires(platform: Platform, feed: EventFeed) -> None:
    person = platform.person()
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    with pytest.raises(Unauthenticated, match="expired"):
        await waited(feed, person, head_of(platform, feed), soon)


async def test_a_key_that_was_revoked_before_the_wait_is_refused(
    platform: Platform, feed: EventFeed
) -> None:
    person = platform.person()
    platform.revoke(person)
    with pytest.raises(Unauthenticated, match="revoked"):
        await waited(feed, person, head_of(platform, feed))
