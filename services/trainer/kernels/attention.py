"""Causal attention over examples that lie packed in one row of tokens.

Everything else in a layer looks at one token at a time and needs no padding; half of a batch of
chats is padding. On a CPU short examples attend in plain matrix products: torch's fused attention
saves memory by tiles that a CPU gains nothing from at a hundred tokens, and its backward pass takes
three times as long there. Which bases have this attention is for `packing.py` to say.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from domain.estimating.footprint import SHORT_ROW as SHORT_ROW

NAME = "packed"


def attends_packed(base: nn.Module) -> bool:
    """Whether a base, adapted or not, has this attention."""
    config = getattr(base, "config", None)
    return getattr(config, "_attn_implementation", None) == NAME


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    places: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, heads, tokens, head size) to (1, tokens, heads,
    head size). The mask is a batch's layout; without its places it is a mask, for torch's own."""
    if places is None or attention_mask is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    layout = attention_mask[0, 0]
    scale = scaling if scaling is not None else 1 / math.sqrt(query.shape[-1])
    q, k, v = (Spread.apply(each, layout, places) for each in (query, key, value))
    if q.device.type == "cpu" and layout.shape[1] <= SHORT_ROW:
        out = _short(q, k, v, scale)
    else:
        shared = q.shape[1] != k.shape[1]
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=shared)
    return Collect.apply(out.transpose(1, 2), layout, places), None


def _short(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T + causal mask) v; keys and values may be shared by several heads."""
    heads, tokens = query.shape[1:3]
    key, value = (each.repeat_interleave(heads // key.shape[1], dim=1) for each in (key, value))
    future = torch.full((tokens, tokens), -math.inf, dtype=query.dtype, device=query.device).triu(1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scale + future
    return torch.matmul(torch.softmax(scores, dim=-1), value)


class Spread(torch.autograd.Function):
    """From (1, heads, tokens, size) to rows: (examples, heads, length, size).

    A place without a token holds another's values: no query of a real token sees it.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, layout: Tensor, places: Tensor) -> Tensor:
        """The rows."""
        ctx.save_for_backward(places)
        tokens = packed[0].transpose(0, 1)
        return tokens[layout.clamp(max=tokens.shape[0] - 1)].transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        """What arrives at the places that hold a token of their own."""
        (places,) = ctx.saved_tensors
        rows = grad_outputs[0].transpose(1, 2).flatten(0, 1)
        return rows[places].transpose(0, 1)[None], None, None


class Collect(torch.autograd.Function):
    """From rows (examples, length, heads, size) to (1, tokens, heads, size)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Tensor, places: Tensor) -> Tensor:
        """The tokens, one after the other."""
        ctx.save_for_backward(layout)
        return rows.flatten(0, 1)[places][None]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        """Nothing arrives at a place without a token."""
        (layout,) = ctx.saved_tensors
        tokens = grad_outputs[0][0]
        nothing = tokens.new_zeros(1, *tokens.shape[1:])
        return torch.cat([tokens, nothing])[layout], None, None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
