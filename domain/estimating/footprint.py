"""The memory that a job uses on each GPU, item by item."""

from __future__ import annotations

import math
from dataclasses import dataclass

from domain.catalog.catalog_entries import NF4_BYTES, GpuType
from domain.catalog.model_shape import ModelShape
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision

MIB = 1024**2

BFLOAT16, FLOAT32 = 2, 4  # bytes per element

CUDA_CONTEXT_BYTES = 512 * MIB
"""Memory before the first tensor: 300 MiB (PyTorch issue 107667), and the kernels of training."""

LIBRARY_BYTES = 128 * MIB
"""Memory of workspaces: 32 MiB per cuBLAS handle and stream, and those of attention."""

BITSANDBYTES_BYTES = 64 * MIB
"""Memory of the code books and kernels of bitsandbytes."""

CPU_RUNTIME_BYTES = 128 * MIB
"""Memory of the allocator and the threads on a CPU.

With this value, predicted peaks are 0.9 to 1.15 times the measured ones, or 128 MiB above them. The
peaks were measured with SmolLM2-135M in bf16 and float32, and 4 x 64 to 4 x 512 tokens.
"""

SHORT_ROW = 256
"""Longest row in tokens whose attention scores a CPU keeps: faster, but more memory."""

FRAGMENTATION = 0.1
"""Share of activations lost to fragmentation. Qwen and LLaMA-Factory publish 4 to 13%."""

PAD_MULTIPLE = 8
"""Multiple of tokens to which attention pads the examples of a batch."""


