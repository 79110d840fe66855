"""Layer compilation. torch's compiler fuses the operations between a layer's matrix products.

Compilation takes seconds before the first step, and a minute for a new base model, so only long
jobs are compiled.
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
from infrastructure.artifacts.disk_cache import hold
from infrastructure.training.reports import SegmentSpec
from services.trainer.kernels.attention import SHORT_ROW
from services.trainer.processes.ranks import Ranks


def why_eager(spec: SegmentSpec, ranks: Ranks) -> str | None:
    """Return the reason why a segment is never compiled, or None if it can be.

    Measurements showed no gain on a GPU. There is no gain with 4-bit weights either, because the
    compiler cannot fuse the dequantization operator.
    """
    if ranks.device.type != "cpu":
        return f"on {ranks.device.type}"
    if ranks.count > 1:
        return "several ranks share the cores"
    if spec.precision is Precision.NF4 or spec.gradient_checkpointing:
        return "4-bit weights or gradient checkpointing"
    if spec.hyperparameters.use_dora:
        return "DoRA computes the norms of all weights in each pass"
    if shutil.which("g++") is None:
        return "this machine has no g++"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "this machine has no Python.h"
    return None


COMMON_SHARE = 0.25
"""Share of a job's tokens above which a kind of micro-batch gets separate kernels."""


class Kind(NamedTuple):
    """The properties of a micro-batch's shape that need separate kernels."""

    several_rows: bool
    long_rows: bool  # attention uses tiles

    @classmethod
    def of(cls, rows: int, tokens: int) -> Kind:
        return cls(rows > 1, tokens > SHORT_ROW)

    @property
    def example(self) -> tuple[int, int]:
        """A fixed shape of this kind."""
        return 2 if self.several_rows else 1, SHORT_ROW + 8 if self.long_rows else 56


def common_kinds(shapes: Iterable[tuple[int, int]]) -> set[Kind]:
    """Return the kinds that have at least COMMON_SHARE of the tokens in these micro-batches."""
    tokens: Counter[Kind] = Counter()
    for rows, length in shapes:
        tokens[Kind.of(rows, length)] += rows * length
    return {kind for kind, count in tokens.items() if count >= COMMON_SHARE * tokens.total()}


@cache
def _keep_kernels() -> None:
    """Lock the compiler's cache folder whenever the compiler runs, so that no process trims it.

    The compiler checks that a file exists before it opens the file.
    """
    from torch._dynamo.callback import callback_handler
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    locks = ExitStack()

    def lock_folder() -> None:
        folder = Path(cache_dir())
        folder.mkdir(parents=True, exist_ok=True)
        if (handle := hold(folder)) is not None:
            locks.callback(os.close, handle)

    callback_handler.register_start_callback(lambda _: lock_folder())
    callback_handler.register_end_callback(lambda _: locks.close())


class Compiled:
    """The compiled layers of a base model. Only training uses them: evaluation is short.

    The compiler generates kernels for the first shape of a kind, and their order of addition may
    depend on that shape. Each kind is therefore compiled with a fixed shape before the first step,
    so that a resumed job has the same kernels.
    """

    def __init__(
        self,
        base: nn.Module,
        kinds: set[Kind],
        rehearse: Callable[[int, int], None],
        check: Callable[[], object],
    ) -> None:
        """Compile by `rehearse`, which has no side effects. `check` runs before each kind."""
        assert isinstance(base, PreTrainedModel)
        _keep_kernels()
        # Treats floats such as a norm's epsilon as constants. As inputs, they cause a second trace
        # of every layer.
        torch._dynamo.config.specialize_float = True
        # Caches the traces of custom autograd functions together with the kernels.
        functorch_config.autograd_cache_allow_custom_autograd_functions = True
        torch._dynamo.config.recompile_limit = 64
        # Raise an error instead of running layers eagerly.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # Otherwise, the first layer, whose input needs no gradient, is compiled separately.
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
                rehearse(*kind.example)

    @contextmanager
    def running(self, rows: int, tokens: int) -> Iterator[None]:
        """Run the block for a micro-batch of this shape. Rare kinds run eagerly."""
        self._switch(on=Kind.of(rows, tokens) in self._kinds)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        for layer, call in zip(self._layers, self._calls, strict=True):
            layer._compiled_call_impl = call if on else None
