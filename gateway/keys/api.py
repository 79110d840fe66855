"""Routes of API keys under /api."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from gateway.backend import BackendOf
from gateway.http.access import CallerOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.keys import service
from gateway.keys.schemas import KeyAnswer, NewKey
from gateway.schemas import Listed

router = APIRouter(prefix="/keys", tags=["keys"], route_class=Operation)


@router.post("", status_code=201)
def create_key(caller: CallerOf, backend: BackendOf) -> NewKey:
    """Create an API key for your account. EcoLink stores only its hash."""
    return service.create_key(backend, caller)


@router.get("")
def list_keys(caller: CallerOf, backend: BackendOf) -> Listed[KeyAnswer]:
    """List the keys of your account, oldest first, including revoked ones."""
    return Listed(data=service.list_keys(backend, caller))


@router.post("/{key_id}/revoke", responses=refusals(404, 409))
def revoke_key(key_id: UUID, caller: CallerOf, backend: BackendOf) -> KeyAnswer:
    """Revoke a key immediately. You can revoke the key that you are using."""
    return service.revoke_key(backend, caller, key_id)
