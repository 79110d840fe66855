"""Back-off between the restarts of a process or a role."""

from __future__ import annotations

FIRST_SECONDS, MOST_SECONDS = 0.2, 10.0
STEADY_SECONDS = 30.0
"""After running for this long, the back-off starts over."""


def failures_after(run_seconds: float, before: int) -> int:
    """Return the number of consecutive failures, after a run of some seconds has failed, too."""
    return 1 if run_seconds >= STEADY_SECONDS else before + 1


def backoff_seconds(failures: int) -> float:
    """Return the seconds to wait before the next start."""
    return min(MOST_SECONDS, FIRST_SECONDS * 2 ** min(failures - 1, 10))
