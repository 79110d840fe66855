"""The event log, which loads aggregates and saves their events in one transaction."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from uuid import UUID

from eventsourcing.application import (
    AggregateNotFoundError,
    Application,
    LRUCache,
    ProcessingEvent,
    Repository,
)
from eventsourcing.domain import CanSnapshotAggregate, DomainEventProtocol
from eventsourcing.persistence import (
    EventStore,
    IntegrityError,
    Mapper,
    ProcessRecorder,
    StoredEvent,
    Tracking,
)
from eventsourcing.utils import TopicError, get_topic, resolve_topic, strtobool
from pydantic_core import from_json, to_json

from domain.core.aggregate import Aggregate, Event
from domain.core.errors import NotFound, UpgradeUnfinished, VersionConflict
from domain.core.event_format import FORMAT, NewerEvent, version_in
from domain.core.signed_snapshots import SignedSnapshots

MAX_EVENTS = 500
"""Maximum number of events in one save, so that it does not block other writers for long."""

SNAPSHOT_SECRET, TAKES_SNAPSHOTS = "SNAPSHOT_SECRET", "TAKES_SNAPSHOTS"
"""Names of the event log's environment variables. Without the secret, snapshots are disabled."""

COLUMNS = {"originator_id", "originator_version"}
"""Fields of events that have their own columns."""

_last_saved: ContextVar[tuple[EventLog, int] | None] = ContextVar("last_saved", default=None)
"""The log that the current context last saved to, and the notification ID of the last event."""

A = TypeVar("A", bound=Aggregate)
P = ParamSpec("P")
T = TypeVar("T")


class PydanticMapper(Mapper[UUID]):
    """A mapper that stores events as the JSON of their models, in a format of the log.

    The JSON omits the fields that have their own columns. The serializer, parser and validator of
    pydantic are called directly: each event passes here, and they take a quarter of the time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._format = FORMAT
        self._versions: dict[Any, int | None] = {}  # versions to store, by event class

    @property
    def format_in_use(self) -> int:
        """Format of the events that the mapper stores."""
        return self._format

    @format_in_use.setter
    def format_in_use(self, format: int) -> None:
        # In this order, because another thread may store an event now.
        self._format = format
        self._versions = {}

    def to_stored_event(self, domain_event: DomainEventProtocol[UUID]) -> StoredEvent:
        """Return the database row for an event or a snapshot.

        The row has an older version of the event if the format in use has no newer one. Raise
        UpgradeUnfinished if the format has no version that can express the event.
        """
        kind: Any = type(domain_event)
        versions = self._versions
        try:
            version = versions[kind]
        except KeyError:
            version = versions[kind] = version_in(kind, self._format)
        state = kind.__pydantic_serializer__.to_json(domain_event, exclude=COLUMNS)
        if version != getattr(kind, "class_version", 1):
            state = _downcast(domain_event, state, version)
        if version is not None and version > 1:
            state = b'%s,"class_version":%d}' % (state[:-1], version)
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=get_topic(kind),
            state=state,
        )

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[UUID]:
        """Return the event in a row, upcast to its current version, or raise NewerEvent."""
        return event_of(
            stored_event.topic,
            stored_event.originator_id,
            stored_event.originator_version,
            from_json(stored_event.state),
        )


def event_of(
    topic: str, originator_id: UUID | str, originator_version: int, state: dict[str, Any]
) -> Any:
    """Return the event with a stored state, upcast to the current version of its class.

    This changes `state`. Raise ValidationError if the state is invalid, and NewerEvent if a newer
    version of EcoLink stored it.
    """
    try:
        event_class = resolve_topic(topic)
    except TopicError as error:
        raise NewerEvent(
            f"This version of EcoLink has no event {topic!r}. Upgrade it, or install its extension."
        ) from error
    stored_version = state.pop("class_version", 1)
    known_version = getattr(event_class, "class_version", 1)
    if stored_version > known_version:
        raise NewerEvent(
            f"This version of EcoLink reads {topic} up to version {known_version}. The stored one "
            f"has version {stored_version}. Upgrade EcoLink."
        )
    for version in range(stored_version, known_version):
        getattr(event_class, f"upcast_v{version}_v{version + 1}")(state)
    state["originator_id"] = originator_id
    state["originator_version"] = originator_version
    return event_class.__pydantic_validator__.validate_python(state)


def _downcast(event: DomainEventProtocol[UUID], state: bytes, version: int | None) -> bytes:
    """Return the JSON of an event in an older version of its class.

    `state` is the JSON in the current version. Raise UpgradeUnfinished if the class has no older
    version (`version` is None), or if a reader would not get the same event from it.
    """
    kind: Any = type(event)
    if version is not None:
        older = from_json(state)
        for newer in range(kind.class_version, version, -1):
            getattr(kind, f"downcast_v{newer - 1}_v{newer}")(older)
        stored = to_json(older, inf_nan_mode="constants")
        marked = from_json(stored) | {"class_version": version}
        read = event_of(kind.TOPIC, event.originator_id, event.originator_version, marked)
        if kind.__pydantic_serializer__.to_json(read, exclude=COLUMNS) == state:
            return stored
    raise UpgradeUnfinished(
        "EcoLink is being upgraded. This request needs the new version on all machines. Try again "
        f"when the operator has finished the upgrade. ({kind.TOPIC} is not in the format in use.)"
    )


def replayed(aggregate: Any, events: Iterable[Any]) -> Any:
    """Apply events to an aggregate, without the library's slow `isinstance` for each of them."""
    for event in events:
        aggregate = event.mutate(aggregate)
    return aggregate


