"""Matrix-product benchmark of this machine: `python -m services.trainer.speed_probe`.

It prints TFLOPS by dtype as JSON, for products of sizes typical of training, on all cores. It
repeats them for about a second and uses the fastest tenth, which other load affects least.
"""

from __future__ import annotations

import json
import os
import time

from domain.training.precision import Dtype
from services.model_libraries import lean_imports

SECONDS = 0.5  # for each dtype
ROWS, INPUTS, OUTPUTS = 512, 1024, 1024
FASTEST = 0.1
WARM_UP = 3


def measure(dtype: Dtype, seconds: float = SECONDS) -> float:
    """Return the TFLOPS of the fastest tenth of the products in this many seconds."""
    import torch

    from services.model_libraries import torch_dtype

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    left = torch.randn(ROWS, INPUTS).to(torch_dtype(dtype))
    right = torch.randn(OUTPUTS, INPUTS).to(torch_dtype(dtype))
    taken: list[float] = []
    end = time.perf_counter() + seconds
    with torch.no_grad():
        while len(taken) <= WARM_UP or time.perf_counter() < end:
            began = time.perf_counter()
            torch.nn.functional.linear(left, right)
            taken.append(time.perf_counter() - began)
    fastest = sorted(taken[WARM_UP:])
    best = fastest[: max(1, round(FASTEST * len(fastest)))]
    return 2 * ROWS * INPUTS * OUTPUTS * len(best) / sum(best) / 1e12


if __name__ == "__main__":
    lean_imports()
    print(json.dumps({dtype.value: measure(dtype) for dtype in Dtype}))
