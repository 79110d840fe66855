"""Refusals: what a command answers when the rules do not allow it."""

from __future__ import annotations


class DomainError(Exception):
    """A refusal with a stable code, a sentence for a person, and the field it is about, if one."""

    code = "refused"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class NotFound(DomainError):
    """There is no such thing, or it belongs to another account."""

    code = "not_found"


class Invalid(DomainError):
    """A value is outside of what is accepted."""

    code = "invalid"


class WrongState(DomainError):
    """The command is not allowed in the present state."""

    code = "wrong_state"


class InsufficientBalance(DomainError):
    """The account's balance does not cover what was asked for."""

    code = "insufficient_balance"


class StaleSegment(DomainError):
    """A report of a segment that is no longer the running one."""

    code = "stale_segment"


class VersionConflict(DomainError):
    """Another writer was first; reload and try again."""

    code = "version_conflict"


class CommandReused(DomainError):
    """The same idempotency key came with another request."""

    code = "idempotency_key_reused"
