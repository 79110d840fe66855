"""Detect consumers that lag and events that are parked, though the process lives."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import uuid4

from eventsourcing.persistence import Tracking

from deploy.local.health import problems
from domain.catalog.catalog import Catalog
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.logs import ids
from tests.projecting import project

PROCESSES = ["relay", "projector", "billing"]


def test_lagging_consumers_and_parked_events_are_problems(
    settings: Settings, log: EventLog
) -> None:
    began = next(iter(log.events.get(CATALOG_ID)))
    assert isinstance(began, Catalog.Event)
    assert problems(settings, PROCESSES, began.timestamp + timedelta(minutes=1)) == []
    later = began.timestamp + timedelta(minutes=10)
    projector, billing = problems(settings, PROCESSES, later)
    assert projector.startswith("projector is ")
    assert billing.startswith("billing is ")
    with connect(settings) as connection:
        project(log, connection)
        (problem,) = problems(settings, PROCESSES, later)
        assert {"billing", str(len(ids(log))), "10"} <= set(re.findall(r"\w+", problem))
        log.process_recorder.insert_tracking(Tracking("billing", ids(log)[-1]))
        assert problems(settings, PROCESSES, later) == []
        connection.execute(
            "INSERT INTO parked_events VALUES ('billing', 7, %s, 'JobApproved', 'it failed')",
            [uuid4()],
        )
    (problem,) = problems(settings, PROCESSES, later)
    assert {"billing", "1", "parked"} <= set(re.findall(r"\w+", problem))
    away = settings.model_copy(update={"database_url": "postgresql://u:p@127.0.0.1:1/x"})
    assert len(problems(away, PROCESSES, later)) == 1
