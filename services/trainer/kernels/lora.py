"""LoRA's linear layer for training: the adapter's part and the base's are rounded once, together.

peft adds the adapter's part to an output of the base that is rounded already. In bfloat16, with 8
bits of mantissa, most of a young adapter's part is then smaller than half a unit in the last place
of what it is added to, and vanishes. Here both are summed inside the matrix product, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DROPOUT_STEPS = 256  # dropout's share is a multiple of 1 / 256: one random byte decides an element
SHIFTS = 1 << 16  # elements by which the masks of two modules may be shifted against each other


class LoraLinear(Linear):
    """peft's LoRA layer over a linear module, full or 4-bit, with a forward pass of its own.

    y = x W^T + bias + (alpha / r) dropout(x) A^T B^T. Source: Hu et al., LoRA (2021). A and B are
    float32 and are multiplied in the type of x. With the adapter switched off it is the base.
    """

    keep: Tensor | None = None  # what dropout leaves, for the micro batch at work; see `Dropout`

    @property
    def inputs(self) -> int:
        """Size of its input."""
        base = self.get_base_layer()
        assert isinstance(base, nn.Linear)
        return base.in_features

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Outputs of shape (..., outputs) for inputs of shape (..., inputs)."""
        if self.disable_adapters:
            return self.base_layer(x, *args, **kwargs)
        adapter = self.active_adapters[0]
        a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        base, keep = self.base_layer, self.keep
        scaling = self.scaling[adapter]
        if keep is not None:
            keep = keep.view(-1, x.shape[-1])
            scaling *= DROPOUT_STEPS / (DROPOUT_STEPS - dropped_steps(self.lora_dropout[adapter]))
        y = Adapted.apply(x.reshape(-1, x.shape[-1]), base.weight, a, b * scaling, keep)
        y = y if base.bias is None else y + base.bias
        return y.view(*x.shape[:-1], -1)


def dropped_steps(dropout: nn.Module) -> int:
    """Dropout's share in 256ths, rounded; never all of them, and none only for no dropout."""
    share = getattr(dropout, "p", 0.0)
    return min(DROPOUT_STEPS - 1, max(int(share > 0), round(DROPOUT_STEPS * share)))


class Dropout:
    """Draws what dropout leaves of each adapted module's input, for one micro batch at a time.

    A CPU takes longer for a random number of each element than for its products. One row of them is
    drawn for all modules, and each looks at it from a place of its own, which is drawn too: no two
    modules drop the same pattern, and each element is dropped with dropout's probability.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
        (self._dropped,) = {
            dropped_steps(dropout)
            for layer in self._layers
            for dropout in layer.lora_dropout.values()
        }
        self._sizes = [layer.inputs for layer in self._layers]

    @contextmanager
    def drawn(self, tokens: int, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
        """For the forward and backward pass of so many tokens, padding included.

        Uses torch's random state. Outside of it, nothing is dropped.
        """
        if self._dropped == 0:
            yield
            return
        words = torch.empty(
            (tokens * max(self._sizes) + SHIFTS) // 8, dtype=torch.int64, device=device
        )
        words.random_(-(2**63), None)  # without bounds it leaves the sign bit 0
        row = (words.view(torch.uint8) >= self._dropped).to(dtype)
        # In eights, so that no module's part begins inside of what is loaded at once.
        shifts = torch.randperm(SHIFTS // 8)[: len(self._layers)].mul_(8).tolist()
        for layer, size, shift in zip(self._layers, self._sizes, shifts, strict=True):
            layer.keep = row[shift : shift + tokens * size]
        try:
            yield
        finally:
            for layer in self._layers:
                layer.keep = None


class Adapted(torch.autograd.Function):
    """x W^T + (keep * x) A^T B^T for x of shape (tokens, inputs), with W frozen.

    W (outputs, inputs), A (r, inputs) and B (outputs, r); `keep` has x's shape, or is None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, keep: Tensor | None
    ) -> Tensor:
        """The outputs, (tokens, outputs), each rounded once."""
        a, b = a.to(x.dtype), b.to(x.dtype)
        inner = (x if keep is None else x * keep) @ a.t()
        ctx.save_for_backward(x, weight, a, b, keep, inner)
        return torch.addmm(inner @ b.t(), x, dense(weight, x.dtype).t())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B; those of A and B in float32, as they are."""
        x, weight, a, b, keep, inner = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        grad_inner = grad @ b
        grad_a = grad_inner.t() @ (x if keep is None else x * keep)
        grad_b = grad.t() @ inner
        grad_x = grad_inner @ a
        if keep is not None:
            grad_x = grad_x * keep
        grad_x = torch.addmm(grad_x, grad, dense(weight, x.dtype))
        return grad_x, None, grad_a.float(), grad_b.float(), None


def dense(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A base layer's weight, (outputs, inputs), out of its 4 bits if it is in such."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight, state).to(dtype)
