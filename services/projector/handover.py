"""Handover of the lead between projectors of two releases.

The migration of a release rebuilds the read models that the release changed. From then on, a
projector of the other release may no longer write to these tables. If it leads, it continues with
the other read models until a projector that can write to all of them waits for the lead. It then
ends, and its supervisor starts it again as a standby.

A waiting projector that can write to all tables holds a shared advisory lock. PostgreSQL ends its
session if the process hangs, as it does with a leader's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import psycopg

from infrastructure.postgres import leadership
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.own_session import OwnSession
from infrastructure.postgres.store import Connection
from infrastructure.process.role import pause
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.projection import Projection, foreign

LOCK_CLASS = 0xEC2
"""First key of the advisory lock. The second key is the hash of the lead's name."""

NAME = "projector"
SESSION_NAME = f"ecolink {NAME} handover"
POLL_SECONDS = 1.0

SUITABLE_WAITS = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
    AND classid::bigint = %s AND objid::bigint = hashtext(%s)::bigint & 4294967295
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid <> pg_backend_pid()
) AS waits
"""


@contextmanager
def leading_projector(settings: Settings) -> Generator[Leadership]:
    """Wait until this process leads as the projector, and lead until the block ends.

    End the process if it cannot write to all tables and another projector that can waits.
    """
    handover = Handover(settings)
    handover.wait_turn()
    thread = threading.Thread(target=handover.keep, name="handover", daemon=True)
    thread.start()
    try:
        with leading(settings, NAME) as led:
            handover.lead(led)
            yield led
    finally:
        handover.close()
        thread.join(POLL_SECONDS)


class Handover:
    """The part of one projector in handovers. `keep` runs in a thread."""

    def __init__(self, settings: Settings, release: Sequence[Projection] = PROJECTIONS) -> None:
        self._release = release
        idle = str(int(1000 * leadership.IDLE_SECONDS))
        self._session = OwnSession(settings, SESSION_NAME, idle_session_timeout=idle)
        self._leadership: Leadership | None = None
        self._closed = threading.Event()
        self._logger = logging.getLogger("handover")

    def wait_turn(self) -> None:
        """Wait while this process cannot write to all tables, and one that can waits to lead."""
        waiting = False
        while not self._closed.is_set():
            try:
                connection = self._session.opened()
                if not (foreign(connection, self._release) and suitable_waits(connection)):
                    return
            except psycopg.Error as error:
                self._session.drop()
                self._logger.warning("cannot compare the read models, retrying: %s", error)
            else:
                if not waiting:
                    self._logger.info("a projector of another release is about to lead")
                waiting = True
            pause(POLL_SECONDS)

    def lead(self, led: Leadership) -> None:
        """Note that this process leads now. From then on, use the session of the lead."""
        self._leadership = led

    def keep(self) -> None:
        """Offer to lead while this process can write to all tables. If it leads, hand over."""
        while True:
            try:
                self.step()
            except psycopg.Error as error:
                self._session.drop()
                self._logger.warning("cannot compare the read models, retrying: %s", error)
            if self._closed.wait(POLL_SECONDS):
                return

    def step(self) -> None:
        """Look once. Raise psycopg.Error if the database is unreachable."""
        led = self._leadership
        if led is not None:
            self._session.drop()
        connection = (self._session if led is None else led.session).opened()
        changed = foreign(connection, self._release)
        if led is None:
            self._offer(connection, offers=not changed)
        elif changed and suitable_waits(connection):
            names = ", ".join(each.name for each in changed)
            led.lost(f"the tables of {names} belong to another release, whose projector waits")

    def close(self) -> None:
        """Withdraw the offer."""
        self._closed.set()
        self._session.drop()

    def _offer(self, connection: Connection, *, offers: bool) -> None:
        if offers != self._session.locked:
            function = "pg_advisory_lock_shared" if offers else "pg_advisory_unlock_shared"
            connection.execute(f"SELECT {function}(%s, hashtext(%s))".encode(), [LOCK_CLASS, NAME])
            self._session.locked = offers


def suitable_waits(connection: Connection) -> bool:
    """Return True if a projector of another session offers to lead."""
    row = connection.execute(SUITABLE_WAITS, [LOCK_CLASS, NAME]).fetchone()
    return bool(row and row["waits"])
