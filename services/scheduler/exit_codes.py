"""Failure classes of trainers that exited without a final report."""

from __future__ import annotations

import signal

from domain.jobs.failures import FailureClass

# Exit codes of the trainer's watchdog. An overrun, with paid time and grace used up, is no failure.
OVERRUN, STALL = 4, 5

# The kernel's OOM killer, an operator and a shutdown all use SIGKILL. It is treated as a
# machine fault, so that the job is retried.
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def failure_of_exit(exit_code: int | None) -> FailureClass:
    """Return the failure class of an exit without a final report. None: the process disappeared."""
    if exit_code is None or exit_code in KILLED:
        return FailureClass.NODE_LOST
    if exit_code == STALL:
        return FailureClass.TIMEOUT
    return FailureClass.TRAINER_CRASHED