class AggregateCache(LRUCache[UUID, Any]):
    """The most recently used aggregates, and all that stay cached.

    A GPU pool with 10,000 claims takes 0.1 s to load, and one with 100,000 takes 2 s. The scheduler
    loads a job for each extended lease, and these loads would otherwise replace the pool.
    """

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self._kept: dict[UUID, Any] = {}

    def get(self, key: UUID, *, evict: bool = False) -> Any:
        """Return a cached aggregate. Raise KeyError if it is not cached."""
        if key in self._kept:
            return self._kept.pop(key) if evict else self._kept[key]
        return super().get(key, evict=evict)

    def put(self, key: UUID, value: Any) -> Any:
        """Cache an aggregate. Return the ID and the aggregate that it replaces, or None."""
        if isinstance(value, Aggregate) and value.stays_cached:
            self._kept[key] = value
            return None, None
        return super().put(key, value)


class EventLog(Application[UUID]):
    """The events of all aggregates, in a single ordered notification log."""

    name: str = "ecolink"

    @property
    def last_saved(self) -> int | None:
        """Notification ID of the last event that the current request saved, if known."""
        log, id = _last_saved.get() or (None, None)
        return id if log is self else None

    def construct_mapper(self) -> Mapper[UUID]:
        """Return a mapper that stores events as JSON."""
        return PydanticMapper(self.construct_transcoder())

    def construct_recorder(self) -> ProcessRecorder:
        """Return a recorder that saves events and a handler's position in one transaction."""
        return self.factory.process_recorder()

    def construct_snapshot_store(self) -> EventStore[UUID]:
        """Return a store that verifies the signature of every snapshot."""
        recorder = self.factory.aggregate_recorder(purpose="snapshots")
        return SignedSnapshots(self.mapper, recorder, self.recorder, self.env[SNAPSHOT_SECRET])

    def construct_repository(self) -> Repository[UUID]:
        """Return a repository whose cache never drops some aggregates."""
        repository = super().construct_repository()
        if isinstance(repository.cache, LRUCache):
            repository.cache = AggregateCache(repository.cache.maxsize)
        return repository

    def forget_cached(self) -> None:
        """Drop all cached aggregates, because the log may have lost their last events."""
        if isinstance(self.repository.cache, AggregateCache):
            self.repository.cache = AggregateCache(self.repository.cache.maxsize)

    @property
    def format_in_use(self) -> int:
        """Format of the events that the log stores. It rises when an upgrade is finished."""
        assert isinstance(self.mapper, PydanticMapper)
        return self.mapper.format_in_use

    @format_in_use.setter
    def format_in_use(self, format: int) -> None:
        assert isinstance(self.mapper, PydanticMapper)
        self.mapper.format_in_use = format

    @property
    def process_recorder(self) -> ProcessRecorder:
        """Recorder, with its concrete type."""
        assert isinstance(self.recorder, ProcessRecorder)
        return self.recorder

    def find(self, kind: type[A], aggregate_id: UUID) -> A | None:
        """Return the aggregate with this ID, or None if it does not exist."""
        try:
            found: object = self.repository.get(aggregate_id, projector_func=replayed)
        except AggregateNotFoundError:
            return None
        return found if isinstance(found, kind) else None

    def load(self, kind: type[A], aggregate_id: UUID) -> A:
        """Return the aggregate with this ID. Raise NotFound if it does not exist."""
        found = self.find(kind, aggregate_id)
        if found is None:
            raise NotFound(f"Unknown {kind.__name__.lower()} {aggregate_id}. Check the ID.")
        return found

    def first_event(self, aggregate_id: UUID) -> Event:
        """Return the first event of an existing aggregate."""
        (first,) = self.events.get(aggregate_id, lte=1)
        assert isinstance(first, Event)
        return first

    def commit(self, *aggregates: Aggregate, tracking: Tracking | None = None) -> None:
        """Save all pending events of the aggregates, and a handler's position, in one transaction.

        Raise VersionConflict if another writer saved first. If the stored events come from the same
        command, the save succeeds: the library repeated it after a lost acknowledgement. Raise
        UpgradeUnfinished if the format in use cannot express an event.
        """
        processing = _processing(aggregates, tracking)
        if not processing.events and tracking is None:
            return
        assert len(processing.events) <= MAX_EVENTS
        rows: Sequence[StoredEvent] = ()
        try:
            rows = self._save(processing)
        except IntegrityError as error:
            if not self._is_ours(processing):
                raise VersionConflict(
                    "Another request changed this object at the same time. Try again."
                ) from error
            _last_saved.set(None)  # the notification IDs are unknown
        self._add_snapshots(processing, rows)

    def _save(self, processing: ProcessingEvent[UUID]) -> Sequence[StoredEvent]:
        """Insert events. Return their rows."""
        rows = [self.mapper.to_stored_event(each) for each in processing.events]
        ids = self.recorder.insert_events(rows, tracking=processing.tracking)
        _last_saved.set((self, ids[-1]) if ids else None)
        if self.repository.cache and not self.repository.fastforward:
            for aggregate_id, aggregate in processing.aggregates.items():
                self.repository.cache.put(aggregate_id, aggregate)
        return rows

    def _add_snapshots(
        self, processing_event: ProcessingEvent[UUID], rows: Sequence[StoredEvent]
    ) -> None:
        """Snapshot the aggregates whose version passed a multiple of their snapshot interval.

        `rows` are the stored events, as far as they are known. The events are already saved, so log
        all errors: without a snapshot, the next load only takes longer.
        """
        if self.snapshots is None or not strtobool(self.env.get(TAKES_SNAPSHOTS, "n")):
            return
        assert isinstance(self.snapshots, SignedSnapshots)
        saved = Counter(event.originator_id for event in processing_event.events)
        logger = logging.getLogger("event_log")
        taken: list[CanSnapshotAggregate[UUID]] = []
        for id, aggregate in processing_event.aggregates.items():
            assert isinstance(aggregate, Aggregate)
            try:
                if _passes_interval(aggregate, saved[id]):
                    taken.append(aggregate.Snapshot.take(aggregate))
            except Exception:
                logger.exception("cannot take a snapshot of %s", id)
        try:
            if taken:
                self.snapshots.put(taken, last_events=rows)
        except Exception:
            logger.exception("cannot save snapshots")

    def _is_ours(self, processing: ProcessingEvent[UUID]) -> bool:
        for pending in processing.events:
            assert isinstance(pending, Event)
            version = pending.originator_version
            stored = next(
                iter(self.events.get(pending.originator_id, gt=version - 1, lte=version)), None
            )
            if not isinstance(stored, Event) or stored.command_id != pending.command_id:
                return False
        tracking = processing.tracking
        return tracking is None or self.process_recorder.has_tracking_id(
            tracking.application_name, tracking.notification_id
        )

    def retrying(self, attempt: Callable[[], T], attempts: int = 8) -> T:
        """Run `attempt` until it raises no VersionConflict. Raise that of the last run."""
        for _ in range(attempts - 1):
            try:
                return attempt()
            except VersionConflict:
                continue
        return attempt()


def _passes_interval(aggregate: Aggregate, events: int) -> bool:
    """Return True if an aggregate passed a multiple of its snapshot interval by some events."""
    if not (every := aggregate.snapshot_events()):
        return False
    after = aggregate.version + aggregate.snapshot_offset
    return after // every > (after - events) // every


def _processing(
    aggregates: Iterable[Aggregate], tracking: Tracking | None
) -> ProcessingEvent[UUID]:
    """Collect pending events without the library's check of each aggregate, which is slow."""
    processing = ProcessingEvent[UUID](tracking=tracking)
    for each in aggregates:
        processing.events += each.collect_events()
        processing.aggregates[each.id] = each
    return processing


class UseCases(Protocol):
    """Protocol of objects whose methods are use cases."""

    log: EventLog


def retrying(use_case: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Retry a use case after a version conflict. See `EventLog.retrying`."""

    @wraps(use_case)
    def run(self: UseCases, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.log.retrying(lambda: use_case(self, *args, **kwargs))

    return run
