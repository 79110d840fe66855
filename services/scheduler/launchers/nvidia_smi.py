"""The NVIDIA GPUs of this machine, as its driver names them."""

from __future__ import annotations

import subprocess
from collections import Counter

COMMAND = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
TIMEOUT_SECONDS = 30.0  # a driver that is not kept loaded takes seconds to wake up


def nvidia_devices() -> Counter[str]:
    """How many GPUs there are of each name; none where there is no driver, or it fails."""
    try:
        answer = subprocess.run(
            COMMAND, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return Counter()
    return Counter(line.strip() for line in answer.stdout.splitlines() if line.strip())
