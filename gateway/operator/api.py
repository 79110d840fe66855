"""Routes for operators: parked events, which a handler repeatedly failed to process."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import OperatorDeploys, OperatorReads
from gateway.operator import service
from gateway.operator.schemas import ParkedReaction
from gateway.schemas import Listed

router = APIRouter(
    prefix="/operator", tags=["operator"], responses=refusals(403), route_class=Operation
)


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
