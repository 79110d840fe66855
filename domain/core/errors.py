"""Refusals: what a command answers when the rules do not allow it."""

from __future__ import annotations

from collections.abc import Sequence


class DomainError(Exception):
    """A refusal with a stable code, a sentence for a person, and the field it is about, if one.

    `figures` are the numbers in the sentence, by name, for programs that act on the refusal.
    """

    code = "refused"

    def __init__(
        self, message: str, *, field: str | None = None, figures: dict[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.figures = figures


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


class NoCapacity(DomainError):
    """The GPUs that were asked for are all in use."""

    code = "no_capacity"


class SeveralProblems(DomainError):
    """More than one thing is wrong with a form; each is one of `problems`."""

    code = "invalid"

    def __init__(self, problems: Sequence[DomainError]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


class StaleSegment(DomainError):
    """A report of a segment that is no longer the running one."""

    code = "stale_segment"


class VersionConflict(DomainError):
    """Another writer was first; reload and try again."""

    code = "version_conflict"


class CommandReused(DomainError):
    """The same idempotency key came with another request."""

    code = "idempotency_key_reused"
