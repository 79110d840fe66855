"""Memory fit: the precision in which a job fits into the memory of its GPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from domain.catalog.catalog_entries import GpuType
from domain.catalog.model_shape import ModelShape
from domain.core.errors import Invalid
from domain.core.quantities import GIB, gib
from domain.core.value import Value
from domain.estimating.footprint import FRAGMENTATION, Layout, memory_items
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Dtype, Precision

LARGEST_ACCUMULATION = 1024
SHORTEST_SEQUENCE = 16
"""Lower limits of proposals. `domain.training.hyperparameters` declares them."""

MOST_TOKENS = 2048
"""Maximum number of tokens in a batch of several micro-batches. Larger batches are not faster."""

FILLED_SHARE = 0.9
"""Maximum share of memory for a batch of micro-batches. Predictions err by about 10%."""


def settings(dtype: Dtype) -> tuple[tuple[Precision, bool], ...]:
    """Return the pairs of precision and gradient checkpointing to try, with the fastest first."""
    full, four_bits = dtype.full, Precision.NF4
    return (full, False), (full, True), (four_bits, False), (four_bits, True)


class DoesNotFit(Invalid):
    """The job does not fit into the memory of the GPU with any settings."""


class Rejected(Value):
    """Settings that need more memory than the GPU has, and the memory they need."""

    precision: Precision
    gradient_checkpointing: bool
    required_bytes: int


class Fit(Value):
    """The memory that a job uses on each of its GPUs, and the settings that did not fit."""

    precision: Precision
    gradient_checkpointing: bool
    dtype: Dtype  # dtype of computations, and of the base model unless it is quantized to 4 bits
    items: dict[str, int]  # peak bytes of each rank, by item: weights, adapter, gradients, ...
    batch_tokens: int  # tokens of a batch at the peak, including padding
    vram_bytes: int
    on_cpu: bool  # True: host memory without the program itself; False: all memory of a GPU
    rejected: tuple[Rejected, ...]

    @property
    def required_bytes(self) -> int:
        """Peak bytes of each rank, which is the sum of all items."""
        return sum(self.items.values())

    @property
    def headroom_gib(self) -> float:
        """Free memory of each GPU at the peak, in GiB."""
        return (self.vram_bytes - self.required_bytes) / GIB

    @property
    def needed_gib(self) -> float:
        """Peak memory of each rank in GiB, rounded up, but at most the memory of the GPU."""
        return min(gib(self.required_bytes), self.vram_bytes / GIB)

    @property
    def banner(self) -> str:
        """Sentences about the chosen precision, for the wizard."""
        vram = f"{self.vram_bytes / GIB:g} GiB"
        fits = f"{self.needed_gib:g} of {vram} on each GPU"
        full = f"full precision ({self.dtype})"
        if self.precision is Precision.NF4:
            least = min(each.required_bytes for each in self._rejected(self.dtype.full))
            why = (
                f"EcoLink uses 4-bit QLoRA. In {full}, the job would need at least "
                f"{gib(least):g} GiB on a GPU with {vram}. In 4 bits, it needs {fits}."
            )
        else:
            why = (
                f"The base model fits in {full}, without 4-bit quantization. The job needs {fits}."
            )
        if not self.gradient_checkpointing:
            return why
        without = min(each.required_bytes for each in self._rejected(self.precision))
        return (
            f"{why} Gradient checkpointing is on, because the job would need {gib(without):g} "
            "GiB without it. Checkpointing recomputes activations to save memory, which takes "
            "longer."
        )

    def _rejected(self, precision: Precision) -> list[Rejected]:
        return [each for each in self.rejected if each.precision is precision]


def decide(layout: Layout, gpu: GpuType, others: Sequence[GpuType] = ()) -> Fit:
    """Return the first of bf16, bf16 with checkpointing, NF4 and NF4 with checkpointing that fits.

    Raise Invalid if the base model lacks a target module. Raise DoesNotFit if none fits. The error
    proposes a smaller micro-batch, a shorter sequence or one of the GPU types in `others`.
    """
    require_target_modules(layout.shape, layout.hyperparameters)
    fit = _fit(layout, gpu)
    if fit is None:
        raise _refusal(layout, gpu, others)
    return _filled(fit, layout.hyperparameters)


def fits(layout: Layout, gpu: GpuType) -> bool:
    """Return True if the job fits into the memory of the GPU with at least one of the settings."""
    return _fit(layout, gpu) is not None


def _filled(fit: Fit, hyperparameters: Hyperparameters) -> Fit:
    """Return the fit with as many tokens in a batch as the memory allows.

    A full micro-batch of the longest examples always fits. If memory is left, several micro-batches
    of a step run together, up to `MOST_TOKENS` and `FILLED_SHARE`. This does not change the
    gradient.
    """
    tokens = fit.batch_tokens
    most = min(MOST_TOKENS, tokens * hyperparameters.gradient_accumulation)
    # On a GPU, the caching allocator loses this share to fragmentation.
    each = (1 + FRAGMENTATION) * fit.items["activations"] / tokens
    room = FILLED_SHARE * fit.vram_bytes - fit.required_bytes
    more = max(0, min(most - tokens, math.floor(room / each)))
    activations = fit.items["activations"] + math.ceil(more * each)
    return fit.model_copy(
        update={"batch_tokens": tokens + more, "items": fit.items | {"activations": activations}}
    )


def require_target_modules(shape: ModelShape, hyperparameters: Hyperparameters) -> None:
    """Raise Invalid if a target module is not a linear layer of the base model."""
    missing = [name for name in hyperparameters.target_modules if name not in shape.linears]
    if missing:
        raise Invalid(
            f"The base model has no linear layers with these names: {', '.join(missing)}. "
            f"Choose from: {', '.join(sorted(shape.linears))}.",
            field="hyperparameters.target_modules",
        )


def _fit(layout: Layout, gpu: GpuType) -> Fit | None:
    vram_bytes = math.floor(gpu.vram_gib * GIB)
    rejected: list[Rejected] = []
    for precision, checkpointing in settings(gpu.computes_in):
        items = memory_items(layout, precision, checkpointing, gpu)
        if sum(items.values()) <= vram_bytes:
            return Fit(
                precision=precision,
                gradient_checkpointing=checkpointing,
                dtype=gpu.computes_in,
                items=items,
                batch_tokens=layout.tokens,
                vram_bytes=vram_bytes,
                on_cpu=gpu.backing == "cpu",
                rejected=tuple(rejected),
            )
        rejected.append(
            Rejected(
                precision=precision,
                gradient_checkpointing=checkpointing,
                required_bytes=sum(items.values()),
            )
        )
    return None


def _refusal(layout: Layout, gpu: GpuType, others: Sequence[GpuType]) -> DoesNotFit:
    least = min(
        sum(memory_items(layout, precision, checkpointing, gpu).values())
        for precision, checkpointing in settings(gpu.computes_in)
    )
    vram = f"{math.floor(gpu.vram_gib * GIB) / GIB:g}"
    problem = (
        f"The job needs at least {gib(least):g} GiB on each GPU, in 4 bits and with gradient "
        f"checkpointing, but {gpu.title} has {vram} GiB."
    )
    figures: dict[str, object] = {"needed_gib": gib(least), "vram_gib": gpu.vram_gib}
    proposal = (
        _smaller_micro_batch(layout, gpu)
        or _shorter_sequence(layout, gpu)
        or _other_gpu(layout, gpu, others)
    )
    if proposal is None:
        return DoesNotFit(
            f"{problem} No setting and no other GPU type would make it fit. Choose a smaller base "
            "model.",
            field="base_model",
            figures=figures,
        )
    return DoesNotFit(
        f"{problem} {proposal.sentence}", field=proposal.field, figures=figures | proposal.values
    )


@dataclass(frozen=True)
class _Proposal:
    field: str
    values: dict[str, object]
    sentence: str


def _smaller_micro_batch(layout: Layout, gpu: GpuType) -> _Proposal | None:
    """Return the largest micro-batch that fits, with the same effective batch, or None."""
    fields = layout.hyperparameters
    batch = fields.micro_batch_size * fields.gradient_accumulation
    for size in range(fields.micro_batch_size - 1, 0, -1):
        accumulation, rest = divmod(batch, size)
        if rest or accumulation > LARGEST_ACCUMULATION:
            continue
        if fits(_changed(layout, size, accumulation, layout.sequence_length), gpu):
            return _Proposal(
                "hyperparameters.micro_batch_size",
                {"micro_batch_size": size, "gradient_accumulation": accumulation},
                f"The job would fit with a micro batch size of {size} and a gradient "
                f"accumulation of {accumulation}. The effective batch stays the same.",
            )
    return None


def _shorter_sequence(layout: Layout, gpu: GpuType) -> _Proposal | None:
    """Return the longest sequence that fits with the smallest micro-batch; None if none fits."""
    fields = layout.hyperparameters
    batch = fields.micro_batch_size * fields.gradient_accumulation
    size = next(
        each
        for each in range(1, fields.micro_batch_size + 1)
        if batch % each == 0 and batch // each <= LARGEST_ACCUMULATION
    )

    def fits_with(length: int) -> bool:
        return fits(_changed(layout, size, batch // size, length), gpu)

    low, high = SHORTEST_SEQUENCE, layout.sequence_length  # `low` fits and `high` does not
    if high <= low or not fits_with(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits_with(middle) else (low, middle)
    return _Proposal(
        "hyperparameters.max_sequence_length",
        {
            "max_sequence_length": low,
            "micro_batch_size": size,
            "gradient_accumulation": batch // size,
        },
        f"The job would fit with a max sequence length of {low:,}, a micro batch size of "
        f"{size} and a gradient accumulation of {batch // size}.",
    )


def _other_gpu(layout: Layout, gpu: GpuType, others: Sequence[GpuType]) -> _Proposal | None:
    for other in sorted(others, key=lambda each: (each.micros_per_hour, each.name)):
        if other.name == gpu.name or layout.gpu_count > other.max_per_job:
            continue
        if fits(layout, other):
            return _Proposal(
                "gpu_type",
                {"gpu_type": other.name},
                f"The job would fit on {other.title}, which has {other.vram_gib:g} GiB.",
            )
    return None


def _changed(layout: Layout, micro_batch: int, accumulation: int, length: int) -> Layout:
    fields = layout.hyperparameters.model_copy(
        update={"micro_batch_size": micro_batch, "gradient_accumulation": accumulation}
    )
    return replace(layout, hyperparameters=fields, sequence_length=length)
