"""Schemas of events, with their position in the log and their public fields."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from domain.access.api_key import ApiKey
from domain.core.aggregate import Created, Event
from domain.jobs import events
from gateway.http.paging import MOST_POSITION
from gateway.schemas import JobId, ResponseModel
from infrastructure.bus.consumer import Recorded

ENVELOPE = frozenset(Created.model_fields)
SECRET = frozenset({"sha256"})
"""Hidden fields of API keys, which identify a key."""

INTERNAL = frozenset({"host"})
"""Hidden fields of pods, which identify the operator's machines."""


def hidden_fields(kind: type[Event]) -> frozenset[str]:
    """Return the names of the hidden fields of an event."""
    if issubclass(kind, ApiKey.Event):
        return ENVELOPE | SECRET
    return ENVELOPE | INTERNAL if issubclass(kind, events.PodStarted) else ENVELOPE


class EventResponse(ResponseModel):
    """One event of the log."""

    sequence: int = Field(
        examples=[1742],
        description="Position in the log. Sequences increase, with gaps for events of other "
        "accounts.",
    )
    id: str = Field(
        examples=["0b0f8f5c-3a4e-5d0c-9a4d-0e6b1c2d3e4f:7"],
        description="ID of the aggregate, and number of the event within the aggregate.",
    )
    event: str = Field(examples=["MinuteMetered"])
    account_id: UUID
    job_id: JobId | None = Field(
        description="Job that the event belongs to, if any. For a deployment, the job that "
        "trained the served model."
    )
    timestamp: datetime
    fields: dict[str, JsonValue] = Field(
        examples=[
            {
                "job_id": "0b0f8f5c-3a4e-5d0c-9a4d-0e6b1c2d3e4f",
                "segment": 1,
                "minute": 3,
                "from_seconds": 120,
                "to_seconds": 180,
                "amount_micros": 0,
                "covered_micros": 10_000,
            }
        ],
        description="Other fields of the event. Their schema has the name of the event, such "
        "as `JobApprovedFields`.",
    )

    @classmethod
    def of(cls, recorded: Recorded, job_id: UUID | None) -> EventResponse:
        event = recorded.event
        return cls(
            sequence=recorded.id,
            id=event.event_id,
            event=event.TOPIC,
            account_id=event.account_id,
            job_id=job_id,
            timestamp=event.timestamp,
            fields=event.model_dump(mode="json", exclude=set(hidden_fields(type(event)))),
        )


class EventPage(ResponseModel):
    """A page of events in log order, and the start of the next page."""

    data: list[EventResponse]
    has_more: bool = Field(description="True if more events exist now.")
    next_after: int = Field(examples=[1742], description="Value of `after` for the next page.")


class EventsAsked(BaseModel):
    """Filters of events."""

    model_config = ConfigDict(extra="ignore")

    after: int = Field(
        default=0, ge=0, le=MOST_POSITION, description="Return only events with a higher sequence."
    )
    job: JobId | None = Field(default=None, description="Return only events about this job.")
    all_accounts: bool = Field(
        default=False,
        description="Return events of all accounts and of the platform. Only operators and "
        "auditors can set it.",
    )


class PageAsked(EventsAsked):
    """Filters and size of a page of events."""

    limit: int = Field(default=100, ge=1, le=1000, description="Maximum number of events.")
    wait: float = Field(
        default=0, ge=0, le=30, description="Seconds to wait for an event if there is none yet."
    )
