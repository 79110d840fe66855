"""The running processes of an installation, with their versions.

Each process renews its row every few seconds, in a thread, in the session of its lead. The reply
is the format of the event log in use. So the process learns that an upgrade is finished, and a
process that cannot read the new format exits.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg.rows import class_row

from domain.core.event_format import FORMAT, NewerFormat
from domain.core.event_log import EventLog
from infrastructure.postgres.database_url import writing
from infrastructure.postgres.format_in_use import format_in_use
from infrastructure.postgres.leadership import session_of
from infrastructure.postgres.own_session import OwnSession
from infrastructure.process.code_version import package_version
from infrastructure.process.machine import machine_id
from infrastructure.process.role import end_process
from infrastructure.settings import Settings

BEAT_SECONDS = 5.0
ALIVE_SECONDS = 30.0
"""Seconds after which a process without a new beat no longer counts as running."""

EXIT_CODE = 7
"""Exit code of a process that cannot read the format in use."""

FORGOTTEN_SECONDS = 86_400
"""Age at which the row of a process that did not end properly is deleted."""

DDL = f"""
CREATE TABLE IF NOT EXISTS processes (
    service text NOT NULL,
    host text NOT NULL,
    machine text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    format integer NOT NULL,
    started timestamptz NOT NULL,
    seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (service, host, machine, pid)
);
CREATE OR REPLACE FUNCTION process_runs(
    of_service text, of_host text, of_machine text, of_pid integer, of_version text,
    of_format integer, since timestamptz
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM require_own_service(of_service);
    INSERT INTO processes
    VALUES (of_service, of_host, of_machine, of_pid, of_version, of_format, since)
    ON CONFLICT (service, host, machine, pid) DO UPDATE SET version = excluded.version,
        format = excluded.format, started = excluded.started, seen = excluded.seen;
    DELETE FROM processes
    WHERE seen < clock_timestamp() - make_interval(secs => {FORGOTTEN_SECONDS});
END $$;
CREATE OR REPLACE FUNCTION process_ended(
    of_service text, of_host text, of_machine text, of_pid integer
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM require_own_service(of_service);
    DELETE FROM processes
    WHERE service = of_service AND host = of_host AND machine = of_machine AND pid = of_pid;
END $$
"""
"""Table of processes, and functions with which a role changes only the rows of its own service."""

RUNS = """
SELECT set_config('synchronous_commit', 'off', true), process_runs(%s, %s, %s, %s, %s, %s, %s)
"""
"""Statement of a beat. A lost beat is repeated, so it does not wait for the disk or a standby."""

ENDED = "SELECT process_ended(%s, %s, %s, %s)"

SEEN = """
SELECT service, host, machine, pid, version, format, started, seen FROM processes
WHERE seen > clock_timestamp() - make_interval(secs => %s)
ORDER BY format, service, host, machine, pid
"""

_logs: WeakSet[EventLog] = WeakSet()
"""The open event logs of this process."""

_logs_lock = threading.Lock()

log = logging.getLogger("presence")


@dataclass(frozen=True)
class RunningProcess:
    """A process that was seen recently."""

    service: str
    host: str
    machine: str
    pid: int
    version: str
    format: int
    """Newest format of the event log that it reads."""
    started: datetime
    seen: datetime

    def __str__(self) -> str:
        return f"{self.service} {self.version} on {self.host} (process {self.pid})"


def running_processes(
    connection: psycopg.Connection[Any], seconds: float = ALIVE_SECONDS
) -> list[RunningProcess]:
    """Return the processes seen within `seconds`, those of the oldest format first."""
    with connection.cursor(row_factory=class_row(RunningProcess)) as cursor:
        return cursor.execute(SEEN, [seconds]).fetchall()


def follow_format(log: EventLog, connection: psycopg.Connection[Any]) -> None:
    """Let a log store events in the format in use, and follow when the format rises.

    Raise NewerFormat if this version of EcoLink cannot read the format in use.
    """
    with _logs_lock:
        _logs.add(log)
    log.format_in_use = format_in_use(connection)


class Presence:
    """The row of this process. `beat` renews it."""

    def __init__(self, settings: Settings, service: str) -> None:
        self.service = service
        self._started = datetime.now(UTC)
        self.session = session_of(settings, service)

    @property
    def _key(self) -> list[str | int]:
        return [self.service, socket.gethostname(), machine_id(), os.getpid()]

    def beat(self) -> None:
        """Renew the row, and apply the format in use to the open logs.

        The format of a log never falls, because a failover can lose the end of an upgrade. Raise
        NewerFormat if this version of EcoLink cannot read the format, and psycopg.Error if the
        database does not answer.
        """
        try:
            connection = self.session.opened()
            with writing(connection):
                connection.execute(RUNS, [*self._key, package_version(), FORMAT, self._started])
            in_use = format_in_use(connection)
        finally:
            if not self.session.leads:
                self.session.drop()
        with _logs_lock:
            logs = list(_logs)
        for each in logs:
            each.format_in_use = max(each.format_in_use, in_use)

    def end(self) -> None:
        """Delete the row, if the database answers."""
        with suppress(psycopg.Error):
            self.session.opened().execute(ENDED, self._key)
        self.session.drop()


@contextmanager
def present(settings: Settings, service: str) -> Generator[None]:
    """Keep the row of this process until the block ends.

    Raise NewerFormat if this version of EcoLink cannot read the format in use. If the database does
    not answer, a thread repeats the attempt.
    """
    presence, ended = Presence(settings, service), threading.Event()
    _attempt(presence)
    OwnSession.of_process.set(presence.session)
    thread = threading.Thread(target=_keep, args=(presence, ended), name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        OwnSession.of_process.set(None)
        ended.set()
        thread.join(BEAT_SECONDS)
        if not thread.is_alive():
            presence.end()


def _keep(presence: Presence, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            _attempt(presence)
        except NewerFormat as error:
            log.critical("%s exits: %s", presence.service, error)
            end_process(EXIT_CODE)


def _attempt(presence: Presence) -> None:
    try:
        presence.beat()
    except psycopg.Error as error:
        log.warning("cannot record this process, retrying: %s", error)
    except NewerFormat:
        raise
    except Exception:  # a dead thread would hide this process from `ecolink upgrade finish`
        log.exception("cannot record this process, retrying")
