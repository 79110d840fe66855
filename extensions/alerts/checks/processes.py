"""Processes that are down or keep restarting.

A process that leads holds an advisory lock while it lives, and each start that takes the lead
increases its epoch. This shows the processes of every kind of installation, on all machines.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from ssl import SSLContext
from urllib.parse import SplitResult, urlsplit

from domain.core.durations import spoken
from extensions.alerts import tables
from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import Parameters, ProcessParameters, RestartParameters
from infrastructure.bus.tls import SCHEME, nats_authority, tls_context
from infrastructure.postgres.leadership import LOCK_CLASS
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings

REPLY_SECONDS = 5.0
NATS_PORT = 4222
GATEWAY, NATS = "gateway", "nats"


def down(around: Surroundings, parameters: Parameters) -> list[Finding]:
    """Return the processes that do not run: leaders without a lock, and servers without a reply."""
    assert isinstance(parameters, ProcessParameters)
    alive = {name: leads for name, (leads, _) in _leaders(around.connection).items()}
    servers: dict[str, Callable[[Settings], bool | None]] = {GATEWAY: _gateway, NATS: _nats}
    for name, replies in servers.items():
        checked = not parameters.processes or name in parameters.processes
        if checked and (reply := replies(around.settings)) is not None:
            alive[name] = reply
    wanted = parameters.processes or sorted(alive)
    return [
        Finding({"process": name}, f"{name} does not run. See `ecolink status` and its log.")
        for name in wanted
        if not alive.get(name, False)
    ]


class Restarts:
    """The check of restarts. The database stores the epochs that it observed, with their times."""

    def __init__(self) -> None:
        self._observes = False

    def restarting(self, around: Surroundings, parameters: Parameters) -> list[Finding]:
        """Return the leaders that started too often in a period."""
        assert isinstance(parameters, RestartParameters)
        epochs = {name: epoch for name, (_, epoch) in _leaders(around.connection).items()}
        # The times of restarts while this process did not run are unknown. They count as one.
        most = None if self._observes else 1
        tables.observe_epochs(around.connection, epochs, around.now, most)
        self._observes = True
        counts = tables.restarts_since(around.connection, around.now - parameters.within)
        period = spoken(parameters.within.total_seconds())
        return [
            Finding(
                {"process": name}, f"{name} restarted {count:,} times in {period}. See its log."
            )
            for name, count in sorted(counts.items())
            if count >= parameters.restarts
            and (not parameters.processes or name in parameters.processes)
        ]


def _leaders(connection: Connection) -> dict[str, tuple[bool, int]]:
    """Return for each process that ever led whether it leads now, and its epoch."""
    rows = connection.execute(
        "SELECT name, epoch, EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted "
        "AND classid::bigint = %s AND objid::bigint = hashtext(name)::bigint & 4294967295 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS leads "
        "FROM leaderships",
        [LOCK_CLASS],
    ).fetchall()
    return {row["name"]: (row["leads"], row["epoch"]) for row in rows}


def _gateway(settings: Settings) -> bool | None:
    """Return True if the gateway reports that it is healthy; None if its URL is not known.

    A proxy replies with an error status, such as 502, if its gateway is down.
    """
    if settings.gateway_url is None:
        return None
    url = urlsplit(settings.gateway_url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    connection = kinds[url.scheme](url.hostname or "", url.port, timeout=REPLY_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _nats(settings: Settings) -> bool | None:
    """Return True if a NATS server greets a client; None if no URL is known."""
    if settings.nats_url is None:
        return None
    context = tls_context(settings.nats_url, nats_authority(settings))
    return any(_greets(urlsplit(each.strip()), context) for each in settings.nats_url.split(","))


def _greets(url: SplitResult, context: SSLContext | None) -> bool:
    """Return True if a server sends its greeting, and shakes hands if its URL asks for TLS.

    A server logs an error for each connection that ends before the handshake.
    """
    host = url.hostname or ""
    try:
        with socket.create_connection((host, url.port or NATS_PORT), REPLY_SECONDS) as connection:
            greeting = connection.makefile("rb", buffering=0).readline()
            if url.scheme == SCHEME and context is not None:
                context.wrap_socket(connection, server_hostname=host).close()
            return greeting.startswith(b"INFO ")
    except OSError:
        return False
