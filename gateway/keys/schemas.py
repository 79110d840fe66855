"""Schemas of API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.schemas import ResponseModel

KeyName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class KeyForm(BaseModel):
    """The name and the rights of a new key. Omitted rights are those of the key that you use."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "evaluation script", "scopes": ["read", "deploy"]}]
        },
    )

    name: KeyName | None = None
    role: Role | None = Field(
        default=None, description="`member` for a key that can neither pay nor manage keys."
    )
    scopes: list[Scope] | None = Field(
        default=None, description="By default, all that the role and the key that you use have."
    )
    expires_at: AwareDatetime | None = Field(
        default=None, description="Time of expiry. By default, the key is valid until revoked."
    )

    @property
    def rights(self) -> KeyRequest:
        """The wanted rights."""
        return KeyRequest(self.role, self.scopes, self.expires_at)


class KeyResponse(ResponseModel):
    """An API key without its secret, which EcoLink does not store."""

    id: UUID
    name: str | None = Field(examples=["evaluation script"])
    hint: str = Field(description="Last characters of the secret.", examples=["x7Qa"])
    role: Role = Field(examples=["owner"])
    scopes: list[Scope]
    issued_at: datetime
    created_by_operator: bool = Field(
        description="True if an operator created the key, and not another key of the account."
    )
    expires_at: datetime | None
    expired: bool
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(
        description="Time of the last request, recorded about once a minute."
    )
    current: bool = Field(description="True for the key that authenticated this request.")


class NewKey(ResponseModel):
    """A new API key with its secret, which no later response contains."""

    id: UUID
    name: str | None = Field(examples=["evaluation script"])
    hint: str = Field(description="Last characters of the secret.", examples=["x7Qa"])
    role: Role = Field(examples=["owner"])
    scopes: list[Scope]
    issued_at: datetime
    expires_at: datetime | None
    secret: str = Field(
        description="The secret. Send it in the header `Authorization: Bearer`.",
        examples=["eco_..."],
    )
