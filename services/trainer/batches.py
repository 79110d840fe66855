"""Micro batches as tensors, and the summed loss of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from services.trainer.cross_entropy import CrossEntropy
from services.trainer.cutting import padded
from services.trainer.examples import IGNORED, Example


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
    length = padded(max(len(example.input_ids) for example in examples))
    input_ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), length), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        input_ids[row, :size] = torch.tensor(example.input_ids)
        labels[row, :size] = torch.tensor(example.labels)
    return Batch(input_ids.to(device), labels.to(device))


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Sum of the cross entropy over the batch's label tokens, in nats, fp32, a scalar tensor."""
    loss = CrossEntropy.apply(*_predictions(model, batch))
    assert isinstance(loss, Tensor)
    return loss


def scored(model: nn.Module, batch: Batch) -> tuple[float, int]:
    """(summed loss in nats, label tokens that were the model's first choice) of a batch."""
    logits, targets = _predictions(model, batch)
    correct = (logits.argmax(dim=1) == targets).sum()
    return CrossEntropy.apply(logits, targets).item(), int(correct)


def _predictions(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (positions, vocabulary), and the id that each should have chosen (positions).

    The language-model head runs only at positions that predict a label: with a short answer after a
    long prompt it would be most of the work, and of the memory.
    """
    targets = batch.labels[:, 1:]
    rows, columns = (targets != IGNORED).nonzero(as_tuple=True)

    def select(head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0][rows, columns][None],)

    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(select)
    try:
        output = model(input_ids=batch.input_ids, use_cache=False)
    finally:
        hook.remove()
    return output.logits[0], targets[rows, columns]
