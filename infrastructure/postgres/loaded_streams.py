"""Aggregates that stay in memory, loaded and refreshed many at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TypeVar
from uuid import UUID

from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import StoredEvent
from psycopg.rows import tuple_row

from domain.core.aggregate import Aggregate
from domain.core.errors import NotFound
from domain.core.event_log import EventLog, replayed
from domain.core.signed_snapshots import ForgedSnapshot, OutdatedSnapshot, SignedSnapshots
from infrastructure.postgres.store import Connection

SNAPSHOTS = """
SELECT DISTINCT ON (snapshot.originator_id) snapshot.originator_id, snapshot.originator_version,
    snapshot.topic, snapshot.state
FROM ecolink_snapshots AS snapshot JOIN ecolink_events AS event
    USING (originator_id, originator_version)
WHERE originator_id = ANY(%b) AND notification_id <= %b ORDER BY 1, 2 DESC
"""

LATER_EVENTS = """
SELECT originator_id, originator_version, topic, state
FROM unnest(%b::uuid[], %b::bigint[]) AS known (id, version)
JOIN ecolink_events ON originator_id = id AND originator_version > version
WHERE notification_id <= %b ORDER BY 1, 2
"""
"""The events of some streams after the given versions, in the order of each stream."""

A = TypeVar("A", bound=Aggregate)
Row = tuple[UUID, int, str, bytes]


class LoadedStreams:
    """Aggregates in memory, for one thread, which may change and save them without copies.

    A reader of the log reports new versions with `mark_if_older`, and `refresh` then reads the new
    events up to the reader's position, so that all aggregates are as of the same event of the log.
    After a save that failed, an aggregate differs from its stream: `drop` it.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._loaded: dict[UUID, Aggregate] = {}
        self._stale: set[UUID] = set()
        self._logger = logging.getLogger("loaded_streams")

    def load(self, kind: type[A], aggregate_id: UUID) -> A:
        """Return an aggregate that `refresh` has loaded. Raise NotFound if it could not."""
        found = self._loaded.get(aggregate_id)
        if not isinstance(found, kind):
            raise NotFound(f"{kind.__name__} {aggregate_id} cannot be loaded.")
        return found

    def mark_if_older(self, aggregate_id: UUID, version: int) -> bool:
        """Note that the log has this version. Return True if the loaded aggregate is older."""
        loaded = self._loaded.get(aggregate_id)
        if loaded is None or loaded.version >= version:
            return False
        self._stale.add(aggregate_id)
        return True

    def mark_stale(self, aggregate_ids: Iterable[UUID]) -> None:
        """Note that the log may have new events of these aggregates."""
        self._stale.update(each for each in aggregate_ids if each in self._loaded)

    def drop(self, aggregate_ids: Iterable[UUID]) -> None:
        """Forget aggregates, so that `refresh` loads them again."""
        for each in aggregate_ids:
            self._loaded.pop(each, None)
            self._stale.discard(each)

    def refresh(self, connection: Connection, aggregate_ids: Iterable[UUID], position: int) -> None:
        """Load these aggregates, or read the new events of stale ones, with two queries.

        Later events than the one with the notification ID `position` are not read. If a stream
        cannot be read, log the error and leave it out.
        """
        needed = [id for id in aggregate_ids if id in self._stale or id not in self._loaded]
        if not needed:
            return
        missing = [id for id in needed if id not in self._loaded]
        after = {id: self._loaded[id].version for id in needed if id in self._loaded}
        snapshots = self._snapshots(connection, missing, position)
        # The event before the first one after a snapshot proves that the log has its events.
        after |= dict.fromkeys(missing, 0)
        after |= {id: each.originator_version - 1 for id, each in snapshots.items()}
        streams = self._later_events(connection, after, position)
        for id in needed:
            try:
                self._read(id, snapshots.get(id), streams.get(id, []))
            except Exception:
                self._logger.exception("cannot read the stream %s", id)
                self.drop([id])
        self._stale.difference_update(needed)

    def _read(self, id: UUID, snapshot: StoredEvent | None, stream: list[StoredEvent]) -> None:
        """Apply a snapshot, whose last event comes first in the stream, and the later events."""
        state, events = self._loaded.get(id), stream
        if snapshot is not None:
            genuine = self._genuine(snapshot, stream[0]) if stream else None
            if genuine is None:  # the event log reports it
                self._loaded[id] = self._log.repository.get(id, projector_func=replayed)
                return
            state, events = replayed(None, [genuine]), stream[1:]
        state = replayed(state, map(self._log.mapper.to_domain_event, events))
        if state is not None:
            self._loaded[id] = state

    def _genuine(
        self, snapshot: StoredEvent, last_event: StoredEvent
    ) -> DomainEventProtocol[UUID] | None:
        """Return a snapshot, or None if EcoLink did not sign it or cannot use it."""
        assert isinstance(self._log.snapshots, SignedSnapshots)
        try:
            return self._log.snapshots.current(self._log.snapshots.verified(snapshot, last_event))
        except (ForgedSnapshot, OutdatedSnapshot):
            return None

    def _snapshots(
        self, connection: Connection, aggregate_ids: list[UUID], position: int
    ) -> Mapping[UUID, StoredEvent]:
        if self._log.snapshots is None or not aggregate_ids:
            return {}
        rows = _rows(connection, SNAPSHOTS, [aggregate_ids, position])
        return {row[0]: StoredEvent(*row) for row in rows}

    def _later_events(
        self, connection: Connection, after: Mapping[UUID, int], position: int
    ) -> dict[UUID, list[StoredEvent]]:
        rows = _rows(connection, LATER_EVENTS, [list(after), list(after.values()), position])
        return {
            id: [StoredEvent(*row) for row in stream]
            for id, stream in groupby(rows, key=itemgetter(0))
        }


def _rows(connection: Connection, query: str, values: Sequence[object]) -> list[Row]:
    with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
