"""Exit codes of the commands, for scripts."""

from __future__ import annotations

from enum import IntEnum
from http import HTTPStatus

from gateway.cli.client import ClientError, NotSignedIn, Refused, Unreachable


class ExitCode(IntEnum):
    """Exit code of a command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_ALLOWED = 3
    NOT_FOUND = 4
    GATED = 5
    WRONG_STATE = 6
    UNREACHABLE = 7
    PAUSED = 8
    NOT_PROVEN = 9
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "job failed or cancelled, dataset rejected, or download, deployment, "
    "export or push failed",
    ExitCode.USAGE: "invalid option or value",
    ExitCode.NOT_ALLOWED: "not signed in, or not allowed",
    ExitCode.NOT_FOUND: "not found in your account",
    ExitCode.GATED: "the balance is too low, or no GPU is free",
    ExitCode.WRONG_STATE: "not possible in the current state",
    ExitCode.UNREACHABLE: "the gateway does not respond or is busy; try again later",
    ExitCode.PAUSED: "the followed job is paused",
    ExitCode.NOT_PROVEN: "nothing is wrong, but a part is not proven: the last events of an "
    "invoice, or events that an audit did not compare with seals",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; a followed job continues",
}

STATUSES: dict[int, ExitCode] = {
    HTTPStatus.UNAUTHORIZED: ExitCode.NOT_ALLOWED,
    HTTPStatus.PAYMENT_REQUIRED: ExitCode.GATED,
    HTTPStatus.FORBIDDEN: ExitCode.NOT_ALLOWED,
    HTTPStatus.NOT_FOUND: ExitCode.NOT_FOUND,
    HTTPStatus.CONFLICT: ExitCode.WRONG_STATE,
    HTTPStatus.TOO_MANY_REQUESTS: ExitCode.UNREACHABLE,
}

NO_CAPACITY = "no_capacity"  # a 409 that exits like a closed gate


def exit_code_of(error: ClientError | OSError) -> ExitCode:
    """Return the exit code for an error. An OSError comes from a local file."""
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
    """Return the table of exit codes that `--help` prints at its end."""
    lines = (f"{code:>3d}  {meaning}" for code, meaning in MEANINGS.items())
    return "\n".join(["Exit codes:", *lines])
