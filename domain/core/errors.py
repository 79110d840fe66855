"""Errors that commands raise."""

from __future__ import annotations

from collections.abc import Sequence


class DomainError(Exception):
    """An error with a stable code and a message.

    `field` is the invalid field, if any. `figures` contains the numbers of the message in
    machine-readable form.
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
    """The object does not exist or belongs to another account."""

    code = "not_found"


class Invalid(DomainError):
    """A value is invalid."""

    code = "invalid"


class WrongState(DomainError):
    """The current state does not allow the command."""

    code = "wrong_state"


class StillCounting(WrongState):
    """The tokens of a dataset are not counted yet. The same request succeeds later."""


class InsufficientBalance(DomainError):
    """The balance is too low for the request."""

    code = "insufficient_balance"


class SpendingLimitReached(DomainError):
    """The job's maximum cost, or a budget of the account or an API key, is used up."""

    code = "spending_limit_reached"


class Suspended(DomainError):
    """The account is suspended. Only an operator can reinstate it."""

    code = "account_suspended"


class NoCapacity(DomainError):
    """All requested GPUs are in use."""

    code = "no_capacity"


class SeveralProblems(DomainError):
    """Several values of a form are invalid. `problems` contains one error for each."""

    code = "invalid"

    def __init__(self, problems: Sequence[DomainError]) -> None:
        super().__init__(" ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


class StaleSegment(DomainError):
    """The report is from a segment that is no longer running."""

    code = "stale_segment"


class VersionConflict(DomainError):
    """Another request changed the object first. Try again."""

    code = "version_conflict"


class CommandReused(DomainError):
    """The idempotency key was used for another request."""

    code = "idempotency_key_reused"


class UpgradeUnfinished(DomainError):
    """Some processes still run an older version, which could not read the result. Try later."""

    code = "upgrade_unfinished"
