"""The event store: one log in memory that all processes share, each through its own connection."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar, cast
from uuid import UUID

import psycopg
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import (
    IntegrityError,
    Mapper,
    Notification,
    PersistenceError,
    ProcessRecorder,
    StoredEvent,
    Tracking,
)

from domain.catalog.catalog import Catalog
from domain.core.aggregate import Aggregate, Event
from domain.core.event_log import EventLog, PydanticMapper
from infrastructure.postgres.event_recorder import EventRecorder
from infrastructure.postgres.leadership import LOST

A = TypeVar("A", bound=Aggregate)
Observer = Callable[[Sequence[Notification], Tracking | None], None]


class Leader(Protocol):
    """The leadership of a process."""

    name: str
    epoch: int

    def lost(self, reason: str) -> None: ...


class LeadLost(psycopg.Error):
    """PostgreSQL's refusal of a former leader."""

    sqlstate = LOST


@dataclass
class SharedLog:
    """All events with their notification IDs, which have gaps, and the positions of handlers."""

    streams: dict[UUID, list[StoredEvent]] = field(default_factory=dict)
    notifications: list[Notification] = field(default_factory=list)
    decoded: dict[tuple[UUID, int], Event] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    observer: Observer = lambda rows, tracking: None
    _ids: list[int] = field(default_factory=list)
    _last_id: int = 0

    def insert(self, stored_events: Sequence[StoredEvent], tracking: Tracking | None) -> list[int]:
        """Save events and a position in one transaction. Return the notification IDs.

        Raise IntegrityError, and use up the IDs, if a version or the position exists.
        """
        versions: dict[UUID, int] = {}
        for stored in stored_events:
            id = cast(UUID, stored.originator_id)
            version = versions.get(id, len(self.streams.get(id, ()))) + 1
            if stored.originator_version != version:
                self._last_id += len(stored_events)
                raise IntegrityError(f"version {stored.originator_version} of {id} exists")
            versions[id] = version
        if tracking is not None and tracking.notification_id <= self.position(
            tracking.application_name
        ):
            self._last_id += len(stored_events)
            raise IntegrityError(f"{tracking.application_name} is at a later position")
        rows = [self._append(stored) for stored in stored_events]
        if tracking is not None:
            self.positions[tracking.application_name] = tracking.notification_id
        self.observer(rows, tracking)
        return [row.id for row in rows]

    def _append(self, stored: StoredEvent) -> Notification:
        self._last_id += 1
        row = Notification(id=self._last_id, **vars(stored))
        self.streams.setdefault(cast(UUID, stored.originator_id), []).append(stored)
        self.notifications.append(row)
        self._ids.append(row.id)
        return row

    def position(self, name: str) -> int:
        return self.positions.get(name, 0)

    def select(
        self, start: int | None, limit: int, stop: int | None, *, inclusive: bool
    ) -> list[Notification]:
        first = 1 if start is None else start + (0 if inclusive or start is None else 1)
        begin = bisect_left(self._ids, first)
        end = len(self._ids) if stop is None else bisect_left(self._ids, stop + 1)
        return self.notifications[begin : min(end, begin + limit)]

    @property
    def last_id(self) -> int | None:
        return self._ids[-1] if self._ids else None

    def text(self) -> bytes:
        """Return the whole log as bytes, to compare two runs."""
        return b"\n".join(
            f"{row.id} {row.originator_id}:{row.originator_version} {row.topic} ".encode()
            + row.state
            for row in self.notifications
        )


