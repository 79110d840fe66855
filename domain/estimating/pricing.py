"""The constants of time that the estimate is made from; the meter charges for those seconds.

They describe the trainer (`services.trainer`) on the hardware of the catalog. Calibration corrects
each phase by what finished jobs really took, so that a wrong constant is wrong only for the first.
`domain.core.money.charge_micros` prices a second and rounds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

HEADROOM = 1.3
"""The upper bound of every phase but register is its lower bound times this."""

LONGEST_SECONDS = 365 * 24 * 3600
"""A job that would take longer is refused: a year of training is a typing error."""

HELD_OUT_SHARE = 0.05
HELD_OUT_MAXIMUM = 64
"""Conversations that are set aside for evaluation: 5%, at least 1 and at most 64."""

VALIDATION_MAXIMUM = 256
"""Conversations of a user's own validation file that are evaluated on, at most."""

LABEL_SHARE = 0.5
"""Share of the tokens that are predicted, the assistant's: the head runs only there."""

COMPILED_WORK = 2e13
"""Parameters of the base times tokens of the training, over all epochs, from which on layers are
compiled where they can be: 150,000 tokens of SmolLM2-135M, of which compiling saves a minute."""

FLASH_BACKWARD = 2.5
"""Backward pass of fused attention over its forward pass, in operations: five matrix products
against two (Dao, FlashAttention-2 (2023))."""


@dataclass(frozen=True)
class Speed:
    """How fast a kind of hardware does what a segment does."""

    utilisation: float  # of the catalog's bf16_tflops, in large matrices
    dequantised_per_second: float  # NF4 parameters that become bf16, before every product
    layer_seconds: float  # of one layer's kernels in a micro batch, however small, there and back
    module_seconds: float  # the same, of each adapted module in a layer
    adapted_seconds: float  # of each token and each input and output of an adapted module: casts,
    # dropout and sums, which wait for memory
    overlaps: bool  # whether those seconds pass while earlier kernels compute
    compiled: float | None  # time of compiled layers, as a share of that of eager ones; None: never
    compiling_seconds: float
    step_seconds: float  # of the optimizer step and its report
    scaling: float  # of each further rank under data parallelism
    checkpoint_seconds: float  # that training waits for a save, without its bytes
    image_pull_seconds: float  # until the program is loaded
    load_seconds: float  # of a model, without its bytes
    load_bytes_per_second: float
    quantise_bytes_per_second: float  # of bf16 weights that become NF4


SPEEDS: Mapping[Literal["nvidia", "cpu"], Speed] = MappingProxyType(
    {
        # Utilisation: Qwen-7B, LoRA with checkpointing on an A100: 16,384 tokens in 5.2 s are 43%
        # of 312 TFLOPS (README of QwenLM/Qwen, "Profiling of Memory and Speed"). Dequantisation and
        # layers: Lit-GPT's 1,000 iterations with Llama 2 7B take 2.36 min in bf16 and 3.83 min in
        # nf4-dq, 88 ms more for its 6.5 billion parameters, twice; short ones take 1.62 min with 24
        # layers and 2.36 min with 32, 4.0 and 4.4 ms a layer (tutorials/resource-tables.md of
        # Lightning-AI/litgpt). Scaling: Li et al., PyTorch Distributed (2020), find it near-linear.
        # Start: an image of some 8 GB at 1 Gbit/s, and 10 s of imports; not measured by us.
        "nvidia": Speed(
            utilisation=0.42,
            dequantised_per_second=150e9,
            layer_seconds=0.004,  # with two adapted modules; nobody published the difference
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
            quantise_bytes_per_second=0.8e9,
        ),
        # Fitted to 30 micro batches of SmolLM2-135M on two idle cores with AMX: 16 to 2,048 tokens,
        # 2, 4 and 7 adapted modules, a median of three each; half are within 4%, and the largest
        # error is 20%, of a single long row. With AVX512_BF16 alone large matrices take about twice
        # as long. In a job, beside the platform's own processes and whoever watches it, all takes
        # 40% more: counted in.
        # The catalog's figure is itself a measurement, on 1024 x 1024 matrices. A save of 59 MB
        # held training up for 0.04 to 0.19 s; it is stored while training goes on.
        "cpu": Speed(
            utilisation=2.7,
            dequantised_per_second=2e9,
            layer_seconds=0.0045,
            module_seconds=0.00075,
            adapted_seconds=1.5e-9,
            overlaps=False,
            compiled=0.73,
            compiling_seconds=5.0,  # where a base's kernels are there already; 20 to 45 before that
            step_seconds=0.02,
            scaling=0.1,  # ranks share the cores that one has alone
            checkpoint_seconds=0.05,
            image_pull_seconds=3.8,
            load_seconds=0.3,
            load_bytes_per_second=1.0e9,
            quantise_bytes_per_second=0.15e9,
        ),
    }
)

PROBED_TFLOPS = 1.0
"""What the one-second probe finds in bf16 on the machine that the CPU's constants were fitted on;
of another machine, the catalog's figure is scaled by what it finds there."""

PREP_SECONDS = 0.05
PREP_EXAMPLE_SECONDS = 0.0003
PREP_TOKEN_SECONDS = 0.000004
"""Fetching a dataset, rendering each conversation, and tokenising it."""

EVALUATION_SECONDS = 0.3
"""Of the evaluation at the end beside its two forward passes."""

REGISTER_SECONDS = 0.1
"""Writing an adapter and its card, without its bytes."""

STORE_BYTES_PER_SECOND = 200e6
"""How fast an adapter reaches the artifact store."""

COPY_BYTES_PER_SECOND = 1e9
"""How fast a checkpoint's state is copied, which is what training waits for."""

ADAPTER_BYTES, CHECKPOINT_BYTES = 4, 12
"""Of each adapter parameter: float32, and with AdamW's two moments."""


def held_out_examples(examples: int) -> int:
    """How many of a dataset's conversations are set aside for evaluation."""
    return min(HELD_OUT_MAXIMUM, max(1, round(HELD_OUT_SHARE * examples)))