@dataclass(frozen=True)
class Layout:
    """The quantities that determine a job's memory use."""

    shape: ModelShape
    hyperparameters: Hyperparameters
    sequence_length: int  # length in tokens of the longest sequence, after truncation
    gpu_count: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of a full micro-batch of the longest examples, including padding."""
        rows = math.ceil(self.sequence_length / PAD_MULTIPLE) * PAD_MULTIPLE
        chosen = self.hyperparameters
        return chosen.micro_batch_size * chosen.sequences_per_example * rows


def memory_items(
    layout: Layout, precision: Precision, checkpointing: bool, gpu: GpuType
) -> dict[str, int]:
    """Return the bytes of each item at the memory peak of a rank.

    The adapter and AdamW's two moments are in float32. The adapter has r x (inputs + outputs)
    parameters for each target module (Hu et al., LoRA (2021)), DoRA also has one for each of its
    outputs (Liu et al., DoRA (2024)), and only these have gradients. Data
    parallelism keeps a second copy of the gradients, in the flat tensor that the ranks reduce.
    """
    adapter = 4 * adapter_parameters(layout.shape, layout.hyperparameters)
    element = element_bytes(gpu)
    activations = activation_bytes(layout, checkpointing, element, on_cpu=gpu.backing == "cpu")
    return {
        "weights": weight_bytes(layout.shape, precision, element),
        "adapter": adapter,
        "gradients": adapter * (2 if layout.gpu_count > 1 else 1),
        "optimizer": 2 * adapter,
        "activations": activations,
        "overhead": _overhead_bytes(layout, precision, activations, gpu),
    }


def adapter_parameters(shape: ModelShape, hyperparameters: Hyperparameters) -> int:
    """Return the number of trainable parameters of the adapter."""
    linears = [shape.linears[name] for name in hyperparameters.target_modules]
    matrices = hyperparameters.lora_r * sum(map(sum, linears))
    magnitudes = sum(outputs for _, outputs in linears) if hyperparameters.use_dora else 0
    return (matrices + magnitudes) * shape.layers


def linear_parameters(shape: ModelShape) -> int:
    """Return the number of parameters of the linear modules, which 4-bit quantization covers."""
    return shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears.values())


def element_bytes(gpu: GpuType) -> int:
    """Return the bytes per element of a weight or activation of the base model."""
    return gpu.computes_in.bytes


def weight_bytes(shape: ModelShape, precision: Precision, element: int = BFLOAT16) -> int:
    """Return the bytes of the frozen base model. Embeddings, norms and head are never in NF4."""
    if precision is not Precision.NF4:
        return element * shape.parameters
    quantized = linear_parameters(shape)
    return math.ceil(NF4_BYTES * quantized) + element * max(0, shape.parameters - quantized)


def bytes_per_parameter(shape: ModelShape, precision: Precision, element: int = BFLOAT16) -> float:
    """Return the mean bytes per parameter of the base model."""
    return round(weight_bytes(shape, precision, element) / shape.parameters, 3)


def activation_bytes(
    layout: Layout, checkpointing: bool, element: int = BFLOAT16, *, on_cpu: bool = False
) -> int:
    """Return the bytes of the activations that a micro-batch keeps, and of its working set.

    Without checkpointing, every layer keeps its activations for the backward pass. With
    checkpointing, every layer keeps only its input, and only one layer at a time keeps the other
    activations (Chen et al., Training Deep Nets with Sublinear Memory Cost (2016)). The tensors of
    the head and the working set of a layer never coexist.
    """
    shape = layout.shape
    layer, boundary = _layer_bytes(layout, element, on_cpu), element * shape.hidden_size
    kept = shape.layers * (boundary if checkpointing else layer)
    # Gradients of one layer: of the residual, and of the three tensors of its MLP.
    working = element * (2 * shape.hidden_size + 3 * shape.intermediate_size)
    if checkpointing:
        working += layer
    return layout.tokens * (kept + max(working, _head_bytes(shape, element, on_cpu)))


def _layer_bytes(layout: Layout, element: int, on_cpu: bool) -> int:
    """Return the bytes per token that one layer keeps for its backward pass.

    The count follows Korthikanti et al., Reducing Activation Recomputation (2022), section 4,
    except that frozen linear modules keep no input. Both norms keep their input in float32 (8 h).
    Fused attention keeps q, k, v and its output, and no scores (Dao et al., FlashAttention (2022)).
    The gated MLP keeps the gate, its activation and the other branch (3 m). Each adapted module
    keeps its input in float32, the mask of its dropout, and the r numbers between A and B. With
    DoRA, it also keeps its output.
    """
    shape, hyperparameters = layout.shape, layout.hyperparameters
    queries = shape.attention_heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    attention = element * (2 * queries + 2 * keys)
    if on_cpu and layout.sequence_length <= SHORT_ROW:
        attention += element * shape.attention_heads * layout.sequence_length
    mask = 1 if hyperparameters.dropout > 0 else 0
    kept_output = element if hyperparameters.use_dora else 0
    linears = [shape.linears[name] for name in hyperparameters.target_modules]
    adapted = sum(
        (4 + mask) * inputs + 4 * hyperparameters.lora_r + kept_output * outputs
        for inputs, outputs in linears
    )
    return 8 * shape.hidden_size + attention + 3 * element * shape.intermediate_size + adapted


def _head_bytes(shape: ModelShape, element: int, on_cpu: bool) -> int:
    """Return the bytes per token of the loss and its input.

    The log-probabilities and two gradients are in float32. This agrees with published totals for
    GPUs and with measured peaks in float32 on a CPU. In bf16 on a CPU, the measured peaks include
    only the logits and their gradient.
    """
    vocabulary = 2 * element if on_cpu and element == BFLOAT16 else 12
    return vocabulary * shape.vocab_size + 6 * shape.hidden_size


def _overhead_bytes(layout: Layout, precision: Precision, activations: int, gpu: GpuType) -> int:
    """Return the bytes of the CUDA context, the libraries and the workspaces of large modules.

    bitsandbytes dequantizes a 4-bit module before each product, so the largest module briefly
    exists twice. DoRA converts an adapted module to float32 to compute its norms. A CPU-backed type
    has neither a CUDA context nor a caching allocator.
    """
    linears, chosen = layout.shape.linears, layout.hyperparameters
    largest = max(inputs * outputs for inputs, outputs in linears.values())
    workspace = element_bytes(gpu) * largest if precision is Precision.NF4 else 0
    if chosen.use_dora:
        workspace += FLOAT32 * max(math.prod(linears[name]) for name in chosen.target_modules)
    if gpu.backing == "cpu":
        return CPU_RUNTIME_BYTES + workspace
    if precision is Precision.NF4:
        workspace += BITSANDBYTES_BYTES
    fragments = math.ceil(FRAGMENTATION * activations)
    return CUDA_CONTEXT_BYTES + LIBRARY_BYTES + workspace + fragments
