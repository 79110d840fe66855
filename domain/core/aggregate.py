"""Base classes of aggregates and events, with event metadata, topics and causes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from inspect import signature
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import (
    BaseAggregate,
    CanInitAggregate,
    CanMutateAggregate,
    CanSnapshotAggregate,
    decorated_funcs,
)
from pydantic import Field

from domain.core.value import Value


@dataclass(frozen=True)
class Cause:
    """The cause of an event: the actor, command ID, time and triggering event, if any.

    The actor is an ID such as `key:<uuid>` or `service:billing`, never a person's name.
    `traceparent` is the span of the command if it is traced, as in W3C Trace Context. `attempt`
    counts the attempts to run the command, from 1.
    """

    actor: str
    command_id: str
    now: datetime
    causation_id: str | None = None
    traceparent: str | None = None
    attempt: int = 1


_cause: ContextVar[Cause] = ContextVar("cause")


@contextmanager
def because(cause: Cause) -> Generator[Cause]:
    """Record this cause in every event that is triggered inside the `with` block."""
    token = _cause.set(cause)
    try:
        yield cause
    finally:
        _cause.reset(token)


def current_cause() -> Cause:
    """Return the current cause. Raise LookupError outside a `because` block."""
    return _cause.get()


def _is_none(value: object) -> bool:
    return value is None


class Event(Value, CanMutateAggregate[UUID]):
    """An event with its metadata.

    The store's topic of an event is the name of its class. Renaming a class would make stored
    events unreadable. The tests of stored events detect such a change.
    """

    TOPIC: ClassVar[str]
    class_version: ClassVar[int] = 1
    """Version of the class's fields. A class with a later one has functions that upcast a state."""
    formats: ClassVar[Mapping[int, int]] = {}
    """Formats of the log that added versions of the class. A version that is not listed has the
    format of the version before it, and the first one has format 1.

    A listed version above 1 needs a function that downcasts a state, such as `downcast_v1_v2` from
    version 2 to version 1. See `domain.core.event_format`.
    """

    originator_id: UUID
    originator_version: int
    timestamp: datetime
    account_id: UUID
    actor: str
    command_id: str
    causation_id: str | None = None
    traceparent: Annotated[
        str | None, Field(pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$", exclude_if=_is_none)
    ] = None
    """Span of the command. Only the events of a traced command store it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.TOPIC = cls.__name__

    def _as_dict(self) -> dict[str, Any]:
        """Return the arguments for an `@event` method: the event's fields, and the event itself."""
        return self.__dict__ | {"event": self}

    @property
    def event_id(self) -> str:
        """Public ID of the event."""
        return f"{self.originator_id}:{self.originator_version}"


class Notified(Event, ABC):
    """An event of an extension that causes a webhook, and a notice if its type has one."""

    MESSAGE: ClassVar[str]
    """Value of a `WebhookType`."""

    @property
    @abstractmethod
    def message_data(self) -> Mapping[str, str]:
        """Data of the message."""


class Created(Event, CanInitAggregate[UUID]):
    """Base class of events that start a stream."""

    originator_topic: str


class Aggregate(BaseAggregate[UUID]):
    """A stream of events with an ID, and the state derived from the events.

    A public command either raises an error or triggers an event. The private method under `@event`
    only assigns state, because it also runs on every replay. The names of its parameters are those
    of the event's fields that it needs.

    Events are nested classes. Their base class is `Event` of the aggregate. Otherwise the library
    would declare each of them again. An aggregate with many events declares them in a separate
    module as subclasses of a common base class, and assigns that class to `Event`.
    """

    TOPIC: ClassVar[str] = ""
    stays_cached: ClassVar[bool] = False
    """True if a process that caches aggregates never drops this one. There must be few of them."""
    Event = Event
    Snapshot: ClassVar[type[CanSnapshotAggregate[UUID]]]
    """Class of the aggregate's snapshots, if it has any."""
    account_id: UUID

    @property
    def snapshot_offset(self) -> int:
        """Number of events by which the first snapshot comes earlier."""
        return 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "Event" in vars(cls):
            for declared in cls.Event.__subclasses__():
                setattr(cls, declared.__name__, declared)
        super().__init_subclass__(**kwargs)
        for kind in cls.event_classes():
            method = decorated_funcs.get(kind)
            if method is not None and not issubclass(kind, CanInitAggregate):
                kind.apply = _applying(method)  # type: ignore[method-assign]

    @classmethod
    def event_classes(cls) -> list[type[Event]]:
        """Return the aggregate's event classes in declaration order."""
        return [
            kind
            for kind in vars(cls).values()
            if isinstance(kind, type) and issubclass(kind, Event) and kind is not cls.Event
        ]

    @classmethod
    def _create(
        cls, event_class: type[CanInitAggregate[UUID]], *, id: UUID | None = None, **kwargs: Any
    ) -> Self:
        return super()._create(event_class, id=id, **(_envelope() | kwargs))

    def snapshot_events(self) -> int | None:
        """Return the number of events between two snapshots, or None for no snapshots."""
        return None

    def trigger_event(self, event_class: type[CanMutateAggregate[UUID]], **kwargs: Any) -> None:
        """Append an event to this stream, with the metadata of the current cause."""
        # The library replaces an event class with a subclass that runs the method under `@event`.
        kind = getattr(type(self), event_class.__name__)
        fields = {"account_id": self.account_id, **_envelope(), **kwargs}
        event = kind(originator_id=self.id, originator_version=self.version + 1, **fields)
        event.mutate(self)
        self._pending_events.append(event)


def _applying(method: Callable[..., None]) -> Callable[[Event, Any], None]:
    """Return an `apply` that calls the method under `@event` with the fields that it names.

    The library finds the method and the names again for each event, which takes most of the time
    of a replay.
    """
    parameters = list(signature(method).parameters)[1:]
    fields = tuple(name for name in parameters if name != "event")
    wants_event = len(fields) != len(parameters)

    def apply(self: Event, aggregate: Any) -> None:
        values = self.__dict__
        named = {name: values[name] for name in fields}
        if wants_event:
            named["event"] = self
        method(aggregate, **named)

    return apply


def _envelope() -> dict[str, Any]:
    cause = current_cause()
    return {
        "actor": cause.actor,
        "command_id": cause.command_id,
        "causation_id": cause.causation_id,
        "traceparent": cause.traceparent,
        "timestamp": cause.now,
    }
