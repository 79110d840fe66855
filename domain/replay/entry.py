"""Entries of the event log as an audit reads it, including damaged ones."""

from __future__ import annotations

from dataclasses import dataclass

from domain.core.recorded import Recorded


@dataclass(frozen=True)
class DamagedEvent:
    """A stored event that cannot be read. `event_id` is `<originator ID>:<version>`."""

    id: int
    event_id: str
    topic: str
    problem: str


Entry = Recorded | DamagedEvent
