"""Causal attention of a step. The new tokens of a row attend to that row's keys and values.

Heads that share keys and values are grouped as queries of one head, so that each key is read once.
The continuous batching of transformers also packs rows, but does not support adapters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from services.serving.step import Part, Step

NAME = "served"


class UnknownAttention(Exception):
    """The base model uses a kind of attention that this module does not implement."""


@dataclass(frozen=True)
class _Cached:
    """The keys and values of a layer, and how its queries attend to them."""

    keys: Tensor
    values: Tensor
    scale: float
    window: int | None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend to the cache of `step`, with the attention interface of transformers.

    The query is (1, heads, tokens, head size), and the output is (1, tokens, heads, head size).
    Raise UnknownAttention for softcap, attention sinks, or a call outside a step.
    """
    step: Step | None = options.get("step")
    unknown = [name for name in ("softcap", "s_aux") if options.get(name) is not None]
    if step is None or unknown:
        raise UnknownAttention(", ".join(unknown) or "outside of a step")
    layer = module.layer_idx
    assert isinstance(layer, int)
    keys, values = step.cache.write(
        layer, key[0].transpose(0, 1), value[0].transpose(0, 1), step.slots, step.places
    )
    scaling = options.get("scaling")
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    cached = _Cached(keys, values, scale, options.get("sliding_window"))
    tokens = query[0].transpose(0, 1)  # (tokens, heads, head size)
    outputs = []
    if step.singles:
        outputs += _singles(step, tokens, cached)
    for first, part in step.stretches:
        outputs.append(_stretch(step, part, tokens[first : first + len(part.tokens)], cached))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _singles(step: Step, tokens: Tensor, cached: _Cached) -> list[Tensor]:
    """Return the outputs of single-token rows, (rows, heads, head size), in one or more tensors."""
    keys, values, window = cached.keys, cached.values, cached.window
    kv_heads, size = keys.shape[1], tokens.shape[2]
    queries = tokens[: len(step.singles)].reshape(len(step.singles), kv_heads, -1, size)
    if not step.together:
        return [
            scaled_dot_product_attention(
                queries[index : index + 1],
                keys[part.slot : part.slot + 1, :, _seen(part.end, window)],
                values[part.slot : part.slot + 1, :, _seen(part.end, window)],
                scale=cached.scale,
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
        scale=cached.scale,
    )
    out = out if step.dense else out[step.single_slots]
    return [out.reshape(len(step.singles), tokens.shape[1], -1)]


def _seen(end: int, window: int | None) -> slice:
    return slice(0 if window is None else max(0, end - window), end)


def _stretch(step: Step, part: Part, queries: Tensor, cached: _Cached) -> Tensor:
    """Return the outputs of a part with several tokens, (tokens, heads, head size)."""
    count, heads, size = queries.shape
    kv_heads = cached.keys.shape[1]
    groups = heads // kv_heads
    # (kv heads, groups x tokens, head size): the heads of a group are adjacent.
    grouped = queries.transpose(0, 1).reshape(1, kv_heads, groups * count, size)
    out = scaled_dot_product_attention(
        grouped,
        cached.keys[part.slot : part.slot + 1, :, : part.end],
        cached.values[part.slot : part.slot + 1, :, : part.end],
        attn_mask=step.stretch_mask(part, groups, cached.window),
        scale=cached.scale,
    )
    return out.reshape(heads, count, -1).transpose(0, 1)


def _no_mask(*arguments: Any, **named: Any) -> None:
    """Return no mask, because the step computes it."""


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)
