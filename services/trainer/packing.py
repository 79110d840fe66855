"""Choice of packed attention, for base models that compute the same logits with it.

Some architectures do not pass the layout of a batch to attention, or mix tokens outside attention.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from infrastructure.chat.chat_labels import Example
from services.trainer.batches import collate, logits_of
from services.trainer.failures import is_out_of_memory
from services.trainer.kernels.attention import NAME

OWN = "sdpa"
"""Name of torch's fused attention, which packed attention replaces."""

TOKENS = (5, 3)
"""Tokens of the two examples."""

TOLERANCE = {torch.bfloat16: 0.1, torch.float32: 0.001}
"""Maximum relative difference between logits that count as equal."""


def pack_if_able(base: PreTrainedModel) -> None:
    """Enable packed attention for a base model if it then computes the same logits.

    The base model must use torch's fused attention without sliding windows. The check draws no
    random numbers. Out-of-memory errors propagate.
    """
    config = base.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    windowed = (
        set(kinds) != {"full_attention"} if kinds else getattr(config, "sliding_window", None)
    )
    if base.config._attn_implementation != OWN or windowed:
        return
    expected = _logits(base)
    base.set_attn_implementation(NAME)
    try:
        able = _close(_logits(base), expected)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        able = False
    if not able:
        base.set_attn_implementation(OWN)


@torch.no_grad()
def _logits(base: PreTrainedModel) -> Tensor:
    """Return the logits (tokens, vocabulary) of two examples."""
    vocabulary = base.config.get_text_config().vocab_size
    rows = [
        tuple((7 * place + 3 * count) % vocabulary for place in range(count)) for count in TOKENS
    ]
    return logits_of(base, collate([Example(row, row) for row in rows], base.device))


def _close(found: Tensor, expected: Tensor) -> bool:
    distance = float((found - expected).float().norm() / expected.float().norm())
    return distance <= TOLERANCE[expected.dtype]
