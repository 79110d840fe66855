"""The most memory that a trainer's process has held so far, to hold against the prediction."""

from __future__ import annotations

import re
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


class PeakMemory:
    """Of one rank: of its GPU all that it takes, of a CPU the whole resident process.

    A GPU holds what torch's allocator has reserved and, beside it, the CUDA context and libraries,
    which the allocator does not see: the memory fit predicts both. What is beside it is measured
    once, when the model is loaded; the GPU is this process's alone.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._beside = device, 0
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            self._beside = max(0, total - free - torch.cuda.memory_reserved(device))

    @property
    def bytes(self) -> int:
        """The peak up to now."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device) + self._beside
        # "High water mark" of the resident set, in kB: proc_pid_status(5).
        found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
        assert found is not None
        return 1024 * int(found.group(1))
