"""Meters that run: what the billing ticker looks at."""

from __future__ import annotations

from domain.aggregate import Event
from domain.job import Job
from domain.meter import Meter
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS open_meters (
    meter_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    job_id uuid NOT NULL,
    segment integer NOT NULL,
    bound_at timestamptz,
    UNIQUE (job_id, segment)
)
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Fold one event into the table."""
    match event:
        case Meter.MeterOpened():
            cursor.execute(
                "INSERT INTO open_meters VALUES (%s, %s, %s, %s)",
                [event.originator_id, event.account_id, event.job_id, event.segment],
            )
        case Job.PodStarted():
            cursor.execute(
                "UPDATE open_meters SET bound_at = %s WHERE job_id = %s AND segment = %s",
                [event.bound_at, event.originator_id, event.segment],
            )
        case Meter.MeterClosed():
            cursor.execute("DELETE FROM open_meters WHERE meter_id = %s", [event.originator_id])
        case _:
            pass


OPEN_METERS = Projection("open_meters", ("open_meters",), DDL, apply)


def bound_segments(connection: Connection) -> list[Row]:
    """Segments that run on bound GPUs: job_id and segment."""
    return connection.execute(
        "SELECT job_id, segment FROM open_meters WHERE bound_at IS NOT NULL "
        "ORDER BY job_id, segment"
    ).fetchall()
