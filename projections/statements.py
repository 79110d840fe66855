"""Statements of an account by day and by job.

A statement sums the postings of an account's ledger and lists their events. It covers the whole
balance, so reserving or releasing leases is not a movement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from uuid import UUID

from infrastructure.postgres.store import Connection
from projections.projection import Row

# The movement of a posting follows from its ledger accounts. Its day is a day of the account's time
# zone, which may have 23 or 25 hours. Redundant, wider bounds in UTC let PostgreSQL use the index.
MOVEMENTS = """
WITH movements AS (
    SELECT event_id, position, job_id, synthesis_id, minute,
        CASE WHEN reason = 'refund or dispute undone' THEN -amount_micros ELSE amount_micros END
            AS amount_micros,
        segment, from_seconds, to_seconds,
        (posted_at AT TIME ZONE %(time_zone)s)::date AS day,
        CASE WHEN reason = 'topped up' THEN 'top_ups'
             WHEN reason IN ('refunded or disputed', 'refund or dispute undone') THEN 'refunds'
             WHEN debit = 'credits' THEN 'credits'
             WHEN debit = 'guarantee' THEN NULL  -- the customer does not pay
             WHEN credit = 'revenue' THEN 'charges' WHEN debit = 'revenue' THEN 'reversals'
        END AS movement
    FROM billing_ledger WHERE account_id = %(account)s
        AND posted_at < (%(last)s::date + 2)::timestamp AT TIME ZONE 'UTC'
        AND (%(opening)s OR posted_at >= (%(first)s::date - 1)::timestamp AT TIME ZONE 'UTC')
)
"""

BY_DAY = f"""{MOVEMENTS}
SELECT greatest(day, %(first)s::date - 1) AS day, movement, sum(amount_micros)::bigint AS micros,
    array_agg(event_id ORDER BY position) FILTER (WHERE %(ids)s AND day >= %(first)s) AS event_ids
FROM movements WHERE movement IS NOT NULL AND day <= %(last)s
GROUP BY 1, movement
"""

BY_JOB = f"""{MOVEMENTS}
SELECT coalesce(job_id, synthesis_id) AS id, job_id IS NULL AS synthesis, movement,
    sum(amount_micros)::bigint AS micros, count(minute) AS minutes,
    count(DISTINCT segment) AS segments,
    coalesce(sum(to_seconds - from_seconds), 0)::bigint AS seconds,
    array_agg(event_id ORDER BY position) FILTER (WHERE %(ids)s) AS event_ids,
    min(position) AS position
FROM movements WHERE movement IN ('charges', 'reversals') AND day BETWEEN %(first)s AND %(last)s
GROUP BY 1, 2, movement ORDER BY position
"""


@dataclass
class DayOfStatement:
    """The movements of one day, in micro-dollars, with their events."""

    day: date
    opening_micros: int
    top_ups_micros: int = 0
    refunds_micros: int = 0
    """Refunded and disputed payments, less those that were restored. It can be negative."""
    credits_micros: int = 0
    charges_micros: int = 0
    reversals_micros: int = 0
    event_ids: dict[str, list[str]] = field(default_factory=dict)
    """Event IDs by movement: `top_ups`, `refunds`, `credits`, `charges` and `reversals`."""

    @property
    def closing_micros(self) -> int:
        """Closing balance, which is the opening balance of the next day."""
        return (
            self.opening_micros
            + self.top_ups_micros
            - self.refunds_micros
            + self.credits_micros
            - self.charges_micros
            + self.reversals_micros
        )


@dataclass
class JobOfStatement:
    """Charges and reversals of one job or synthesis, in micro-dollars."""

    job_id: UUID  # or the ID of the synthesis
    synthesis: bool = False
    segments: int = 0
    minutes: int = 0
    seconds: int = 0
    charges_micros: int = 0
    reversals_micros: int = 0
    reversed_seconds: int = 0
    event_ids: dict[str, list[str]] = field(default_factory=dict)
    """Event IDs by movement: `charges` (minutes or batches) and `reversals`."""

    @property
    def net_micros(self) -> int:
        """Charges minus reversals, in micro-dollars."""
        return self.charges_micros - self.reversals_micros


def daily_statement(
    connection: Connection,
    account_id: UUID,
    time_zone: str,
    first: date,
    last: date,
    *,
    ids: bool = True,
) -> list[DayOfStatement]:
    """Return all days from `first` to `last`, inclusive, in the account's time zone.

    If `ids` is false, omit the event IDs, which is faster.
    """
    parameters = _parameters(account_id, time_zone, first, last, ids=ids, opening=True)
    balance = 0
    rows: dict[date, list[Row]] = {}
    for row in connection.execute(BY_DAY, parameters).fetchall():
        if row["day"] < first:
            takes = row["movement"] in ("charges", "refunds")
            balance += -row["micros"] if takes else row["micros"]
        else:
            rows.setdefault(row["day"], []).append(row)
    days: list[DayOfStatement] = []
    for number in range((last - first).days + 1):
        day = DayOfStatement(first + timedelta(days=number), balance)
        for row in rows.get(day.day, []):
            setattr(day, f"{row['movement']}_micros", row["micros"])
            day.event_ids[row["movement"]] = row["event_ids"] or []
        balance = day.closing_micros
        days.append(day)
    return days


def job_statement(
    connection: Connection,
    account_id: UUID,
    time_zone: str,
    first: date,
    last: date,
    *,
    ids: bool = True,
) -> list[JobOfStatement]:
    """Return all jobs and syntheses with postings from `first` to `last`.

    They are in the order of their first postings. The dates are inclusive and in the account's time
    zone. A minute whose charge rounds to 0 has no posting and is not counted. If `ids` is false,
    omit the event IDs, which is faster.
    """
    jobs: dict[UUID, JobOfStatement] = {}
    parameters = _parameters(account_id, time_zone, first, last, ids=ids, opening=False)
    for row in connection.execute(BY_JOB, parameters).fetchall():
        job = jobs.setdefault(row["id"], JobOfStatement(row["id"], row["synthesis"]))
        job.event_ids[row["movement"]] = row["event_ids"] or []
        if row["movement"] == "charges":
            job.segments, job.minutes = row["segments"], row["minutes"]
            job.seconds, job.charges_micros = row["seconds"], row["micros"]
        else:
            job.reversed_seconds, job.reversals_micros = row["seconds"], row["micros"]
    return list(jobs.values())


def _parameters(
    account_id: UUID, time_zone: str, first: date, last: date, *, ids: bool, opening: bool
) -> dict[str, object]:
    days = {"time_zone": time_zone, "first": first, "last": last}
    return {"account": account_id, **days, "ids": ids, "opening": opening}
