"""Rights of API keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from domain.access.role import Role
from domain.access.scope import Scope
from domain.core.errors import Invalid

MAX_DAYS = 3650
"""Longest lifetime of a key that expires."""


@dataclass(frozen=True)
class Rights:
    """The rights of an API key. Without `expires_at`, they last until its revocation."""

    role: Role
    scopes: tuple[Scope, ...]
    expires_at: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Return True if the key has expired."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True)
class KeyRequest:
    """Rights wanted for a new key. None stands for those of the issuer or the account."""

    role: Role | None = None
    scopes: Collection[Scope] | None = None
    expires_at: datetime | None = None

    def granted(self, account_role: Role, issuer: Rights | None, now: datetime) -> Rights:
        """Return the rights of the new key. `issuer` is None for the operator of the host.

        A key cannot issue another one with more rights than its own. Raise Invalid.
        """
        role = self.role or (issuer.role if issuer else account_role)
        if role not in account_role.key_roles:
            raise Invalid(
                f"An account with the role {account_role} has no keys with the role {role}. "
                f"Choose {_listed(account_role.key_roles, 'or')}.",
                field="role",
            )
        if issuer and role is not issuer.role and role is not Role.MEMBER:
            raise Invalid(f"A {issuer.role} cannot issue a key with the role {role}.", field="role")
        return Rights(role, self._scopes(role, issuer), self._end(issuer, now))

    def _scopes(self, role: Role, issuer: Rights | None) -> tuple[Scope, ...]:
        held = issuer.scopes if issuer else tuple(Scope)
        possible = tuple(scope for scope in role.scopes if scope in held)
        if not possible:
            raise Invalid(
                f"The key that issues it has no scope that a {role} can have. Use another key.",
                field="role",
            )
        wanted = possible if self.scopes is None else self.scopes
        for scope in wanted:
            if scope not in possible:
                why = (
                    "The key that issues it does not have that scope."
                    if scope in role.scopes
                    else f"Its role would be {role}."
                )
                raise Invalid(
                    f"This key cannot have the scope {scope}. {why} "
                    f"Choose from {_listed(possible, 'and')}.",
                    field="scopes",
                )
        if not wanted:
            raise Invalid(f"Choose a scope: {_listed(possible, 'or')}.", field="scopes")
        return tuple(scope for scope in Scope if scope in wanted)

    def _end(self, issuer: Rights | None, now: datetime) -> datetime | None:
        """Return the time of expiry in UTC, by default that of the issuer."""
        if self.expires_at is None:
            return issuer.expires_at if issuer else None
        if self.expires_at <= now:
            raise Invalid(
                f"The key would expire at {self.expires_at:%Y-%m-%d %H:%M %Z}, which is in the "
                "past. Choose a later time.",
                field="expires_at",
            )
        if self.expires_at > now + timedelta(days=MAX_DAYS):
            raise Invalid(
                f"A key that expires does so within {MAX_DAYS:,} days. Choose an earlier time, or "
                "omit it.",
                field="expires_at",
            )
        ends = self.expires_at.astimezone(UTC)
        if issuer and issuer.expires_at and ends > issuer.expires_at:
            raise Invalid(
                "The key would outlive the key that issues it, which expires at "
                f"{issuer.expires_at:%Y-%m-%d %H:%M %Z}. Choose an earlier time.",
                field="expires_at",
            )
        return ends


def _listed(names: Iterable[str], last: str) -> str:
    *first, final = names
    return f"{', '.join(first)} {last} {final}" if first else final
