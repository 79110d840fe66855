"""The most memory that a trainer's model has taken so far, in the terms of the prediction."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_program_bytes: int | None = None


def note_program() -> None:
    """Record what this process holds before it has a base; only the first call counts.

    The predicted memory of a CPU is what the model takes beside that: interpreter and libraries,
    some 0.4 GiB, are the same for every job.
    """
    global _program_bytes  # a process has one
    if _program_bytes is None:
        _program_bytes = _resident("VmRSS")


class PeakMemory:
    """Of one rank: of its GPU all that it takes, of a CPU what is resident beside the program.

    Of a CPU the peak of loading is left out (`forget_loading`): that reads a file whose pages the
    kernel takes back when memory is short.

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
        return max(0, _resident("VmHWM") - (_program_bytes or 0))


def forget_loading() -> None:
    """Reset the peak of the resident set once a base is loaded; see proc(5), clear_refs."""
    with suppress(OSError):  # not every kernel has it: then the peak is that of loading, too
        CLEAR_REFS.write_text("5")


def _resident(name: str) -> int:
    """Bytes of the resident set: VmRSS now, VmHWM at its highest, both in kB; see proc(5)."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found.group(1))