class StoreConnection(ProcessRecorder):
    """A process's connection to the log.

    Saves run through the retries of the product's recorder. `reach` is called at each point at
    which a fault may happen. The server never fails over.
    """

    timeline: str | None = None

    def __init__(
        self, shared: SharedLog, reach: Callable[[str], None], leadership: Leader | None
    ) -> None:
        self.shared = shared
        self.leadership = leadership
        self._reach = reach

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        tracking: Tracking | None = kwargs.get("tracking")
        return self._saving(stored_events, tracking)

    def insert_tracking(self, tracking: Tracking) -> None:
        self._saving((), tracking)

    def _saving(self, stored: Sequence[StoredEvent], tracking: Tracking | None) -> Any:
        return cast(Any, EventRecorder)._saving(self, stored, tracking)

    def _append(
        self, stored: Sequence[StoredEvent], tracking: Tracking | None, timeline: str | None
    ) -> Sequence[int]:
        self._reach("before commit")
        if self.leadership is not None and not self.leads(self.leadership):
            raise PersistenceError("another process leads") from LeadLost()
        ids = self.shared.insert(stored, tracking)
        self._reach("after commit")
        return ids

    def leads(self, leader: Leader) -> bool:
        """Return True if no later process of the service has taken the lead."""
        return self.shared.epochs.get(leader.name) == leader.epoch

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        self._reach("statement")
        found = self.shared.streams.get(cast(UUID, originator_id), [])[gt or 0 : lte]
        return (found[::-1] if desc else found)[:limit]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        assert not topics
        self._reach("statement")
        return self.shared.select(start, limit, stop, inclusive=inclusive_of_start)

    def max_notification_id(self) -> int | None:
        self._reach("statement")
        return self.shared.last_id

    def max_tracking_id(self, application_name: str) -> int | None:
        self._reach("statement")
        return self.shared.position(application_name) or None

    def has_tracking_id(self, application_name: str, notification_id: int | None) -> bool:
        self._reach("statement")
        return notification_id is None or notification_id <= self.shared.position(application_name)

    def wait(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("not simulated")

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> NoReturn:
        raise AssertionError("not simulated")


CHANGING = frozenset(kind.TOPIC for kind in Catalog.event_classes())
"""Events whose values the catalog changes in place."""


class DecodedOnce(PydanticMapper):
    """A mapper that decodes each event once for all processes, because events never change."""

    decoded: dict[tuple[UUID, int], Event]

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[UUID]:
        if stored_event.topic in CHANGING:
            return super().to_domain_event(stored_event)
        key = (cast(UUID, stored_event.originator_id), stored_event.originator_version)
        if (event := self.decoded.get(key)) is None:
            event = self.decoded[key] = cast(Event, super().to_domain_event(stored_event))
        return event


class ProcessLog(EventLog):
    """The event log of one process, with the aggregates that it has in memory.

    As in the product, a load reads the events since the last one. Copies are shallow, because
    aggregates change only their own dicts and lists.
    """

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._aggregates: dict[UUID, Any] = {}
        super().__init__()

    def construct_recorder(self) -> ProcessRecorder:
        return self._connection

    def construct_mapper(self) -> Mapper[UUID]:
        mapper = DecodedOnce(self.construct_transcoder())
        mapper.decoded = self._connection.shared.decoded
        return mapper

    def find(self, kind: type[A], aggregate_id: UUID) -> A | None:
        cached = self._aggregates.get(aggregate_id)
        version = 0 if cached is None else cached.version
        news = self.recorder.select_events(aggregate_id, gt=version)
        if cached is None and not news:
            return None
        found = None if cached is None else _copied(cached)
        for stored in news:
            event: Any = self.mapper.to_domain_event(stored)
            found = event.mutate(found)
        if news:
            self._aggregates[aggregate_id] = found
            found = _copied(found)
        return found if isinstance(found, kind) else None


class StoredLog(EventLog):
    """The log as an audit reads it: without memory, decoded from the stored bytes."""

    def __init__(self, shared: SharedLog) -> None:
        self._connection = StoreConnection(shared, lambda point: None, None)
        super().__init__()

    def construct_recorder(self) -> ProcessRecorder:
        return self._connection


def _copied(aggregate: Any) -> Any:
    if isinstance(aggregate, Catalog):
        return deepcopy(aggregate)
    found = object.__new__(type(aggregate))
    state = vars(found)
    for name, value in vars(aggregate).items():
        state[name] = value.copy() if type(value) in (dict, list, set) else value
    return found
