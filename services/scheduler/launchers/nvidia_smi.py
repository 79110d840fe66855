"""A list of the NVIDIA GPUs of this machine."""

from __future__ import annotations

import subprocess

COMMAND = ("nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader")
TIMEOUT_SECONDS = 30.0  # without persistence mode, the driver takes seconds to load


def nvidia_devices() -> dict[int, str]:
    """Return the names of the GPUs by index in PCI order; empty if nvidia-smi is missing or fails.

    CUDA uses these indices only if CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    try:
        answer = subprocess.run(
            COMMAND, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = (line.partition(",") for line in answer.stdout.splitlines())
    return {int(index): name.strip() for index, _, name in rows if index.strip().isdecimal()}
