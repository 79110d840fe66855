"""Roles."""

from __future__ import annotations

from enum import StrEnum

from domain.access.scope import Scope
from domain.core.errors import Invalid


class Role(StrEnum):
    """Roles of accounts and their API keys. A member exists only as a key of an account."""

    OWNER = "owner"
    MEMBER = "member"
    OPERATOR = "operator"
    AUDITOR = "auditor"

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes that a key with this role can have."""
        match self:
            case Role.OWNER | Role.OPERATOR:
                return tuple(Scope)
            case Role.MEMBER:
                return (Scope.READ, Scope.TRAIN, Scope.DEPLOY)
            case Role.AUDITOR:
                return (Scope.READ,)

    @property
    def key_roles(self) -> tuple[Role, ...]:
        """The roles that the keys of an account with this role can have."""
        return (self, Role.MEMBER) if self in (Role.OWNER, Role.OPERATOR) else (self,)


def require_account_role(role: Role) -> None:
    """Raise Invalid for the role `member`, which only keys have."""
    if role is Role.MEMBER:
        raise Invalid(
            "A member has no account. Issue a key with the role member for the account of its "
            "owner.",
            field="role",
        )
