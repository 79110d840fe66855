"""What the API says of an event: where it stands in the log, and its public fields."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field, JsonValue

from domain.access.api_key import ApiKey
from domain.core.aggregate import Created, Event
from domain.jobs.job import Job
from gateway.schemas import Answer, JobId
from infrastructure.consumer import Recorded

ENVELOPE = frozenset(Created.model_fields)
SECRET = frozenset({"sha256"})
"""Of API keys: what tells a key in the log is nothing to show."""

INTERNAL = frozenset({"host"})
"""Of pods: names of the operator's machines."""


def hidden_fields(kind: type[Event]) -> frozenset[str]:
    """Names of what a kind of event has and does not show."""
    if issubclass(kind, ApiKey.Event):
        return ENVELOPE | SECRET
    return ENVELOPE | INTERNAL if issubclass(kind, Job.PodStarted) else ENVELOPE


class EventAnswer(Answer):
    """One event, as the log has it."""

    sequence: int = Field(
        examples=[1742],
        description="Its place in the log. Sequences grow and have holes: other accounts' events.",
    )
    id: str = Field(
        examples=["0b0f8f5c-3a4e-5d0c-9a4d-0e6b1c2d3e4f:7"],
        description="Of the aggregate, and which of its events this is.",
    )
    event: str = Field(examples=["MinuteMetered"])
    account_id: UUID
    job_id: JobId | None = Field(
        description="The job that it is about, if it is about one: of a deployment, the job that "
        "made what is served."
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
                "amount_micros": 10_000,
            }
        ],
        description="What this event says beside, by its name: `JobApprovedFields` and so on.",
    )

    @classmethod
    def of(cls, recorded: Recorded, job_id: UUID | None) -> EventAnswer:
        """The answer for an event of the log, and the job that it is about."""
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


class EventPage(Answer):
    """Events in the order of the log, and where to go on."""

    data: list[EventAnswer]
    has_more: bool = Field(description="Whether more can be had at once.")
    next_after: int = Field(
        examples=[1742],
        description="Ask for events after this sequence next: up to it there is nothing more.",
    )
