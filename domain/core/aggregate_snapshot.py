"""The common part of the snapshots of accounts, meters and GPU pools."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from eventsourcing.domain import CanSnapshotAggregate
from pydantic import BaseModel, ConfigDict

from domain.core.aggregate import Aggregate, current_cause

A = TypeVar("A", bound=Aggregate)


class AggregateSnapshot(BaseModel, CanSnapshotAggregate[UUID]):
    """Base class of snapshots of an aggregate's state. Audits ignore snapshots."""

    TOPIC: ClassVar[str]
    model_config = ConfigDict(frozen=True)

    originator_id: UUID
    originator_version: int
    timestamp: datetime
    topic: str
    state: Any
    """State of the aggregate, a model with the fields `created_on` and `modified_on`."""

    @staticmethod
    def header(aggregate: Aggregate) -> dict[str, Any]:
        """Return the fields of a snapshot of an aggregate, without the state."""
        return {
            "originator_id": aggregate.id,
            "originator_version": aggregate.version,
            "timestamp": current_cause().now,
            "topic": aggregate.TOPIC,
        }

    def blank(self, kind: type[A]) -> A:
        """Return an aggregate with the snapshot's version and times, but without its state."""
        aggregate = object.__new__(kind)
        aggregate.__base_init__(self.originator_id, self.originator_version, self.state.created_on)
        aggregate.modified_on = self.state.modified_on
        return aggregate
