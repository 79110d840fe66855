"""The loss and its gradient compared with torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from services.trainer.kernels.cross_entropy import CACHED, CrossEntropy

ROWS = CACHED // 300
"""Positions that are looked at together, of a vocabulary of 300."""


@pytest.mark.parametrize("positions", [1, ROWS, 2 * ROWS + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_equal_those_of_torch(positions: int, dtype: torch.dtype):
    torch.manual_seed(positions)
    logits = (3 * torch.randn(positions, 300)).to(dtype).requires_grad_()
    targets = torch.randint(300, (positions,))
    loss = CrossEntropy.apply(logits, targets)
    expected = functional.cross_entropy(logits.float(), targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss / 7, logits)
    torch.testing.assert_close(found, torch.autograd.grad(expected / 7, logits))


def test_logits_are_not_changed():
    logits = torch.randn(5, 300, requires_grad=True)
    before = logits.detach().clone()
    CrossEntropy.apply(logits, torch.arange(5)).backward()
    assert torch.equal(logits.detach(), before)


def test_no_position_has_no_loss():
    logits = torch.empty(0, 300, requires_grad=True)
    loss = CrossEntropy.apply(logits, torch.empty(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0.0
