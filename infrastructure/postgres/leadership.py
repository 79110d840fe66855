"""Leader election: of the processes with the same name, one leads and the others stand by.

The leader holds an advisory lock in a separate database session. PostgreSQL ends that session if it
is idle for too long, so a frozen or disconnected leader loses the lock. Each leader has a new
epoch. Every save of events checks the epoch in its transaction, so a former leader cannot write.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.rows import scalar_row

from infrastructure.postgres.database_url import tls_fix
from infrastructure.postgres.own_session import OwnSession
from infrastructure.process.role import end_process, pause
from infrastructure.settings import Settings

DDL = """
CREATE TABLE IF NOT EXISTS leaderships (
    name text PRIMARY KEY,
    epoch bigint NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    since timestamptz NOT NULL
);
CREATE OR REPLACE FUNCTION require_own_service(service text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF session_user LIKE 'ecolink\\_%'
        AND session_user NOT IN ('ecolink_operator', 'ecolink_' || service)
        AND NOT pg_has_role(session_user, current_user, 'MEMBER')
    THEN
        RAISE EXCEPTION 'role % may not act for the service %', session_user, service
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;
CREATE OR REPLACE FUNCTION take_lead(leader text, of_host text, of_pid integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE taken bigint;
BEGIN
    PERFORM require_own_service(leader);
    INSERT INTO leaderships AS led VALUES (leader, 1, of_host, of_pid, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET epoch = led.epoch + 1, host = excluded.host,
        pid = excluded.pid, since = excluded.since
    RETURNING epoch INTO taken;
    RETURN taken;
END $$;
CREATE OR REPLACE FUNCTION require_lead(leader text, in_epoch bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM require_own_service(leader);
    PERFORM FROM leaderships WHERE name = leader AND epoch = in_epoch FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another % leads', leader USING ERRCODE = 'EL001';
    END IF;
END $$;
CREATE OR REPLACE FUNCTION confirm_lead(
    leader text, of_host text, of_pid integer, in_epoch bigint
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM require_own_service(leader);
    PERFORM FROM leaderships
    WHERE name = leader AND epoch = in_epoch AND host = of_host AND pid = of_pid;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another % leads', leader USING ERRCODE = 'EL001';
    END IF;
END $$
"""
"""Tables and functions of the leader election.

`require_lead` locks the row until its transaction ends, and `take_lead` waits for that lock. The
last save of a leader is therefore committed before the next leader starts. `confirm_lead` also
compares the process, because a failover of PostgreSQL may lose an epoch and give it out again.

`require_own_service` raises an error if the role of one service names another service. The owner of
the functions (the only role on some servers), superusers and the operator may name any service.
pg_temp comes last in the path, so that a temporary table of the caller cannot replace the table.
"""

LOST = "EL001"
"""SQLSTATE of a failed `require_lead` or `confirm_lead`."""

CONFIRM = "SELECT confirm_lead(%s, %s, %s, %s)"

IDLE_SECONDS = 20.0
"""Seconds of idle time after which PostgreSQL ends the session of a leader."""

BEAT_SECONDS = 2.0
STANDBY_SECONDS = 0.25
EXIT_CODE = 3
SESSION_NAME = "ecolink %s"
"""Name of the database session of a leader or a standby, with the name of the lead."""

LOCK_CLASS = 0xEC0
"""First half of the keys of advisory locks. The second half is the hash of the name."""

End = Callable[[str], None]


def session_of(settings: Settings, name: str) -> OwnSession:
    """Return a session for the lead of a name."""
    idle = str(int(1000 * IDLE_SECONDS))
    return OwnSession(settings, SESSION_NAME % name, idle_session_timeout=idle)


class Leadership:
    """The leadership of one name. `keep` renews it in a thread, and `lost` ends the process."""

    def __init__(self, settings: Settings, name: str, end: End | None = None) -> None:
        self.name, self.epoch = name, 0
        self._end = end or _end_process
        self.session = OwnSession.of_process.get() or session_of(settings, name)
        self.session.leads = True
        self._closed = threading.Event()
        self._logger = logging.getLogger("leadership")

    def take(self) -> None:
        """Become the leader. Wait until no other process with this name leads.

        A standby of PostgreSQL grants the lock but refuses the new epoch. The next attempt then
        opens a new connection.
        """
        waiting = False
        while True:
            try:
                if self._holds_lock():
                    self.epoch = self._new_epoch()
                    break
                if not waiting:
                    self._logger.info("another %s process leads; standing by", self.name)
                waiting = True
            except psycopg.Error as error:
                self.session.drop()
                fix = tls_fix(error) or ""
                self._logger.warning("cannot ask for the lead, retrying: %s %s", error, fix)
            pause(STANDBY_SECONDS)
        self._logger.info("leading as %s, epoch %d", self.name, self.epoch)

    def _new_epoch(self) -> int:
        return self._scalar("SELECT take_lead(%s, %s, %s)", self._identity())

    def _identity(self) -> list[str | int]:
        return [self.name, socket.gethostname(), os.getpid()]

    def keep(self) -> None:
        """Renew the leadership every two seconds until it is closed.

        If the session has ended, open a new one. If no other process has led in the meantime, this
        process remains the leader.
        """
        while not self._closed.wait(BEAT_SECONDS):
            try:
                if not self._holds_lock():
                    self._logger.warning("the previous session still holds the lock")
                self.session.opened().execute(CONFIRM, [*self._identity(), self.epoch])
            except psycopg.Error as error:
                if error.sqlstate == LOST:
                    self.lost(str(error).partition("\n")[0])
                    break
                self.session.drop()
                self._logger.warning("cannot confirm the lead, retrying: %s", error)

    def confirm(self, connection: psycopg.Connection[Any]) -> None:
        """End the process if another process leads. `connection` is one to the database."""
        try:
            connection.execute(CONFIRM, [*self._identity(), self.epoch])
        except psycopg.Error as error:
            if error.sqlstate == LOST:
                self.lost(str(error).partition("\n")[0])
            raise

    def lost(self, reason: str) -> None:
        """End the process, because its state may be stale. Its other roles first stop."""
        if not self._closed.is_set():
            self._end(f"{self.name} lost the lead and exits: {reason}")

    def close(self) -> None:
        """Release the leadership. The session of the process releases it at the process's end."""
        self._closed.set()
        if self.session is not OwnSession.of_process.get():
            self.session.drop()

    def _holds_lock(self) -> bool:
        """Take the lock once per session, because PostgreSQL counts repeated locks in a session."""
        session = self.session
        if not session.locked:
            session.locked = self._scalar(
                "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [LOCK_CLASS, self.name]
            )
        return session.locked

    def _scalar(self, query: LiteralString, parameters: list[str | int]) -> Any:
        with self.session.opened().cursor(row_factory=scalar_row) as cursor:
            return cursor.execute(query, parameters).fetchone()


@contextmanager
def leading(settings: Settings, name: str) -> Generator[Leadership]:
    """Wait until this process leads as `name`, and lead until the block ends."""
    leadership = Leadership(settings, name)
    leadership.take()
    thread = threading.Thread(target=leadership.keep, name="leadership", daemon=True)
    thread.start()
    try:
        yield leadership
    finally:
        leadership.close()
        thread.join(BEAT_SECONDS)


def _end_process(reason: str) -> None:
    logging.getLogger("leadership").critical("%s", reason)
    end_process(EXIT_CODE)
