"""What does not keep up with the event log is told, though its process lives."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from eventsourcing.persistence import Tracking

from deploy.local.health import complaints
from domain.catalog.catalog import Catalog
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from infrastructure.settings import Settings
from infrastructure.store import connect
from projections import PROJECTIONS
from tests.logs import ids
from tests.projecting import project

PROCESSES = ["relay", "projector", "billing"]


def test_consumers_that_lag_and_events_that_are_parked_are_told(
    settings: Settings, log: EventLog
) -> None:
    began = next(iter(log.events.get(CATALOG_ID)))
    assert isinstance(began, Catalog.Event)
    assert complaints(settings, PROCESSES, began.timestamp + timedelta(minutes=1)) == []
    later = began.timestamp + timedelta(minutes=10)
    assert len(complaints(settings, PROCESSES, later)) == len(PROJECTIONS) + 1
    with connect(settings) as connection:
        project(log, connection)
        (said,) = complaints(settings, PROCESSES, later)
        assert said.startswith(f"billing is {len(ids(log))} events behind, by 10 min;")
        log.process_recorder.insert_tracking(Tracking("billing", ids(log)[-1]))
        assert complaints(settings, PROCESSES, later) == []
        connection.execute(
            "INSERT INTO parked_reactions VALUES ('billing', 7, %s, 'JobApproved', 'it failed')",
            [uuid4()],
        )
    (said,) = complaints(settings, PROCESSES, later)
    assert said.startswith("billing has parked 1 of its events;")
    away = settings.model_copy(update={"database_url": "postgresql://u:p@127.0.0.1:1/x"})
    (said,) = complaints(away, PROCESSES, later)
    assert said.startswith("The database does not answer")
