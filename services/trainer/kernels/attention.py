"""Causal attention over examples packed into one row of tokens.

Without packing, half of a batch of chats is padding. `packing.py` decides which base models use it.
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
    """Return True if a base model, with or without an adapter, uses packed attention."""
    config = getattr(base, "config", None)
    return getattr(config, "_attn_implementation", None) == NAME


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention with transformers' attention interface.

    `query` is (1, heads, tokens, head size), and the result is (1, tokens, heads, head size). With
    the option `places`, the mask is the layout of a batch. Without it, torch's attention is used.
    """
    places: Tensor | None = options.pop("places", None)
    if places is None or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scaling: float | None = options.get("scaling")
    layout = attention_mask[0, 0]
    scale = scaling if scaling is not None else 1 / math.sqrt(query.shape[-1])
    q, k, v = (Unpack.apply(each, layout, places) for each in (query, key, value))
    # On a CPU, the backward pass of torch's fused attention takes three times as long.
    if q.device.type == "cpu" and layout.shape[1] <= SHORT_ROW:
        out = _short(q, k, v, scale)
    else:
        shared = q.shape[1] != k.shape[1]
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=shared)
    return Pack.apply(out.transpose(1, 2), layout, places), None


def _short(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q k^T + causal mask) v. Heads may share keys and values."""
    heads, tokens = query.shape[1:3]
    key, value = (each.repeat_interleave(heads // key.shape[1], dim=1) for each in (key, value))
    future = torch.full((tokens, tokens), -math.inf, dtype=query.dtype, device=query.device).triu(1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scale + future
    return torch.matmul(torch.softmax(scores, dim=-1), value)


class Unpack(torch.autograd.Function):
    """Unpacks (1, heads, tokens, size) to (examples, heads, length, size), with padded copies."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, layout: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        tokens = packed[0].transpose(0, 1)
        return tokens[layout.clamp(max=tokens.shape[0] - 1)].transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        """Return the gradients of the positions that have a token."""
        (places,) = ctx.saved_tensors
        rows = grad_outputs[0].transpose(1, 2).flatten(0, 1)
        return rows[places].transpose(0, 1)[None], None, None


class Pack(torch.autograd.Function):
    """Packing from rows (examples, length, heads, size) to (1, tokens, heads, size)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(layout)
        return rows.flatten(0, 1)[places][None]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # autograd passes it so
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        """Return the gradients of the rows, with zeros at padding positions."""
        (layout,) = ctx.saved_tensors
        tokens = grad_outputs[0][0]
        nothing = tokens.new_zeros(1, *tokens.shape[1:])
        return torch.cat([tokens, nothing])[layout], None, None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
