"""Use cases and queries of the API keys of an account."""

from __future__ import annotations

from uuid import UUID

from domain.core.aggregate import because
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.read_your_writes import caught_up, found, room
from gateway.keys.schemas import KeyForm, KeyResponse, NewKey
from infrastructure.accounts.key_uses import last_uses
from infrastructure.accounts.profiles import key_names, set_key_name
from infrastructure.postgres.store import Connection
from projections import API_KEYS
from projections.api_keys import active_keys, key_of, keys_of
from projections.projection import Row


def create_key(backend: Backend, caller: Caller, form: KeyForm) -> NewKey:
    """Create an API key with valid rights, within the limits of the account and the caller."""

    def held(connection: Connection, account_id: UUID) -> int:
        return active_keys(connection, account_id, backend.clock.now())

    with room(backend, "keys", caller.account_id, held, API_KEYS), because(caller.cause(backend)):
        backend.quotas.rates.take("key_changes", caller.holder_id)
        key, secret = backend.ecolink.issue_key(caller.account_id, form.rights, caller.rights)
    if form.name is not None:
        with backend.pool.connection() as connection:
            set_key_name(connection, key.id, form.name)
    caught_up(backend, API_KEYS)
    return NewKey(
        id=key.id,
        name=form.name,
        hint=key.hint,
        role=key.rights.role,
        scopes=list(key.rights.scopes),
        issued_at=key.created_on,
        expires_at=key.rights.expires_at,
        secret=secret,
    )


def list_keys(backend: Backend, caller: Caller) -> list[KeyResponse]:
    """Return all keys of the account, including revoked and expired keys, oldest first."""
    with backend.pool.connection() as connection:
        rows = keys_of(connection, caller.account_id)
        return _answers(backend, caller, connection, rows)


def revoke_key(backend: Backend, caller: Caller, key_id: UUID) -> KeyResponse:
    """Revoke a key.

    An operator can always revoke the keys of another account, for example those that a thief uses.
    Raise NotFound if the account has no such key, and RateLimited at a limit of the caller.
    """
    if caller.holder_id == caller.account_id:
        backend.quotas.rates.take("key_changes", caller.holder_id)
    with because(caller.cause(backend)):
        backend.ecolink.revoke_key(caller.account_id, key_id)
    caught_up(backend, API_KEYS)
    row = found(
        backend,
        API_KEYS,
        lambda connection: key_of(connection, caller.account_id, key_id),
        f"Unknown API key {key_id}. See `ecolink keys list`.",
    )
    with backend.pool.connection() as connection:
        return _answers(backend, caller, connection, [row])[0]


def _answers(
    backend: Backend, caller: Caller, connection: Connection, rows: list[Row]
) -> list[KeyResponse]:
    key_ids = [row["key_id"] for row in rows]
    names, uses = key_names(connection, key_ids), last_uses(connection, key_ids)
    now = backend.clock.now()
    return [
        KeyResponse(
            id=row["key_id"],
            name=names.get(row["key_id"]),
            hint=row["hint"],
            role=row["role"],
            scopes=row["scopes"],
            issued_at=row["issued_at"],
            created_by_operator=row["created_by_operator"],
            expires_at=row["expires_at"],
            expired=row["expires_at"] is not None and row["expires_at"] <= now,
            revoked_at=row["revoked_at"],
            last_used_at=uses.get(row["key_id"]),
            current=row["key_id"] == caller.key_id,
        )
        for row in rows
    ]
