"""Footprint: the bytes that a job holds of each GPU's memory, item by item."""

from __future__ import annotations

import math
from dataclasses import dataclass

from domain.catalog.catalog_entries import NF4_BYTES, GpuType
from domain.catalog.model_shape import ModelShape
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision

MIB = 1024**2

BFLOAT16, FLOAT32 = 2, 4  # bytes

CUDA_CONTEXT_BYTES = 512 * MIB
"""What a process takes before its first tensor. Some 300 MiB with kernels loaded lazily (pytorch
issue 107667), and more of them as it trains."""

LIBRARY_BYTES = 128 * MIB
"""cuBLAS: 32 MiB of workspace for each handle and stream (`:4096:8` in PyTorch's notes on
CUBLAS_WORKSPACE_CONFIG), and what attention and reductions take beside it."""

BITSANDBYTES_BYTES = 64 * MIB
"""Code books, and the kernels of bitsandbytes."""

CPU_RUNTIME_BYTES = 128 * MIB
"""What a CPU's allocator and threads hold beside the tensors. With it, peaks of SmolLM2-135M in
bf16 and float32, 4 x 64 to 4 x 512 tokens, are predicted to 0.9 to 1.15 of what was measured, or
128 MiB above."""

SHORT_ROW = 256
"""Tokens up to which the trainer's attention on a CPU keeps a row's scores: that is faster than
fused attention, and beyond they outgrow what a row keeps elsewhere."""

FRAGMENTATION = 0.1
"""Share of the activations that the allocator loses to fragmentation. Totals published by Qwen and
LLaMA-Factory exceed the sum of the tensors by 4 to 13%."""

PAD_MULTIPLE = 8
"""Attention sees the examples of a batch as rows, padded to a multiple of this many tokens."""


@dataclass(frozen=True)
class Layout:
    """What is to be laid into the memory of each GPU."""

    shape: ModelShape
    hyperparameters: Hyperparameters
    sequence_length: int  # tokens of the longest example, after truncation
    gpu_count: int

    @property
    def tokens(self) -> int:
        """Tokens of a full micro batch of the longest examples, padding included."""
        rows = math.ceil(self.sequence_length / PAD_MULTIPLE) * PAD_MULTIPLE
        return self.hyperparameters.micro_batch_size * rows


def memory_items(
    layout: Layout, precision: Precision, checkpointing: bool, gpu: GpuType
) -> dict[str, int]:
    """Bytes that each rank holds at its peak, by what they are for.

    The adapter is float32 (Hu et al., LoRA (2021): r x (inputs + outputs) for each target module)
    with AdamW's two moments beside it; only its gradients exist. Data parallelism keeps one more
    copy of them, in the flat tensor that is summed over the ranks.
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
        "overhead": _overhead_bytes(layout.shape, precision, activations, gpu),
    }


def adapter_parameters(shape: ModelShape, hyperparameters: Hyperparameters) -> int:
    """Trainable parameters of the adapter."""
    inputs_and_outputs = sum(sum(shape.linears[name]) for name in hyperparameters.target_modules)
    return hyperparameters.lora_r * inputs_and_outputs * shape.layers


def linear_parameters(shape: ModelShape) -> int:
    """Parameters of the layers' linear modules: what 4-bit quantisation covers."""
    return shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears.values())


def element_bytes(gpu: GpuType) -> int:
    """Bytes of a number of the base, and of one that runs through it."""
    return gpu.computes_in.bytes


def weight_bytes(shape: ModelShape, precision: Precision, element: int = BFLOAT16) -> int:
    """The frozen base: an element a parameter, or NF4 in the layers' linear modules.

    Embeddings, norms and the head stay as they are, so bitsandbytes and transformers leave them.
    """
    if precision is not Precision.NF4:
        return element * shape.parameters
    quantised = linear_parameters(shape)
    return math.ceil(NF4_BYTES * quantised) + element * max(0, shape.parameters - quantised)


def bytes_per_parameter(shape: ModelShape, precision: Precision, element: int = BFLOAT16) -> float:
    """What a parameter of the base takes of a GPU's memory, on average."""
    return round(weight_bytes(shape, precision, element) / shape.parameters, 3)


def activation_bytes(
    layout: Layout, checkpointing: bool, element: int = BFLOAT16, *, on_cpu: bool = False
) -> int:
    """What a micro batch keeps for its backward pass, and the most that is added to it at a time.

    Without checkpointing every layer keeps its tensors; with it only its input (Chen et al.,
    Training Deep Nets with Sublinear Memory Cost (2016)), and one layer at a time has the rest. The
    head's tensors and a layer's working set are never there together.
    """
    shape = layout.shape
    layer, boundary = _layer_bytes(layout, element, on_cpu), element * shape.hidden_size
    kept = shape.layers * (boundary if checkpointing else layer)
    # One layer's gradients in flight: of the residual, and of the three tensors of its MLP.
    working = element * (2 * shape.hidden_size + 3 * shape.intermediate_size)
    if checkpointing:
        working += layer
    return layout.tokens * (kept + max(working, _head_bytes(shape, element, on_cpu)))


def _layer_bytes(layout: Layout, element: int, on_cpu: bool) -> int:
    """Bytes a token that one layer keeps for its backward pass.

    Counted as in Korthikanti et al., Reducing Activation Recomputation (2022), section 4, but for
    frozen linear modules, which keep no input: both norms keep their input in float32 (8 h); fused
    attention, without a score matrix (Dao et al., FlashAttention (2022)), keeps q, k, v and its
    output; the gated MLP keeps the gate, its activation and the other branch (3 m). Each adapted
    module keeps its input in float32, the mask of its dropout, and the r numbers between A and B.
    """
    shape, hyperparameters = layout.shape, layout.hyperparameters
    queries = shape.attention_heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    attention = element * (2 * queries + 2 * keys)
    if on_cpu and layout.sequence_length <= SHORT_ROW:
        attention += element * shape.attention_heads * layout.sequence_length
    mask = 1 if hyperparameters.dropout > 0 else 0
    adapted = sum(
        (4 + mask) * shape.linears[name][0] + 4 * hyperparameters.lora_r
        for name in hyperparameters.target_modules
    )
    return 8 * shape.hidden_size + attention + 3 * element * shape.intermediate_size + adapted


def _head_bytes(shape: ModelShape, element: int, on_cpu: bool) -> int:
    """Bytes a token of the loss, and its input.

    Log-probabilities and two gradients in float32, as published totals of GPUs and our peaks on a
    CPU in float32 have them. In bf16 on a CPU, as measured: the logits and their gradient alone.
    """
    vocabulary = 2 * element if on_cpu and element == BFLOAT16 else 12
    return vocabulary * shape.vocab_size + 6 * shape.hidden_size


def _overhead_bytes(shape: ModelShape, precision: Precision, activations: int, gpu: GpuType) -> int:
    """What is held beside the tensors: the CUDA context, libraries, and 4-bit workspace.

    A 4-bit module is multiplied out of its bits, so that the largest one exists twice for a moment.
    A type that stands for CPU memory has neither context nor a caching allocator.
    """
    largest = max(inputs * outputs for inputs, outputs in shape.linears.values())
    workspace = element_bytes(gpu) * largest if precision is Precision.NF4 else 0
    if gpu.backing == "cpu":
        return CPU_RUNTIME_BYTES + workspace
    if precision is Precision.NF4:
        workspace += BITSANDBYTES_BYTES
    fragments = math.ceil(FRAGMENTATION * activations)
    return CUDA_CONTEXT_BYTES + LIBRARY_BYTES + workspace + fragments
