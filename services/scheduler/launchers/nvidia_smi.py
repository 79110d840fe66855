"""A list of the NVIDIA GPUs of this machine."""

from __future__ import annotations

import subprocess

from services.scheduler.launchers.launcher import LauncherUnavailable

COMMAND = ("nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader")
TIMEOUT_SECONDS = 30.0  # without persistence mode, the driver takes seconds to load


def nvidia_devices() -> dict[int, str]:
    """Return the names of the GPUs by index in PCI order; empty if nvidia-smi is not installed.

    CUDA uses these indices only if CUDA_DEVICE_ORDER is PCI_BUS_ID. Raise LauncherUnavailable if
    nvidia-smi fails.
    """
    try:
        answer = subprocess.run(
            COMMAND, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        )
    except FileNotFoundError:
        return {}
    except (OSError, subprocess.SubprocessError) as error:
        raise LauncherUnavailable(f"cannot list the GPUs of this machine: {error}") from error
    rows = (line.partition(",") for line in answer.stdout.splitlines())
    return {int(index): name.strip() for index, _, name in rows if index.strip().isdecimal()}
