"""The peak memory of a trainer, as the prediction counts it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_program_bytes: int | None = None


def record_program_memory() -> None:
    """Record, once, the memory before a base model, which predictions for a CPU exclude."""
    global _program_bytes  # one per process
    if _program_bytes is None:
        _program_bytes = _resident("VmRSS")


class PeakMemory:
    """The peak memory of one rank: the memory of a GPU, or resident memory without the program.

    On a GPU, it is the memory reserved by torch's allocator plus the CUDA context and libraries.
    The latter are measured once, when the model is loaded. No other process uses the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._beside = device, 0
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            self._beside = max(0, total - free - torch.cuda.memory_reserved(device))

    @property
    def bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device) + self._beside
        return max(0, _resident("VmHWM") - (_program_bytes or 0))


def reset_peak() -> None:
    """Reset the peak (proc(5), clear_refs) after the load of a file that the kernel can reclaim."""
    with suppress(OSError):  # not every kernel supports this; the peak then includes loading
        CLEAR_REFS.write_text("5")


def _resident(name: str) -> int:
    """Return the resident set in bytes: VmRSS is the current size, VmHWM the peak. See proc(5)."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found.group(1))
