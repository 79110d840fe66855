"""LoRA's linear layer for training, which rounds the sum of base and adapter once.

PEFT adds the adapter's part to the rounded output of the base. In bfloat16, with 8-bit mantissas,
most of a new adapter's part is below half a unit in the last place, and is lost. This layer sums
both in float32, inside the matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DROPOUT_STEPS = 256  # dropout is a multiple of 1 / 256: one random byte decides an element
SHIFTS = 1 << 16  # elements by which the masks of two modules may be shifted


class LoraLinear(Linear):
    """PEFT's LoRA layer over a linear module, full or 4-bit, with its own forward pass.

    y = x W^T + bias + scaling dropout(x) A^T B^T. Source: Hu et al., LoRA (2021). A and B are
    float32 and are multiplied in the dtype of x. If adapters are disabled, it is the base layer.
    """

    keep: Tensor | None = None  # dropout's mask for the present micro-batch; see `Dropout`

    @property
    def inputs(self) -> int:
        """Input features."""
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
    """Dropout in 256ths, rounded; at most 255, and 0 only without dropout."""
    share = getattr(dropout, "p", 0.0)
    return min(DROPOUT_STEPS - 1, max(int(share > 0), round(DROPOUT_STEPS * share)))


class Dropout:
    """Draws dropout's masks of all adapted modules, for one micro-batch at a time.

    On a CPU a random number per element takes longer than its products. So all modules share one
    random row, each at its own random offset. No two modules drop the same pattern, and each
    element is dropped with dropout's probability.
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
        """Context of the forward and backward pass of this many tokens, with padding.

        Uses torch's random state. Outside of the context nothing is dropped.
        """
        if self._dropped == 0:
            yield
            return
        words = torch.empty(
            (tokens * max(self._sizes) + SHIFTS) // 8, dtype=torch.int64, device=device
        )
        words.random_(-(2**63), None)  # without bounds the sign bit would be 0
        row = (words.view(torch.uint8) >= self._dropped).to(dtype)
        # Multiples of 8, so that every module's part is aligned.
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
        """Outputs of shape (tokens, outputs), each rounded once."""
        a, b = a.to(x.dtype), b.to(x.dtype)
        inner = (x if keep is None else x * keep) @ a.t()
        ctx.save_for_backward(x, weight, a, b, keep, inner)
        return torch.addmm(inner @ b.t(), x, dense(weight, x.dtype).t())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B; those of A and B in float32."""
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
    """A base layer's weight (outputs, inputs), dequantised if it is in 4 bits."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight, state).to(dtype)
