"""Causal attention over short rows, for CPUs, in plain matrix products.

torch's fused attention saves memory by tiles that a CPU gains nothing from at a hundred tokens; its
backward pass takes three times as long as this one there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

SHORT_ROW = 256  # tokens; above, the scores that are kept outgrow what a row keeps elsewhere
NAME = "short_rows"


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (rows, heads, tokens, head size) to (rows, tokens,
    heads, head size). What is not plain causal attention over short rows goes to torch's."""
    _, heads, tokens, size = query.shape
    if attention_mask is not None or tokens != key.shape[2] or tokens > SHORT_ROW or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    scale = scaling if scaling is not None else 1 / math.sqrt(size)
    key, value = (_for_each(heads, each) for each in (key, value))
    future = torch.full((tokens, tokens), -math.inf, dtype=query.dtype, device=query.device).triu(1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scale + future
    out = torch.matmul(torch.softmax(scores, dim=-1), value)
    return out.transpose(1, 2).contiguous(), None


def _for_each(heads: int, key: Tensor) -> Tensor:
    """Keys or values for so many heads, of which several may share one."""
    return key.repeat_interleave(heads // key.shape[1], dim=1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def choose(base: PreTrainedModel, device: torch.device) -> None:
    """Give a base this attention, if it runs on a CPU and with torch's fused one."""
    if device.type == "cpu" and base.config._attn_implementation == "sdpa":
        base.set_attn_implementation(NAME)
