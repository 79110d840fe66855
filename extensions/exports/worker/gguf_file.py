"""Merged weights as a GGUF file, written one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    TensorNameMap,
    get_tensor_name_map,
)
from gguf.constants import GGML_QUANT_VERSION
from gguf.quants import quantize
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from extensions.exports.gguf_support import PERMUTED, WINDOWED, architecture_of, rope_of
from extensions.exports.worker.gguf_tokenizer import add_tokenizer
from extensions.exports.worker.merged_weights import MergedWeights, TensorShape

CHUNK_ELEMENTS = 8 * 1024**2
"""Number of elements that are converted at a time."""

FILE_TYPES = {
    GGMLQuantizationType.F16: LlamaFileType.MOSTLY_F16,
    GGMLQuantizationType.Q8_0: LlamaFileType.MOSTLY_Q8_0,
}

ROPE_FREQUENCIES = "rope_freqs.weight"
SUFFIXES = (".weight", ".bias")


class CannotConvert(Exception):
    """A tensor has no name in GGUF, or a value that its type cannot express."""


def write_gguf(
    weights: MergedWeights,
    tokenizer: Path,
    target: Path,
    kind: GGMLQuantizationType,
    facts: Mapping[str, str],
    on_bytes: Callable[[int], object],
) -> None:
    """Write a GGUF file. Report the bytes of each tensor of the base model.

    Vectors are stored in float32 and matrices in `kind`, or in float16 if their rows do not have
    whole blocks, as llama.cpp's converter does. `tokenizer` is the directory of config.json and the
    tokenizer's files. `facts` are metadata. Raise CannotConvert if a tensor cannot be expressed.
    """
    config = AutoConfig.from_pretrained(
        tokenizer, trust_remote_code=False, local_files_only=True
    ).get_text_config()
    name = architecture_of(config.to_dict() | {"architectures": config.architectures})
    writer = GGUFWriter(target, name)
    _describe(writer, config, name, kind, facts)
    add_tokenizer(writer, tokenizer, config.vocab_size)
    shapes = _kept(weights, config)
    names = get_tensor_name_map(_architecture(name), config.num_hidden_layers)
    plan = [(each, _name(names, each.name), _kind(each, kind)) for each in shapes]
    frequencies = _rope_frequencies(config)
    if frequencies is not None:
        writer.add_tensor_info(
            ROPE_FREQUENCIES, frequencies.shape, frequencies.dtype, frequencies.nbytes
        )
    for each, named, stored in plan:
        _announce(writer, named, each.shape, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if frequencies is not None:
        writer.write_tensor_data(frequencies)
    for each, _, stored in plan:
        tensor = _arranged(weights.tensor(each.name), each.name, config, name)
        writer.write_tensor_data(_converted(tensor, each.name, stored))
        on_bytes(each.bytes)
    writer.close()


def _kept(weights: MergedWeights, config: PretrainedConfig) -> list[TensorShape]:
    """Return the tensors to store, in the order of layers. A tied head is left out."""
    shapes = weights.shapes()
    if config.tie_word_embeddings:
        shapes = [each for each in shapes if each.name != "lm_head.weight"]
    return sorted(shapes, key=lambda each: _natural(each.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts layer 10 after layer 2."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _architecture(name: str) -> MODEL_ARCH:
    return next(arch for arch, known in MODEL_ARCH_NAMES.items() if known == name)


def _name(names: TensorNameMap, name: str) -> str:
    found = names.get_name(name, try_suffixes=SUFFIXES)
    if found is None:
        raise CannotConvert(f"GGUF has no name for the tensor {name}.")
    return found


def _kind(each: TensorShape, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(each.shape) == 1:
        return GGMLQuantizationType.F32
    block, _ = GGML_QUANT_SIZES[kind]
    return kind if each.shape[-1] % block == 0 else GGMLQuantizationType.F16


def _announce(
    writer: GGUFWriter, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType
) -> None:
    if kind is GGMLQuantizationType.Q8_0:
        block, size = GGML_QUANT_SIZES[kind]
        stored = (*shape[:-1], shape[-1] // block * size)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), kind)
    else:
        dtype = np.dtype(np.float32 if kind is GGMLQuantizationType.F32 else np.float16)
        writer.add_tensor_info(name, shape, dtype, math.prod(shape) * dtype.itemsize)


def _arranged(tensor: Tensor, name: str, config: PretrainedConfig, architecture: str) -> Tensor:
    """Return a tensor in the form that llama.cpp expects."""
    if architecture in PERMUTED:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        module = name.split(".")[-2]
        if module in heads:
            return _permuted(tensor, heads[module])
    if architecture == "gemma2" and name.endswith("norm.weight"):
        return tensor.float() + 1  # Gemma's norms multiply by one more than the weight
    return tensor


def _permuted(tensor: Tensor, heads: int) -> Tensor:
    """Interleave the halves of each head's rows, as in llama.cpp's convert_hf_to_gguf.py."""
    shape = (heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return tensor.reshape(shape).transpose(1, 2).reshape(tensor.shape)


def _converted(tensor: Tensor, name: str, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """Return the data of a tensor. Convert some rows at a time, to limit memory."""
    if kind is GGMLQuantizationType.F32:
        return tensor.float().numpy()
    rows = [_finite(part, name, kind) for part in _chunks(tensor)]
    return np.concatenate(rows)


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    count = max(1, CHUNK_ELEMENTS // math.prod(tensor.shape[1:]))
    for start in range(0, tensor.shape[0], count):
        yield tensor[start : start + count].float()


def _finite(part: Tensor, name: str, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    if kind is GGMLQuantizationType.Q8_0:
        scales = part.unflatten(-1, (-1, 32)).abs().amax(-1) / 127
        if not torch.isfinite(scales.half()).all():
            raise CannotConvert(f"{name} has values that Q8_0 cannot express.")
        return quantize(part.numpy(), kind)
    half = part.half()
    if not torch.isfinite(half).all():
        raise CannotConvert(f"{name} has values beyond the range of float16.")
    return half.numpy()


def _describe(
    writer: GGUFWriter,
    config: PretrainedConfig,
    architecture: str,
    kind: GGMLQuantizationType,
    facts: Mapping[str, str],
) -> None:
    for key, value in facts.items():
        writer.add_string(key, value)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head)
    writer.add_value_length(head)
    rope = rope_of(config.to_dict())
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1)))
    writer.add_rope_freq_base(rope.get("rope_theta", 10_000.0))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if architecture in WINDOWED and config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _rope_frequencies(config: PretrainedConfig) -> np.ndarray[Any, Any] | None:
    """Return the divisors of the rotary frequencies of Llama 3.1 and later, or None.

    Source: Llama 3.1's `apply_scaling`; llama.cpp reads them from a tensor.
    """
    rope = rope_of(config.to_dict())
    if rope.get("rope_type") != "llama3":
        return None
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    divisors: list[float] = []
    for index in range(0, head, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / head)
        if wavelength < context / high:
            divisors.append(1.0)
        elif wavelength > context / low:
            divisors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)
