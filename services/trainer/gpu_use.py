"""Utilization and memory of the GPUs of a job, from NVIDIA's management library (NVML)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

SAMPLE_SECONDS = 1.0
"""Seconds between two samples. NVML averages the utilization over at most a second."""


@dataclass(frozen=True)
class GpuUse:
    """The use of all GPUs of a job."""

    utilization: float  # mean share of the time in which a kernel ran, from 0 to 1
    memory_bytes: int  # used on all GPUs together, as in nvidia-smi


class GpuMeter:
    """Samples the use of the GPUs that this process can see, which are those of its job.

    A CPU has no samples. If NVML fails, for example on a part of a GPU (MIG), sampling ends, and
    training continues. `log` gets the error.
    """

    def __init__(
        self,
        device: torch.device,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._clock = log, clock
        self._gpus = range(torch.cuda.device_count() if device.type == "cuda" else 0)
        self._sample: GpuUse | None = None
        self._due_at = clock()

    def use(self) -> GpuUse | None:
        """Return the newest sample, or None if there is none."""
        if self._gpus and self._clock() >= self._due_at:
            self._due_at = self._clock() + SAMPLE_SECONDS
            try:
                percent = sum(torch.cuda.utilization(gpu) for gpu in self._gpus)
                used = sum(torch.cuda.device_memory_used(gpu) for gpu in self._gpus)
                self._sample = GpuUse(percent / 100 / len(self._gpus), used)
            except Exception as error:  # noqa: BLE001  # training does not need the samples
                self._gpus, self._sample = range(0), None
                self._log(f"cannot measure the utilization of the GPU: {error!r}")
        return self._sample
