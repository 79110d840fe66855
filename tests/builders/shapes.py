"""Shapes of base models and GPU types, as tests of memory and time need them."""

from __future__ import annotations

from domain.catalog.catalog_entries import GpuType
from domain.catalog.model_shape import ModelShape, separate_linears

FIGURES = (
    *("parameters", "layers", "hidden_size", "intermediate_size"),
    *("attention_heads", "kv_heads", "vocab_size", "context_length"),
)


def shape(
    *figures: int, tied: bool = False, linears: dict[str, tuple[int, int]] | None = None
) -> ModelShape:
    """Return a decoder with the linear modules of Llama, unless others are given."""
    given = dict(zip(FIGURES, figures, strict=True))
    hidden, heads = given["hidden_size"], given["attention_heads"]
    head_dim = hidden // heads
    llama = separate_linears(hidden, given["intermediate_size"], heads, given["kv_heads"], head_dim)
    return ModelShape.model_validate(
        given | {"head_dim": head_dim, "tied_embeddings": tied, "linears": linears or llama}
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


def gpu(vram_gib: float, **fields: object) -> GpuType:
    """Return a GPU type with some memory."""
    defaults = {
        "name": "gpu",
        "title": fields.get("name", "gpu"),
        "micros_per_hour": 1_000_000,
        "bf16_tflops": 312.0,
        "backing": "nvidia",
        "max_per_job": 8,
        "source": "test",
    }
    return GpuType.model_validate(defaults | {"vram_gib": vram_gib} | fields)


CPU = gpu(16.0, name="cpu", bf16_tflops=0.15, backing="cpu", max_per_job=2)
