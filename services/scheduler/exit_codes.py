"""What the exit code of a trainer that said nothing tells about its failure."""

from __future__ import annotations

import signal

from domain.jobs.failures import FailureClass

# Of the trainer's own watchdog, see services/trainer/lease.py. An overrun is no failure: paid time
# and grace were over.
OVERRUN, STALL = 4, 5

# A kill from outside says nothing about the job: the kernel's memory killer, an operator and a
# machine that goes down all look like it. It is the machine's, so that it is tried again.
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def failure_of_exit(exit_code: int | None) -> FailureClass:
    """The failure class of a process that ended, or is nowhere (None), without a last word."""
    if exit_code is None or exit_code in KILLED:
        return FailureClass.NODE_LOST
    if exit_code == STALL:
        return FailureClass.TIMEOUT
    return FailureClass.TRAINER_CRASHED
