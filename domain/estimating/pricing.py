"""Time constants of estimates.

They describe the trainer (`services.trainer`) on the hardware in the catalog. Calibration corrects
each phase by the measured times of finished jobs, so a wrong constant affects only the first jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

HEADROOM = 1.3
"""Ratio of the upper to the lower bound, for every phase except register."""

MIN_MEASURED_STEPS = 5
"""Minimum number of trained steps from which EcoLink estimates the rest of a job."""

LONGEST_SECONDS = 365 * 24 * 3600
"""Maximum duration of a job in an estimate. More than a year indicates a typing error."""

HELD_OUT_SHARE = 0.05
HELD_OUT_MAXIMUM = 64
"""Maximum number of held-out conversations. 5% of the dataset are held out, at least 1."""

VALIDATION_MAXIMUM = 256
"""Maximum number of conversations of a validation dataset that are evaluated."""

LABEL_SHARE = 0.5
"""Share of trainable tokens, for which the head runs, if they were not counted."""

COMPILED_WORK = 2e13
"""Least parameters times tokens for compilation: 150,000 tokens of SmolLM2-135M save a minute."""

FLASH_BACKWARD = 2.5
"""Ratio of backward to forward operations: 5 to 2 products (FlashAttention-2, 2023)."""


@dataclass(frozen=True)
class Speed:
    """The speed of one kind of hardware."""

    utilisation: float  # share of the catalog's bf16_tflops that large matrix products reach
    dequantized_per_second: float  # NF4 parameters that are converted to bf16 per second
    layer_seconds: float  # seconds to launch the kernels of a layer, forward and backward
    module_seconds: float  # seconds to launch the kernels of an adapted module in a layer
    # Seconds of memory-bound work per token and per input or output of an adapted module.
    adapted_seconds: float
    # Seconds of DoRA: per adapted weight and pass, for its norms, also per rank, and per token and
    # adapted output, forward and backward.
    norm_seconds: float
    norm_rank_seconds: float
    magnitude_seconds: float
    overlaps: bool  # True: the hardware launches kernels while earlier ones compute
    compiled: float | None  # ratio of compiled to eager time per layer; None: never compiled
    compiling_seconds: float
    step_seconds: float  # seconds of a step in addition to its batches and its optimizer
    # Seconds of the optimizer per step: for each tensor and for each parameter of the adapter.
    tensor_seconds: float
    optimized_seconds: float
    scaling: float  # speedup from each further rank under data parallelism
    checkpoint_seconds: float  # seconds that training pauses for a checkpoint, without the copy
    image_pull_seconds: float  # seconds until the program is loaded
    load_seconds: float  # seconds to load a model, without reading its bytes
    load_bytes_per_second: float
    quantize_bytes_per_second: float  # bytes of bf16 weights that are converted to NF4 per second


SPEEDS: Mapping[Literal["nvidia", "cpu"], Speed] = MappingProxyType(
    {
        # Utilization: Qwen-7B with LoRA and checkpointing on an A100 takes 5.2 s for 16,384 tokens,
        # 43% of 312 TFLOPS (README of QwenLM/Qwen, "Profiling of Memory and Speed").
        # Dequantization: 1,000 iterations of Llama 2 7B in Lit-GPT take 2.36 min in bf16 and 3.83
        # min in nf4-dq. The difference is 88 ms per iteration, for dequantizing 6.5 billion
        # parameters twice. Layers: 1,000 short iterations take 1.62 min with 24 layers and 2.36 min
        # with 32, which is 4.0 and 4.4 ms per layer (tutorials/resource-tables.md of
        # Lightning-AI/litgpt). Scaling: near-linear (Li et al., PyTorch Distributed (2020)). Start:
        # an assumption of 1 Gbit/s for an image of about 8 GB, and 10 s of imports. It was not
        # measured. DoRA: 10 bytes per adapted weight and 30 per token and output, at 2 TB/s. It was
        # not measured either.
        "nvidia": Speed(
            utilisation=0.42,
            dequantized_per_second=150e9,
            # Includes two adapted modules; no source gives their time separately.
            layer_seconds=0.004,
            module_seconds=0.0,
            adapted_seconds=0.0,
            norm_seconds=5e-12,
            norm_rank_seconds=1.5e-13,  # two operations at 14 TFLOPS in float32
            magnitude_seconds=1.5e-11,
            overlaps=True,
            compiled=None,
            compiling_seconds=0.0,
            step_seconds=0.01,
            tensor_seconds=0.0,  # PyTorch updates all tensors in a few kernels
            optimized_seconds=5e-11,  # 100 bytes at 2 TB/s
            scaling=0.93,
            checkpoint_seconds=1.0,
            image_pull_seconds=75.0,
            load_seconds=6.0,
            load_bytes_per_second=1.0e9,
            quantize_bytes_per_second=0.8e9,
        ),
        # Utilization: fitted to 30 micro-batches of SmolLM2-135M on two idle cores with AMX, with
        # 16 to 2,048 tokens and 2, 4 or 7 adapted modules (median of three runs). With only
        # AVX512_BF16, large matrix products take about twice as long. The catalog's bf16_tflops was
        # measured on 1024 x 1024 matrices. The other constants of a step follow measurements of ten
        # kinds of adapters on two busy cores with AVX512_BF16, with 80 to 768 tokens (`make
        # bench-step-times`, see docs/understand/measurements.md). The load extends waits between
        # operations, so the time of a layer is between those of both machines. DoRA's norms read
        # and write 14 bytes for each weight, and the weights do not fit into the cache. A
        # checkpoint of 59 MB paused training for 0.04 to 0.19 s. Its upload runs during training.
        "cpu": Speed(
            utilisation=2.7,
            dequantized_per_second=2e9,
            layer_seconds=0.0065,
            module_seconds=0.0009,
            adapted_seconds=4e-10,
            norm_seconds=1e-9,
            norm_rank_seconds=9e-11,
            magnitude_seconds=2e-9,
            overlaps=False,
            compiled=0.73,
            compiling_seconds=5.0,  # with cached kernels; 20 to 45 s without
            step_seconds=0.002,
            tensor_seconds=1e-4,
            optimized_seconds=1.3e-8,
            scaling=0.1,  # all ranks share the same cores
            checkpoint_seconds=0.05,
            image_pull_seconds=3.8,
            load_seconds=0.3,
            load_bytes_per_second=1.0e9,
            quantize_bytes_per_second=0.15e9,
        ),
    }
)

PROBED_TFLOPS = 1.0
"""TFLOPS in the bf16 probe of the machine of the CPU's constants, by which others scale."""

PREP_SECONDS = 0.05
PREP_EXAMPLE_SECONDS = 0.0003
PREP_TOKEN_SECONDS = 0.000004
"""Seconds to fetch, render and tokenize a dataset: fixed, per example and per token."""

EVALUATION_SECONDS = 0.3
"""Seconds that the final evaluation takes in addition to its two forward passes."""

REGISTER_SECONDS = 0.1
"""Seconds to write an adapter and its model card, without the upload."""

STORE_BYTES_PER_SECOND = 200e6
"""Bytes per second when the trainer uploads an adapter to the artifact store."""

COPY_BYTES_PER_SECOND = 1e9
"""Bytes per second when the trainer copies its state for a checkpoint. Training pauses meanwhile.
"""

ADAPTER_BYTES, CHECKPOINT_BYTES = 4, 12
"""Bytes per adapter parameter in float32: without and with AdamW's two moments."""


def held_out_examples(examples: int) -> int:
    """Return the number of held-out conversations of a dataset."""
    return min(HELD_OUT_MAXIMUM, max(1, round(HELD_OUT_SHARE * examples)))
