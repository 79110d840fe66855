"""API keys. The event log stores only the hash of each key."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.core.actor import acting_key
from domain.core.aggregate import Aggregate, Created
from domain.core.identity import api_key_id

PREFIX = "eco_"


def new_secret() -> str:
    """Return a new secret for an API key, with 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def secret_sha256(secret: str) -> str:
    """Return the SHA-256 hash in hex. A random 256-bit secret needs no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


class ApiKey(Aggregate):
    """An API key of an account. Its ID is derived from its hash, so verification takes one read."""

    TOPIC: ClassVar[str] = "ApiKey"

    class Event(Aggregate.Event):
        """Base class of the events of an API key."""

    class ApiKeyIssued(Event, Created):
        """An API key was issued for the account. The event contains only the hash of the key."""

        role: Role
        scopes: tuple[Scope, ...]
        expires_at: datetime | None
        sha256: str
        hint: str

    class ApiKeyRevoked(Event):
        """The key was revoked. EcoLink refuses requests that use it."""

    @classmethod
    def issue(cls, account_id: UUID, rights: Rights, secret: str) -> ApiKey:
        """Return a new key. Its hint is the last four characters of `secret`."""
        sha256 = secret_sha256(secret)
        return cls._create(
            cls.ApiKeyIssued,
            id=api_key_id(sha256),
            account_id=account_id,
            role=rights.role,
            scopes=rights.scopes,
            expires_at=rights.expires_at,
            sha256=sha256,
            hint=secret[-4:],
        )

    @event(ApiKeyIssued)
    def __init__(self, event: ApiKeyIssued) -> None:
        self.account_id = event.account_id
        self.rights = Rights(event.role, event.scopes, event.expires_at)
        self.sha256 = event.sha256
        self.hint = event.hint
        self.issuer_id = acting_key(event.actor)
        self.revoked = False

    def revoke(self) -> None:
        """Revoke the key. Revoking it again has no effect."""
        if not self.revoked:
            self.trigger_event(self.ApiKeyRevoked)

    @event(ApiKeyRevoked)
    def _api_key_revoked(self) -> None:
        self.revoked = True
