"""Advisory locks by name, which a session of PostgreSQL holds until it ends."""

from __future__ import annotations

from infrastructure.postgres.leadership import LOCK_CLASS
from infrastructure.postgres.store import Connection, scalar

KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""With these settings, PostgreSQL frees the lock of a lost machine after a minute."""


def take(connection: Connection, name: str) -> bool:
    """Take the lock for this session. Return False if another session holds it."""
    for setting, value in KEEPALIVES.items():
        connection.execute("SELECT set_config(%s, %s, false)", [setting, str(value)])
    return scalar(connection, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [LOCK_CLASS, name])


def is_held(connection: Connection, name: str) -> bool:
    """Return True if a session holds the lock."""
    return scalar(
        connection,
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted "
        "AND classid::bigint = %s AND objid::bigint = hashtext(%s)::bigint & 4294967295 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
        [LOCK_CLASS, name],
    )
