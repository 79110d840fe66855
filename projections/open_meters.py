"""Meters of running segments, for the billing ticker."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from domain.billing.meter import Meter
from domain.core.recorded import Recorded
from domain.jobs import events
from infrastructure.postgres.store import Connection
from projections.billing_ledger import Reason
from projections.merged_rows import MergedRows
from projections.projection import Cursor, Projection, Row, update

DDL = """
CREATE TABLE IF NOT EXISTS open_meters (
    meter_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    job_id uuid NOT NULL,
    segment integer NOT NULL,
    bound_at timestamptz,
    UNIQUE (job_id, segment)
);
CREATE INDEX IF NOT EXISTS open_meters_unbound ON open_meters (job_id, segment)
    WHERE bound_at IS NULL
"""


def apply(cursor: Cursor, batch: Sequence[Recorded]) -> None:
    """Apply events to the table."""
    meters = MergedRows(cursor, "open_meters", "meter_id")
    opened: dict[tuple[UUID, int], UUID] = {}  # meters of this batch, by job and segment
    for each in batch:
        match each.event:
            case Meter.MeterOpened(originator_id=id, job_id=job_id, segment=segment) as event:
                meters.insert(id, account_id=event.account_id, job_id=job_id, segment=segment)
                opened[job_id, segment] = id
            case events.PodStarted(originator_id=job_id, segment=segment, bound_at=bound_at):
                if id := opened.get((job_id, segment)):
                    meters.update(id, bound_at=bound_at)
                else:
                    key = {"job_id": job_id, "segment": segment}
                    update(cursor, "open_meters", key, bound_at=bound_at)
            case Meter.MeterClosed(originator_id=id):
                meters.execute(id, "DELETE FROM open_meters WHERE meter_id = %s", [id])
            case _:
                pass
    meters.write()


BURN = """
SELECT open_meters.account_id, count(DISTINCT job_id) AS jobs,
    coalesce(sum(rate_micros_per_hour) FILTER (WHERE NOT covered), 0)::bigint
        AS rate_micros_per_hour,
    coalesce(sum(rate_micros_per_hour * greatest(used.seconds - billed.seconds, 0) / 3600)
        FILTER (WHERE NOT covered), 0)::bigint AS unbilled_micros
FROM open_meters JOIN job_detail USING (job_id, segment),
LATERAL (SELECT coalesce(max(elapsed_seconds), 0)::numeric AS seconds FROM segment_evidence AS each
    WHERE each.job_id = open_meters.job_id AND each.segment = open_meters.segment) AS used,
LATERAL (SELECT coalesce(max(to_seconds), 0) AS seconds,
        coalesce(bool_or(reason = %s), false) AS covered FROM billing_ledger AS each
    WHERE each.job_id = open_meters.job_id AND each.segment = open_meters.segment) AS billed
WHERE open_meters.account_id = ANY(%s) AND open_meters.bound_at IS NOT NULL
GROUP BY open_meters.account_id
"""
"""The rate of a job is the rate of its running segment, or 0 once the price guarantee covers it."""

OPEN_METERS = Projection(
    "open_meters",
    ("open_meters",),
    DDL,
    (
        Meter.MeterOpened,
        events.PodStarted,
        Meter.MeterClosed,
    ),
    apply,
)


def bound_segments(connection: Connection) -> list[Row]:
    """Return the job_id and segment of each open meter whose pod has started."""
    return connection.execute(
        "SELECT job_id, segment FROM open_meters WHERE bound_at IS NOT NULL ORDER BY 1, 2"
    ).fetchall()


def unbound_segments(connection: Connection) -> list[Row]:
    """Return the job_id and segment of each open meter whose segment has not launched yet."""
    return connection.execute(
        "SELECT job_id, segment FROM open_meters WHERE bound_at IS NULL ORDER BY job_id, segment"
    ).fetchall()


@dataclass(frozen=True)
class Burn:
    """The running costs of an account."""

    jobs: int
    rate_micros_per_hour: int
    """Total hourly rate of all running jobs that are charged."""
    unbilled_micros: int
    """Price of the time that running jobs have used but that is not billed yet."""


NOTHING = Burn(0, 0, 0)


def burns(connection: Connection, account_ids: Collection[UUID]) -> dict[UUID, Burn]:
    """Return the running costs of the given accounts, by account ID."""
    rows = connection.execute(BURN, [Reason.MINUTE_COVERED, list(account_ids)]).fetchall()
    found = {row.pop("account_id"): Burn(**row) for row in rows}
    return {each: found.get(each, NOTHING) for each in account_ids}
