"""Batches of decoded events: their order, their topics and their end."""

from __future__ import annotations

import psycopg
import pytest

from domain.billing.account import Account
from domain.core.event_log import EventLog
from infrastructure.postgres import event_batches
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.logs import grow, ids


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_batches, "BATCH_EVENTS", 4)


def found(settings: Settings, **selected: object) -> list[list[int]]:
    with connect(settings) as connection:
        batches = event_batches.event_batches(connection, **selected)  # type: ignore[arg-type]
        return [[each.id for each in batch] for batch in batches]


def test_all_events_come_in_order(settings: Settings, log: EventLog) -> None:
    grow(log, 10)
    batches = found(settings)
    assert [id for batch in batches for id in batch] == ids(log)
    assert all(len(batch) == 4 for batch in batches[:-1])


def test_topics_and_positions_select_events(settings: Settings, log: EventLog) -> None:
    grow(log, 10)
    granted, known = [Account.CreditGranted.TOPIC], ids(log)
    batches = found(settings, topics=granted, after=known[-6], until=known[-2])
    assert batches == [known[-5:-1]]
    assert found(settings, topics=[]) == []


def test_the_last_batch_is_not_full(settings: Settings, log: EventLog) -> None:
    """Otherwise a writer that adds an event for each batch would keep the reader busy."""
    grow(log, 1)
    with connect(settings) as connection:
        for count, _ in enumerate(event_batches.event_batches(connection), 1):
            grow(log, 1)
            assert count < 1000


def test_an_event_with_an_unknown_topic_is_refused(settings: Settings, log: EventLog) -> None:
    grow(log, 3)
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("UPDATE ecolink_events SET topic = 'os' WHERE topic = 'AccountOpened'")
    with pytest.raises(ValueError, match="unknown topic"):
        found(settings)
