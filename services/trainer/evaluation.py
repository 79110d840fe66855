"""Held-out loss: the base against the adapted model, on examples that were never trained on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from peft import PeftModel
from torch import nn

from infrastructure.reports import Evaluation
from services.trainer.batches import collate, loss_sum
from services.trainer.examples import Example
from services.trainer.failures import LossDiverged
from services.trainer.plan import cut
from services.trainer.ranks import Ranks


def evaluate(
    model: PeftModel,
    examples: list[Example],
    batch_size: int,
    pad_id: int,
    ranks: Ranks,
    check: Callable[[], None],
) -> Evaluation:
    """Mean loss in nats per label token with the adapter off (before) and on (after).

    The base is frozen, so that its loss is the same at any time and needs no place in a checkpoint.
    `check` is called before each batch and may raise to stop.
    """
    model.eval()
    with torch.inference_mode():
        with model.disable_adapter():
            before, _ = mean_loss(model, examples, batch_size, pad_id, ranks, check)
        after, label_tokens = mean_loss(model, examples, batch_size, pad_id, ranks, check)
    return Evaluation(
        loss_before=before, loss_after=after, examples=len(examples), label_tokens=label_tokens
    )


def mean_loss(
    model: nn.Module,
    examples: list[Example],
    batch_size: int,
    pad_id: int,
    ranks: Ranks,
    check: Callable[[], None],
) -> tuple[float, int]:
    """(mean loss in nats per label token, label tokens) of examples, batched by length.

    The batches are spread over the ranks, and all of them get the same result. Raises
    LossDiverged when the loss is no finite number.
    """
    by_length = sorted(examples, key=lambda example: -len(example.input_ids))
    total, label_tokens = 0.0, 0
    for indices in ranks.share(cut(range(len(by_length)), batch_size)):
        check()
        batch = collate([by_length[index] for index in indices], pad_id, ranks.device)
        total += loss_sum(model, batch).item()
        label_tokens += batch.label_tokens
    total, label_tokens = ranks.sum(total, label_tokens)
    if not math.isfinite(total):
        raise LossDiverged(f"the held-out loss is {total}")
    return total / label_tokens, int(label_tokens)
