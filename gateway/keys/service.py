"""Use cases and queries of the API keys of an account."""

from __future__ import annotations

from uuid import UUID

from domain.core.aggregate import because
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.read_your_writes import caught_up
from gateway.keys.schemas import KeyAnswer, NewKey
from projections import API_KEYS
from projections.api_keys import active_keys, keys_of


def create_key(backend: Backend, caller: Caller) -> NewKey:
    """Create an API key. Raise QuotaExceeded or RateLimited at a limit of the account."""
    with backend.pool.connection() as connection:
        held = active_keys(connection, caller.account_id)
    backend.quotas.require_room("keys", held)
    backend.quotas.rates.take("key_changes", caller.account_id)
    with because(caller.cause(backend)):
        key, secret = backend.ecolink.issue_key(caller.account_id)
    caught_up(backend, API_KEYS)
    return NewKey(id=key.id, hint=key.hint, issued_at=key.created_on, secret=secret)


def list_keys(backend: Backend, caller: Caller) -> list[KeyAnswer]:
    """Return all keys of the account, including revoked keys, oldest first."""
    with backend.pool.connection() as connection:
        rows = keys_of(connection, caller.account_id)
    return [
        KeyAnswer(
            id=row["key_id"],
            hint=row["hint"],
            issued_at=row["issued_at"],
            revoked_at=row["revoked_at"],
            current=row["key_id"] == caller.key_id,
        )
        for row in rows
    ]


def revoke_key(backend: Backend, caller: Caller, key_id: UUID) -> KeyAnswer:
    """Revoke a key.

    Raise NotFound if the account has no such key, and RateLimited at a limit of the account.
    """
    backend.quotas.rates.take("key_changes", caller.account_id)
    with because(caller.cause(backend)):
        key = backend.ecolink.revoke_key(caller.account_id, key_id)
    caught_up(backend, API_KEYS)
    return KeyAnswer(
        id=key.id,
        hint=key.hint,
        issued_at=key.created_on,
        revoked_at=key.modified_on,
        current=key.id == caller.key_id,
    )
