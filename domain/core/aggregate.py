"""Our Aggregate and event base on pydantic: the envelope, topics and versions."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self
from uuid import UUID

from eventsourcing.domain import (
    BaseAggregate,
    CanInitAggregate,
    CanMutateAggregate,
)
from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Cause:
    """Why something happens: who asked, with which command, because of which event, and when.

    The actor is an id such as `account:<uuid>` or `service:billing`, never a person's name.
    """

    actor: str
    command_id: str
    now: datetime
    causation_id: str | None = None


_cause: ContextVar[Cause] = ContextVar("cause")


@contextmanager
def because(cause: Cause) -> Generator[Cause]:
    """Events that are triggered inside carry this cause in their envelope."""
    token = _cause.set(cause)
    try:
        yield cause
    finally:
        _cause.reset(token)


def current_cause() -> Cause:
    """The cause in force; a LookupError means that a command ran outside `because`."""
    return _cause.get()


class Event(BaseModel, CanMutateAggregate[UUID]):
    """What every event carries. Event classes are nested in their aggregate and have a TOPIC."""

    TOPIC: ClassVar[str]
    model_config = ConfigDict(frozen=True, extra="forbid")

    originator_id: UUID
    originator_version: int
    timestamp: datetime
    account_id: UUID
    actor: str
    command_id: str
    causation_id: str | None = None

    def _as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @property
    def event_id(self) -> str:
        """Public id of the event."""
        return f"{self.originator_id}:{self.originator_version}"


class Created(Event, CanInitAggregate[UUID]):
    """The first event of a stream."""

    originator_topic: str


class Aggregate(BaseAggregate[UUID]):
    """A stream of events with an id, and the state that they add up to.

    A public command refuses or triggers; the private method under `@event` names the fields that
    it needs and only assigns, since it also runs at every replay.
    """

    TOPIC: ClassVar[str] = ""
    snapshot_events: ClassVar[int | None] = None
    """Number of events between two snapshots; None takes no snapshots."""
    Event = Event
    account_id: UUID

    @classmethod
    def _create(
        cls,
        event_class: type[CanInitAggregate[UUID]],
        *,
        id: UUID | None = None,
        **kwargs: Any,
    ) -> Self:
        return super()._create(event_class, id=id, **(_envelope() | kwargs))

    def trigger_event(self, event_class: type[CanMutateAggregate[UUID]], **kwargs: Any) -> None:
        """Make the next event of this stream, with the envelope of the current cause."""
        super().trigger_event(
            event_class, **({"account_id": self.account_id} | _envelope() | kwargs)
        )


def _envelope() -> dict[str, Any]:
    cause = current_cause()
    return {
        "actor": cause.actor,
        "command_id": cause.command_id,
        "causation_id": cause.causation_id,
        "timestamp": cause.now,
    }
