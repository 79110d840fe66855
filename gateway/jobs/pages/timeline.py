"""Entries of the timeline on a job's page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from domain.billing.meter import Meter
from domain.deployments.deployment import Deployment
from domain.jobs import events
from gateway.events.feed import FeedEvent
from gateway.jobs.describe import MINOR, describe

SHOWN = events.JobEvent | Meter.Event | Deployment.Event

MILESTONES = (
    events.CheckpointSaved,
    events.Registered,
    events.AdapterPromoted,
    Deployment.DeploymentActivated,
)

TONES = {"info": "", "warn": "warn", "error": "bad"}


@dataclass(frozen=True)
class Entry:
    """One event on the timeline."""

    sequence: int
    happened_at: datetime
    topic: str
    text: str
    tone: str  # tone of the badge in parts.html
    minor: bool

    @classmethod
    def of(cls, recorded: FeedEvent) -> Entry:
        """Return the entry of an event."""
        event = recorded.event
        level, text = describe(event, recorded.model)
        return cls(
            sequence=recorded.sequence,
            happened_at=event.timestamp,
            topic=event.TOPIC,
            text=text,
            tone="good" if isinstance(event, MILESTONES) else TONES[level],
            minor=isinstance(event, MINOR),
        )


def entries_of(events: Iterable[FeedEvent]) -> list[Entry]:
    """Return entries for the events that are about a job, its meters or its deployments."""
    return [Entry.of(each) for each in events if isinstance(each.event, SHOWN)]
