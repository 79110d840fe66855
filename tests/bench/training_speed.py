"""Calculate training speed: counted steps, order of runs, and operations per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import truediv
from statistics import median
from typing import TypeVar

from domain.catalog.model_shape import ModelShape
from domain.estimating.footprint import adapter_parameters, linear_parameters
from domain.training.hyperparameters import Hyperparameters
from infrastructure.chat.chat_labels import IGNORED

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
    def tokens_per_second(self) -> float:
        """Median over the steps after the first."""
        return median(map(truediv, self.step_tokens[1:], self.step_seconds[1:]))

    @property
    def overall_tokens_per_second(self) -> float:
        """All tokens over all seconds of the steps after the first."""
        return sum(self.step_tokens[1:]) / sum(self.step_seconds[1:])


@dataclass(frozen=True)
class Speed:
    """Results over all runs of one trainer."""

    runs: Sequence[Measured]

    def median(self, name: str) -> float:
        """Return the median of a measurement over the runs."""
        return median(getattr(run, name) for run in self.runs)

    @property
    def tokens_per_second(self) -> float:
        return self.median("tokens_per_second")

    @property
    def overall_tokens_per_second(self) -> float:
        return self.median("overall_tokens_per_second")

    @property
    def peak_memory_bytes(self) -> float:
        return self.median("peak_memory_bytes")


def rotated(contestants: Sequence[T], repeat: int) -> list[T]:
    """Return the order of a repeat, in which another trainer is first each time."""
    start = repeat % len(contestants)
    return [*contestants[start:], *contestants[:start]]


def operations_per_token(
    shape: ModelShape, hyperparameters: Hyperparameters, rows: Sequence[dict[str, list[int]]]
) -> float:
    """Return the operations that a token of these examples needs, forward and backward.

    Each parameter needs two operations per token (Kaplan et al., Scaling Laws (2020), section 2.1).
    With L parameters in the layers' linear modules, A in the adapter and H in the head, which only
    a share s of the tokens needs:

        forward   2 (L + A + s H)      backward   2 (L + 2 A + s H)

    The backward pass goes to every activation, but only to the adapter's weights. In causal
    attention, a token attends to half of its example on average: 2 x layers x heads x head size x
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
