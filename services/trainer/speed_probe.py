"""Matrix-product benchmark of this machine: `python -m services.trainer.speed_probe`.

It prints TFLOPS by dtype as JSON, for products of sizes typical of training, on all cores. It
repeats them for about a second and uses the fastest tenth. It counts the computing time of the main
thread, which does its share of each product, because other load would extend the elapsed time. A
CPU quota, such as the limit of a container, also limits trainers, so the elapsed time of all
products counts if the quota stopped this process.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from domain.training.precision import Dtype
from services.model_libraries import lean_imports

SECONDS = 0.5  # for each dtype
ROWS, INPUTS, OUTPUTS = 512, 1024, 1024
FASTEST = 0.1
WARM_UP = 3

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
"""Control groups of this process: `number:controllers:path` in each line (man 7 cgroups)."""


def measure(dtype: Dtype, seconds: float = SECONDS) -> float:
    """Return the TFLOPS of the products in this many seconds."""
    import torch

    from services.model_libraries import torch_dtype

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    left = torch.randn(ROWS, INPUTS).to(torch_dtype(dtype))
    right = torch.randn(OUTPUTS, INPUTS).to(torch_dtype(dtype))
    elapsed: list[float] = []
    computing: list[float] = []
    stops, end = stops_by_quota(), time.perf_counter() + seconds
    with torch.no_grad():
        while len(elapsed) <= WARM_UP or time.perf_counter() < end:
            began, computed = time.perf_counter(), time.thread_time()
            torch.nn.functional.linear(left, right)
            elapsed.append(time.perf_counter() - began)
            computing.append(time.thread_time() - computed)
    return tflops(elapsed, 1.0) if stops_by_quota() > stops else tflops(computing, FASTEST)


def tflops(taken: Sequence[float], share: float) -> float:
    """Return the TFLOPS of the fastest share of products that took these seconds."""
    fastest = sorted(taken[WARM_UP:])
    best = fastest[: max(1, round(share * len(fastest)))]
    return 2 * ROWS * INPUTS * OUTPUTS * len(best) / sum(best) / 1e12


def stops_by_quota() -> int:
    """Return how often a CPU quota has stopped this process and its control group; 0 without one.

    Both versions of control groups count this in `cpu.stat`. In a container, the own group is at
    the root.
    """
    paths = {""}
    with suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "cpu" in controllers.split(","):
                paths.add(path.strip("/"))
    stops = 0
    for path in paths:
        for mount in ("", "cpu"):
            with suppress(OSError):
                text = (CGROUPS / mount / path / "cpu.stat").read_text()
                stops += sum(map(int, re.findall(r"^nr_throttled (\d+)$", text, re.MULTILINE)))
    return stops


if __name__ == "__main__":
    lean_imports()
    print(json.dumps({dtype.value: measure(dtype) for dtype in Dtype}))
