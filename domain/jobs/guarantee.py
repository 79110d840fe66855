"""The price guarantee of a job: the customer never pays for the error of an estimate."""

from __future__ import annotations

from typing import Self

from domain.core.counts import Count
from domain.core.value import Value
from domain.estimating.estimate import Estimate


class Guarantee(Value):
    """The most that a job costs, and the time after which it pauses instead of running on.

    Charges stop at `micros`, the upper bound of the approved estimate. Training goes on, and the
    platform pays for it. Each approval of remaining work (a resume) adds its own upper bound.
    """

    micros: int  # charges less credits of all segments, in micro-dollars
    seconds: Count  # time of all segments, less time that was lost through a fault of the platform

    @classmethod
    def of(
        cls, estimate: Estimate, factor: float, paid_micros: int = 0, used_seconds: int = 0
    ) -> Self | None:
        """Return the guarantee of an approval; None if `factor` is 0 or the GPUs are free.

        The job may take `factor` times the upper bound of the estimated time. `paid_micros` and
        `used_seconds` are those of earlier segments.
        """
        if factor == 0 or estimate.rate_micros_per_hour == 0:
            return None
        return cls(
            micros=paid_micros + estimate.high_micros,
            seconds=used_seconds + int(factor * estimate.high_seconds),
        )
