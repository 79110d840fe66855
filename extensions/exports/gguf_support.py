"""Base models that EcoLink can export to GGUF, and the reason why another one cannot be.

GGUF has a name for each architecture and for each way to split text before byte pair encoding.
llama.cpp computes other results, without an error, for a model that has the wrong name. EcoLink
therefore refuses everything that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Phi3ForCausalLM": "phi3",
}
"""Names of architectures in GGUF, by those in config.json."""

PERMUTED = frozenset({"llama"})
"""Architectures whose query and key weights have another order of rows in GGUF."""

WINDOWED = frozenset({"gemma2", "phi3"})
"""Architectures whose sliding window GGUF can express."""

GEMMA_27B_LAYERS = 46
"""Layers by which llama.cpp recognizes Gemma 2 27B, whose attention has another scale."""

ROPE_TYPES = frozenset({"default", "linear", "llama3"})
"""Kinds of rotary embeddings that the export can express."""

SENTENCEPIECE = "sentencepiece"
"""Name of tokenizers with scores and byte tokens, such as those of Mistral and Gemma."""

GPT2_SPLIT = "gpt-2"
DIGITS_SPLIT = "smollm"

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
THREE_DIGITS, ONE_DIGIT = WORDS % r"\p{N}{1,3}", WORDS % r"\p{N}"
"""Regular expressions that split words and digits, from the tokenizers of Llama 3 and Qwen 2."""


class NoGguf(Exception):
    """The base model cannot be exported to GGUF. The message is a sentence for users."""


def require_gguf(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """Raise NoGguf unless EcoLink can export the base model with these files to GGUF.

    `config` is the content of config.json, and `tokenizer` that of tokenizer.json.
    """
    architecture = architecture_of(config)
    rope = rope_of(config)
    if (kind := rope.get("rope_type", rope.get("type", "default"))) not in ROPE_TYPES:
        raise NoGguf(f"EcoLink cannot express its rotary embeddings ({kind}) in GGUF.")
    if architecture not in WINDOWED and _has_window(config):
        raise NoGguf(f"GGUF has no sliding window for the architecture {architecture}.")
    if config.get("quantization_config") is not None:
        raise NoGguf("Its weights are quantized.")
    if architecture == "gemma2":
        _require_attention_scale(config)
    split_of(tokenizer)


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the name of a base model's architecture in GGUF. Raise NoGguf if it has none."""
    names = config.get("architectures") or ["an unnamed architecture"]
    known = ARCHITECTURES.get(names[0])
    if known is None:
        raise NoGguf(
            f"EcoLink cannot export {names[0]} to GGUF, only {', '.join(sorted(ARCHITECTURES))}."
        )
    return known


def rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of the rotary embeddings, in the form of old and new versions."""
    old = {"rope_theta": config["rope_theta"]} if "rope_theta" in config else {}
    return old | (config.get("rope_parameters") or config.get("rope_scaling") or {})


def split_of(tokenizer: Mapping[str, Any]) -> str:
    """Return GGUF's name for how a tokenizer splits text, or SENTENCEPIECE, or raise NoGguf."""
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise NoGguf(f"Its tokenizer is {model.get('type')}. GGUF needs byte pair encoding.")
    if model.get("byte_fallback"):
        return SENTENCEPIECE
    parts = _parts(tokenizer.get("pre_tokenizer"))
    match [each["type"] for each in parts]:
        case ["ByteLevel"] if _splits(parts[0]):
            return GPT2_SPLIT
        case ["Digits", "ByteLevel"] if parts[0].get("individual_digits") and _splits(parts[1]):
            return DIGITS_SPLIT
        case ["Split", "ByteLevel"] if not _splits(parts[1]):
            pattern = (parts[0].get("pattern") or {}).get("Regex")
            if pattern == THREE_DIGITS:
                return "llama-bpe" if model.get("ignore_merges") else "dbrx"
            if pattern == ONE_DIGIT:
                return "qwen2"
    raise NoGguf("GGUF has no name for how its tokenizer splits text.")


def _parts(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    match pre_tokenizer:
        case None:
            return []
        case {"type": "Sequence", "pretokenizers": list() as parts}:
            return parts
        case _:
            return [pre_tokenizer]


def _splits(byte_level: Mapping[str, Any]) -> bool:
    """Return True if a ByteLevel step splits with GPT-2's regular expression."""
    return byte_level.get("use_regex", True) and not byte_level.get("add_prefix_space")


def _require_attention_scale(config: Mapping[str, Any]) -> None:
    """Raise NoGguf for a scale that differs from llama.cpp's `src/models/gemma2.cpp`."""
    scalar, head = config.get("query_pre_attn_scalar", 256), config.get("head_dim", 256)
    expected = head
    if config.get("num_hidden_layers") == GEMMA_27B_LAYERS:
        expected = config["hidden_size"] // config["num_attention_heads"]
    if scalar != expected:
        raise NoGguf(
            f"Its query_pre_attn_scalar is {scalar}, but llama.cpp computes with {expected} for a "
            f"Gemma 2 model of this shape (head size {head}). Export it as safetensors."
        )


def _has_window(config: Mapping[str, Any]) -> bool:
    """Return True if some layers attend to fewer tokens than the context has."""
    window = config.get("sliding_window")
    if window is None or config.get("use_sliding_window") is False:
        return False
    return window < config.get("max_position_embeddings", 0)


def require_gguf_of(config: bytes, tokenizer: bytes) -> None:
    """Raise NoGguf like `require_gguf`, for the contents of config.json and tokenizer.json."""
    require_gguf(json.loads(config), json.loads(tokenizer))
