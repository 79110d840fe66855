"""The API keys of the caller's account: made, listed and revoked."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from domain.core.aggregate import because
from gateway.backend import BackendOf
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import refusals
from gateway.http.read_your_writes import caught_up
from gateway.schemas import Answer, Listed
from projections import API_KEYS
from projections.api_keys import active_keys, keys_of
from projections.projection import Row

router = APIRouter(prefix="/keys", tags=["keys"])


class KeyAnswer(Answer):
    """A key, without its secret, which nobody can read again."""

    id: UUID
    hint: str = Field(description="Last characters of the secret.", examples=["x7Qa"])
    issued_at: datetime
    revoked_at: datetime | None
    current: bool = Field(description="Whether this very request was made with it.")

    @classmethod
    def of(cls, row: Row, caller: Caller) -> KeyAnswer:
        """The answer for a row."""
        return cls(
            id=row["key_id"],
            hint=row["hint"],
            issued_at=row["issued_at"],
            revoked_at=row["revoked_at"],
            current=row["key_id"] == caller.key_id,
        )


class NewKey(Answer):
    """A key that was just made, with its secret, this once."""

    id: UUID
    hint: str = Field(description="Last characters of the secret.", examples=["x7Qa"])
    issued_at: datetime
    secret: str = Field(description="Send it as `Authorization: Bearer`.", examples=["eco_..."])


@router.post("", status_code=201)
def create_key(caller: CallerOf, backend: BackendOf) -> NewKey:
    """Make a key for the caller's account; only its hash is stored."""
    with backend.pool.connection() as connection:
        held = active_keys(connection, caller.account_id)
    backend.quotas.require_room("keys", held)
    backend.quotas.rates.take("key_changes", caller.account_id)
    with because(caller.cause(backend)):
        key, secret = backend.ecolink.issue_key(caller.account_id)
    caught_up(backend, API_KEYS)
    return NewKey(id=key.id, hint=key.hint, issued_at=key.created_on, secret=secret)


@router.get("")
def list_keys(caller: CallerOf, backend: BackendOf) -> Listed[KeyAnswer]:
    """The keys of the caller's account, the oldest first, revoked ones included."""
    with backend.pool.connection() as connection:
        rows = keys_of(connection, caller.account_id)
    return Listed(data=[KeyAnswer.of(row, caller) for row in rows])


@router.post("/{key_id}/revoke", responses=refusals(404, 409))
def revoke_key(key_id: UUID, caller: CallerOf, backend: BackendOf) -> KeyAnswer:
    """End a key at once; again it changes nothing. It may be the one of this request."""
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
