"""The actor of an event: an API key, a service, or the operator of the host."""

from __future__ import annotations

from uuid import UUID

KEY = "key:"
"""Prefix of the actors that are API keys."""


def acting_key(actor: str) -> UUID | None:
    """Return the ID of the key that an actor is, or None. Raise ValueError if it is malformed."""
    return UUID(actor.removeprefix(KEY)) if actor.startswith(KEY) else None
