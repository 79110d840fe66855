"""The loss over a large vocabulary, without a copy of all logits in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED, LAUNCHED = 1 << 18, 1 << 24
"""Logits that are looked at together: on a CPU 1 MB in float32, which stays in its cache from one
pass to the next; on a GPU 64 MB, for it is launching that takes time there."""


def rows_at_once(logits: Tensor) -> int:
    """Positions that are looked at together."""
    return max(1, (CACHED if logits.device.type == "cpu" else LAUNCHED) // logits.shape[1])


class CrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(logits)[target] over positions, in nats, computed in float32.

    `logits` (positions, vocabulary) in any floating type, `targets` (positions) of int64. Only the
    logits and one number for each position are kept; the backward pass finds the probabilities from
    them, a few rows at a time. Source of keeping the log-sum-exp alone: Dao et al., FlashAttention
    (2022), section 3.1, where it serves the softmax of attention.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum, a float32 scalar; 0 without positions."""
        total = logits.new_zeros((), dtype=torch.float32)
        normalisers = [total.new_empty(0)]
        size = rows_at_once(logits)
        for rows, ids in zip(logits.split(size), targets.split(size), strict=True):
            scores = rows.float()
            normaliser = torch.logsumexp(scores, dim=1)
            total += (normaliser - scores.gather(1, ids[:, None]).squeeze(1)).sum()
            normalisers.append(normaliser)
        ctx.save_for_backward(logits, targets, torch.cat(normalisers))
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None]:
        """Gradient of the logits, in their type: softmax minus one at the target."""
        (grad,) = grad_outputs
        logits, targets, normalisers = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        size = rows_at_once(logits)
        pieces = (each.split(size) for each in (grad_logits, logits, targets, normalisers))
        for out, rows, ids, normaliser in zip(*pieces, strict=True):
            shares = (rows.float() - normaliser[:, None]).exp_()
            shares.scatter_add_(1, ids[:, None], shares.new_full((len(ids), 1), -1.0))
            out.copy_(shares.mul_(grad))
        return grad_logits, None
