"""Shapes of base models and GPU types, as tests of memory and time need them."""

from __future__ import annotations

from typing import Literal

from domain.catalog.catalog_entries import GpuType
from domain.catalog.model_shape import ModelShape


def shape(
    parameters: int,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    context: int,
    *,
    tied: bool = False,
    linears: dict[str, tuple[int, int]] | None = None,
) -> ModelShape:
    """A decoder with the linear modules of Llama, unless others are given."""
    head_dim = hidden // heads
    keys = kv_heads * head_dim
    return ModelShape(
        parameters=parameters,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        context_length=context,
        tied_embeddings=tied,
        linears=linears
        or {
            "q_proj": (hidden, hidden),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (hidden, hidden),
            "gate_proj": (hidden, intermediate),
            "up_proj": (hidden, intermediate),
            "down_proj": (intermediate, hidden),
        },
    )


SMOLLM2 = shape(134_515_008, 30, 576, 1536, 9, 3, 49_152, 8192, tied=True)
LLAMA2_7B = shape(6_738_415_616, 32, 4096, 11_008, 32, 32, 32_000, 4096)
LLAMA2_13B = shape(13_015_864_320, 40, 5120, 13_824, 40, 40, 32_000, 4096)
LLAMA31_70B = shape(70_553_706_496, 80, 8192, 28_672, 64, 8, 128_256, 131_072)
QWEN_7B = shape(
    *(7_721_324_544, 32, 4096, 11_008, 32, 32, 151_936, 8192),
    linears={
        "c_attn": (4096, 12_288),
        "attn.c_proj": (4096, 4096),
        "w1": (4096, 11_008),
        "w2": (4096, 11_008),
        "mlp.c_proj": (11_008, 4096),
    },
)


def gpu(
    vram_gib: float,
    *,
    name: str = "gpu",
    title: str | None = None,
    micros_per_hour: int = 1_000_000,
    tflops: float = 312.0,
    backing: Literal["nvidia", "cpu"] = "nvidia",
    max_per_job: int = 8,
) -> GpuType:
    """A GPU type with some memory."""
    return GpuType(
        name=name,
        title=title or name,
        vram_gib=vram_gib,
        micros_per_hour=micros_per_hour,
        bf16_tflops=tflops,
        backing=backing,
        max_per_job=max_per_job,
        source="test",
    )


CPU = gpu(16.0, name="cpu", tflops=0.15, backing="cpu", max_per_job=2)
