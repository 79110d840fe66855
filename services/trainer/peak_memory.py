"""The peak memory of a trainer's model, comparable with the prediction."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_program_bytes: int | None = None


def note_program() -> None:
    """Record the memory of this process before it loads a base; only the first call counts.

    The predicted memory on a CPU is without interpreter and libraries, about 0.4 GiB.
    """
    global _program_bytes  # a process has one
    if _program_bytes is None:
        _program_bytes = _resident("VmRSS")


class PeakMemory:
    """The peak of one rank: all memory of its GPU, or resident memory without the program on a CPU.

    On a CPU the peak of loading does not count (`forget_loading`), because the kernel can reclaim
    the pages of the file that is read.

    On a GPU it is the memory reserved by torch's allocator plus the CUDA context and libraries. The
    latter are measured once, when the model is loaded. The GPU has no other process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._beside = device, 0
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            self._beside = max(0, total - free - torch.cuda.memory_reserved(device))

    @property
    def bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device) + self._beside
        return max(0, _resident("VmHWM") - (_program_bytes or 0))


def forget_loading() -> None:
    """Reset the peak of the resident set once a base is loaded; see proc(5), clear_refs."""
    with suppress(OSError):  # not every kernel has it: the peak then includes loading
        CLEAR_REFS.write_text("5")


def _resident(name: str) -> int:
    """Bytes of the resident set: VmRSS now, VmHWM at its highest, both in kB; see proc(5)."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found.group(1))
