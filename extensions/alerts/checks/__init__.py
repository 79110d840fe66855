"""Periodic checks of conditions that are not events. Each returns what it finds now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from extensions.alerts.checks import (
    capacity,
    certificates,
    consumers,
    disks,
    estimates,
    failures,
    processes,
    seals,
)
from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import Parameters

SECONDS, SLOW_SECONDS = 10.0, 60.0
CHECK_FAILED = "check_failed"


@dataclass(frozen=True)
class Check:
    """A check, and the seconds between two of its runs.

    `find` raises an error if it cannot tell, and the alerts of the condition stay as they are.
    """

    find: Callable[[Surroundings, Parameters], list[Finding]]
    seconds: float = SECONDS


CHECKS: Mapping[str, Callable[[], Check]] = {
    "capacity_exhausted": lambda: Check(capacity.exhausted),
    "job_skipped": lambda: Check(capacity.skipped_jobs, SLOW_SECONDS),
    "consumer_lag": lambda: Check(consumers.lagging),
    "parked_event": lambda: Check(consumers.parked),
    "seal_broken": lambda: Check(seals.broken, SLOW_SECONDS),
    "sealer_behind": lambda: Check(seals.behind, SLOW_SECONDS),
    "disk_low": lambda: Check(disks.low),
    "certificate_expiring": lambda: Check(certificates.expiring, SLOW_SECONDS),
    "process_down": lambda: Check(processes.down),
    "process_restarting": lambda: Check(processes.Restarts().restarting),
    "estimates_off": lambda: Check(estimates.off, SLOW_SECONDS),
    "overruns_high": lambda: Check(estimates.overruns, SLOW_SECONDS),
    CHECK_FAILED: lambda: Check(failures.failing),
}
"""Functions that make the check of a rule, by condition. Each rule has a check of its own."""
