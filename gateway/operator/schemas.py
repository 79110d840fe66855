"""Schemas of parked events."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from gateway.schemas import ResponseModel


class ParkedReaction(ResponseModel):
    """An event that a service could not process. It blocks later events of the same aggregate."""

    consumer: str = Field(examples=["scheduler"])
    notification_id: int
    originator_id: UUID
    topic: str
    error: str
    parked_at: datetime
    replay: bool = Field(description="True if a retry was requested.")
