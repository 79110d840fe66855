"""Warnings about hyperparameters that are valid but rarely train a useful model."""

from __future__ import annotations

from domain.training.hyperparameters import Hyperparameters

DEFAULT_LEARNING_RATE = Hyperparameters().learning_rate
LEAST_MULTIPLE = 0.01
"""Smallest usual multiple of the default learning rate. A rate that was meant as a
`learning_rate_multiplier` is far below it.
"""

HIGHEST_LEARNING_RATE = 5e-3
HIGHEST_DROPOUT = 0.5
HIGHEST_SCALE = 16


def cautions(chosen: Hyperparameters) -> list[str]:
    """Return warnings for the owner of a job; none if the values are usual."""
    return [
        caution
        for caution in (
            _low_learning_rate(chosen.learning_rate),
            _high_learning_rate(chosen.learning_rate),
            _high_dropout(chosen.dropout),
            _high_scale(chosen),
        )
        if caution is not None
    ]


def _low_learning_rate(rate: float) -> str | None:
    multiple = round(rate / DEFAULT_LEARNING_RATE, 12)  # removes floating-point errors
    if multiple >= LEAST_MULTIPLE:
        return None
    return (
        f"The learning rate {rate:g} is {multiple:.3g} times the default of "
        f"{DEFAULT_LEARNING_RATE:g}. Below {LEAST_MULTIPLE:g} times, training changes almost "
        "nothing but is still billed. `learning_rate_multiplier` is a multiple of the "
        "default, not a rate."
    )


def _high_learning_rate(rate: float) -> str | None:
    if rate <= HIGHEST_LEARNING_RATE:
        return None
    return (
        f"The learning rate {rate:g} is above {HIGHEST_LEARNING_RATE:g}, where training usually "
        f"diverges. The default is {DEFAULT_LEARNING_RATE:g}."
    )


def _high_dropout(dropout: float) -> str | None:
    if dropout <= HIGHEST_DROPOUT:
        return None
    return (
        f"A dropout of {dropout:g} hides most of the adapter's input, so that it learns little. "
        "Usual values are 0 to 0.1."
    )


def _high_scale(chosen: Hyperparameters) -> str | None:
    if chosen.adapter_scale <= HIGHEST_SCALE:
        return None
    return (
        f"lora_alpha {chosen.lora_alpha} with lora_r {chosen.lora_r} scales the adapter by "
        f"{chosen.adapter_scale:.3g}. Above {HIGHEST_SCALE} training usually diverges. With an "
        "alpha of 1 to 2 times r, the scale is 1 to 2."
    )
