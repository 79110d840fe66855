"""Exit codes of the account holder's commands, for scripts: one table from outcomes to numbers."""

from __future__ import annotations

from enum import IntEnum
from http import HTTPStatus

from gateway.cli.client import ClientError, NotSignedIn, Refused, Unreachable


class ExitCode(IntEnum):
    """What a command ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_ALLOWED = 3
    NOT_FOUND = 4
    GATED = 5
    WRONG_STATE = 6
    UNREACHABLE = 7
    PAUSED = 8
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed: the job (or it was cancelled), the dataset, or a download",
    ExitCode.USAGE: "an option or a value is not acceptable",
    ExitCode.NOT_ALLOWED: "not signed in, or not allowed",
    ExitCode.NOT_FOUND: "there is no such thing in your account",
    ExitCode.GATED: "refused by a gate: the balance is too low, or no GPU is free",
    ExitCode.WRONG_STATE: "not possible in the present state",
    ExitCode.UNREACHABLE: "no answer, or too busy; try again later",
    ExitCode.PAUSED: "the job that was followed is paused",
    ExitCode.INTERRUPTED: "you pressed Ctrl-C; a job that was followed goes on",
}

STATUSES: dict[int, ExitCode] = {
    HTTPStatus.UNAUTHORIZED: ExitCode.NOT_ALLOWED,
    HTTPStatus.PAYMENT_REQUIRED: ExitCode.GATED,
    HTTPStatus.FORBIDDEN: ExitCode.NOT_ALLOWED,
    HTTPStatus.NOT_FOUND: ExitCode.NOT_FOUND,
    HTTPStatus.CONFLICT: ExitCode.WRONG_STATE,
    HTTPStatus.TOO_MANY_REQUESTS: ExitCode.UNREACHABLE,
}

NO_CAPACITY = "no_capacity"  # a 409 as well, and yet a gate


def exit_code_of(error: ClientError | OSError) -> ExitCode:
    """What a command that met this error ends with; OSErrors are of local files."""
    match error:
        case NotSignedIn():
            return ExitCode.NOT_ALLOWED
        case Unreachable():
            return ExitCode.UNREACHABLE
        case Refused(problem={"code": code}) if code == NO_CAPACITY:
            return ExitCode.GATED
        case Refused(status=status) if status in STATUSES:
            return STATUSES[status]
        case Refused(status=status) if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return ExitCode.USAGE
        case Refused():
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.FAILED


def epilog() -> str:
    """The table of exit codes, as the end of `--help`."""
    lines = (f"{code:>3d}  {meaning}" for code, meaning in MEANINGS.items())
    return "\n".join(["Exit codes:", *lines])
