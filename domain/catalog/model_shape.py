"""The shape of a base model, which determines the memory and time that fine-tuning needs."""

from __future__ import annotations

from domain.core.value import Value


class ModelShape(Value):
    """The dimensions of a decoder-only transformer."""

    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    tied_embeddings: bool
    linears: dict[str, tuple[int, int]]
    """Input and output sizes of each linear module of a layer, by module name, such as `q_proj`."""


def separate_linears(
    hidden_size: int, intermediate_size: int, attention_heads: int, kv_heads: int, head_dim: int
) -> dict[str, tuple[int, int]]:
    """Return the input and output sizes of a layer of Llama, Qwen2, Mistral or Gemma 2."""
    queries, keys = attention_heads * head_dim, kv_heads * head_dim
    return {
        "q_proj": (hidden_size, queries),
        "k_proj": (hidden_size, keys),
        "v_proj": (hidden_size, keys),
        "o_proj": (queries, hidden_size),
        "gate_proj": (hidden_size, intermediate_size),
        "up_proj": (hidden_size, intermediate_size),
        "down_proj": (intermediate_size, hidden_size),
    }


def fused_linears(
    hidden_size: int, intermediate_size: int, attention_heads: int, kv_heads: int, head_dim: int
) -> dict[str, tuple[int, int]]:
    """Return the input and output sizes of the linear modules of a layer of Phi-3 or Phi-4."""
    queries, keys = attention_heads * head_dim, kv_heads * head_dim
    return {
        "qkv_proj": (hidden_size, queries + 2 * keys),
        "o_proj": (queries, hidden_size),
        "gate_up_proj": (hidden_size, 2 * intermediate_size),
        "down_proj": (intermediate_size, hidden_size),
    }
