"""Lag of consumers of the event log."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from eventsourcing.persistence import Tracking

from domain.catalog.catalog import Catalog
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from infrastructure.store import Connection
from projections.consumers import (
    ALL_CONSUMERS,
    MAX_LAG,
    consumer_lags,
    lag_problems,
    parked_problems,
)
from tests.logs import ids
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
    assert problem.startswith("scheduler is ")
    assert parked_problems(connection) == [
        "billing has parked 1 event. See `ecolink events parked`."
    ]
