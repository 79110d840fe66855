"""The held-out part of a dataset, a pure function of the seed."""

from __future__ import annotations

from random import Random

from domain.estimating.pricing import VALIDATION_MAXIMUM, held_out_examples


def held_out(conversations: int, seed: int) -> frozenset[int]:
    """Return the indices of the held-out conversations: 5%, at least 1 and at most 64."""
    assert conversations >= 2
    size = held_out_examples(conversations)
    return frozenset(Random(f"{seed}:held-out").sample(range(conversations), size))


def validated(conversations: int, seed: int) -> list[int]:
    """Return the sorted indices of validation examples: all, or 256 chosen by the seed."""
    size = min(VALIDATION_MAXIMUM, conversations)
    return sorted(Random(f"{seed}:validation").sample(range(conversations), size))
