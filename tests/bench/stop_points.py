"""Run the trainer's program and signal it at a chosen place of its work, for benchmarks.

`python -m tests.bench.stop_points [--compiled] [PLACE NUMBER SIGNAL] SPEC.json` sends the pod the
signal when rank 0 reaches the place for the NUMBER-th time (from 1). `--compiled` compiles a job of
one rank, even if it is short.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from domain.estimating.estimate import Precision
from infrastructure.training.reports import SegmentSpec
from services.model_libraries import lean_imports
from services.trainer.__main__ import end, run
from services.trainer.processes.agent import STOPS

MODULE = "tests.bench.stop_points"
COMPILED_FLAG = "--compiled"


class Place(StrEnum):
    """Places at which training can be interrupted."""

    FORWARD = "forward"  # in a micro-batch's forward pass
    BACKWARD = "backward"  # in its backward pass
    BETWEEN = "between"  # after it, before the next one or the optimizer step
    SAVE = "save"  # a checkpoint is written, but not stored


def act_at(place: Place, number: int, act: Callable[[], None], patch: Callable = setattr) -> None:
    """Call `act` once, when training in this process reaches a place for the number-th time.

    `patch` sets an attribute of a class or module, like `setattr`.
    """
    count = 0

    def arrive() -> None:
        nonlocal count
        count += 1
        if count == number:
            act()

    if place is Place.SAVE:
        _arrive_in_save(arrive, patch)
    elif place is Place.FORWARD:
        _arrive_in_forward(arrive, patch)
    else:
        _arrive_at_backward(place, arrive, patch)


def _arrive_in_save(arrive: Callable[[], None], patch: Callable) -> None:
    from services.trainer import checkpoint

    write = checkpoint.write

    def write_and_arrive(*arguments: Any) -> dict[str, str]:
        written = write(*arguments)
        arrive()
        return written

    patch(checkpoint, "write", write_and_arrive)


def _arrive_in_forward(arrive: Callable[[], None], patch: Callable) -> None:
    from transformers.modeling_utils import PreTrainedModel

    forward = PreTrainedModel.__call__

    def forward_and_arrive(model: PreTrainedModel, *arguments: Any, **named: Any) -> Any:
        # The inner model has computed everything but the head.
        output = forward(model, *arguments, **named)
        if model.training and model.get_output_embeddings() is None:
            arrive()
        return output

    patch(PreTrainedModel, "__call__", forward_and_arrive)


def _arrive_at_backward(place: Place, arrive: Callable[[], None], patch: Callable) -> None:
    """In the backward pass or after it, depending on the place."""
    import torch

    backward = torch.Tensor.backward

    def backward_and_arrive(loss: torch.Tensor, *arguments: Any, **named: Any) -> None:
        if place is Place.BACKWARD:
            loss.register_hook(lambda _: arrive())
        backward(loss, *arguments, **named)
        if place is Place.BETWEEN:
            arrive()

    patch(torch.Tensor, "backward", backward_and_arrive)


def _interrupt(pod_pid: int, number: int) -> None:
    """Signal the pod. SIGKILL goes to its leader alone, whose end ends all."""
    print(f"signalled at={time.monotonic():.6f}", flush=True)
    os.kill(os.getpid() if number == signal.SIGKILL else pod_pid, number)


def _start_ranks_here(arguments: list[str]) -> None:
    """Make the agent of several ranks start this program in them instead of the trainer's."""
    from torch.distributed.elastic.agent.server import api

    spec = api.WorkerSpec

    def with_stop_point(**fields: Any) -> api.WorkerSpec:
        flag, _, *rest = fields.pop("args")
        return spec(**fields, args=(flag, MODULE, *arguments, *rest))

    api.WorkerSpec = with_stop_point  # pyright: ignore[reportAttributeAccessIssue]


def compile_any_length() -> None:
    """Also compile jobs that are too short to benefit."""
    lean_imports()
    from services.trainer import segment

    segment.COMPILED_WORK = 0


def main(*arguments: str) -> int:
    """Run the trainer's program as the arguments say, and return its exit code."""
    if arguments[0] == COMPILED_FLAG:
        compile_any_length()
        arguments = arguments[1:]
    return run(arguments) if len(arguments) == 1 else _run_to_a_stop(*arguments)


def _run_to_a_stop(place: str, number: str, signal_number: str, *arguments: str) -> int:
    spec = SegmentSpec.model_validate_json(Path(arguments[0]).read_text())
    if spec.gpu_count > 1 and "RANK" not in os.environ:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # before torch starts threads
        lean_imports()
        _start_ranks_here([place, number, signal_number])
    elif os.environ.get("RANK", "0") == "0":
        lean_imports(quantized=spec.precision is Precision.NF4)
        pod_pid = int(arguments[1]) if len(arguments) > 1 else os.getpid()
        act = partial(_interrupt, pod_pid, int(signal_number))
        act_at(Place(place), int(number), act)
    return run(arguments)


if __name__ == "__main__":
    end(main(*sys.argv[1:]))
