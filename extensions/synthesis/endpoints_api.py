"""Routes of external endpoints under /api."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from extensions.synthesis import endpoints
from extensions.synthesis.schemas import EndpointForm, EndpointKeyForm, EndpointResponse
from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.permissions import MayManageKeys, MayRead
from gateway.schemas import Listed

router = APIRouter(prefix="/synthesis-endpoints", tags=["syntheses"], route_class=Operation)


@router.post("", status_code=201)
def create_endpoint(
    form: EndpointForm, caller: MayManageKeys, backend: BackendOf
) -> EndpointResponse:
    """Store an OpenAI-compatible endpoint of another provider, which charges you directly.

    No response shows the key. EcoLink connects only to public addresses, unless the operator allows
    others.
    """
    return endpoints.create(backend, caller, form)


@router.get("")
def list_endpoints(caller: MayRead, backend: BackendOf) -> Listed[EndpointResponse]:
    """List your external endpoints, oldest first."""
    return Listed(data=endpoints.list_endpoints(backend, caller))


@router.put("/{endpoint_id}/key", responses=refusals(404))
def replace_key(
    endpoint_id: UUID, form: EndpointKeyForm, caller: MayManageKeys, backend: BackendOf
) -> EndpointResponse:
    """Replace the key of an external endpoint. Syntheses that run use the new key."""
    return endpoints.replace_key(backend, caller, endpoint_id, form)


@router.delete("/{endpoint_id}", status_code=204, responses=refusals(404))
def delete_endpoint(endpoint_id: UUID, caller: MayManageKeys, backend: BackendOf) -> None:
    """Delete an external endpoint with its key. A synthesis that uses it pauses."""
    endpoints.delete(backend, caller, endpoint_id)
