"""Schemas of API keys."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from gateway.schemas import Answer


class KeyAnswer(Answer):
    """An API key without its secret, which EcoLink does not store."""

    id: UUID
    hint: str = Field(description="Last characters of the secret.", examples=["x7Qa"])
    issued_at: datetime
    revoked_at: datetime | None
    current: bool = Field(description="True for the key that authenticated this request.")


class NewKey(Answer):
    """A new API key with its secret, which no later response contains."""

    id: UUID
    hint: str = Field(description="Last characters of the secret.", examples=["x7Qa"])
    issued_at: datetime
    secret: str = Field(
        description="The secret. Send it in the header `Authorization: Bearer`.",
        examples=["eco_..."],
    )
