"""Failure classes of trainers that exited without a final report."""

from __future__ import annotations

import signal

from domain.jobs.failures import FailureClass

# Exit codes of the trainer's watchdog. An overrun is not a failure: paid time and grace were over.
OVERRUN, STALL = 4, 5

# The kernel's memory killer, an operator and a shutdown all kill with SIGKILL. It counts as the
# machine's fault, so that the job is retried.
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def failure_of_exit(exit_code: int | None) -> FailureClass:
    """Failure class of a process that exited without a final report; None: it disappeared."""
    if exit_code is None or exit_code in KILLED:
        return FailureClass.NODE_LOST
    if exit_code == STALL:
        return FailureClass.TIMEOUT
    return FailureClass.TRAINER_CRASHED
