"""Evidence: the longest elapsed time of each segment."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.jobs.lifecycle import SegmentEnd
from infrastructure.postgres.store import Connection
from services.billing.evidence import elapsed_seconds, keep_evidence
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.projecting import project


def shown(elapsed_seconds: object, segment: int = 1) -> dict[str, object]:
    return {
        "account_id": str(ACCOUNT_ID),
        "job_id": str(JOB_ID),
        "segment": segment,
        "elapsed_seconds": elapsed_seconds,
        "n": 7,
    }


def kept(connection: Connection) -> dict[int, float]:
    rows = connection.execute("SELECT * FROM segment_evidence").fetchall()
    return {row["segment"]: row["elapsed_seconds"] for row in rows}


@pytest.mark.parametrize(
    ("shown_seconds", "clock_seconds", "elapsed"),
    [
        *[(59.9, 100, 59), (100, 59.9, 59), (100, -300, 0), (-300, 100, 0), (0, 100, 0)],
        (100, None, 0),  # without GPUs
    ],
)
def test_elapsed_time_is_the_smaller_of_two_clocks(
    shown_seconds: float, clock_seconds: float | None, elapsed: int
) -> None:
    bound_at = None if clock_seconds is None else NOW - timedelta(seconds=clock_seconds)
    assert elapsed_seconds(shown_seconds, bound_at, NOW) == elapsed


def test_evidence_of_each_segment_only_grows(pool: ConnectionPool[Connection]) -> None:
    with pool.connection() as connection:
        for messages, evidence in (
            ([shown(10.5), shown(2, 2), shown(12.5), shown(11)], {1: 12.5, 2: 2}),
            ([shown(3)], {1: 12.5, 2: 2}),
            ([shown(20)], {1: 20, 2: 2}),
        ):
            keep_evidence(connection, messages)
            assert kept(connection) == evidence


def test_invalid_reports_are_dropped(pool: ConnectionPool[Connection]) -> None:
    invalid = [{"job_id": str(uuid4())}, "nonsense", shown("long"), shown("NaN"), shown(9, 2**40)]
    invalid += [shown(each) for each in (-1, 1e300, float("inf"), 2**31, 10**400)]
    with pool.connection() as connection:
        keep_evidence(connection, [*invalid, shown(5)])
        assert kept(connection) == {1: 5}


def test_an_ended_segment_shows_nothing_more(
    history: History, pool: ConnectionPool[Connection]
) -> None:
    history.run_until("launched")
    with pool.connection() as connection:
        keep_evidence(connection, [shown(5)])  # before the read models know the segment
        for running, evidence in ((True, 7), (False, 7)):
            if not running:
                history.end_segment(1, SegmentEnd.CRASHED, error_class="ProcessLost")
            project(history.log, connection)
            keep_evidence(connection, [shown(7 if running else 9), shown(3, segment=2)])
            assert kept(connection) == {1: evidence, 2: 3}


def test_evidence_is_kept_while_the_read_model_of_meters_lags(
    history: History, pool: ConnectionPool[Connection]
) -> None:
    history.run_until("launched")
    with pool.connection() as connection:
        project(history.log, connection)
        connection.execute("DELETE FROM open_meters")
        keep_evidence(connection, [shown(5)])
        assert kept(connection) == {1: 5}
