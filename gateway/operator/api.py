"""Routes for operators: parked events, which a handler repeatedly failed to process."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import OperatorDeploys, OperatorReads
from gateway.operator import service
from gateway.schemas import Answer, Listed

router = APIRouter(
    prefix="/operator", tags=["operator"], responses=refusals(403), route_class=Operation
)


class ParkedReaction(Answer):
    """An event that a service could not process. It blocks later events of the same aggregate."""

    consumer: str = Field(examples=["scheduler"])
    notification_id: int
    originator_id: UUID
    topic: str
    error: str
    parked_at: datetime
    replay: bool = Field(description="True if a retry was requested.")


@router.get("/parked")
def list_parked(caller: OperatorReads, backend: BackendOf) -> Listed[ParkedReaction]:
    """List the parked events, oldest first."""
    return Listed(data=[ParkedReaction(**row) for row in service.list_parked(backend)])


@router.post("/parked/{consumer}/{notification_id}/replay", responses=refusals(404))
def replay_parked(
    consumer: str, notification_id: int, caller: OperatorDeploys, backend: BackendOf
) -> ParkedReaction:
    """Retry a parked event and all other parked events of its aggregate.

    The service that runs the consumer retries them in order within seconds.
    """
    return ParkedReaction(**service.replay_parked(backend, consumer, notification_id))
