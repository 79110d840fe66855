"""An event log in memory, with a recorder that can drop streams."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, TypeVar
from uuid import UUID

from eventsourcing.application import AggregateNotFoundError
from eventsourcing.persistence import IntegrityError, Notification, ProcessRecorder, StoredEvent
from eventsourcing.popo import POPOProcessRecorder

from domain.core.aggregate import Aggregate
from domain.core.event_log import EventLog

A = TypeVar("A", bound=Aggregate)


class MemoryRecorder(POPOProcessRecorder):
    """The library's recorder in memory, fast on long streams, and bounded.

    It keeps streams until they are dropped, and notifications until they are read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[UUID | str, list[StoredEvent]] = {}
        self._dropped: set[UUID | str] = set()
        self._notifications: list[Notification] = []
        self._last_id = 0

    def drop_stream(self, originator_id: UUID) -> None:
        """Drop a stream that is no longer read or written."""
        del self._streams[originator_id]
        self._dropped.add(originator_id)

    def drop_notifications(self, up_to: int) -> None:
        """Drop the notifications up to an id, which all consumers have read."""
        del self._notifications[: up_to - self._first_id + 1]

    @property
    def _first_id(self) -> int:
        """Id of the first notification, or of the next one."""
        return self._last_id - len(self._notifications) + 1

    def _assert_uniqueness(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> None:
        versions: dict[UUID | str, int] = {}
        for stored in stored_events:
            assert stored.originator_id not in self._dropped
            stream = self._streams.get(stored.originator_id, ())
            version = versions.get(stored.originator_id, len(stream)) + 1
            if stored.originator_version != version:
                raise IntegrityError(f"not the next event: {stored.topic}")
            versions[stored.originator_id] = version
        if tracking := kwargs.get("tracking"):
            self._assert_tracking_uniqueness(tracking)

    def _update_table(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        first_id = self._last_id + 1
        for stored in stored_events:
            self._last_id += 1
            self._streams.setdefault(stored.originator_id, []).append(stored)
            self._notifications.append(
                Notification(
                    originator_id=stored.originator_id,
                    originator_version=stored.originator_version,
                    topic=stored.topic,
                    state=stored.state,
                    id=self._last_id,
                )
            )
        if tracking := kwargs.get("tracking"):
            self._insert_tracking(tracking)
        return list(range(first_id, self._last_id + 1))

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Events of a stream. Their versions are their indexes."""
        assert originator_id not in self._dropped
        found = self._streams.get(originator_id, [])[gt or 0 : lte]
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
        """Notifications from one on that were not dropped."""
        assert stop is None
        assert not topics
        begin = (start or 1) + (0 if inclusive_of_start else 1) - self._first_id
        assert begin >= 0, "what was read is dropped"
        return self._notifications[begin : begin + limit]

    def max_notification_id(self) -> int | None:
        return self._last_id or None


class MemoryLog(EventLog):
    """An event log with cached aggregates, which change only through this log."""

    def __init__(self, cached: int) -> None:
        super().__init__(
            {"AGGREGATE_CACHE_MAXSIZE": str(cached), "AGGREGATE_CACHE_FASTFORWARD": "n"}
        )

    def construct_recorder(self) -> ProcessRecorder:
        return MemoryRecorder()

    def find(self, kind: type[A], aggregate_id: UUID) -> A | None:
        """A shallow copy of the cached aggregate, because only its own dicts and lists change."""
        try:
            cached: object = self.repository.get(aggregate_id, deepcopy_from_cache=False)
        except AggregateNotFoundError:
            return None
        if not isinstance(cached, kind):
            return None
        found = copy(cached)
        for name, value in vars(cached).items():
            if isinstance(value, (dict, list)):
                setattr(found, name, value.copy())
        return found

    @property
    def memory(self) -> MemoryRecorder:
        assert isinstance(self.recorder, MemoryRecorder)
        return self.recorder
