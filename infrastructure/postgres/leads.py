"""The processes that lead, for operators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from infrastructure.postgres.leadership import LOCK_CLASS, SESSION_NAME
from infrastructure.postgres.store import Connection


@dataclass(frozen=True)
class Lead:
    """The process that took the lead of a name most recently."""

    name: str
    epoch: int
    """Number of times that any process took this lead."""
    host: str
    pid: int
    since: datetime
    leads: bool
    """True if a process holds the lead now."""
    standbys: int
    """Number of other processes that wait for the lead."""


LEADS = """
SELECT held.*, greatest(0, count(pg_stat_activity.pid) - held.leads::int)::int AS standbys
FROM (
    SELECT leaderships.*, EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
        AND classid::bigint = %s AND objid::bigint = hashtext(name)::bigint & 4294967295
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS leads
    FROM leaderships
) AS held
LEFT JOIN pg_stat_activity ON datname = current_database()
    AND application_name = format(%s, held.name)
GROUP BY held.name, epoch, host, held.pid, since, leads
ORDER BY held.name
"""
"""Each leader and each standby has one session with the name of the lead."""


def leads(connection: Connection) -> list[Lead]:
    """Return every lead that was ever taken, by name."""
    rows = connection.execute(LEADS, [LOCK_CLASS, SESSION_NAME]).fetchall()
    return [Lead(**row) for row in rows]
