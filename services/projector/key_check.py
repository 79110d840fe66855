"""An audit check of the API keys that events name as their actors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.core.actor import acting_key
from domain.core.aggregate import Event
from domain.jobs.job_request import JobRequest
from domain.replay.acting_key import (
    LONGEST_COMMAND,
    KeyLife,
    continues,
    key_problem,
)
from infrastructure.bus.consumer import Recorded
from services.projector.store_checks import Difference, DifferenceKind

CLOSED = (
    JobRequest.JobRequestApproved,
    JobRequest.JobRequestRefused,
    JobRequest.JobRequestCancelled,
)


class KeyCheck:
    """A comparison of each event's actor with the events that issued and revoked its key.

    The time of an event cannot be long before those of earlier events in the log. So an event with
    a forged, earlier time does not pass as one from before the end of its key.
    """

    def __init__(self) -> None:
        self._lives: dict[UUID, KeyLife] = {}
        self._requested: dict[str, Event] = {}  # requests of jobs, by event ID
        self._closed_by: dict[str, str] = {}  # ID of the command that closed a request, by event ID
        self._newest = datetime.min.replace(tzinfo=UTC)
        self._found: list[Difference] = []

    def take(self, batch: Sequence[Recorded]) -> None:
        """Check the actors of events, and record keys and requests."""
        for item in batch:
            self._newest = max(self._newest, item.event.timestamp)
            self._record_request(item.event)
            if problem := self._problem(item):
                text = f"event {item.id} names {item.event.actor} as its actor, but {problem}"
                self._found.append(Difference(DifferenceKind.ACTOR, text))
            self._record_key(item)

    def differences(self) -> Iterable[Difference]:
        """Return the differences. Call this after the last batch."""
        return self._found

    def _problem(self, item: Recorded) -> str | None:
        event = item.event
        try:
            key_id = acting_key(event.actor)
        except ValueError:
            return "this is not the ID of a key"
        if key_id is None or self._continues_a_request(event):
            return None
        at = max(event.timestamp, self._newest - LONGEST_COMMAND)
        return key_problem(item, self._lives.get(key_id), at)

    def _continues_a_request(self, event: Event) -> bool:
        """Return True for events that approve or refuse a request, until it is closed."""
        cause = event.causation_id or ""
        is_open = self._closed_by.get(cause, event.command_id) == event.command_id
        return is_open and continues(event, self._requested.get(cause))

    def _record_request(self, event: Event) -> None:
        if isinstance(event, JobRequest.JobRequested):
            self._requested[event.event_id] = event
        elif isinstance(event, CLOSED):
            self._closed_by[f"{event.originator_id}:1"] = event.command_id

    def _record_key(self, item: Recorded) -> None:
        key_id = item.event.originator_id
        match item.event:
            case ApiKey.ApiKeyIssued() as issued:
                self._lives[key_id] = KeyLife(item.id, issued)
            case ApiKey.ApiKeyRevoked() if (life := self._lives.get(key_id)) and not life.revoked:
                self._lives[key_id] = replace(life, revoked=item)
            case _:
                pass
