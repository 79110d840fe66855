"""Cross entropy over a large vocabulary, without a float32 copy of all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED, LAUNCHED = 1 << 18, 1 << 24
"""Logits per chunk: 1 MB for a CPU's cache, 64 MB because GPU launches take time."""


def rows_at_once(logits: Tensor) -> int:
    return max(1, (CACHED if logits.device.type == "cpu" else LAUNCHED) // logits.shape[1])


class CrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(logits)[target] over positions, in nats, computed in float32.

    `logits` (positions, vocabulary) may have any floating dtype; `targets` (positions) are int64.
    Only the logits and the log-sum-exp of each position are saved. The backward pass recomputes the
    probabilities from them in chunks. Source: Dao et al., FlashAttention (2022), section 3.1.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the sum as a float32 scalar, which is 0 without positions."""
        total = logits.new_zeros((), dtype=torch.float32)
        normalizers = [total.new_empty(0)]
        size = rows_at_once(logits)
        for rows, ids in zip(logits.split(size), targets.split(size), strict=True):
            scores = rows.float()
            normalizer = torch.logsumexp(scores, dim=1)
            total += (normalizer - scores.gather(1, ids[:, None]).squeeze(1)).sum()
            normalizers.append(normalizer)
        ctx.save_for_backward(logits, targets, torch.cat(normalizers))
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        """Return the gradient of the logits, in their dtype: softmax, minus 1 at the target."""
        (grad,) = grad_outputs
        logits, targets, normalizers = ctx.saved_tensors
        return _grad_logits(logits, targets, normalizers, grad.expand(len(targets))), None


class TokenLosses(torch.autograd.Function):
    """-log softmax(logits)[target] of each position, in nats, computed as in `CrossEntropy`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the losses as float32: (positions)."""
        losses = [logits.new_empty(0, dtype=torch.float32)]
        normalizers = [logits.new_empty(0, dtype=torch.float32)]
        size = rows_at_once(logits)
        for rows, ids in zip(logits.split(size), targets.split(size), strict=True):
            scores = rows.float()
            normalizers.append(torch.logsumexp(scores, dim=1))
            losses.append(normalizers[-1] - scores.gather(1, ids[:, None]).squeeze(1))
        ctx.save_for_backward(logits, targets, torch.cat(normalizers))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        """Return the gradient of the logits, in their dtype."""
        (grads,) = grad_outputs
        logits, targets, normalizers = ctx.saved_tensors
        return _grad_logits(logits, targets, normalizers, grads), None


def _grad_logits(logits: Tensor, targets: Tensor, normalizers: Tensor, grads: Tensor) -> Tensor:
    """Return softmax, minus 1 at the target, times the gradient of each position's loss."""
    grad_logits = torch.empty_like(logits)
    size = rows_at_once(logits)
    pieces = (each.split(size) for each in (grad_logits, logits, targets, normalizers, grads))
    for out, rows, ids, normalizer, grad in zip(*pieces, strict=True):
        shares = (rows.float() - normalizer[:, None]).exp_()
        shares.scatter_add_(1, ids[:, None], shares.new_full((len(ids), 1), -1.0))
        out.copy_(shares.mul_(grad[:, None]))
    return grad_logits
