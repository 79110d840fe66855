"""VRAM fit: whether a job fits into its GPUs, and whether the base has to be held in 4 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict

from domain.catalog.catalog_entries import GpuType
from domain.catalog.model_shape import ModelShape
from domain.core.errors import Invalid
from domain.estimating.footprint import FRAGMENTATION, Layout, memory_items
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Dtype, Precision

GIB = 1024**3
FEW_GIB = 10
"""From which on a tenth of a GiB is near enough."""

LARGEST_ACCUMULATION = 1024
SHORTEST_SEQUENCE = 16
"""Bounds of the fields that a refusal proposes values for (`domain.training.hyperparameters`)."""

MOST_TOKENS = 2048
"""That run at once where a micro batch has fewer: beyond, matrices gain nothing by their size."""

FILLED_SHARE = 0.9
"""Share of the memory that more than a micro batch may fill: predictions err by about a tenth."""


def settings(dtype: Dtype) -> tuple[tuple[Precision, bool], ...]:
    """(precision, gradient checkpointing) in the order tried: fast and exact first."""
    full, four_bits = dtype.full, Precision.NF4
    return (full, False), (full, True), (four_bits, False), (four_bits, True)


class DoesNotFit(Invalid):
    """No setting brings the job into the GPU's memory."""


class Rejected(BaseModel):
    """A setting that was tried before and needs more memory than there is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision
    gradient_checkpointing: bool
    required_bytes: int


class Fit(BaseModel):
    """How a job lies in the memory of each of its GPUs, and what was tried before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision
    gradient_checkpointing: bool
    dtype: Dtype  # that is computed with, and in which the base is held unless in 4 bits
    items: dict[str, int]  # bytes of each rank at its peak: weights, adapter, gradients, ...
    batch_tokens: int  # that run at once at that peak, padding included
    vram_bytes: int
    on_cpu: bool  # memory of the host, without the program itself; else all that a GPU holds
    rejected: tuple[Rejected, ...]

    @property
    def required_bytes(self) -> int:
        """All items together."""
        return sum(self.items.values())

    @property
    def headroom_gib(self) -> float:
        """What stays free on each GPU."""
        return (self.vram_bytes - self.required_bytes) / GIB

    @property
    def needed_gib(self) -> float:
        """All items together as people are told: rounded up, but never above what there is."""
        return min(gib(self.required_bytes), self.vram_bytes / GIB)

    @property
    def banner(self) -> str:
        """The decision in one or two sentences, for the wizard."""
        there = f"{self.vram_bytes / GIB:g} GiB"
        fits = f"{self.needed_gib:g} of {there} on each GPU"
        full = f"full precision ({self.dtype})"
        if self.precision is Precision.NF4:
            least = min(each.required_bytes for each in self._rejected(self.dtype.full))
            why = (
                f"4-bit QLoRA is used: in {full} the job would need at least {gib(least):g} GiB "
                f"on a GPU of {there}; in 4 bits it takes {fits}."
            )
        else:
            why = f"The base fits in {full}, without 4-bit quantisation: {fits}."
        if not self.gradient_checkpointing:
            return why
        without = min(each.required_bytes for each in self._rejected(self.precision))
        return (
            f"{why} Gradient checkpointing is on, because the job would need {gib(without):g} GiB "
            "without it; it computes activations again instead of keeping them, which takes longer."
        )

    def _rejected(self, precision: Precision) -> list[Rejected]:
        return [each for each in self.rejected if each.precision is precision]


def gib(size: int) -> float:
    """Bytes in GiB, rounded up: to a hundredth, and from ten on to a tenth."""
    gib = size / GIB
    parts = 100 if gib < FEW_GIB else 10
    return math.ceil(gib * parts) / parts


def decide(
    shape: ModelShape,
    hyperparameters: Hyperparameters,
    sequence_length: int,
    gpu: GpuType,
    gpu_count: int,
    others: Sequence[GpuType],
) -> Fit:
    """The first of bf16, bf16 with checkpointing, NF4 and NF4 with checkpointing that fits.

    Raises Invalid for a target module that the base does not have, and DoesNotFit with the nearest
    setting that would fit: a smaller micro batch, a shorter sequence, or one of `others`.
    """
    require_target_modules(shape, hyperparameters)
    layout = Layout(shape, hyperparameters, sequence_length, gpu_count)
    fit = _fit(layout, gpu)
    if fit is None:
        raise _refusal(layout, gpu, others)
    return _filled(fit, hyperparameters)


def fits(
    shape: ModelShape,
    hyperparameters: Hyperparameters,
    sequence_length: int,
    gpu: GpuType,
    gpu_count: int,
) -> bool:
    """Whether some setting brings the job into a GPU's memory."""
    return _fit(Layout(shape, hyperparameters, sequence_length, gpu_count), gpu) is not None


