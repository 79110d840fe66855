"""Lag of consumers of the event log."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from eventsourcing.persistence import Tracking

from domain.catalog.catalog import Catalog
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from infrastructure.postgres.store import Connection
from projections import projection
from projections.consumers import (
    ALL_CONSUMERS,
    CONSUMERS,
    MAX_LAG,
    ConsumerLag,
    consumer_lags,
    lag_problems,
    parked_problems,
)
from tests.builders.commands import NOW
from tests.logs import grow, ids
from tests.projecting import project


def test_the_lag_of_each_consumer(log: EventLog, connection: Connection) -> None:
    began = next(iter(log.events.get(CATALOG_ID)))
    assert isinstance(began, Catalog.Event)
    project(log, connection)
    log.process_recorder.insert_tracking(Tracking("billing", ids(log)[-1]))
    connection.execute(
        "INSERT INTO parked_events VALUES ('billing', 7, %s, 'JobApproved', 'it failed')",
        [uuid4()],
    )
    lags = {each.consumer: each for each in consumer_lags(connection)}
    assert tuple(lags) == ALL_CONSUMERS
    billing, scheduler = lags["billing"], lags["scheduler"]
    later = began.timestamp + MAX_LAG + timedelta(seconds=1)
    assert (billing.events, billing.seconds(later), billing.parked) == (0, 0.0, 1)
    assert (scheduler.events, scheduler.since) == (len(ids(log)), began.timestamp)
    assert lags["projection-accounts"].events == 0
    assert lag_problems([billing], later) == []
    assert lag_problems([scheduler], began.timestamp + MAX_LAG) == []
    (problem,) = lag_problems([scheduler], later)
    assert problem.startswith(f"scheduler is {len(ids(log))} events behind (")
    assert parked_problems(connection) == [
        "billing has parked 1 event. See `ecolink events parked`."
    ]


def test_a_large_lag_is_the_distance_in_the_log(
    log: EventLog, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(log, 4)
    connection.execute("SELECT nextval('ecolink_events_notification_id_seq')")  # leaves a gap
    grow(log, 1)
    positions, (lag,) = ids(log), consumer_lags(connection, ["billing"])
    assert lag.events == len(positions)
    monkeypatch.setattr(projection, "COUNTED_EVENTS", 3)
    (lag,) = consumer_lags(connection, ["billing"])
    assert lag.events == positions[-1] > len(positions)


def test_the_late_consumers_of_a_process_are_one_problem() -> None:
    since = NOW - MAX_LAG - timedelta(seconds=10)
    names = CONSUMERS["projector"]
    lags = [ConsumerLag(name, 3 + n, since, 0) for n, name in enumerate(names)]
    assert lag_problems(lags, NOW) == [
        f"projector is {2 + len(names)} events behind (5 min 10 s). See its log."
    ]
    assert lag_problems(lags[:2], NOW) == [
        f"projector is 4 events behind with {names[0]}, {names[1]} (5 min 10 s). See its log."
    ]
