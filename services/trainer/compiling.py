"""Compiled layers: what lies between a layer's matrix products becomes few passes over memory.

On a CPU, casts, norms, rotations and activations take longer than the products do. torch's compiler
fuses them, at a cost of some ten seconds before the first step, so that long jobs are compiled and
short ones are not.
"""

from __future__ import annotations

import shutil
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from domain.precision import Precision
from infrastructure.reports import SegmentSpec
from services.trainer.attention import SHORT_ROW
from services.trainer.ranks import Ranks


def why_eager(spec: SegmentSpec, ranks: Ranks) -> str | None:
    """What keeps a segment from being compiled, whatever its length; None if nothing does.

    On a GPU the kernels of a large base are long enough by themselves, and 4-bit weights are
    unpacked by an operator that the compiler does not look into: neither was measured to pay.
    """
    if ranks.device.type != "cpu":
        return f"on {ranks.device.type}"
    if ranks.count > 1:
        return "several ranks share the cores"
    if spec.precision is Precision.NF4 or spec.gradient_checkpointing:
        return "4-bit weights or activations that are computed again"
    if shutil.which("g++") is None:
        return "this machine has no g++"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "this machine has no Python.h"
    return None


class Compiled:
    """The compiled layers of a base, in training alone: evaluating is too short to pay for more.

    The compiler makes kernels for the first shape that it sees of a kind, and how they add up may
    depend on it. It is shown the same shape for each kind, whatever comes first, so that a job that
    resumes in another place has the same kernels.
    """

    def __init__(self, base: nn.Module, practise: Callable[[int, int], None]) -> None:
        """`practise` runs a micro batch (rows, tokens) there and back, and leaves no trace."""
        self._practise = practise
        self.seconds = 0.0  # that compiling has taken so far
        self._kinds: set[tuple[bool, bool]] = set()
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # or it goes on eagerly, unheard
        assert isinstance(base, PreTrainedModel)
        # Else the first layer, whose input needs no gradient, would be compiled by itself.
        base.enable_input_require_grads()
        names = set(base._no_split_modules or ())
        self._layers = [each for each in base.modules() if type(each).__name__ in names]
        for layer in self._layers:
            layer.compile(dynamic=True)
        self._calls = [layer._compiled_call_impl for layer in self._layers]
        self._switch(on=False)

    @contextmanager
    def running(self, rows: int, tokens: int) -> Iterator[None]:
        """For a micro batch of this shape; outside of it the layers are eager."""
        self.prepare(rows, tokens)
        self._switch(on=True)
        try:
            yield
        finally:
            self._switch(on=False)

    def prepare(self, rows: int, tokens: int) -> None:
        """Have the kernels for micro batches of this shape; raises whatever the compiler does."""
        kind = rows > 1, tokens > SHORT_ROW
        if kind in self._kinds:
            return
        began = time.monotonic()
        self._switch(on=True)
        try:
            self._practise(2 if rows > 1 else 1, SHORT_ROW + 8 if tokens > SHORT_ROW else 64)
        finally:
            self._switch(on=False)
        self._kinds.add(kind)
        self.seconds += time.monotonic() - began

    def _switch(self, *, on: bool) -> None:
        """`compile` has left its callable there; with None a module is called as ever."""
        for layer, call in zip(self._layers, self._calls, strict=True):
            layer._compiled_call_impl = call if on else None
