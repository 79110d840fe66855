"""Schemas of the requests that create and suspend accounts."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.access.role import Role
from domain.billing.suspension import SuspensionReason
from gateway.accounts.opening import MAX_NAME

AccountName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME)
]


class AccountForm(BaseModel):
    """A new account. Its name is unique, and only operators, auditors and its keys see it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "alice", "time_zone": "Europe/Berlin"}]},
    )

    name: AccountName = Field(examples=["alice"])
    role: Role = Field(
        default=Role.OWNER, description="Role of its keys: `owner`, `operator` or `auditor`."
    )
    time_zone: str = Field(
        default="UTC", max_length=64, description="Time zone of the account's statements."
    )


class SuspensionForm(BaseModel):
    """The reason of a suspension, which the account holder sees."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "abuse"}]})

    reason: SuspensionReason