def _filled(fit: Fit, hyperparameters: Hyperparameters) -> Fit:
    """The fit with as many tokens at once as there is memory for.

    They are those of a full micro batch of the longest examples. Where memory is left, more of a
    step's micro batches may run together, up to `MOST_TOKENS` and `FILLED_SHARE`: its gradient is
    the same.
    """
    tokens = fit.batch_tokens
    most = min(MOST_TOKENS, tokens * hyperparameters.gradient_accumulation)
    # A caching allocator loses a part of them, on a GPU.
    each = (1 + FRAGMENTATION) * fit.items["activations"] / tokens
    room = FILLED_SHARE * fit.vram_bytes - fit.required_bytes
    more = max(0, min(most - tokens, math.floor(room / each)))
    activations = fit.items["activations"] + math.ceil(more * each)
    return fit.model_copy(
        update={
            "batch_tokens": tokens + more,
            "items": fit.items | {"activations": activations},
        }
    )


def require_target_modules(shape: ModelShape, hyperparameters: Hyperparameters) -> None:
    """Raises Invalid if a target module names no linear layer of the base."""
    missing = [name for name in hyperparameters.target_modules if name not in shape.linears]
    if missing:
        raise Invalid(
            f"the base has no linear layer {', '.join(missing)}; it has "
            f"{', '.join(sorted(shape.linears))}",
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
    """Why the job does not fit, with the nearest setting that would."""
    least = min(
        sum(memory_items(layout, precision, checkpointing, gpu).values())
        for precision, checkpointing in settings(gpu.computes_in)
    )
    there = f"{math.floor(gpu.vram_gib * GIB) / GIB:g}"
    problem = (
        f"the job needs at least {gib(least):g} GiB on each GPU, in 4 bits and with gradient "
        f"checkpointing, and {gpu.title} has {there} GiB"
    )
    figures: dict[str, object] = {"needed_gib": gib(least), "vram_gib": gpu.vram_gib}
    proposal = (
        _smaller_micro_batch(layout, gpu)
        or _shorter_sequence(layout, gpu)
        or _other_gpu(layout, gpu, others)
    )
    if proposal is None:
        return DoesNotFit(
            f"{problem}; no setting and no other GPU type here would make it fit",
            field="base_model",
            figures=figures,
        )
    return DoesNotFit(
        f"{problem}; {proposal.words}", field=proposal.field, figures=figures | proposal.values
    )


@dataclass(frozen=True)
class _Proposal:
    """A change that makes a job fit."""

    field: str
    values: dict[str, object]
    words: str


def _smaller_micro_batch(layout: Layout, gpu: GpuType) -> _Proposal | None:
    """The largest micro batch that fits and, by accumulation, leaves the effective batch alone."""
    fields = layout.hyperparameters
    batch = fields.micro_batch_size * fields.gradient_accumulation
    for size in range(fields.micro_batch_size - 1, 0, -1):
        accumulation, rest = divmod(batch, size)
        if rest or accumulation > LARGEST_ACCUMULATION:
            continue
        if _fit(_changed(layout, size, accumulation, layout.sequence_length), gpu) is not None:
            return _Proposal(
                "hyperparameters.micro_batch_size",
                {"micro_batch_size": size, "gradient_accumulation": accumulation},
                f"a micro batch size of {size} with a gradient accumulation of {accumulation} "
                "would fit, and trains the same",
            )
    return None


def _shorter_sequence(layout: Layout, gpu: GpuType) -> _Proposal | None:
    """The longest sequence that fits, with the smallest micro batch of the same effective batch."""
    fields = layout.hyperparameters
    batch = fields.micro_batch_size * fields.gradient_accumulation
    size = next(
        each
        for each in range(1, fields.micro_batch_size + 1)
        if batch % each == 0 and batch // each <= LARGEST_ACCUMULATION
    )

    def fits(length: int) -> bool:
        return _fit(_changed(layout, size, batch // size, length), gpu) is not None

    if layout.sequence_length <= SHORTEST_SEQUENCE or not fits(SHORTEST_SEQUENCE):
        return None
    low, high = SHORTEST_SEQUENCE, layout.sequence_length  # fits, does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return _Proposal(
        "hyperparameters.max_sequence_length",
        {
            "max_sequence_length": low,
            "micro_batch_size": size,
            "gradient_accumulation": batch // size,
        },
        f"a max sequence length of {low} would fit, with a micro batch size of {size} and a "
        f"gradient accumulation of {batch // size}",
    )


def _other_gpu(layout: Layout, gpu: GpuType, others: Sequence[GpuType]) -> _Proposal | None:
    """The cheapest other GPU type that takes the job as it is."""
    for other in sorted(others, key=lambda each: (each.micros_per_hour, each.name)):
        if other.name == gpu.name or layout.gpu_count > other.max_per_job:
            continue
        if _fit(layout, other) is not None:
            return _Proposal(
                "gpu_type",
                {"gpu_type": other.name},
                f"it would fit on {other.title}, with {other.vram_gib:g} GiB",
            )
    return None


def _changed(layout: Layout, micro_batch: int, accumulation: int, length: int) -> Layout:
    fields = layout.hyperparameters.model_copy(
        update={"micro_batch_size": micro_batch, "gradient_accumulation": accumulation}
    )
    return replace(layout, hyperparameters=fields, sequence_length=length)
