"""The row norms of DoRA, which the trainer and serving share."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def adapted_norms(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return the norm of each row of W + scaling B A, in float32 and without a gradient.

    Shapes: W (outputs, inputs), A (r, inputs), B (outputs, r), and the result (outputs,). DoRA
    multiplies each output by its magnitude / norm, with the norm as a constant. Source: Liu et al.,
    DoRA (2024), section 4.3. The squares are expanded, so the sum of the weights is never stored.
    """
    weight, a, b = weight.float(), a.float(), b.float() * scaling
    squares = torch.linalg.vector_norm(weight, dim=1).square()
    squares += ((2 * (weight @ a.t()) + b @ (a @ a.t())) * b).sum(1)
    # A row of zeros would give 0 / 0.
    return squares.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
