"""Open meters: what the ticker has to look at, and since when."""

from __future__ import annotations

from typing import Any

from psycopg_pool import ConnectionPool

from domain.core.identity import meter_id
from domain.jobs.job import SegmentEnd
from infrastructure.store import Connection
from projections import OPEN_METERS
from projections.open_meters import bound_segments, unbound_segments
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import BOUND_AT, History
from tests.projections.conftest import Fold


def test_a_meter_is_open_from_its_lease_until_it_is_settled(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    def shown() -> list[dict[str, Any]]:
        fold(OPEN_METERS)
        with pool.connection() as connection:
            return connection.execute("SELECT * FROM open_meters").fetchall()

    def unbound() -> list[dict[str, Any]]:
        with pool.connection() as connection:
            return unbound_segments(connection)

    def bound() -> list[dict[str, Any]]:
        with pool.connection() as connection:
            return bound_segments(connection)

    row = {
        "meter_id": meter_id(JOB_ID, 1),
        "account_id": ACCOUNT_ID,
        "job_id": JOB_ID,
        "segment": 1,
    }
    history.run_until("leased")
    assert shown() == [row | {"bound_at": None}]
    assert (bound(), unbound()) == ([], [{"job_id": JOB_ID, "segment": 1}])
    history.start_pod(1)
    assert shown() == [row | {"bound_at": BOUND_AT}]
    assert (bound(), unbound()) == ([{"job_id": JOB_ID, "segment": 1}], [])
    history.end_segment(1, SegmentEnd.STOPPED, 10)
    assert shown() == []
