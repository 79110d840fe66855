"""The recorder of the event store. It rejects former leaders and fails fast on a full disk."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
from eventsourcing.persistence import (
    InterfaceError,
    OperationalError,
    PersistenceError,
    StoredEvent,
    Tracking,
)
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresProcessRecorder
from psycopg import Cursor
from psycopg.rows import DictRow

from infrastructure.leadership import LOST, Leadership

ATTEMPTS = 10
PAUSE_SECONDS = 0.2
"""Pause and number of retries, like those of the library.

Unlike the library, the recorder does not retry when the disk is full.
"""

T = TypeVar("T")

_insert_events = inspect.unwrap(PostgresApplicationRecorder.insert_events)


class EventRecorder(PostgresProcessRecorder):
    """A recorder of events and positions. With `leadership`, only the leader can save."""

    leadership: Leadership | None = None

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Save events in one transaction. Return their notification IDs.

        Raise OperationalError immediately if the disk is full, and after 2 s if the database is
        unreachable. Exit the process if another process leads.
        """
        return self._saving(lambda: _insert_events(self, stored_events, **kwargs))

    def insert_tracking(self, tracking: Tracking) -> None:
        """Save only a position. Raise the same errors as `insert_events`."""
        self._saving(lambda: self._save_tracking(tracking))

    def _insert_events(
        self, curs: Cursor[DictRow], stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> None:
        if not stored_events:
            self._require_lead(curs)
        super()._insert_events(curs, stored_events, **kwargs)

    def _lock_table(self, curs: Cursor[DictRow]) -> None:
        super()._lock_table(curs)
        # While the lock is held, so that only one transaction locks the row.
        self._require_lead(curs)

    def _save_tracking(self, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as curs:
            self._require_lead(curs)
            self._insert_tracking(curs, tracking)

    def _require_lead(self, curs: Cursor[DictRow]) -> None:
        if self.leadership is not None:
            curs.execute(
                "SELECT require_lead(%s, %s)",
                (self.leadership.name, self.leadership.epoch),
                prepare=True,
            )

    def _saving(self, save: Callable[[], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return save()
            except PersistenceError as error:
                if self.leadership is not None and sqlstate(error) == LOST:
                    self.leadership.lost("PostgreSQL refused a save")
                transient = isinstance(error, (InterfaceError, OperationalError))
                if not transient or is_disk_full(error) or attempt == ATTEMPTS:
                    raise
            time.sleep(PAUSE_SECONDS * random.uniform(0.95, 1.05))
        raise AssertionError("the last attempt returns or raises")


def is_disk_full(error: BaseException) -> bool:
    """Return True if PostgreSQL ran out of disk space."""
    return sqlstate(error) == psycopg.errors.DiskFull.sqlstate


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error or of its cause, or None."""
    for each in (error, error.__cause__):
        if isinstance(each, psycopg.Error):
            return each.sqlstate
    return None
