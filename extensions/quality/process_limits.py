"""The processes that read the text of all examples of a dataset, and their limits."""

from __future__ import annotations

from infrastructure.process.limited_process import Limits

TASKS = "extensions.quality.worker.tasks"
"""Module of the processes."""

MEMORY_MIB = 2048
BASE_SECONDS, SECONDS_PER_MIB, MOST_SECONDS = 60, 4, 3600
"""Computing time after which an analysis stops and reports what it has found."""

FILTER_SECONDS_PER_MIB = 30
"""Filters have no partial result, so they have time for texts that consist of numbers only."""

START_SECONDS = 60
"""Computing time beside the examples: imports, and the last example."""


def seconds_of(size: int, seconds_per_mib: int = SECONDS_PER_MIB) -> int:
    """Return the computing time for the examples of a file, by its size in bytes."""
    return min(MOST_SECONDS, BASE_SECONDS + seconds_per_mib * size // 1024**2)


def limits_of(size: int, seconds_per_mib: int = SECONDS_PER_MIB) -> Limits:
    """Return the limits of the process that reads a file, by its size in bytes."""
    cpu_seconds = seconds_of(size, seconds_per_mib) + START_SECONDS
    return Limits(cpu_seconds, 10 * cpu_seconds, MEMORY_MIB)
