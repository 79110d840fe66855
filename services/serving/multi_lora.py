"""Several LoRA adapters in one forward pass. Each token uses the base model and one adapter.

For each layer, the adapters in use are concatenated into one pair of matrices. All tokens are
multiplied with all adapters, and the columns of other adapters are set to zero in between. This
takes two products and a mask for any number of adapters. On a CPU, one call per adapter takes
longer than this arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from services.dora import adapted_norms

SPARE = 2
"""Number of unused adapters that may stay stacked, ready for their next use."""


class TokenAdapters:
    """The adapter of each token in the current step. None is the base model alone."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()  # stacked adapters, in order
        self.version = 0  # version of the stack
        self.works = False  # True if any token uses an adapter
        self._tokens = torch.empty(0)
        self._masks: dict[tuple[int, ...], Tensor | None] = {}

    def begin(self, adapters: Sequence[tuple[str | None, int]], device: torch.device) -> None:
        """Start a step. `adapters` has runs of (adapter, number of tokens)."""
        self._masks.clear()
        used = {name for name, _ in adapters if name is not None}
        self.works = bool(used)
        if not used:
            return
        if not used <= set(self.names) or len(self.names) > 2 * len(used) + SPARE:
            self.names, self.version = tuple(sorted(used)), self.version + 1
        indices = {name: index for index, name in enumerate(self.names)}
        tokens = [
            index
            for name, count in adapters
            for index in [-1 if name is None else indices[name]] * count
        ]
        self._tokens = torch.tensor(tokens, device=device)[:, None]

    def forget(self) -> None:
        """Rebuild the stack in the next step, after adapters were added or removed."""
        self.names, self.version = (), self.version + 1

    def foreign(self, ranks: tuple[int, ...], device: torch.device) -> Tensor | None:
        """Return the mask (tokens, sum of ranks) of unused columns; None if there are none."""
        if ranks not in self._masks:
            columns = [index for index, rank in enumerate(ranks) for _ in range(rank)]
            foreign = self._tokens != torch.tensor(columns, device=device)
            self._masks[ranks] = foreign if bool(foreign.any()) else None
        return self._masks[ranks]

    def rows_of(self, table: Tensor) -> Tensor:
        """Return the row of each token's adapter, or the last row for the base model alone."""
        return table[self._tokens[:, 0]]


class Stack(NamedTuple):
    """The matrices of the stacked adapters in a module."""

    a: Tensor  # (inputs, sum of ranks)
    b: Tensor  # scaled, (sum of ranks, outputs)
    ranks: tuple[int, ...]
    magnitudes: Tensor | None  # (adapters + 1, outputs); the last row, of ones, is the base's


class MultiLoraLinear(Linear):
    """PEFT's LoRA layer over a linear module, with several adapters in one step.

    y = x W^T + bias + sum over adapters of (alpha / r) [own] x A^T B^T. Sources: Hu et al., LoRA
    (2021); Chen et al., Punica (2023), which gathers matrices instead. The outputs of a token with
    a DoRA adapter, without the bias, are multiplied by magnitude / norm. Source: Liu et al., DoRA
    (2024).
    """

    token_adapters = TokenAdapters()  # replaced when an adapter is added
    _stacked: tuple[int, Stack | None] = (-1, None)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return outputs of shape (..., outputs) for inputs of shape (..., inputs)."""
        base, token_adapters = self.base_layer, self.token_adapters
        assert isinstance(base, nn.Linear)
        if not token_adapters.works:
            return nn.functional.linear(x, base.weight, base.bias)
        version, stacked = self._stacked
        if version != token_adapters.version:
            stacked = self._stack(token_adapters.names, x)
            self._stacked = (token_adapters.version, stacked)
        if stacked is None:
            return nn.functional.linear(x, base.weight, base.bias)
        flat = x.view(-1, x.shape[-1])
        inner = torch.mm(flat, stacked.a)
        foreign = token_adapters.foreign(stacked.ranks, inner.device)
        if foreign is not None:
            inner.masked_fill_(foreign, 0)  # multiplying by zero would keep NaN
        # The sum is rounded once, inside the base layer's product, as in the trainer.
        y = torch.addmm(torch.mm(inner, stacked.b), flat, base.weight.t())
        if stacked.magnitudes is not None:
            y = (y * token_adapters.rows_of(stacked.magnitudes)).to(x.dtype)
        y = y if base.bias is None else y + base.bias
        return y.view(*x.shape[:-1], -1)

    def forget(self) -> None:
        """Free the stacked weights. The next step that needs them stacks them again."""
        self._stacked = (-1, None)

    def _stack(self, names: tuple[str, ...], x: Tensor) -> Stack | None:
        ranks = tuple(self.r[name] if name in self.lora_A else 0 for name in names)
        mine = [name for name, rank in zip(names, ranks, strict=True) if rank]
        if not mine:
            return None
        a = torch.cat([weight_of(self.lora_A[name]) for name in mine])
        b = torch.cat([weight_of(self.lora_B[name]).t() * self.scaling[name] for name in mine])
        magnitudes = None
        if any(name in self.lora_magnitude_vector for name in mine):
            ones = torch.ones(len(weight_of(self.base_layer)), device=x.device)
            magnitudes = torch.stack([*(self._magnitudes(name, ones) for name in names), ones])
        return Stack(a.t().contiguous().to(x.dtype), b.to(x.dtype), ranks, magnitudes)

    def _magnitudes(self, name: str, ones: Tensor) -> Tensor:
        vectors = self.lora_magnitude_vector
        return weight_of(vectors[name]) if name in vectors else ones

    def divide_magnitudes(self, name: str) -> None:
        """Replace the magnitudes of a DoRA adapter by magnitude / norm, once after loading."""
        magnitude, weight = weight_of(self.lora_magnitude_vector[name]), weight_of(self.base_layer)
        a, b = weight_of(self.lora_A[name]), weight_of(self.lora_B[name])
        norms = adapted_norms(weight, a, b, self.scaling[name])
        magnitude.data = magnitude.data.to(norms) / norms


def weight_of(linear: nn.Module) -> Tensor:
    """Return the weight of a linear module, (outputs, inputs)."""
    assert isinstance(linear.weight, Tensor)
    return linear.weight
