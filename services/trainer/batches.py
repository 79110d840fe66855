"""Micro batches as tensors, and the summed loss of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from services.trainer.examples import IGNORED, Example

PAD_MULTIPLE = 8  # matrix units of CPUs and GPUs take rows in eights


@dataclass(frozen=True)
class Batch:
    """A padded micro batch: `input_ids` and `labels` of shape (examples, length)."""

    input_ids: Tensor
    labels: Tensor

    @property
    def label_tokens(self) -> int:
        """Predicted label tokens, without each row's first token."""
        return int((self.labels[:, 1:] != IGNORED).sum())


def collate(examples: Sequence[Example], pad_id: int, device: torch.device) -> Batch:
    """Pad on the right to the longest example, rounded up to a multiple of 8.

    No attention mask is needed: with causal attention nothing real ever looks at padding to its
    right, and what padding itself computes carries no label.
    """
    longest = max(len(example.input_ids) for example in examples)
    length = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
    input_ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), length), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        input_ids[row, :size] = torch.tensor(example.input_ids)
        labels[row, :size] = torch.tensor(example.labels)
    return Batch(input_ids.to(device), labels.to(device))


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Sum of the cross entropy over the batch's label tokens, in nats, fp32, a scalar tensor."""
    return _cross_entropy(*_predictions(model, batch))


def scored(model: nn.Module, batch: Batch) -> tuple[float, int]:
    """(summed loss in nats, label tokens that were the model's first choice) of a batch."""
    logits, targets = _predictions(model, batch)
    correct = (logits.argmax(dim=1) == targets).sum()  # an ignored target is no token's id
    return _cross_entropy(logits, targets).item(), int(correct)


def _predictions(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (positions, vocabulary) in fp32, and the id that each should have chosen (positions).

    The language-model head runs only at columns that predict a label in some row: with a short
    answer after a long prompt it is most of the work.
    """
    targets = batch.labels[:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    output = model(input_ids=batch.input_ids, logits_to_keep=columns, use_cache=False)
    return output.logits.float().flatten(0, 1), targets[:, columns].flatten()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
