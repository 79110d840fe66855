"""The machine that provides a CPU-backed GPU type: its speed and its load."""

from __future__ import annotations

from domain.core.value import Value
from domain.training.precision import Dtype

NOISE = 0.2
"""Relative difference between two probes of the same machine that counts as noise."""

OWN_LOAD = 0.5
"""Load of EcoLink's own processes, in cores. `domain.estimating.pricing` includes it."""

LEVELS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
LEVEL_MARGIN = 0.25
"""Margin below the second level within which a slowdown is rounded down to the first."""


class Machine(Value):
    """A machine that runs segments on its CPU, as measured by the scheduler."""

    host: str  # host name
    processor: str
    cores: int  # number of cores for trainers
    dtype: Dtype  # bf16 if the processor multiplies it natively
    # Speed in each dtype, measured by the probe; empty: not measured yet.
    tflops: dict[Dtype, float]

    def differs(self, other: Machine | None) -> bool:
        """Return True if `other` is another machine, or its speed differs by more than 20%."""
        if other is None or self.model_copy(update={"tflops": other.tflops}) != other:
            return True
        return any(
            dtype not in other.tflops or abs(speed / other.tflops[dtype] - 1) > NOISE
            for dtype, speed in self.tflops.items()
        )


class Conditions(Value):
    """Speed and load of the machine of a CPU-backed GPU type when EcoLink prices a job."""

    cores: int
    tflops: float | None  # speed in the job's dtype, measured by the probe; None: not measured
    load: float | None  # one-minute load average without EcoLink's jobs; None: unknown
    jobs: int = 0  # maximum number of other jobs that run at the same time

    @property
    def slowdown(self) -> float:
        """Factor by which other jobs and the load may slow down a job.

        Each job uses all cores, so it counts as 1. The factor of the load is one of `LEVELS`.
        """
        return self.jobs + self.busy

    @property
    def busy(self) -> float:
        """Factor by which the load may slow down a job, rounded up to one of `LEVELS`."""
        others = max(0.0, (self.load or 0.0) - OWN_LOAD)
        shared = (self.cores + others) / self.cores
        if shared < LEVELS[1] - LEVEL_MARGIN:
            return 1.0
        return next((level for level in LEVELS if shared <= level), LEVELS[-1])
