"""Causal attention of a step: each row's new tokens look at that row's keys and values alone.

Heads that share keys and values are laid side by side as queries of one head, so that what they
share is read once. transformers' own continuous batching packs rows too, but knows no adapters.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from services.serving.step import Step

NAME = "served"


class UnknownAttention(Exception):
    """A base attends in a way that is not computed here."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    step: Step | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, heads, tokens, head size) to (1, tokens, heads,
    head size), with the tokens of a step. Raises UnknownAttention."""
    further = [name for name in ("softcap", "s_aux") if kwargs.get(name) is not None]
    if step is None or further:
        raise UnknownAttention(", ".join(further) or "outside of a step")
    layer = module.layer_idx
    assert isinstance(layer, int)
    keys, values = step.store.write(
        layer, key[0].transpose(0, 1), value[0].transpose(0, 1), step.slots, step.places
    )
    scale = scaling if scaling is not None else 1 / math.sqrt(query.shape[-1])
    tokens = query[0].transpose(0, 1)  # (tokens, heads, head size)
    outputs = []
    if step.singles:
        outputs += _singles(step, tokens, keys, values, scale, sliding_window)
    for first, part in step.stretches:
        queries = tokens[first : first + len(part.tokens)]
        outputs.append(_stretch(step, part, queries, keys, values, scale, sliding_window))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _singles(
    step: Step, tokens: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None
) -> list[Tensor]:
    """Outputs of the rows of one token, (rows, heads, head size), in one piece or in several."""
    kv_heads, size = keys.shape[1], tokens.shape[2]
    queries = tokens[: len(step.singles)].reshape(len(step.singles), kv_heads, -1, size)
    if not step.together:
        return [
            scaled_dot_product_attention(
                queries[index : index + 1],
                keys[part.slot : part.slot + 1, :, _seen(part.end, window)],
                values[part.slot : part.slot + 1, :, _seen(part.end, window)],
                scale=scale,
            ).reshape(1, tokens.shape[1], -1)
            for index, part in enumerate(step.singles)
        ]
    if not step.dense:
        spread = queries.new_zeros(step.used, *queries.shape[1:])
        spread[step.single_slots] = queries
        queries = spread
    out = scaled_dot_product_attention(
        queries,
        keys[: step.used, :, : step.longest],
        values[: step.used, :, : step.longest],
        attn_mask=step.singles_mask(window),
        scale=scale,
    )
    out = out if step.dense else out[step.single_slots]
    return [out.reshape(len(step.singles), tokens.shape[1], -1)]


def _seen(end: int, window: int | None) -> slice:
    return slice(0 if window is None else max(0, end - window), end)


def _stretch(
    step: Step,
    part: Any,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    window: int | None,
) -> Tensor:
    """Outputs of a part of several tokens, (tokens, heads, head size)."""
    count, heads, size = queries.shape
    kv_heads = keys.shape[1]
    groups = heads // kv_heads
    # (kv heads, groups x tokens, head size): a group's heads follow each other.
    grouped = queries.transpose(0, 1).reshape(1, kv_heads, groups * count, size)
    out = scaled_dot_product_attention(
        grouped,
        keys[part.slot : part.slot + 1, :, : part.end],
        values[part.slot : part.slot + 1, :, : part.end],
        attn_mask=step.stretch_mask(part, groups, window),
        scale=scale,
    )
    return out.reshape(heads, count, -1).transpose(0, 1)


def _no_mask(*arguments: Any, **named: Any) -> None:
    """What a row may see is the step's to say."""


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)
