"""Functions of external endpoints that the API and the pages call."""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import UUID

from domain.access.scope import Scope
from domain.core.errors import Invalid, NotFound
from extensions.synthesis import endpoint_rows as stored
from extensions.synthesis.schemas import EndpointForm, EndpointKeyForm, EndpointResponse
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.read_your_writes import room


def create(backend: Backend, caller: Caller, form: EndpointForm) -> EndpointResponse:
    """Store an external endpoint. Raise Invalid for a refused URL, and QuotaExceeded."""
    backend.settings.webhook_policy.require_url(form.url)
    if query := urlsplit(form.url).query:
        raise Invalid(
            f"The URL has the query {query!r}, but EcoLink appends `/chat/completions` to it. "
            "Remove the query.",
            field="url",
        )
    count = stored.endpoint_count
    with room(backend, "synthesis_endpoints", caller.account_id, count) as connection:
        made = stored.add_endpoint(
            connection, caller.account_id, form.name, form.url, form.key, backend.clock.now()
        )
    return _answer(caller, made)


def list_endpoints(backend: Backend, caller: Caller) -> list[EndpointResponse]:
    """Return the external endpoints of the account, oldest first."""
    with backend.pool.connection() as connection:
        return [
            _answer(caller, each) for each in stored.endpoints_of(connection, caller.account_id)
        ]


def replace_key(
    backend: Backend, caller: Caller, endpoint_id: UUID, form: EndpointKeyForm
) -> EndpointResponse:
    """Replace the key of an external endpoint. Raise NotFound."""
    with backend.pool.connection() as connection:
        stored.replace_key(connection, caller.account_id, endpoint_id, form.key)
        changed = stored.endpoint_of(connection, caller.account_id, endpoint_id)
    if changed is None:
        raise _unknown(endpoint_id)
    return _answer(caller, changed)


def delete(backend: Backend, caller: Caller, endpoint_id: UUID) -> None:
    """Delete an external endpoint with its key. Raise NotFound."""
    with backend.pool.connection() as connection:
        if not stored.delete_endpoint(connection, caller.account_id, endpoint_id):
            raise _unknown(endpoint_id)


def _unknown(endpoint_id: UUID) -> NotFound:
    return NotFound(f"Unknown endpoint {endpoint_id}. See GET /api/synthesis-endpoints.")


def _answer(caller: Caller, endpoint: stored.SynthesisEndpoint) -> EndpointResponse:
    return EndpointResponse(
        id=endpoint.id,
        name=endpoint.name,
        url=endpoint.url if Scope.KEYS in caller.rights.scopes else _origin(endpoint.url),
        has_key=endpoint.has_key,
        key_lost=endpoint.key_lost,
        created_at=endpoint.created_at,
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"
