"""Functions of external endpoints that the API and the pages call."""

from __future__ import annotations

from uuid import UUID

from domain.core.errors import NotFound
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.syntheses.schemas import EndpointAnswer, EndpointForm
from infrastructure import synthesis_endpoints as stored


def create(backend: Backend, caller: Caller, form: EndpointForm) -> EndpointAnswer:
    """Store an external endpoint. Raise Invalid for a refused URL, and QuotaExceeded."""
    backend.settings.webhook_policy.require_url(form.url)
    with backend.pool.connection() as connection:
        count = stored.endpoint_count(connection, caller.account_id)
        backend.quotas.require_room("synthesis_endpoints", count)
        made = stored.add_endpoint(
            connection, caller.account_id, form.name, form.url, form.key, backend.clock.now()
        )
    return _answer(made)


def list_endpoints(backend: Backend, caller: Caller) -> list[EndpointAnswer]:
    """Return the external endpoints of the account, oldest first."""
    with backend.pool.connection() as connection:
        return [_answer(each) for each in stored.endpoints_of(connection, caller.account_id)]


def delete(backend: Backend, caller: Caller, endpoint_id: UUID) -> None:
    """Delete an external endpoint with its key. Raise NotFound."""
    with backend.pool.connection() as connection:
        if not stored.delete_endpoint(connection, caller.account_id, endpoint_id):
            raise NotFound(f"Unknown endpoint {endpoint_id}. See GET /api/synthesis-endpoints.")


def _answer(endpoint: stored.SynthesisEndpoint) -> EndpointAnswer:
    return EndpointAnswer(
        id=endpoint.id,
        name=endpoint.name,
        url=endpoint.url,
        has_key=endpoint.has_key,
        created_at=endpoint.created_at,
    )
