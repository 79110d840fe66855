"""Routes of API keys under /api."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body

from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayManageKeys, MayRead
from gateway.keys import service
from gateway.keys.schemas import KeyForm, KeyResponse, NewKey
from gateway.schemas import Listed

router = APIRouter(prefix="/keys", tags=["keys"], route_class=Operation)


@router.post("", status_code=201)
def create_key(
    caller: MayManageKeys, backend: BackendOf, form: Annotated[KeyForm | None, Body()] = None
) -> NewKey:
    """Create an API key for your account. EcoLink stores only its hash.

    A key cannot create another one with more rights or a later expiry than its own.
    """
    return service.create_key(backend, caller, form or KeyForm())


@router.get("")
def list_keys(caller: MayRead, backend: BackendOf) -> Listed[KeyResponse]:
    """List the keys of your account, oldest first, including revoked and expired ones."""
    return Listed(data=service.list_keys(backend, caller))


@router.post("/{key_id}/revoke", responses=refusals(404, 409))
def revoke_key(key_id: UUID, caller: MayManageKeys, backend: BackendOf) -> KeyResponse:
    """Revoke a key immediately. You can revoke the key that you are using."""
    return service.revoke_key(backend, caller, key_id)
