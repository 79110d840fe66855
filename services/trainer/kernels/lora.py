"""A LoRA linear layer for training that rounds the sum of base layer and adapter only once.

PEFT adds the output of the adapter to the rounded output of the base layer, which loses most of a
new adapter's output in bfloat16. This layer sums both in float32, inside the matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from services.dora import adapted_norms

DROPOUT_STEPS = 256  # one random byte per element, so dropout is a multiple of 1 / 256
SHIFTS = 1 << 16  # range of a module's mask offset, in elements


class LoraLinear(Linear):
    """PEFT's LoRA layer over a linear module, full or 4-bit, with its own forward pass.

    y = x W^T + bias + scaling dropout(x) A^T B^T. Source: Hu et al., LoRA (2021). A and B are
    stored in float32 and multiplied in the dtype of x. With adapters disabled, only the base layer
    runs.

    With DoRA, each output except the bias is multiplied by magnitude / norm. Source: Liu et al.,
    DoRA (2024). In contrast to PEFT, dropout applies only to the input of A.
    """

    keep: Tensor | None = None  # dropout mask of the current micro-batch; see `Dropout`

    @property
    def inputs(self) -> int:
        base = self.get_base_layer()
        assert isinstance(base, nn.Linear)
        return base.in_features

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return outputs of shape (..., outputs) for inputs of shape (..., inputs)."""
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
        if adapter in self.lora_magnitude_vector:
            y = (y * (self.magnitude(adapter) / self.norms(adapter))).to(x.dtype)
        y = y if base.bias is None else y + base.bias
        return y.view(*x.shape[:-1], -1)

    def magnitude(self, adapter: str) -> nn.Parameter:
        """Return the trained magnitudes of DoRA, (outputs,)."""
        magnitude = self.lora_magnitude_vector[adapter].weight
        assert isinstance(magnitude, nn.Parameter)
        return magnitude

    def norms(self, adapter: str) -> Tensor:
        """Return the norms of the adapted weight's rows, (outputs,)."""
        layers = (self.base_layer, self.lora_A[adapter], self.lora_B[adapter])
        weight, a, b = (each.weight for each in layers if isinstance(each.weight, Tensor))
        return adapted_norms(dense(weight, torch.float32), a, b, self.scaling[adapter])


def dropped_steps(dropout: nn.Module) -> int:
    """Return dropout rounded to 256ths: at most 255, and 0 only without dropout."""
    share = getattr(dropout, "p", 0.0)
    return min(DROPOUT_STEPS - 1, max(int(share > 0), round(DROPOUT_STEPS * share)))


class Dropout:
    """The dropout masks of all adapted modules, drawn for one micro-batch at a time.

    On a CPU, drawing a random number per element would take longer than the matrix products. All
    modules therefore share one random row, each at its own random offset.
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
        """Draw masks for the block, which runs the forward and backward pass of this many tokens.

        `tokens` includes padding. The masks come from torch's random state. Outside the block,
        nothing is dropped.
        """
        if self._dropped == 0:
            yield
            return
        words = torch.empty(
            (tokens * max(self._sizes) + SHIFTS) // 8, dtype=torch.int64, device=device
        )
        words.random_(-(2**63), None)  # without explicit bounds, the sign bit is always 0
        row = (words.view(torch.uint8) >= self._dropped).to(dtype)
        # Multiples of 8, so that every module's slice is aligned.
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

    Shapes: W (outputs, inputs), A (r, inputs), B (outputs, r). `keep` has the shape of x, or is
    None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, keep: Tensor | None
    ) -> Tensor:
        """Return outputs of shape (tokens, outputs), each rounded once."""
        a, b = a.to(x.dtype), b.to(x.dtype)
        inner = (x if keep is None else x * keep) @ a.t()
        ctx.save_for_backward(x, weight, a, b, keep, inner)
        return torch.addmm(inner @ b.t(), x, dense(weight, x.dtype).t())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B. Those of A and B are in float32."""
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
    """Return the weight of a base layer (outputs, inputs), dequantized if it is in 4 bits."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight, state).to(dtype)
