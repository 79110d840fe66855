"""Calculate training speed: counted steps, order of runs, and operations per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from domain.catalog.model_shape import ModelShape
from domain.estimating.footprint import adapter_parameters, linear_parameters
from domain.training.hyperparameters import Hyperparameters
from infrastructure.chat_labels import IGNORED

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """One run of one trainer."""

    step_tokens: Sequence[int]  # without padding
    step_seconds: Sequence[float]
    compile_seconds: float  # before the first step
    first_step_seconds: float  # from the start of the process to the end of the first step
    peak_memory_bytes: int

    @property
    def counted(self) -> list[tuple[int, float]]:
        """(tokens, seconds) of the steps after the first."""
        return list(zip(self.step_tokens, self.step_seconds, strict=True))[1:]

    @property
    def tokens_per_second(self) -> float:
        """Median over the counted steps."""
        return median(tokens / seconds for tokens, seconds in self.counted)

    @property
    def overall_tokens_per_second(self) -> float:
        """All counted tokens over their total seconds."""
        return sum(tokens for tokens, _ in self.counted) / sum(s for _, s in self.counted)


@dataclass(frozen=True)
class Speed:
    """Results over all runs of one trainer."""

    runs: Sequence[Measured]

    @property
    def tokens_per_second(self) -> float:
        """Median over the runs."""
        return median(run.tokens_per_second for run in self.runs)

    @property
    def overall_tokens_per_second(self) -> float:
        """Median over the runs, of all their steps."""
        return median(run.overall_tokens_per_second for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """Tokens per second of the slowest and the fastest run."""
        speeds = [run.tokens_per_second for run in self.runs]
        return min(speeds), max(speeds)

    @property
    def peak_memory_bytes(self) -> float:
        """Median over the runs."""
        return median(run.peak_memory_bytes for run in self.runs)

    @property
    def first_step_seconds(self) -> float:
        """Median over the runs."""
        return median(run.first_step_seconds for run in self.runs)

    @property
    def compile_seconds(self) -> float:
        """Median over the runs."""
        return median(run.compile_seconds for run in self.runs)


def rotated(contestants: Sequence[T], repeat: int) -> list[T]:
    """The order of a repeat, in which another trainer is first each time."""
    start = repeat % len(contestants)
    return [*contestants[start:], *contestants[:start]]


def operations_per_token(
    shape: ModelShape, hyperparameters: Hyperparameters, rows: Sequence[dict[str, list[int]]]
) -> float:
    """Operations that a token of these examples needs, there and back: padding is not needed.

    Nor is computing anything twice. Two operations for each parameter and token (Kaplan et al.,
    Scaling Laws (2020), section 2.1), so that with L parameters in the layers' linear modules, A in
    the adapter and H in the head, which only label tokens need (their share is s):

        forward   2 (L + A + s H)      backward   2 (L + 2 A + s H)

    for the backward pass goes to every activation, but only to the adapter's weights. Attention is
    causal, so that a token sees half of its example on average: 2 x layers x heads x head size x
    length forward, and twice that backward.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    tokens = sum(lengths)
    labels = sum(label != IGNORED for row in rows for label in row["labels"][1:])
    linear = linear_parameters(shape)
    adapter = adapter_parameters(shape, hyperparameters)
    head = labels / tokens * shape.vocab_size * shape.hidden_size
    mean_length = sum(length**2 for length in lengths) / tokens  # of a token's example
    attention = 2 * shape.layers * shape.attention_heads * shape.head_dim * mean_length
    return 2 * (linear + adapter + head) + 2 * (linear + 2 * adapter + head) + 3 * attention
