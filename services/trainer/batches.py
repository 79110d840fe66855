"""Batches of examples as tensors, and their total loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from domain.estimating.batching import padded
from infrastructure.chat.chat_labels import IGNORED, Example
from services.trainer.kernels.attention import attends_packed
from services.trainer.kernels.cross_entropy import CrossEntropy, TokenLosses


@dataclass(frozen=True)
class Batch:
    """Examples packed into one row of tokens, without padding.

    Only attention needs rows of equal length. `layout` and `places` map to those rows and back.
    """

    input_ids: Tensor  # (tokens)
    positions: Tensor  # (tokens): position within the example
    layout: Tensor  # (examples, length): token index; the token count marks padding
    places: Tensor  # (tokens): index in the flattened layout
    predicting: Tensor  # (trainable tokens): index of the token before each trainable token
    targets: Tensor  # (trainable tokens): token ID of each trainable token
    rows: Tensor  # (trainable tokens): example of each trainable token

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @property
    def label_tokens(self) -> int:
        """Number of trainable tokens. The first token of an example is never predicted."""
        return len(self.targets)

    @property
    def shape(self) -> tuple[int, int]:
        rows, length = self.layout.shape
        return rows, length


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    """Pack examples into a batch on the CPU, and copy it to the device."""
    rows, length = len(examples), padded(max(len(each.input_ids) for each in examples))
    sizes = torch.tensor([len(each.input_ids) for each in examples])
    column = torch.arange(length).expand(rows, length)
    real = column < sizes[:, None]
    tokens = int(sizes.sum())
    layout = torch.full((rows, length), tokens)
    layout[real] = torch.arange(tokens)
    labels = torch.tensor([label for each in examples for label in each.labels])
    following = labels.roll(-1)
    following[sizes.cumsum(0) - 1] = IGNORED  # the last token of an example predicts nothing
    predicting = (following != IGNORED).nonzero().squeeze(1)
    parts = (
        torch.tensor([token for each in examples for token in each.input_ids]),
        column[real],
        layout,
        real.flatten().nonzero().squeeze(1),
        predicting,
        following[predicting],
        torch.arange(rows).repeat_interleave(sizes)[predicting],
    )
    if device.type == "cpu":
        return Batch(*parts)
    # Pinned, so that the copy overlaps with the GPU's work on the previous batch.
    return Batch(*(part.pin_memory().to(device, non_blocking=True) for part in parts))


def processed_tokens(base: nn.Module, batch: Batch) -> int:
    """Return the number of tokens that a base model processes for a batch, including padding."""
    return batch.tokens if attends_packed(base) else batch.layout.numel()


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross entropy summed over the trainable tokens, in nats, as a float32 scalar."""
    loss = CrossEntropy.apply(logits_of(model, batch), batch.targets)
    assert isinstance(loss, Tensor)
    return loss


def log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Return each example's sum over trainable tokens, in nats: float32 (examples)."""
    losses = TokenLosses.apply(logits_of(model, batch), batch.targets)
    assert isinstance(losses, Tensor)
    return losses.new_zeros(batch.shape[0]).index_add(0, batch.rows, -losses)


def scored(model: nn.Module, batch: Batch) -> tuple[float, int]:
    """Return the summed loss in nats, and the number of trainable tokens that rank first."""
    logits = logits_of(model, batch)
    correct = (logits.argmax(dim=1) == batch.targets).sum()
    return CrossEntropy.apply(logits, batch.targets).item(), int(correct)


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of the trainable tokens: (trainable tokens, vocabulary).

    The head runs only at positions before a trainable token. If the base model has no packed
    attention, rows are padded on the right.
    """
    base = extract_model_from_parallel(model)
    inputs: dict[str, Any]
    if attends_packed(base):
        at = batch.predicting
        inputs = {
            "input_ids": batch.input_ids[None],
            "position_ids": batch.positions[None],
            # transformers passes a four-dimensional mask to attention unchanged.
            "attention_mask": batch.layout[None, None],
            "places": batch.places,
        }
    else:
        at = batch.places[batch.predicting]
        padding = batch.input_ids[-1:]  # any token works
        inputs = {"input_ids": torch.cat([batch.input_ids, padding])[batch.layout]}

    def select(head: nn.Module, states: tuple[Tensor]) -> tuple[Tensor]:
        return (states[0].flatten(0, 1)[at][None],)

    hook = base.get_output_embeddings().register_forward_pre_hook(select)
    try:
        return model(**inputs, use_cache=False).logits[0]
    finally:
        hook.remove()
