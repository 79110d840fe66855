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

LONGEST_SECONDS = 365 * 24 * 3600
"""Upper limit of a job's estimate. More than a year indicates a typing error."""

HELD_OUT_SHARE = 0.05
HELD_OUT_MAXIMUM = 64
"""Upper limit of held-out conversations: 5% of the dataset, at least 1 and at most 64."""

VALIDATION_MAXIMUM = 256
"""Upper limit of the evaluated conversations of a validation dataset."""

LABEL_SHARE = 0.5
"""Share of the tokens that are labels, which are the assistant's. The head runs only on these."""

COMPILED_WORK = 2e13
"""Minimum work (parameters of the base model times tokens of all epochs) for which the trainer
compiles layers. It corresponds to 150,000 tokens of SmolLM2-135M, where compiling saves a minute.
"""

FLASH_BACKWARD = 2.5
"""Ratio of backward to forward operations in fused attention: five matrix products to two (Dao,
FlashAttention-2 (2023)).
"""


@dataclass(frozen=True)
class Speed:
    """The speed of one kind of hardware."""

    utilisation: float  # share of the catalog's bf16_tflops in large matrices
    dequantized_per_second: float  # NF4 parameters that are converted to bf16
    layer_seconds: float  # launching the kernels of a layer, forward and backward
    module_seconds: float  # launching the kernels of an adapted module in a layer
    adapted_seconds: float  # memory-bound work per token and per input or output of such a module
    overlaps: bool  # True: kernels are launched while earlier ones compute
    compiled: float | None  # ratio of compiled to eager time per layer; None: never compiled
    compiling_seconds: float
    step_seconds: float  # optimizer step and report
    scaling: float  # speed-up of each further rank under data parallelism
    checkpoint_seconds: float  # pause of training for a checkpoint, without the copy
    image_pull_seconds: float  # until the program is loaded
    load_seconds: float  # loading a model, without reading its bytes
    load_bytes_per_second: float
    quantize_bytes_per_second: float  # of bf16 weights that are converted to NF4


SPEEDS: Mapping[Literal["nvidia", "cpu"], Speed] = MappingProxyType(
    {
        # Utilisation: Qwen-7B with LoRA and checkpointing on an A100 takes 5.2 s for 16,384 tokens,
        # 43% of 312 TFLOPS (README of QwenLM/Qwen, "Profiling of Memory and Speed").
        # Dequantization: 1,000 iterations of Llama 2 7B in Lit-GPT take 2.36 min in bf16 and
        # 3.83 min in nf4-dq: 88 ms more each for dequantizing 6.5 billion parameters twice.
        # Layers: 1,000 short iterations take 1.62 min with 24 layers and 2.36 min with 32, which is
        # 4.0 and 4.4 ms per layer (tutorials/resource-tables.md of Lightning-AI/litgpt).
        # Scaling: near-linear (Li et al., PyTorch Distributed (2020)).
        # Start: an image of about 8 GB at 1 Gbit/s and 10 s of imports; we did not measure it.
        "nvidia": Speed(
            utilisation=0.42,
            dequantized_per_second=150e9,
            layer_seconds=0.004,  # includes two adapted modules; no source gives them separately
            module_seconds=0.0,
            adapted_seconds=0.0,
            overlaps=True,
            compiled=None,
            compiling_seconds=0.0,
            step_seconds=0.01,
            scaling=0.93,
            checkpoint_seconds=1.0,
            image_pull_seconds=75.0,
            load_seconds=6.0,
            load_bytes_per_second=1.0e9,
            quantize_bytes_per_second=0.8e9,
        ),
        # Fitted to 30 micro-batches of SmolLM2-135M on two idle cores with AMX, with 16 to 2,048
        # tokens and 2, 4 or 7 adapted modules (median of three runs). Half of the errors are below
        # 4%; the largest is 20%, of a single long row. With only AVX512_BF16, large matrices take
        # about twice as long. The constants include 40% for the platform's own processes.
        # The catalog's bf16_tflops was measured on 1024 x 1024 matrices. A checkpoint of 59 MB
        # paused training for 0.04 to 0.19 s; its upload runs during training.
        "cpu": Speed(
            utilisation=2.7,
            dequantized_per_second=2e9,
            layer_seconds=0.0045,
            module_seconds=0.00075,
            adapted_seconds=1.5e-9,
            overlaps=False,
            compiled=0.73,
            compiling_seconds=5.0,  # with cached kernels; 20 to 45 without
            step_seconds=0.02,
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
"""Result of the one-second probe in bf16 on the machine on which the CPU's constants were measured.
On another machine, the catalog's bf16_tflops is scaled by the probe's result there.
"""

PREP_SECONDS = 0.05
PREP_EXAMPLE_SECONDS = 0.0003
PREP_TOKEN_SECONDS = 0.000004
"""Seconds to fetch, render and tokenise a dataset: fixed, for each example and for each token."""

EVALUATION_SECONDS = 0.3
"""Seconds of the final evaluation in addition to its two forward passes."""

REGISTER_SECONDS = 0.1
"""Seconds to write an adapter and its model card, without the upload."""

STORE_BYTES_PER_SECOND = 200e6
"""Upload speed of an adapter to the artifact store."""

COPY_BYTES_PER_SECOND = 1e9
"""Speed of copying the state for a checkpoint. Training pauses during the copy."""

ADAPTER_BYTES, CHECKPOINT_BYTES = 4, 12
"""Bytes per adapter parameter in float32, without and with AdamW's two moments."""


def held_out_examples(examples: int) -> int:
    """Return the number of held-out conversations of a dataset."""
    return min(HELD_OUT_MAXIMUM, max(1, round(HELD_OUT_SHARE * examples)))
