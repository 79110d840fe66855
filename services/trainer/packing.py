"""Whether a base can be trained on packed examples: tried on two of them before it is.

transformers lets the attention of most architectures be replaced. Whether what attention needs to
know of a batch arrives there, and whether anything else mixes tokens, is each architecture's own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from infrastructure.chat_labels import Example
from services.trainer.batches import collate, logits_of
from services.trainer.failures import is_out_of_memory
from services.trainer.kernels.attention import NAME

OWN = "sdpa"
"""Name of the attention that ours stands for: torch's fused one."""

TRIED = (5, 3)
"""Tokens of the examples; each is cheap, for any number of them reads all of the weights."""

TOLERANCE = {torch.bfloat16: 0.1, torch.float32: 0.001}
"""Distance of two ways to compute the same logits, over their size."""


def pack_if_able(base: PreTrainedModel) -> None:
    """Have a base attend to packed examples, if it gives the logits of padded ones, as is tried.

    Its own attention has to be torch's fused one and every layer has to see all. Draws no random
    number and keeps nothing. Raises what is a lack of memory.
    """
    config = base.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    windowed = (
        set(kinds) != {"full_attention"} if kinds else getattr(config, "sliding_window", None)
    )
    if base.config._attn_implementation != OWN or windowed:
        return
    expected = _tried(base)
    base.set_attn_implementation(NAME)
    try:
        able = _alike(_tried(base), expected)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        able = False
    if not able:
        base.set_attn_implementation(OWN)


@torch.no_grad()
def _tried(base: PreTrainedModel) -> Tensor:
    """Logits (tokens, vocabulary) of examples, packed or padded, as the base reads them now."""
    vocabulary = base.config.get_text_config().vocab_size
    rows = [
        tuple((7 * place + 3 * count) % vocabulary for place in range(count)) for count in TRIED
    ]
    return logits_of(base, collate([Example(row, row) for row in rows], base.device))


def _alike(found: Tensor, expected: Tensor) -> bool:
    distance = float((found - expected).float().norm() / expected.float().norm())
    return distance <= TOLERANCE[expected.dtype]
