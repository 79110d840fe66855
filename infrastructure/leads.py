"""The processes that lead, for operators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from infrastructure.leadership import LOCK_CLASS
from infrastructure.store import Connection


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


def leads(connection: Connection) -> list[Lead]:
    """Return every lead that was ever taken, by name."""
    rows = connection.execute(
        "SELECT leaderships.*, EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' "
        "AND granted AND objsubid = 2 AND classid::bigint = %s "
        "AND objid::bigint = hashtext(name)::bigint & 4294967295 AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())) AS leads "
        "FROM leaderships ORDER BY name",
        [LOCK_CLASS],
    ).fetchall()
    return [Lead(**row) for row in rows]
