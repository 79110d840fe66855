"""Several LoRA adapters in one pass: each token goes through the base and through its own adapter.

The adapters that are at work lie side by side in one pair of matrices for each layer. All tokens
are multiplied with all of them at once, and what is not a token's own is zeroed in between: two
products and a mask, however many adapters there are, where one after the other costs a CPU more in
calls than in arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

SPARE = 2
"""Adapters that may stay stacked beside those at work, so that one that rests is soon back."""


class Mixing:
    """Which adapter each token of the step at work goes through; None: the base alone."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()  # stacked, in this order
        self.version = 0  # of what is stacked
        self.works = False  # whether any token has an adapter
        self._tokens = torch.empty(0)
        self._masks: dict[tuple[int, ...], Tensor | None] = {}

    def begin(self, adapters: Sequence[tuple[str | None, int]], device: torch.device) -> None:
        """Say for a step how many tokens of which adapter follow each other."""
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
        """Adapters were put on or taken off: stack anew what the next step uses."""
        self.names, self.version = (), self.version + 1

    def foreign(self, ranks: tuple[int, ...], device: torch.device) -> Tensor | None:
        """Which columns of the stacked adapters are not a token's own, (tokens, sum of ranks).

        None where all are.
        """
        if ranks not in self._masks:
            columns = [index for index, rank in enumerate(ranks) for _ in range(rank)]
            foreign = self._tokens != torch.tensor(columns, device=device)
            self._masks[ranks] = foreign if bool(foreign.any()) else None
        return self._masks[ranks]


class MixedLinear(Linear):
    """peft's LoRA layer over a linear module, with the adapters of a step mixed.

    y = x W^T + bias + sum over adapters of (alpha / r) [own] x A^T B^T. Source: Hu et al., LoRA
    (2021); Chen et al., Punica (2023) has the same with gathered matrices.
    """

    mixing = Mixing()  # of nothing, until an adapter is put on for good
    _stacked: tuple[int, tuple[Tensor, Tensor, tuple[int, ...]] | None] = (-1, None)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Outputs of shape (..., outputs) for inputs of shape (..., inputs)."""
        base, mixing = self.base_layer, self.mixing
        assert isinstance(base, nn.Linear)
        if not mixing.works:
            return nn.functional.linear(x, base.weight, base.bias)
        version, stacked = self._stacked
        if version != mixing.version:
            stacked = self._stack(mixing.names, x)
            self._stacked = (mixing.version, stacked)
        if stacked is None:
            return nn.functional.linear(x, base.weight, base.bias)
        a, b, ranks = stacked
        flat = x.view(-1, x.shape[-1])
        inner = torch.mm(flat, a)
        foreign = mixing.foreign(ranks, inner.device)
        if foreign is not None:
            inner.masked_fill_(foreign, 0)  # a product would keep what is no number
        # The sum is rounded once, inside of the base's product, as the trainer's is.
        y = torch.addmm(torch.mm(inner, b), flat, base.weight.t())
        y = y if base.bias is None else y + base.bias
        return y.view(*x.shape[:-1], -1)

    def forget(self) -> None:
        """Let go of what is stacked; a step that needs it stacks anew."""
        self._stacked = (-1, None)

    def _stack(
        self, names: tuple[str, ...], x: Tensor
    ) -> tuple[Tensor, Tensor, tuple[int, ...]] | None:
        """A (inputs, sum of ranks), scaled B (sum of ranks, outputs) and the ranks.

        None if none of the adapters adapts this module.
        """
        ranks = tuple(self.r[name] if name in self.lora_A else 0 for name in names)
        mine = [name for name, rank in zip(names, ranks, strict=True) if rank]
        if not mine:
            return None
        a = torch.cat([weight_of(self.lora_A[name]) for name in mine])
        b = torch.cat([weight_of(self.lora_B[name]).t() * self.scaling[name] for name in mine])
        return a.t().contiguous().to(x.dtype), b.to(x.dtype), ranks


def weight_of(linear: nn.Module) -> Tensor:
    """The weight of a linear module, (outputs, inputs)."""
    assert isinstance(linear.weight, Tensor)
    return linear.weight
