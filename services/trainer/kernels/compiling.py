"""Compiled layers: what lies between a layer's matrix products becomes few passes over memory.

On a CPU, casts, norms, rotations and activations take longer than the products do. torch's compiler
fuses them, at a cost of seconds before the first step, of a minute where a base is compiled for the
first time, so that long jobs are compiled and short ones are not.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch._functorch import config as functorch_config
from transformers.modeling_utils import PreTrainedModel

from domain.training.precision import Precision
from infrastructure.disk_cache import hold
from infrastructure.reports import SegmentSpec
from services.trainer.kernels.attention import SHORT_ROW
from services.trainer.processes.ranks import Ranks


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


COMMON_SHARE = 0.25
"""Of a job's tokens, from which on a kind of micro batch is worth kernels of its own."""


class Kind(NamedTuple):
    """What the compiler tells apart in a micro batch's shape; all else is one kernel's variable."""

    several_rows: bool
    long_rows: bool  # which attention reads by tiles

    @classmethod
    def of(cls, rows: int, tokens: int) -> Kind:
        """The kind of a micro batch of so many rows of so many tokens."""
        return cls(rows > 1, tokens > SHORT_ROW)

    @property
    def example(self) -> tuple[int, int]:
        """A shape of this kind, always the same."""
        return 2 if self.several_rows else 1, SHORT_ROW + 8 if self.long_rows else 56


def common(shapes: Iterable[tuple[int, int]]) -> set[Kind]:
    """The kinds that have a fair share of the tokens of micro batches of these shapes."""
    tokens: Counter[Kind] = Counter()
    for rows, length in shapes:
        tokens[Kind.of(rows, length)] += rows * length
    return {kind for kind, count in tokens.items() if count >= COMMON_SHARE * tokens.total()}


@cache
def _keep_kernels() -> None:
    """Whenever the compiler works, from now on, have nothing deleted from its folder.

    It looks for a file and then opens it; what it has opened stays, whatever becomes of the name.
    """
    from torch._dynamo.callback import callback_handler
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    held = ExitStack()

    def hold_folder() -> None:
        folder = Path(cache_dir())
        folder.mkdir(parents=True, exist_ok=True)
        if (handle := hold(folder)) is not None:
            held.callback(os.close, handle)

    callback_handler.register_start_callback(lambda _: hold_folder())
    callback_handler.register_end_callback(lambda _: held.close())


class Compiled:
    """The compiled layers of a base, in training alone: evaluating is too short to pay for more.

    The compiler makes kernels for the first shape that it sees of a kind, and how they add up may
    depend on it. It is shown the same shape for each kind, before the first step, so that a job
    that resumes in another place has the same kernels.
    """

    def __init__(
        self,
        base: nn.Module,
        kinds: set[Kind],
        practise: Callable[[int, int], None],
        check: Callable[[], object],
    ) -> None:
        """`practise` runs a micro batch (rows, tokens) there and back, and leaves no trace.

        `check` is called before each kind. Raises whatever the compiler does, or `check`.
        """
        assert isinstance(base, PreTrainedModel)
        _keep_kernels()
        # Constants, as a norm's epsilon. As inputs they have every layer traced a second time.
        torch._dynamo.config.specialize_float = True
        # What is traced is kept with the kernels: the key has all that the functions of ours do.
        functorch_config.autograd_cache_allow_custom_autograd_functions = True
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # or it goes on eagerly, unheard
        # Else the first layer, whose input needs no gradient, would be compiled by itself.
        base.enable_input_require_grads()
        names = set(base._no_split_modules or ())
        self._layers = [each for each in base.modules() if type(each).__name__ in names]
        for layer in self._layers:
            layer.compile(dynamic=True)
        self._calls = [layer._compiled_call_impl for layer in self._layers]
        self._switch(on=False)
        self._kinds = kinds
        for kind in sorted(kinds):
            check()
            with self.running(*kind.example):
                practise(*kind.example)

    @contextmanager
    def running(self, rows: int, tokens: int) -> Iterator[None]:
        """For a micro batch of this shape; outside of it, and for a rare kind, layers are eager."""
        self._switch(on=Kind.of(rows, tokens) in self._kinds)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        """`compile` has left its callable there; with None a module is called as ever."""
        for layer, call in zip(self._layers, self._calls, strict=True):
            layer._compiled_call_impl = call if on else None
