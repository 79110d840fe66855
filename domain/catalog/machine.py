"""Machine: what the CPU is good at that stands for GPUs of a CPU-backed type."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from domain.training.precision import Dtype

NOISE = 0.2
"""Relative difference of two probes that says nothing."""

OWN_LOAD = 0.5
"""Load of the platform's own processes; the constants of `domain.estimating.pricing` include it."""

LEVELS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
LEVEL_MARGIN = 0.25
"""Slowdowns that an estimate allows for, and how much of the first one is still called none."""


class Machine(BaseModel):
    """What the scheduler found out about the machine that CPU-backed segments run on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str  # its name in the network
    processor: str
    cores: int  # that trainers may use
    dtype: Dtype  # bf16 if the processor multiplies it natively
    tflops: dict[Dtype, float]  # found by the probe; empty: not measured yet

    def differs(self, other: Machine | None) -> bool:
        """Return True if `other` says something else; a speed must differ by over 20%."""
        if other is None or self.model_copy(update={"tflops": other.tflops}) != other:
            return True
        return any(
            dtype not in other.tflops or abs(speed / other.tflops[dtype] - 1) > NOISE
            for dtype, speed in self.tflops.items()
        )


class Conditions(BaseModel):
    """The machine of a CPU-backed type when a job is priced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cores: int
    tflops: float | None  # by the probe, in the job's dtype; None: not measured
    load: float | None  # processes that want a core now (one-minute mean); None: not known

    @property
    def slowdown(self) -> float:
        """Times that a job may take as long while the load lasts, in coarse levels; 1: no longer.

        Threads of a job and other processes share the cores alike. Levels keep an estimate the same
        from one look at it to the next.
        """
        others = max(0.0, (self.load or 0.0) - OWN_LOAD)
        shared = (self.cores + others) / self.cores
        if shared < LEVELS[1] - LEVEL_MARGIN:
            return 1.0
        return next((level for level in LEVELS if shared <= level), LEVELS[-1])
