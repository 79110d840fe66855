"""Connection parameters of PostgreSQL. Of several hosts, the one that accepts writes is used."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

CONNECT_SECONDS = 5
"""Maximum time to connect to one host. psycopg would wait 130 s for a host without power."""

DEFAULTS = {
    "connect_timeout": CONNECT_SECONDS,
    # A server that vanished without closing its connections is noticed after 14 s.
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 14_000,
}
"""Parameters of every connection, unless the URL sets them."""

OLDEST_POSTGRES = 170_000
"""Oldest supported `server_version_num`: roles need the right MAINTAIN to lock events."""

RECONNECT_SECONDS = 0.5

RECONNECTING: dict[str, Any] = {
    "reconnect_timeout": RECONNECT_SECONDS,
    "reconnect_failed": ConnectionPool.check,
}
"""Parameters of a pool that reconnects every half second, not with ever longer pauses."""


AUTHORITY = (
    "Add sslrootcert=FILE with the certificate of the server's authority to ECOLINK_DATABASE_URL, "
    "next to sslmode=verify-full."
)
TLS_FIXES = {
    "does not match host name": "Use a host name of the certificate in ECOLINK_DATABASE_URL, or "
    "issue a certificate for this host.",
    "certificate verify failed": AUTHORITY,
    "root certificate file": AUTHORITY,
    "does not support SSL": "Turn on ssl in postgresql.conf, or remove sslmode from "
    "ECOLINK_DATABASE_URL.",
    "no encryption": "Add sslmode=verify-full and sslrootcert=FILE to ECOLINK_DATABASE_URL.",
}
"""Fixes by a part of the error of libpq."""


def connection_parameters(url: str) -> dict[str, Any]:
    """Return a connection's parameters to the writable server, or raise ProgrammingError."""
    given = conninfo_to_dict(url)
    several = {"target_session_attrs": "read-write"} if "," in str(given.get("host", "")) else {}
    return {**DEFAULTS, **several, **given}


class OldServer(Exception):
    """The version of PostgreSQL is too old. The message says which one is needed."""


def version_problem(number: int) -> str | None:
    """Return what is wrong with a `server_version_num` and the fix, or None."""
    if number >= OLDEST_POSTGRES:
        return None
    return f"Version {number // 10_000}. Upgrade to {OLDEST_POSTGRES // 10_000} or later."


def require_supported(connection: psycopg.Connection[Any]) -> None:
    """Raise OldServer if the version of the server is too old."""
    if (problem := version_problem(connection.info.server_version)) is not None:
        raise OldServer(f"PostgreSQL in ECOLINK_DATABASE_URL: {problem}")


def connection_problem(error: psycopg.Error) -> str:
    """Return why PostgreSQL does not accept a connection, and the fix."""
    fix = tls_fix(error) or "Correct ECOLINK_DATABASE_URL, or start the server."
    return f"Cannot connect: {' '.join(str(error).split())} {fix}"


def tls_fix(error: psycopg.Error) -> str | None:
    """Return the fix if a connection failed because of TLS, otherwise None."""
    text = str(error)
    return next((fix for part, fix in TLS_FIXES.items() if part in text), None)


def each_server(url: str) -> list[dict[str, Any]]:
    """Return the parameters of a connection to each server of a URL, even if it is a standby."""
    parameters = connection_parameters(url) | {"target_session_attrs": "any"}
    names = server_names(parameters)
    return [parameters | {"host": host, "port": port} for host, port in names]


def server_names(parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the host and the port of each server that the parameters of a connection name."""
    hosts = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", "")).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    return [(host, port or "5432") for host, port in zip(hosts, ports, strict=True)]


@contextmanager
def writing(connection: psycopg.Connection[Any]) -> Generator[None]:
    """Close the connection and raise OperationalError if its server is a standby.

    This happens if a proxy kept the connection while the server behind it changed. PostgreSQL
    refuses a lock of the log with another error than a write.
    """
    try:
        yield
    except (
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.errors.ObjectNotInPrerequisiteState,
    ) as error:
        connection.close()
        raise psycopg.OperationalError(
            f"The PostgreSQL server does not accept writes: {str(error).splitlines()[0]}"
        ) from error
